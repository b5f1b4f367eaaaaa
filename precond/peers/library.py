"""All optimizers of the package pytorch-optimizer by name: `pytorch-optimizer:NAME`.

The hyperparameters, their types and their defaults are those of the class's signature. Parameters
whose values a trial's configuration cannot contain, such as functions and dtypes, keep their
defaults. The options `foreach`, `fused` and `maximize` are left out, as in all optimizers here.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from importlib import metadata
from inspect import Parameter
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from precond import signatures
from precond.hyperparameters import HyperparameterError, nearest, problems
from precond.peers.base import LibraryOptimizer, import_package, numbers, unhooked
from precond.peers.muon import matrices
from precond.peers.seeded import Generators
from precond.scaling import evaluate

PREFIX = "pytorch-optimizer:"
OMITTED = ("foreach", "fused", "maximize", "capturable", "differentiable")
CLOSURES = ("lbfgs",)  # their steps evaluate the model
SPLIT = ("adago", "adamuon", "muon", "muonclip", "normuon")  # their groups have `use_muon`
_OBJECTS = "its state contains Python objects, so a trial could not be resumed from a checkpoint"
_BACKWARD = "it updates the weights inside the backward pass and has no step"
_NO_LR = "its parameter groups have no lr, which the schedule of a trial sets"
REFUSED: Mapping[str, str] = {
    "a2grad": _NO_LR,
    "alig": _NO_LR,
    "magma": "it wraps another optimizer",
    "adahessian": "it needs gradients with a graph; use adahessian",
    "sophiah": "it needs gradients with a graph; use sophia-h",
    "lomo": _BACKWARD,
    "adalomo": _BACKWARD,
    "demo": "it needs a process group",
    "distributedmuon": "it needs a process group; use pytorch-optimizer:muon",
    "lorarite": "it trains pairs of LoRA matrices only",
    "spectralsphere": "it trains matrices only",
    "adashift": _OBJECTS,
    "conda": _OBJECTS,
    "scalableshampoo": f"{_OBJECTS}; use shampoo-graft",
    "scion": _OBJECTS,
    "scionlight": _OBJECTS,
}
"""The optimizers that cannot be used here, with the reasons."""


@dataclasses.dataclass(frozen=True)
class LibraryEntry:
    """An optimizer of the package.

    Attributes:
        name: The name in the package, in lower case.
        kind: The package's class.
        settings: A dataclass of its hyperparameters and of `seed`.
    """

    name: str
    kind: Any
    settings: type

    def build(
        self, model: nn.Module, *, params: Iterable[Any] | None = None, **hyperparameters: Any
    ) -> Optimizer:
        """Build the optimizer; `registry.build` describes the arguments."""
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in hyperparameters.items()}
        subclass: Any = optimizer_class(self.name)
        if "model" in inspect.signature(self.kind).parameters:
            if params is not None:
                raise ValueError(f"{PREFIX}{self.name} takes the model, not parameter groups")
            return subclass(model, **values)
        trainable = [p for p in model.parameters() if p.requires_grad]
        groups = trainable if params is None else params
        return subclass(_split(groups, model) if self.name in SPLIT else groups, **values)

    def errors(self, values: Mapping[str, Any], model: nn.Module | None) -> list[str]:
        """Return a line if the package refuses the values for a model, else no line.

        The optimizer is tried on small tensors with as many dimensions as the model's parameters.
        """
        example = nn.ModuleList([nn.Linear(2, 3), nn.Conv2d(1, 2, 3)])
        parameters = list((example if model is None else model).parameters())
        shapes = tuple(dict.fromkeys(tuple(min(n, 4) for n in p.shape) for p in parameters))
        options = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
        return _trial_errors(self.name, tuple(sorted(options.items())), shapes)


def is_library_name(name: str) -> bool:
    """Return True for a name with the prefix of the package, in any case."""
    return name.lower().startswith(PREFIX)


def canonical(name: str) -> str:
    """Return a name in lower case if it has the prefix, and other names unchanged."""
    return name.lower() if is_library_name(name) else name


def version() -> str:
    """Return the version of the package."""
    return metadata.version("pytorch-optimizer")


def names() -> list[str]:
    """Return the names of all optimizers of the package, including the refused ones."""
    return sorted(import_package(f"{PREFIX}NAME").get_supported_optimizers())


def name_error(full_name: str) -> str | None:
    """Return one line if `pytorch-optimizer:NAME` is unknown or cannot be used, else None."""
    name, text = canonical(full_name).removeprefix(PREFIX), f'optimizer = "{full_name}"'
    try:
        known = names()
    except ModuleNotFoundError as missing:
        return f"{text}: {missing}"
    if name not in known:
        advice = nearest(name, known)
        return f"{text}: pytorch-optimizer {version()} has no such optimizer.{advice}"
    reason = refusal(name)
    return f"{text}: cannot be used here: {reason}" if reason else None


def find(full_name: str) -> LibraryEntry:
    """Return the entry of `pytorch-optimizer:NAME`; the case does not matter.

    Raises:
        HyperparameterError: See `name_error`.
    """
    if text := name_error(full_name):
        raise HyperparameterError(text)
    return _entry(canonical(full_name).removeprefix(PREFIX))


def refusal(name: str) -> str | None:
    """Return the reason why an optimizer of the package cannot be used here, or None."""
    required = [p.name for p in _parameters(name) if p.default is Parameter.empty]
    missing = f"its parameter {', '.join(required)} has no default" if required else None
    return REFUSED.get(name, missing)


def _class(name: str) -> Any:
    return import_package(f"{PREFIX}{name}").load_optimizer(name)


def _parameters(name: str) -> list[Parameter]:
    """Return the parameters of a class after the first, which receives parameters or the model."""
    variadic = (Parameter.VAR_KEYWORD, Parameter.VAR_POSITIONAL)
    parameters = list(inspect.signature(_class(name)).parameters.values())[1:]
    return [p for p in parameters if p.kind not in variadic and p.name not in OMITTED]


@functools.cache
def _entry(name: str) -> LibraryEntry:
    kind = _class(name)
    globals_ = signatures.global_names(kind)
    fields: list[Any] = []
    for parameter in [*_parameters(name), _SEED]:
        kinds = signatures.types_of(parameter.annotation, globals_)
        plain = parameter.default is not None or signatures.plain_types(kinds)
        if plain and signatures.is_plain(parameter.default):
            fields.append((parameter.name, Any, signatures.field_of(parameter, kinds)))
    settings = dataclasses.make_dataclass(
        f"{kind.__name__}Settings",
        fields,
        frozen=True,
        kw_only=True,
        namespace={"problems": problems},
    )
    return LibraryEntry(name, kind, settings)


_SEED = Parameter("seed", Parameter.KEYWORD_ONLY, default=0, annotation=int)


class NamedOptimizer(LibraryOptimizer):
    """Base class of the optimizers by name. They get copied gradients and seeded random numbers."""

    CHANGES_GRADIENTS = True
    needs_closure: ClassVar[bool] = False

    def __init__(self, params: Any, *, seed: int = 0, **hyperparameters: Any):
        self._added_defaults = {"seed": seed, "seeded_step": 0}
        with Generators(seed, -1, []).exchanged():
            super().__init__(params, **hyperparameters)

    def _option_errors(self, param_group: dict[str, Any]) -> list[str]:
        """Return no errors, because it is not known which options of groups the class reads."""
        return []

    def _checked_groups(self, saved: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the groups of a saved state unchanged, for the same reason."""
        return saved["param_groups"]

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the parameters, and return the closure's loss, or None without a closure.

        Raises:
            RuntimeError: The optimizer evaluates the model itself, but there is no closure.
        """
        if self.needs_closure and closure is None:
            text = "evaluates the model in each step: pass a closure that returns the loss"
            raise RuntimeError(f"{self.NAME} {text}")
        loss = None if self.needs_closure else evaluate(closure)
        first = self.param_groups[0]
        parameters = [p for group in self.param_groups for p in group["params"]]
        generators = Generators(first["seed"], first["seeded_step"], parameters)
        first["seeded_step"] += 1
        with generators.exchanged():
            if not self.needs_closure:
                self._library_step()
                return loss
            with numbers(self.param_groups):
                return unhooked(self.LIBRARY)(self, generators.outside(closure))  # type: ignore


@functools.cache
def optimizer_class(name: str) -> type[Optimizer]:
    """Return the subclass of a class of the package that `LibraryEntry.build` uses."""
    kind = _class(name)
    closure = name in CLOSURES
    values = {"NAME": f"{PREFIX}{name}", "LIBRARY": kind, "needs_closure": closure}
    # `pickle` finds the class by its name, in `__getattr__` below.
    place = {"__module__": __name__, "__qualname__": f"library_{name}"}
    return type(f"library_{name}", (NamedOptimizer, kind), {**values, **place})


def __getattr__(name: str) -> type[Optimizer]:
    """Return the class of an optimizer, which `pickle` finds by its name."""
    if name.startswith("library_"):
        return optimizer_class(name.removeprefix("library_"))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _split(params: Iterable[Any], model: nn.Module) -> list[dict[str, Any]]:
    """Split each parameter group into the matrices of `muon` and all other parameters."""
    groups: list[Any] = list(params)
    if groups and not isinstance(groups[0], dict):
        groups = [{"params": groups}]
    muon, result = matrices(model), []
    for group in groups:
        members = group["params"]
        members = [members] if isinstance(members, Tensor) else list(members)
        for use in (True, False):
            if chosen := [m for m in members if (_tensor(m) in muon) == use]:
                result.append({**group, "params": chosen, "use_muon": use})
    return result


def _tensor(member: Any) -> Any:
    """Return the parameter of a member of a group, which may be a pair (name, parameter)."""
    return member[1] if isinstance(member, tuple) else member


@functools.cache
def _trial_errors(
    name: str, values: tuple[tuple[str, Any], ...], shapes: tuple[tuple[int, ...], ...]
) -> list[str]:
    """Build an optimizer for small tensors and take a step; return a line if this fails."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Module()
    for number, shape in enumerate(shapes):
        p = nn.Parameter(torch.randn(shape, generator=generator))
        p.grad = torch.randn(shape, generator=generator)
        model.register_parameter(f"p{number}", p)
    try:
        optimizer: Any = find(PREFIX + name).build(model, **dict(values))
        closure: Any = (lambda: torch.ones(())) if optimizer.needs_closure else None
        optimizer.step(closure)
    except Exception as error:  # the package's code may raise anything
        reason = str(error).partition("\n")[0]
        return [f"{PREFIX}{name}: {type(error).__name__}: {reason}"]
    return []
