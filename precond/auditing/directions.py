"""The directions of methods that the reference does not compute, and changes of such a method.

The directions of a method are its updates without momentum and weight decay, divided by the
negative learning rate. The conventions of the reference family are then applied to the directions
instead of the gradients.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from precond.auditing import reference
from precond.auditing.conventions import Conventions, declared
from precond.auditing.estimation import DIGITS, ITERATIONS, SMALL
from precond.auditing.problem import Problem
from precond.auditing.running import Gradient, follow
from precond.auditing.sides import Side
from precond.auditing.trajectory import Trajectory

NEUTRAL: Mapping[str, Any] = {"momentum": 0.0, "nesterov": False, "weight_decay": 0.0}
RULE = {*NEUTRAL, "lr", "dampening", "decoupled"}  # what the reference applies to the directions


@dataclass(frozen=True)
class Change:
    """A change of a method.

    Attributes:
        title: The name of the convention.
        before: A sentence about the method.
        after: The same about the changed method.
        settings: Changed hyperparameters.
        gradient: Replaces the gradients (see `follow`).
        delayed: Use the statistics of the previous step (see `follow`).
        separate: Apply the biases in separate modules, where they are not preconditioned.
        decayed: True if the directions after the change contain the weight decay.
    """

    title: str
    before: str
    after: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    gradient: Gradient | None = None
    delayed: bool = False
    separate: bool = False
    decayed: bool = False


@dataclass(frozen=True)
class Method:
    """A side whose directions are computed by running it along a path of weights."""

    side: Side
    problem: Problem
    path: Trajectory
    neutral: bool = True  # run it without its own momentum and weight decay

    @property
    def start(self) -> Conventions:
        """The conventions that its hyperparameters declare."""
        values = declared(self.side.settings)
        if not self.neutral:
            return Conventions(lr=values.get("lr", 1.0))
        return Conventions(
            lr=values.get("lr", 1.0),
            beta1=values.get("beta1", 0.0),
            weight_decay=values.get("weight_decay", 0.0),
            nesterov="yes" if self.side.settings.get("nesterov") is True else "no",
        )

    def directions(self, *changes: Change) -> Tensor:
        """Return the directions `[T, D]` of the method with changes."""
        off = {key: NEUTRAL[key] for key in NEUTRAL if self.neutral and key in self.side.settings}
        settings = {key: value for change in changes for key, value in change.settings.items()}
        gradients = [change.gradient for change in changes if change.gradient is not None]
        trajectory = follow(
            self.side,
            replace(self.problem, separate=any(change.separate for change in changes)),
            self.path,
            gradient=gradients[0] if gradients else None,
            delayed=any(change.delayed for change in changes),
            **{**off, **settings},
        )
        lr = self.path.weights.new_tensor(self.path.factors) * self.start.lr
        return -trajectory.updates / lr[:, None]


def setting(name: str, before: Any, after: Any) -> Change:
    """Return the change of a hyperparameter."""
    return Change(name, f"{name} = {before}", f"{name} = {after}", {name: after})


def declared_changes(method: Side, other: Side) -> list[Change]:
    """Return the changes of a method to the values that the other side declares."""
    values = other.settings
    return [
        setting(name, value, values[name])
        for name, value in method.settings.items()
        if name not in RULE and name in values and values[name] != value
    ]


def changes(method: Side, weight_decay: float) -> Iterator[Change]:
    """Yield the changes that are tried one at a time."""
    for name, value in method.settings.items():
        if name in RULE:
            continue
        options: list[Any] = [word for word in method.choices.get(name, ()) if word != value]
        if isinstance(value, bool):
            options = [not value]
        elif isinstance(value, float) and 0 < value < 1 and ("decay" in name or "beta" in name):
            options = [1 - value]
        elif isinstance(value, int) and "interval" in name and value > 1:
            options = [1]
        yield from (setting(name, value, option) for option in options)
    if weight_decay:
        yield Change(
            "place of the decay",
            "weight_decay w is not preconditioned",
            "weight_decay w is added to g and preconditioned",
            gradient=lambda gradient, weights: gradient + weight_decay * weights,
            decayed=True,
        )
    yield Change(
        "bias",
        "the bias is a column of its layer's matrix",
        "the bias is not preconditioned, and is no column of its layer's matrix",
        separate=True,
    )
    yield Change(
        "use of the statistics",
        "the statistics of a step are used in the same step",
        "the statistics of a step are used in the next step",
        delayed=True,
    )
    yield Change(
        "clipping of the gradient",
        "the gradient is preconditioned as it is",
        "the gradient is divided by the norm of all gradients before it is preconditioned",
        gradient=lambda gradient, weights: gradient / gradient.norm(),
    )


def estimated_changes(method: Method, base: Conventions, updates: Tensor) -> Iterator[Change]:
    """Yield changes of one positive hyperparameter to a value that reproduces the updates."""
    for name, value in method.side.settings.items():
        if name in RULE or not isinstance(value, float) or value <= 0:
            continue
        if (result := _estimated(method, base, updates, name, value)) is not None:
            yield setting(name, value, float(f"{result:.{DIGITS}g}"))


def _estimated(
    method: Method, base: Conventions, updates: Tensor, name: str, value: float
) -> float | None:
    """Return the value of a hyperparameter by Gauss-Newton iterations on its logarithm, or None."""

    def residual(x: float) -> Tensor:
        directions = method.directions(setting(name, value, math.exp(x)))
        rows = reference.updates(base, method.path.along(directions))
        return (torch.stack(list(rows)) - updates) / updates.norm(dim=1, keepdim=True)

    x, old, step = math.log(value), math.inf, 1e-6
    for _ in range(ITERATIONS):
        try:
            error = residual(x)
            slope = (residual(x + step) - error) / step
        except Exception:  # the value is out of range
            return None
        size = error.norm().item()
        if size <= SMALL * 1e-8:
            break
        if not size < 0.7 * old or not slope.norm() > 0:
            return None if not size <= SMALL else math.exp(x)
        old = size
        change = ((slope * error).sum() / slope.square().sum()).item()
        x -= max(-2.0, min(2.0, change))
    return math.exp(x)
