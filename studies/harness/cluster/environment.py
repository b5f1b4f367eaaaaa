"""The packages of a process, and the environment that a driver sends to the nodes of a cluster.

With `--send-environment`, every worker runs the driver's code, which Ray copies to the nodes, and the
packages of the driver's requirements.lock. uv starts the worker in the environment of the node if
this has all packages of the lock, and otherwise creates another one from its cache.
"""

from __future__ import annotations

import importlib.metadata
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from packaging.requirements import Requirement

from precond.counts import counted
from studies.harness.design.options import Options
from trainables.fingerprint import PACKAGES

EXTRAS: tuple[str, ...] = ("studies", "peers")
FINGERPRINT = ("precond", "torch")
LOCK = "requirements.lock"
NAMED = 4  # packages in a message
ROOT = Path(__file__).parents[3]


@cache
def packages() -> dict[str, str]:
    """Return the versions of the installed packages that this project needs, by name.

    The project itself and torch are not included; `fingerprint` has them.
    """
    versions: dict[str, str] = {}
    waiting = [("precond", EXTRAS)]
    while waiting:
        name, extras = waiting.pop()
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        for line in distribution.requires or ():
            requirement = Requirement(line)
            if _applies(requirement, extras) and requirement.name not in versions:
                waiting.append((requirement.name, tuple(requirement.extras)))
        versions[name] = distribution.version
    return {name: version for name, version in versions.items() if name not in FINGERPRINT}


def _applies(requirement: Requirement, extras: tuple[str, ...]) -> bool:
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras))


def package_differences(expected: Mapping[str, str]) -> str:
    """Return the differences between this process's packages and others, or "" if there are none.

    Args:
        expected: The versions of the other packages by name.
    """
    actual = packages()
    lines = [
        f"{name} {actual.get(name, 'missing')} instead of {version}"
        for name, version in sorted(expected.items())
        if actual.get(name) != version
    ]
    others = len(lines) - NAMED
    suffix = f" and {counted(others, 'other package')}" if others > 0 else ""
    return ", ".join(lines[:NAMED]) + suffix


def problems(options: Options) -> Iterator[str]:
    """Yield a line for each reason why this process cannot send its environment."""
    if not options.send_environment:
        return
    if not (ROOT / LOCK).exists():
        yield f"--send-environment: requires {ROOT / LOCK}; run the command from a checkout"
    if find_spec("uv") is None:
        yield "--send-environment: requires uv in this environment; make setup installs it"


@contextmanager
def sent(options: Options) -> Iterator[dict[str, Any] | None]:
    """Yield the environment of all workers for `ray.init`; None for that of the nodes.

    Ray reads the folder in the environment during `ray.init`.
    """
    if not options.send_environment:
        yield None
        return
    with TemporaryDirectory(prefix="precond-") as folder:
        for package in PACKAGES:
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / package, Path(folder, package), ignore=ignored)
        shutil.copy(ROOT / LOCK, folder)
        python = shlex.quote(sys.executable)
        command = (
            f"{python} -m uv run --quiet --no-project --python {python} --with-requirements {LOCK}"
        )
        yield {"working_dir": folder, "py_executable": command}
