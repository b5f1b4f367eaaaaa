"""The optimizers of an audit, from their descriptions on the command line.

A description is a name with values, such as `nysact-s:rank=5,lr=0.01`. The name is a registered
optimizer, a class of torch such as `torch.optim.AdamW`, or a class or function in a file, such as
`my_file.py:MyOptimizer`.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from functools import partial
from importlib.abc import SourceLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from precond import registry
from precond.hyperparameters import HyperparameterError, nearest

TORCH = "torch.optim."
WORDS = {"true": True, "false": False, "none": None}


class AuditError(ValueError):
    """An audit cannot start or continue; the message is one line."""


@dataclass(frozen=True)
class Side:
    """One of the two optimizers.

    Attributes:
        label: The description, for messages.
        construct: A function of the model and of hyperparameters that returns the optimizer.
        values: The hyperparameters that the user set.
        defaults: All known hyperparameters and their defaults; empty for a function of the model.
        choices: The allowed words of each hyperparameter whose value is a word.
    """

    label: str
    construct: Callable[..., Optimizer]
    values: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def settings(self) -> dict[str, Any]:
        """All known hyperparameters with their values."""
        return {**self.defaults, **self.values}

    def build(self, model: nn.Module, **changes: Any) -> Optimizer:
        """Return a new optimizer of a model, with changed hyperparameters.

        Raises:
            AuditError: The result is not an optimizer.
        """
        optimizer = self.construct(model, **{**self.values, **changes})
        if not (hasattr(optimizer, "step") and getattr(optimizer, "param_groups", None)):
            kind = type(optimizer).__name__
            raise AuditError(
                f"{self.label}: must return a torch.optim.Optimizer, but returned {kind}"
            )
        return optimizer


def side(description: str | Side | Callable[[nn.Module], Optimizer]) -> Side:
    """Return the side of a description, or of a function `model -> optimizer`.

    Raises:
        AuditError: The description is not valid, or the optimizer does not exist.
        HyperparameterError: A value of a registered optimizer is out of range.
    """
    if isinstance(description, Side):
        return description
    if callable(description):
        return Side(getattr(description, "__name__", "function"), description)
    if not isinstance(description, str):
        raise AuditError(f"{description!r}: must be a description or a function of the model")
    name, values = split(description)
    if ".py:" in name:
        path, _, attribute = name.rpartition(":")
        return _of_callable(description, _load(Path(path), attribute), values)
    if name.startswith(TORCH):
        return _of_callable(description, _torch_class(name), values)
    return _registered(description, name, values)


def split(description: str) -> tuple[str, dict[str, Any]]:
    """Return the name and the values of a description.

    Raises:
        AuditError: A value is not written as `name=value`, or a name occurs twice.
    """
    name, values = re.fullmatch(r"(.*?)(?::(\s*\w+\s*=.*))?", description, re.DOTALL).groups()  # type: ignore[union-attr]
    pairs = re.split(r",\s*(?![^(\[]*[)\]])", values) if values else []
    result = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not (equals and key.strip().isidentifier() and value.strip()):
            raise AuditError(f"{description}: {pair!r} must be written as name=value")
        if key.strip() in result:
            raise AuditError(f"{description}: {key.strip()} has two values, but needs one")
        result[key.strip()] = _value(value.strip())
    return name, result


def _value(text: str) -> Any:
    """Return a number, tuple, True, False or None, or else the text itself."""
    if text.lower() in WORDS:
        return WORDS[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _registered(label: str, name: str, values: Mapping[str, Any]) -> Side:
    try:
        entry = registry.lookup(name)
    except HyperparameterError as error:
        forms = "or write torch.optim.NAME or FILE.py:NAME"
        raise AuditError(f"{error}; {forms}") from None
    if errors := registry.check(name, values):
        raise HyperparameterError("\n".join(f"{label}: {line}" for line in errors))
    words = {
        field.name: field.metadata.get("choices", ())
        for kind in entry.kinds
        for field in dataclasses.fields(kind)
    }
    choices = {key: options for key, options in words.items() if options}
    return Side(label, partial(registry.build, name), values, registry.defaults(name), choices)


def _torch_class(name: str) -> Callable[..., Optimizer]:
    known = [key for key, kind in vars(torch.optim).items() if _is_optimizer(kind)]
    attribute = name.removeprefix(TORCH)
    if attribute not in known:
        raise AuditError(f'"{name}": unknown.{nearest(attribute, known)}')
    return getattr(torch.optim, attribute)


def _is_optimizer(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Optimizer) and kind is not Optimizer


def _of_callable(label: str, function: Callable[..., Any], values: Mapping[str, Any]) -> Side:
    """Return the side of a function whose first argument is the parameters or the model."""
    first, *others = _arguments(label, function)
    takes_model = first.name in ("model", "module", "net", "network")
    names = [parameter.name for parameter in others]
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in others):
        for name in values:
            if name not in names:
                advice = nearest(name, names) if names else " It has no hyperparameters"
                raise AuditError(f"{label}: {name}: unknown hyperparameter.{advice}")

    def construct(model: nn.Module, **settings: Any) -> Optimizer:
        trainable = [p for p in model.parameters() if p.requires_grad]
        return function(model if takes_model else trainable, **settings)

    empty = inspect.Parameter.empty
    defaults = {p.name: p.default for p in others if p.default is not empty}
    return Side(label, construct, values, defaults)


def _arguments(label: str, function: Callable[..., Any]) -> list[inspect.Parameter]:
    """Return the arguments of a function, of which the first can be passed by position."""
    try:
        arguments = list(inspect.signature(function).parameters.values())
    except ValueError as error:  # of functions that are not written in Python
        raise AuditError(f"{label}: {first_line(error)}") from None
    if not arguments or arguments[0].kind in (
        inspect.Parameter.KEYWORD_ONLY,
        inspect.Parameter.VAR_KEYWORD,
    ):
        raise AuditError(f"{label}: its first argument must be the parameters or the model")
    return arguments


class _Loader(SourceLoader):
    """The loader of a file, whose name need not be that of a module."""

    def __init__(self, path: Path):
        self.path, self.name = path, f"audited_{path.stem}"

    def get_filename(self, fullname: str) -> str:
        return str(self.path)

    def get_data(self, path: str | bytes) -> bytes:
        return self.path.read_bytes()


def _load(path: Path, attribute: str) -> Callable[..., Any]:
    """Return a class or function of a file, which is executed without writing bytecode."""
    loader = _Loader(path)
    try:
        loader.get_code(loader.name)
    except (OSError, SyntaxError, ValueError) as error:  # ValueError: the file is not a text
        raise AuditError(f"{path}: cannot be read: {first_line(error)}") from None
    spec = spec_from_loader(loader.name, loader)
    assert spec is not None
    module = module_from_spec(spec)
    sys.modules[loader.name] = module  # dataclasses look up their module there
    try:
        with user_code():
            loader.exec_module(module)
    except Exception as error:
        raise AuditError(f"{path}: raised an error: {first_line(error)}") from error
    if not callable(getattr(module, attribute, None)):
        known = [
            name
            for name, value in vars(module).items()
            if getattr(value, "__module__", None) == module.__name__ and callable(value)
        ]
        raise AuditError(
            f'{path}: has no class or function "{attribute}".{nearest(attribute, known)}'
        )
    return getattr(module, attribute)


@contextmanager
def user_code() -> Iterator[None]:
    """Print the output of a user's code on stderr, and replace its `sys.exit` by an error.

    The report is the only output on stdout, and the exit code is that of the audit.
    """
    with redirect_stdout(sys.stderr):
        try:
            yield
        except SystemExit as error:
            raise RuntimeError(f"it exits with code {error.code!r}") from error


def first_line(error: BaseException) -> str:
    """Return the kind and the first line of an error."""
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
