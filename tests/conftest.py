"""Settings for all tests: one thread, the longest files first, and no plugins of earlier files."""

import gc

import pytest
import torch

from trainables import plugins

# With one thread, sums have the same order on every machine, and parallel tests do not compete.
torch.set_num_threads(1)
LONGEST = ("test_behaviours.py", "test_search_run.py", "test_end_to_end.py")


def pytest_collection_modifyitems(items: list[pytest.Item]):
    """Run the longest files first, so that two test processes end at about the same time."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


def pytest_collection_finish():
    """Exclude the tests and the modules from garbage collections, which take a second otherwise."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure():
    """Include them again, because extension modules report leaks at exit otherwise."""
    gc.unfreeze()


@pytest.fixture(scope="module", autouse=True)
def _unregister_plugins():
    """Unregister the plugins of a file's tests before the tests of another file run."""
    yield
    plugins.unregister()
