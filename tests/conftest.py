"""One thread: the same sums in the same order on every machine, and no fight over cores."""

import pytest
import torch

from trainables import plugins

torch.set_num_threads(1)


@pytest.fixture(scope="module", autouse=True)
def _unregistered():
    """What a file's tests register is gone when the next file's run in the same process, in whatever order."""
    yield
    for sha in list(plugins._loaded):
        plugins._forget(sha)
