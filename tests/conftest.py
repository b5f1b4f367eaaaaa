"""One thread: the same sums in the same order on every machine, and no fight over cores."""

import pytest
import torch

from trainables import plugins

torch.set_num_threads(1)
LONGEST = ("test_search_run.py", "test_end_to_end.py")


def pytest_collection_modifyitems(items: list[pytest.Item]):
    """The longest files first: two processes that take a file each then end at about the same time."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture(scope="module", autouse=True)
def _unregistered():
    """What a file's tests register is gone when the next file's run in the same process, in whatever order."""
    yield
    for sha in list(plugins._loaded):
        plugins._forget(sha)
