"""The imports in precond have no cycles, and higher modules import lower ones only."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# The modules and packages of precond that a package may import besides itself.
ALLOWED = {
    "precond.parts": set(),
    "precond.algorithms": {
        *("precond.algorithm", "precond.hessian", "precond.hyperparameters", "precond.parts"),
        *("precond.windows", "precond.counts", "precond.averaged"),
    },
}
# From the highest module to the lowest.
ORDER = [
    *(
        "precond.registry",
        "precond.optimizers",
        "precond.optimizer",
        "precond.capture",
        "precond.bank",
    ),
    *("precond.layers", "precond.algorithm", "precond.parts.rows"),
]


def imports() -> dict[str, set[str]]:
    """Return the modules of precond that each module imports, including imports in functions."""
    modules = {}
    for path in (ROOT / "precond").rglob("*.py"):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        modules[name.removesuffix(".__init__")] = path
    graph: dict[str, set[str]] = {name: set() for name in modules}
    for name, path in modules.items():
        for node in ast.walk(ast.parse(path.read_text())):
            module = node.module if isinstance(node, ast.ImportFrom) else None
            if module and module.startswith("precond"):
                for alias in node.names:
                    full = f"{module}.{alias.name}"
                    graph[name].add(full if full in modules else module)
    del graph["precond"]  # imports its names on first use
    return graph


def test_imports_have_no_cycles_and_go_only_to_lower_modules():
    """Each module of ORDER imports the next one, directly or indirectly, and never the reverse."""
    graph = imports()
    order = list(TopologicalSorter(graph).static_order())  # raises CycleError
    assert len(order) >= len(graph) > 30
    for higher, lower in pairwise(ORDER):
        assert lower in reachable(graph, higher) and higher not in reachable(graph, lower)


def reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    """Return all modules that `start` imports, directly or indirectly."""
    modules: set[str] = set()
    waiting = [start]
    while waiting:
        new = graph.get(waiting.pop(), set()) - modules
        modules |= new
        waiting += new
    return modules


def test_algorithms_and_parts_import_only_the_allowed_modules():
    """Algorithms do not import the optimizer, the banks or the hooks; parts import only parts."""
    for name, imported in imports().items():
        for package, allowed in ALLOWED.items():
            if name.startswith(f"{package}."):
                outside = {module for module in imported if not module.startswith(package)}
                prefixes = tuple(f"{module}." for module in allowed)
                assert all(f"{module}.".startswith(prefixes) for module in outside), (name, outside)
