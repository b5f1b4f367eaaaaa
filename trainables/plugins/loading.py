"""Import the files of plugins."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from trainables.plugins import content, neighbours, sources
from trainables.plugins.registration import (
    Function,
    PluginError,
    Registration,
    is_current,
    registering,
    withdraw,
)
from trainables.plugins.sources import Source, Sources


@dataclass(frozen=True)
class Plugin:
    """An imported plugin.

    Attributes:
        sources: Its files.
        functions: The registered functions, by the name of the optimizer or the workload.
        modules: The imported modules.
    """

    sources: Sources
    functions: dict[str, Function] = field(default_factory=dict)
    modules: tuple[ModuleType, ...] = ()


_loaded: dict[str, tuple[Plugin, Registration]] = {}  # by the SHA-256 of the sources


def load(path: Path, *, registers: bool = True) -> Plugin:
    """Import a plugin, once per process.

    Args:
        path: A Python file; or a folder, whose `.py` files are imported in the order of their
            names, except those that begin with `_`. They import each other with relative imports,
            such as `from .helpers import norm`.
        registers: Refuse a plugin that registers nothing.

    Raises:
        PluginError: The path cannot be read, a file raises an error, nothing is registered, or a
            name exists already.
    """
    files = sources.read(path)
    plugin, registration = _loaded.get(files.sha256, (None, None))
    if plugin is None or registration is None or not is_current(registration):
        plugin = _import(files)
    if registers and not plugin.functions:
        raise PluginError(
            f"{path}: registers nothing; use @optimizer or @workload of trainables.plugins"
        )
    return plugin


def load_all(paths: Sequence[Path]) -> list[str]:
    """Import several plugins; return a line for each error.

    Two plugins must not register the same name.
    """
    errors: list[str] = []
    owners: dict[str, Path] = {}
    for path in paths:
        try:
            names = load(path).functions
        except PluginError as error:
            errors.append(str(error))
            continue
        for name in names:
            other = owners.setdefault(name, path)
            if other.resolve() != path.resolve():
                errors.append(f'{path}: "{name}" is registered by {other}, too; rename one of them')
    return errors


def imported() -> list[ModuleType]:
    """Return the modules of all plugins of this process."""
    return [module for plugin, _ in _loaded.values() for module in plugin.modules]


def unregister() -> None:
    """Remove all plugins of this process, so that their names are free again."""
    for plugin, registration in _loaded.values():
        _forget(plugin.sources, registration)
    _loaded.clear()


def _import(files: Sources) -> Plugin:
    """Import the modules of a plugin.

    Raises:
        PluginError: A module raised an error; the message contains the line in its file.
    """

    def identify(build: Callable[..., Any]) -> Function:
        module = str(getattr(build, "__module__", "")).partition(".")[2]
        name = getattr(build, "__qualname__", "")
        if getattr(build, "__module__", "").partition(".")[0] != files.package:
            name = ""  # a function of a library, so the whole plugin is hashed
        _, versions = content.code_of(files, module, name)
        return Function(module, name, content.code_hash_of(files, module, name), versions)

    registration = Registration(identify)
    _forget(files, registration)
    finder = _Finder(files)
    sys.meta_path.insert(0, finder)  # for good, because functions of a folder's modules can import
    try:
        with registering(registration):
            modules = [importlib.import_module(files.full_name(name)) for name in files.modules]
    except BaseException as error:
        _forget(files, registration)
        if isinstance(error, (Exception, SystemExit)):
            raise PluginError(_message(error, files)) from error
        raise
    # Only now, because a plugin can change the folders that modules are imported from.
    if problem := neighbours.problem(files):
        _forget(files, registration)
        raise PluginError(problem)
    plugin = Plugin(files, registration.functions, tuple(modules))
    _loaded[files.sha256] = plugin, registration
    return plugin


def _forget(files: Sources, registration: Registration) -> None:
    """Remove a plugin's names, modules and finder."""
    withdraw(registration)
    for name in [n for n in sys.modules if n.partition(".")[0] == files.package]:
        del sys.modules[name]
    for finder in [f for f in sys.meta_path if isinstance(f, _Finder) and f.serves(files)]:
        sys.meta_path.remove(finder)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the modules of one plugin.

    The modules are compiled from the bytes that were hashed. Python's own loader would read the
    file again, and use a compiled file if the time and the size of the file are unchanged.
    """

    def __init__(self, files: Sources):
        self._files = files

    def serves(self, files: Sources) -> bool:
        """Return True if the modules of these files would be found."""
        return self._files.package == files.package

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Return the module's spec, or None if it is not a module of the plugin."""
        package, _, module = fullname.partition(".")
        source = self._files.files.get(module) if package == self._files.package else None
        if source is None:
            return None
        locations = [str(source.path.parent)] if source.package else None
        return importlib.util.spec_from_file_location(
            fullname,
            source.path,
            loader=_Loader(source),
            submodule_search_locations=locations,
        )


class _Loader(importlib.abc.SourceLoader):
    """Compiles a source from memory; it writes and reads no compiled file."""

    def __init__(self, source: Source):
        self._source = source

    def get_filename(self, fullname: str) -> str:
        """Return the absolute path of the file."""
        return str(self._source.path.absolute())

    def get_data(self, path: Any) -> bytes:
        """Return the content of the file."""
        if str(path) != self.get_filename(""):
            raise OSError(path)
        return self._source.content


def _message(error: BaseException, files: Sources) -> str:
    """Return the place of an error in the plugin's files, and its first line."""
    by_path = {str(s.path.absolute()): s for s in files.files.values()}
    lines = [(f.filename, f.lineno) for f in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError):
        lines.append((str(error.filename), error.lineno))
    places = [(by_path[name], line or 0) for name, line in lines if name in by_path]
    kind = "" if isinstance(error, PluginError) else f"{type(error).__name__}: "
    text = error.msg if isinstance(error, SyntaxError) else str(error).partition("\n")[0]
    if not places:
        return f"{files.path}: {kind}{text}"
    source, line = places[-1]
    if isinstance(error, ImportError) and (advice := neighbours.advice(files, source, line)):
        text += f"; {advice}"
    return f"{source.path}, line {line}: {kind}{text}"
