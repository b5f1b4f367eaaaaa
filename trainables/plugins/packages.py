"""The versions of the packages that a plugin imports.

A package can change torch when it is imported, so the numbers of a trial can depend on a package of
which the plugin's code calls nothing.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from importlib import metadata

PROJECT = {"precond", "trainables", "studies"}
# The packages that the project itself requires. Their versions are in no key, as for the workloads
# and optimizers of the project.
REQUIRED = {
    *(
        "torch",
        "torchvision",
        "numpy",
        "scipy",
        "pandas",
        "sklearn",
        "mlxtend",
        "pytorch_optimizer",
    ),
    *("ray", "optuna", "mlflow", "matplotlib", "click", "rich", "psutil", "yaml", "jinja2"),
    "jsonschema",
}


def imports(tree: ast.AST) -> Iterator[str]:
    """Yield the names of the packages of all absolute imports in a tree."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def versions(names: Iterable[str]) -> dict[str, str]:
    """Return the versions of the installed distributions that contain packages, by distribution.

    The standard library, the project, the packages that the project requires, and modules that no
    distribution contains are omitted.
    """
    names = set(names) - sys.stdlib_module_names - PROJECT - REQUIRED
    of_package = distributions() if names else {}
    return {
        distribution: metadata.version(distribution)
        for name in sorted(names)
        for distribution in of_package.get(name, ())
    }


@cache
def distributions() -> dict[str, list[str]]:
    """Return the names of the distributions by the names of their packages."""
    return {name: sorted(set(of)) for name, of in metadata.packages_distributions().items()}
