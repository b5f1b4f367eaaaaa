"""Tests of the imports: no cycles, and studies/*.py -> studies.harness -> trainables -> precond.

The tests read the source code. They count every import statement, also those inside functions and
under TYPE_CHECKING.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ["precond", "trainables", "studies"]
HARNESS = "studies.harness"
# The rooms are the packages in studies/harness. A room may import only itself and the rooms in
# later lines.
ROOMS = [
    {"command"},
    {"transfer"},
    {"kinds"},
    {"cluster", "tracking", "report", "export"},
    {"evidence"},
    {"published"},
    {"statistics", "design"},
]
# Libraries that `precond` and `trainables` must not import, because each costs a worker seconds and
# memory.
HEAVY = {"pandas", "scipy", "sklearn", "matplotlib", "mlflow", "optuna", "studies"}
# Libraries that `precond` and `trainables` may import only inside functions.
LATE = {"torchvision", "PIL", "numpy", "filelock", "pytorch_optimizer", "ray"}


@dataclass(frozen=True)
class Import:
    """An import statement.

    Attributes:
        module: The importing module.
        target: The imported module; only its top-level name if it is not part of this project.
        line: Number of the line.
        late: True if the statement is inside a function.
    """

    module: str
    target: str
    line: int
    late: bool

    def __str__(self) -> str:
        path = modules()[self.module].relative_to(ROOT)
        return f"{path}:{self.line}: {self.module} imports {self.target}"


@cache
def modules() -> dict[str, Path]:
    """Return the files of the three packages by module name."""
    files = {}
    for package in ("precond", "trainables", "studies"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return files


@cache
def imports(package: str) -> list[Import]:
    """Return the imports of a package's modules."""
    return [
        statement
        for module, path in modules().items()
        if module.partition(".")[0] == package
        for statement in _imports(module, ast.parse(path.read_text()))
    ]


def _imports(module: str, node: ast.AST, late: bool = False) -> list[Import]:
    statements = []
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            names = [alias.name for alias in child.names]
        elif isinstance(child, ast.ImportFrom):
            place = f"{module}, line {child.lineno}"
            assert child.level == 0, f"{place}: write the absolute name of the module"
            qualified = [f"{child.module}.{alias.name}" for alias in child.names]
            names = [name if name in modules() else str(child.module) for name in qualified]
        else:
            names = []
            in_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            statements += _imports(module, child, late or in_function)
        targets = [name if name in modules() else name.partition(".")[0] for name in names]
        for target in dict.fromkeys(targets):
            statements.append(Import(module, target, child.lineno, late))  # type: ignore[attr-defined]
    return statements


def cycles(package: str) -> list[list[Import]]:
    """Return import cycles; without the last import of each of them, no cycle would remain."""
    edges = {
        (edge.module, edge.target): edge for edge in imports(package) if edge.target in modules()
    }
    results: list[list[Import]] = []
    while True:
        graph: dict[str, set[str]] = {}
        for module, target in edges:
            graph.setdefault(module, set()).add(target)
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            path = error.args[1][::-1]
            results.append([edges[pair] for pair in pairwise(path)])
            del edges[path[-2], path[-1]]
        else:
            return results


def lines(statements: list[Import]) -> str:
    return "".join(f"\n  {statement}" for statement in statements)


def level(module: str) -> int:
    """Return 0 for `precond`, 1 for `trainables`, 2 for the harness, and 3 for the files of `studies`."""
    packages = ["precond", "trainables", HARNESS, "studies"]
    return next(i for i, package in enumerate(packages) if f"{module}.".startswith(f"{package}."))


def room(module: str) -> str:
    """Return the room of a module of the harness; an empty string for other modules."""
    if not module.startswith(f"{HARNESS}."):
        return ""
    return module.removeprefix(f"{HARNESS}.").partition(".")[0]


def allowed(edge: Import) -> bool:
    """Return True if an import follows the order of the packages, or of the rooms in the harness."""
    source, target = room(edge.module), room(edge.target)
    if not (source and target):
        return level(edge.target) <= level(edge.module)

    def layer(name: str) -> int:
        return next((i for i, names in enumerate(ROOMS) if name in names), -1)

    return source == target or -1 < layer(source) < layer(target)


@pytest.mark.parametrize("package", PACKAGES)
def test_modules_have_no_import_cycles(package: str):
    results = cycles(package)
    assert not results, f"{len(results)} import cycles:" + "\n".join(map(lines, results))


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_follow_the_direction_of_the_rooms(package: str):
    internal = [edge for edge in imports(package) if edge.target in modules()]
    errors = [edge for edge in internal if not allowed(edge)]
    assert not errors, f"{len(errors)} imports against the direction:" + lines(errors)


@pytest.mark.parametrize("package", PACKAGES[-1:])
def test_every_module_of_the_harness_is_in_a_room(package: str):
    rooms = set().union(*ROOMS)
    outside = [m for m in modules() if m.startswith(f"{HARNESS}.") and room(m) not in rooms]
    assert not outside, f"in no room: {', '.join(outside)}"


@pytest.mark.parametrize("package", ["precond", "trainables"])
def test_worker_requires_only_torch(package: str):
    """Other libraries are imported inside functions, except Ray in `ray_trainable`."""
    known = {*sys.stdlib_module_names, "torch", "precond", "trainables"}
    errors = [edge for edge in imports(package) if edge.target.partition(".")[0] not in known]
    errors = [edge for edge in errors if not (edge.late and edge.target in LATE)]
    exception = ("trainables.ray_trainable", "ray")
    errors = [edge for edge in errors if (edge.module, edge.target) != exception]
    assert not errors, "imports that are not permitted in a worker:" + lines(errors)


def test_importing_modules_and_loading_digits_imports_no_heavy_library():
    names = [name for name in modules() if name.partition(".")[0] in ("precond", "trainables")]
    names = [name for name in names if name != "trainables.ray_trainable"]
    heavy = HEAVY | LATE - {"numpy"}
    script = (
        f"import importlib, sys, torch\n"
        f"before = set(sys.modules)\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        f"import trainables.data.digits\n"
        f"trainables.data.digits._tensors()\n"
        f"print(*sorted({heavy!r} & (set(sys.modules) - before)))\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert process.stdout.strip() == ""


def test_every_path_in_the_architecture_page_exists():
    text = (ROOT / "docs" / "architecture.md").read_text()
    named = {name.rstrip("/") for name in re.findall(r"`([\w./]+(?:\.py|/))`", text)}
    folders = (*PACKAGES, "tests")
    files = [path.relative_to(ROOT) for name in folders for path in (ROOT / name).rglob("*")]
    known = {"/".join(path.parts[start:]) for path in files for start in range(len(path.parts))}
    assert len(named) > 40 and named <= {*known, *PACKAGES}, sorted(named - known)
