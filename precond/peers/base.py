"""The base of the peers, which adapts classes of another package to this project."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from precond import hessian
from precond.algorithm import Card
from precond.groups import require_model
from precond.scaling import evaluate
from precond.shared import Shared
from precond.standalone import Standalone

PACKAGE = "pytorch_optimizer"


@dataclass(frozen=True, eq=False)  # hashed by identity, because a card contains a dictionary
class Peer:
    """An optimizer of the package pytorch-optimizer.

    Attributes:
        label: Its name in messages; the registered name is the same in lower case.
        settings: The dataclass of its hyperparameters.
        card: The text that `python -m precond` prints.
        define: A function of the package that returns the class of the optimizer. The class is
            defined in a function, because the package may not be installed.
        numerics: Version of the arithmetic (see `Algorithm.NUMERICS`).
    """

    label: str
    settings: type
    card: Card
    define: Callable[[Any], type[Optimizer]]
    numerics: int = 1

    @property
    def name(self) -> str:
        """The registered name."""
        return self.label.lower()

    @property
    def class_name(self) -> str:
        """The name of the optimizer's class."""
        return f"{self.label.replace('-', '')}Peer"

    def optimizer_class(self) -> type[Optimizer]:
        """Return the class of the optimizer.

        Raises:
            ModuleNotFoundError: The package is not installed; the message names the command to
                install it.
        """
        return _defined(self, import_package(self.label))

    def build(
        self, model: nn.Module, *, params: Iterable[Any] | None = None, **hyperparameters: Any
    ) -> Optimizer:
        """Build the optimizer; `registry.build` describes the arguments.

        Raises:
            ModuleNotFoundError: The package is not installed.
            ValueError: The model is data parallel, and the method needs the Hessian.
        """
        require_model(f"{self.label}(model", (model,))
        if "data parallel" in self.card.unsupported:
            hessian.refuse_data_parallel(model, self.label)
        trainable = [p for p in model.parameters() if p.requires_grad]
        kind: Any = self.optimizer_class()
        optimizer = kind(trainable if params is None else params, **hyperparameters)
        if isinstance(optimizer, hessian.HessianOptimizer):
            optimizer.attach(model)
        return optimizer


def import_package(name: str) -> Any:
    """Return the package pytorch-optimizer.

    Raises:
        ModuleNotFoundError: It is not installed. The message contains `name`.
    """
    try:
        import pytorch_optimizer  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        text = "needs the package pytorch-optimizer: pip install .[peers]"
        raise ModuleNotFoundError(f"{name} {text}") from error
    return pytorch_optimizer


@functools.cache
def _defined(peer: Peer, package: Any) -> type[Optimizer]:
    """Return the class of a peer, with the names by which `pickle` finds it."""
    kind: Any = peer.define(package)
    kind.__name__ = kind.__qualname__ = peer.class_name
    kind.__module__ = "precond.peers"
    return kind


