"""The names that plugins register, with the hash of the code that each of them uses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from precond import HyperparameterError
from precond.registry import REGISTRY
from trainables.workloads import PLUGINS


class PluginError(HyperparameterError):
    """A plugin cannot be used; the message is one line."""


@dataclass(frozen=True)
class Function:
    """A registered function.

    Attributes:
        module: The module of the plugin that defines it, "" for a single file.
        name: Its qualified name in that module.
        digest: The hash of the code that it uses.
        versions: The versions of packages that are part of the hash.
    """

    module: str
    name: str
    digest: str
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Registration:
    """The functions that a plugin registered.

    Attributes:
        identify: Returns the `Function` of a function of the plugin.
        functions: The registered functions, by the name of the optimizer or the workload.
    """

    identify: Callable[[Callable[..., Any]], Function]
    functions: dict[str, Function] = field(default_factory=dict)


_current: Registration | None = None  # of the plugin that is being imported
_owners: dict[str, Registration] = {}  # by the name of the optimizer or the workload


def is_loading() -> bool:
    """Return True while a plugin is being imported."""
    return _current is not None


@contextmanager
def registering(registration: Registration) -> Iterator[None]:
    """Record the names of a plugin that is being imported; if it fails, remove them."""
    global _current
    _current = registration
    try:
        yield
    except BaseException:
        withdraw(registration)
        raise
    finally:
        _current = None


def is_script(build: Callable[..., Any]) -> bool:
    """Return True if the file of the decorated function runs as a script.

    Nothing is registered then, because `main(STUDY, plugin=__file__)` in the script imports the
    file again as a plugin.
    """
    return _current is None and build.__module__ == "__main__"


def register(name: str, build: Callable[..., Any], exists: bool) -> str:
    """Record a name that the plugin being imported registers, and return the hash of its code.

    A name that another plugin registered is replaced, because in a long-running worker the other
    plugin is an older version of the same file.

    Args:
        name: The name of the optimizer or the workload.
        build: The decorated function.
        exists: True if the name is already registered.

    Raises:
        PluginError: The name belongs to the project or was registered by the same plugin, or no
            plugin is being imported.
    """
    if _current is None:
        raise PluginError(f"{name}: load the plugin with --plugin FILE; it cannot be imported")
    if (exists and name not in _owners) or name in _current.functions:
        raise PluginError(f'"{name}" exists already: choose another name')
    function = _current.identify(build)
    _current.functions[name] = function
    _owners[name] = _current
    return function.digest


def is_current(registration: Registration) -> bool:
    """Return True if no other plugin has replaced a name of this one."""
    return all(_owners.get(name) is registration for name in registration.functions)


def withdraw(registration: Registration) -> None:
    """Unregister the names of a plugin that no other plugin has replaced."""
    for name in registration.functions:
        if _owners.get(name) is registration:
            del _owners[name]
            REGISTRY.pop(name, None)
            PLUGINS.pop(name, None)
