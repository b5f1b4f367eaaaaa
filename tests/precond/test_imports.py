"""The modules of precond import each other in one direction."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# What a package may import of precond, beside itself.
ALLOWED = {
    "precond.parts": set(),
    "precond.algorithms": {
        *("precond.algorithm", "precond.hessian", "precond.hyperparameters", "precond.parts"),
    },
}
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
    """The modules of precond that each module imports anywhere in its text."""
    files = {
        ".".join(p.relative_to(ROOT).with_suffix("").parts): p
        for p in (ROOT / "precond").rglob("*.py")
    }
    modules = {name.removesuffix(".__init__"): path for name, path in files.items()}
    graph: dict[str, set[str]] = {name: set() for name in modules}
    for name, path in modules.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.ImportFrom)
                and node.module
                and node.module.startswith("precond")
            ):
                places = [(f"{node.module}.{alias.name}", node.module) for alias in node.names]
                graph[name] |= {full if full in modules else module for full, module in places}
    del graph["precond"]  # imports its names on first use
    return graph


def test_there_are_no_cycles():
    """And the order is the documented one: each module only imports what comes after it."""
    graph = imports()
    order = list(TopologicalSorter(graph).static_order())  # raises CycleError
    assert len(order) >= len(graph) > 30
    for higher, lower in pairwise(ORDER):
        assert lower in reachable(graph, higher) and higher not in reachable(graph, lower)


def reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    """All modules that importing `start` imports."""
    found: set[str] = set()
    waiting = [start]
    while waiting:
        fresh = graph.get(waiting.pop(), set()) - found
        found |= fresh
        waiting += fresh
    return found


def test_packages_import_only_what_they_may():
    """Parts nothing above them; algorithms neither optimizer, banks nor hooks."""
    for name, imported in imports().items():
        for package, allowed in ALLOWED.items():
            if name.startswith(f"{package}."):
                others = {module for module in imported if not module.startswith(package)}
                assert all(
                    any(f"{module}.".startswith(f"{a}.") for a in allowed) for module in others
                ), (name, others)
