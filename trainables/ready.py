"""Are the datasets there? Asked by whoever starts trials, before anything is started."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from precond import HyperparameterError
from trainables.data import DataError
from trainables.workloads import workload


def ready(workloads: Iterable[str], data_dir: Path, *, download: bool = False, verify: bool = False) -> list[str]:
    """Fetch what is missing, where that is wanted, and say what is wrong with the data: a line each.

    Args:
        workloads: Names of the workloads to be trained.
        data_dir: The folder that datasets are in.
        download: Whether to fetch what is missing; a damaged file is never replaced.
        verify: Whether to read everything and compare checksums; what was just fetched is compared anyway.
    """
    wrong: list[str] = []
    seen: set[str] = set()
    for name in workloads:
        try:
            found = workload(name).source
            if found.name in seen:
                continue
            seen.add(found.name)
            fetch = getattr(found, "download", None)
            if download and fetch is not None:
                fetch(data_dir)
            wrong += found.problems(data_dir, verify)
        except (DataError, HyperparameterError) as error:
            wrong += str(error).splitlines()
    return list(dict.fromkeys(wrong))
