"""Imports of modules that lie in the folder of a plugin, other than relative imports.

The code of such a module would be in no key, and workers would not find it.
"""

from __future__ import annotations

import ast
import importlib.util
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

from trainables.plugins import content, packages
from trainables.plugins.sources import INIT, Source, Sources


@dataclass(frozen=True)
class Import:
    """A module or package that a statement imports.

    Attributes:
        line: The line of the statement.
        module: The name of the module; "" for `from . import NAME`.
        names: The names that the statement imports from the module; they can be modules.
        is_from: True for `from MODULE import NAME`.
        is_relative: True if the module's name begins with a dot.
    """

    line: int
    module: str
    names: tuple[str, ...] = ()
    is_from: bool = False
    is_relative: bool = False


def problem(files: Sources) -> str:
    """Return the first absolute import of a module in the plugin's folder, or "".

    The files that have been imported are checked, and those that their functions import.
    """
    modules = dict(_parsed(files))
    loaded = {name for name in modules if files.full_name(name) in sys.modules}
    folder = _folder(files)
    for name in sorted(content.imported_modules(modules, loaded)):
        source = files.files[name]
        for statement in (i for s in modules[name].statements for i in _imports(s)):
            root = statement.module.partition(".")[0]
            if statement.is_relative or root in packages.PROJECT:
                continue
            target = _target(statement, folder)
            if target and not _is_installed(target[0], folder):
                advice = _advice(statement, *target, source, files)
                return f"{source.path}, line {statement.line}: {advice}"
    return ""


def advice(files: Sources, source: Source, line: int) -> str:
    """Return what to do about a failed import of a module in the plugin's folder, or ""."""
    folder = _folder(files)
    places = [p for p in source.path.absolute().parents if p.is_relative_to(folder)]
    for statement in _imports(ast.parse(source.content)):
        if statement.line != line or (statement.is_relative and files.path.is_dir()):
            continue
        search = places if statement.is_relative else [*places, folder.parent]
        if target := _target(statement, folder, [str(place) for place in search]):
            return _advice(statement, *target, source, files)
    return ""


def _parsed(files: Sources) -> Iterator[tuple[str, content.Module]]:
    """Yield the modules of a plugin, without those that Python cannot import."""
    for name, source in files.files.items():
        with suppress(SyntaxError, ValueError, RecursionError):
            yield name, content.Module(name, source)


def _folder(files: Sources) -> Path:
    path = files.path.absolute()
    return path if path.is_dir() else path.parent


def _imports(tree: ast.AST) -> Iterator[Import]:
    """Yield the imports in a tree, without relative imports from a folder above."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (Import(node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level <= 1:
            names = tuple(alias.name for alias in node.names)
            yield Import(node.lineno, node.module or "", names, True, bool(node.level))


def _target(
    statement: Import, folder: Path, search: Sequence[str] | None = None
) -> tuple[Path, bool] | None:
    """Return the file in a folder that an import loads, and True if it is one of the names.

    Args:
        statement: The import.
        folder: The folder.
        search: The folders that are searched; by default, all places where Python imports from.
    """
    folder = folder.resolve()
    prefix = f"{statement.module}." if statement.module else ""
    names = [(prefix + name, True) for name in statement.names]
    if statement.module:
        names.append((statement.module, False))
    for name, is_child in names:
        specs = list(_specs(name, search))
        if len(specs) <= name.count("."):
            continue  # the name is not that of a module
        origins = [_resolved(Path(s.origin)) for s in specs if s.has_location and s.origin]
        if origins and origins[-1].is_relative_to(folder):
            return origins[-1], is_child
    return None


def _resolved(path: Path) -> Path:
    """Return the place of a file, which may be a link to a file in another folder."""
    return path.absolute().parent.resolve() / path.name


def _specs(name: str, search: Sequence[str] | None) -> Iterator[ModuleSpec]:
    """Yield the specs of the packages of a module, and of the module, without importing them."""
    for part in name.split("."):
        try:
            spec = (
                importlib.util.find_spec(part)
                if search is None
                else PathFinder.find_spec(part, search)
            )
        except (ImportError, ValueError):
            return
        if spec is None:
            return
        yield spec
        if spec.submodule_search_locations is None:
            return
        search = list(spec.submodule_search_locations)


def _is_installed(path: Path, folder: Path) -> bool:
    """Return True for a file of Python or of an installed package, for example in `.venv`."""
    keys = ("stdlib", "platstdlib", "purelib", "platlib")
    places = {Path(sysconfig.get_path(key)) for key in keys}
    places |= {Path(place) for place in sys.path if any(Path(place).glob("*.dist-info"))}
    places = {place.resolve() for place in places} - {folder.resolve()}
    return any(
        path.is_relative_to(place) and place.is_relative_to(folder.resolve()) for place in places
    )


def _advice(statement: Import, target: Path, is_child: bool, source: Source, files: Sources) -> str:
    """Return why an import is refused, and what to do."""
    folder = _folder(files).resolve()
    path = target.relative_to(folder)
    if target == _resolved(source.path):
        return f"the file imports itself as {statement.module}: delete this import"
    missing = [str(p / INIT) for p in [*path.parents][-2::-1] if not (folder / p / INIT).exists()]
    steps = [f"create {' and '.join(missing)}"] if missing else []
    package = _resolved(source.path).parent.relative_to(folder)
    if not statement.is_relative:
        steps.append(f"write `{_relative(statement, path, is_child, package)}`")
    if files.path.is_dir():
        return (
            f"{path.as_posix()} lies in the folder of the plugin, and only relative imports add its "
            f"code to the keys: {' and '.join(steps)}"
        )
    return (
        f"{path.parts[0]} lies beside the plugin, so its code would not be part of the keys: "
        f"{', '.join(['put both into a folder', *steps])} and name the folder with --plugin"
    )


def _relative(statement: Import, path: Path, is_child: bool, package: Path) -> str:
    """Return the relative import that replaces an import."""
    parts = [part for part in path.with_suffix("").parts if part != "__init__"]
    name = "..."
    if is_child or (not statement.is_from and parts):
        last = parts.pop()
        name = name if statement.is_from else last
    here = list(package.parts)
    common = 0
    while common < min(len(here), len(parts)) and here[common] == parts[common]:
        common += 1
    dots = "." * (len(here) - common + 1)
    return f"from {dots}{'.'.join(parts[common:])} import {name}"