class LibraryOptimizer(Standalone):
    """Base class of the peers, which also inherit from a class of the package, `LIBRARY`.

    Attributes:
        LIBRARY: The class of the package.
        CHANGES_GRADIENTS: True if the package changes gradients in place. Its step then receives
            copies of them.
        OWN_DTYPES: Prefixes of the names of the state's entries that keep their dtype when a state
            is loaded. All other entries are converted to the dtype of their parameter.
        RENAMED: The package's names of hyperparameters, by the names in this project.
    """

    COMPLETE_ENTRIES = True
    LIBRARY: ClassVar[Any]
    CHANGES_GRADIENTS: ClassVar[bool] = False
    OWN_DTYPES: ClassVar[tuple[str, ...]] = ()
    RENAMED: ClassVar[Mapping[str, str]] = MappingProxyType({})
    # Options of groups that the package's class does not have; set before its constructor.
    _added_defaults: Mapping[str, Any] = MappingProxyType({})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, with the options that the package's class does not have."""
        self.defaults.update(self._added_defaults)
        super().add_param_group(param_group)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the parameters, and return the closure's loss, or None without a closure."""
        loss = evaluate(closure)
        self._library_step()
        return loss

    @torch.no_grad()
    def _library_step(self, **arguments: Any) -> None:
        """Take the package's step, without hooks: `step` of the subclass has called them."""
        parameters = [
            p for group in self.param_groups for p in group["params"] if p.grad is not None
        ]
        gradients = [p.grad for p in parameters]
        try:
            if self.CHANGES_GRADIENTS:
                for p in parameters:
                    p.grad = p.grad.clone()
            with numbers(self.param_groups):
                unhooked(self.LIBRARY)(self, **arguments)
        finally:
            for p, gradient in zip(parameters, gradients, strict=True):
                p.grad = gradient

    def _restore_state_types(self, value: Any, saved_value: Any) -> Any:
        """Return a loaded entry. The package's `load_state_dict` calls this method."""
        restored: Any = super()._restore_state_types(value, saved_value)  # type: ignore[misc]
        if isinstance(saved_value, dict):
            texts = [name for name in saved_value if isinstance(name, str)]
            names = [name for name in texts if name.startswith(self.OWN_DTYPES)]
            restored |= {name: _in_dtype_of(saved_value[name], value[name]) for name in names}
        return restored

    def _renamed(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return hyperparameters with the package's names."""
        return {self.RENAMED.get(name, name): value for name, value in values.items()}

    def __repr__(self) -> str:
        text = super().__repr__()
        for name, option in self.RENAMED.items():
            text = text.replace(f"    {option}: ", f"    {name}: ")
        return text


def _in_dtype_of(saved: Any, value: Any) -> Any:
    """Return copies of saved tensors on the devices of the loaded tensors."""
    if isinstance(saved, Tensor):
        return saved.to(value.device, copy=True)
    return [_in_dtype_of(part, other) for part, other in zip(saved, value, strict=True)]


def unhooked(kind: Any) -> Callable[..., Any]:
    """Return the method `step` of a class without the hooks that torch adds to it.

    torch adds them to the class whose `step` a program calls. Without this function, the hooks of a
    subclass would run twice as soon as the program has built an optimizer of the class itself.
    """
    step = kind.step
    while getattr(step, "hooked", False):
        step = step.__wrapped__
    return step


class StartsAfterInitialisation(LibraryOptimizer):
    """An optimizer whose training does not depend on how its state was initialised.

    `torch.distributed.checkpoint` initialises the state of a new optimizer by a step with gradients
    and learning rates of zero. So that this step does not count as the first step of the training,
    the next step discards the state.

    Attributes:
        SUMS: The entry of the state that is zero until a step has a gradient that is not zero.
        COUNTERS: The options of groups that count steps.
    """

    COPIED = ("_initialised",)
    SUMS: ClassVar[str] = ""
    COUNTERS: ClassVar[tuple[str, ...]] = ("step",)
    _initialised = Shared(False)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the parameters, and return the closure's loss, or None without a closure."""
        loss = evaluate(closure)
        self._note_initialisation()
        self._library_step()
        return loss

    def _note_initialisation(self) -> None:
        """Discard the state if the last step only initialised it; else note if this step does so.

        Call this at the start of a step.
        """
        if self._initialised:
            self._initialised = False
            self.state.clear()
            for group in self.param_groups:
                group.update(dict.fromkeys(group.keys() & set(self.COUNTERS), 0))
        elif not self.state and all(not group["lr"] for group in self.param_groups):
            gradients = [p.grad for group in self.param_groups for p in group["params"]]
            self._initialised = not any(g.any() for g in gradients if g is not None)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state as in `torch.optim`, also one that a step has only initialised."""
        super().load_state_dict(state_dict)
        entries = [state.get(self.SUMS, ()) for state in self.state.values()]
        lists = [[value] if isinstance(value, Tensor) else value for value in entries]
        sums = [value for values in lists for value in values]
        gradients = any(value.any() for value in sums if isinstance(value, Tensor))
        self._initialised = bool(sums) and not gradients


@contextmanager
def numbers(groups: list[dict[str, Any]]) -> Iterator[None]:
    """Replace learning rates that are tensors by numbers; the package would change them in place."""
    tensors = [(group, group["lr"]) for group in groups if isinstance(group["lr"], Tensor)]
    try:
        for group, lr in tensors:
            group["lr"] = lr.item()
        yield
    finally:
        for group, lr in tensors:
            group["lr"] = lr


def empty(parameter: Tensor) -> str | None:
    """Return a description of a parameter without elements, or None for any other parameter.

    The description is part of the error of the peers that do not support such parameters.
    """
    return None if parameter.numel() else "parameters without elements"
