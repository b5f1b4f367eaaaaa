"""The NysAct authors' released optimizers as contestants of the cost benchmark.

They are imported from a checkout of the repository hseung88/nysact.
"""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

import precond
from trainables.cost.contestants import LEARNING_RATE, Contestant, Kind, kinds_of

PREFIX = "released:"
FOLDER = "cifar10"
OPTIMIZERS_FILE = f"{FOLDER}/optimizers/nysact.py"


@dataclass(frozen=True)
class Released:
    """The released counterpart of a registered optimizer.

    Attributes:
        module: Name of the file in `cifar10/optimizers`.
        kind: Name of the class.
        counter: Name of the attribute that counts the steps; empty if the first parameter group
            counts them as `step`.
        extra: Additional arguments of this class.
    """

    module: str
    kind: str
    counter: str
    extra: Mapping[str, Any] = field(default_factory=dict)


RELEASED = {
    "nysact-s": Released("nysact", "NysAct", "", {"sketch": "subcolumns"}),
    "nysact-g": Released("nysact", "NysAct", "", {"sketch": "gaussian"}),
    "foof": Released("foof", "FOOF", "_step"),
    "kfac": Released("kfac", "KFAC", "steps"),
    "eva": Released("eva", "Eva", "steps"),
}


def build_released(
    name: str, model: nn.Module, overrides: Mapping[str, Any], checkout: Path
) -> Contestant:
    """Return the released counterpart of a registered optimizer.

    Args:
        name: Registered name, a key of `RELEASED`.
        model: The model to train, on its device.
        overrides: Hyperparameters that differ from the defaults. Only the intervals, the damping
            and the rank are used; for Eva, only the statistics interval.
        checkout: Folder of the repository hseung88/nysact.
    """
    if (folder := str(checkout / FOLDER)) not in sys.path:
        sys.path.insert(0, folder)  # the released files import each other as `optimizers`
    released, values = RELEASED[name], {**precond.defaults(name), **overrides}
    create = getattr(importlib.import_module(f"optimizers.{released.module}"), released.kind)
    statistics = values["cov_interval"]
    refresh = values.get("inv_interval", statistics)
    if name == "eva":
        # The released Eva only replaces the gradients; SGD then updates the weights. Eva computes
        # its factors together with the statistics.
        preconditioner = create(model, LEARNING_RATE, fac_update_freq=statistics)
        optimizer: Any = _PreconditionedSGD(preconditioner, model)
    else:
        rank = {"rank_size": values["rank"]} if "rank" in values else {}
        options = {
            "damping": values["damping"],
            "Tcov": statistics,
            "Tinv": refresh,
            **rank,
            **released.extra,
        }
        optimizer = preconditioner = create(model.parameters(), LEARNING_RATE, **options)
        optimizer.model = model

    def place(step: int) -> None:
        if released.counter:
            setattr(preconditioner, released.counter, step)
        else:
            preconditioner.param_groups[0]["step"] = step

    return Contestant(PREFIX + name, model, optimizer, _kinds(statistics, refresh), place)


def _kinds(statistics: int, refresh: int) -> list[Kind]:
    """Return the kinds of steps; each update is due at the multiples of its interval."""
    return kinds_of(
        math.lcm(statistics, refresh),
        lambda step: step % statistics == 0,
        lambda step: step % refresh == 0,
    )


class _PreconditionedSGD(torch.optim.SGD):
    """SGD whose gradients a preconditioner replaces before each step."""

    def __init__(self, preconditioner: Any, model: nn.Module):
        super().__init__(
            model.parameters(), LEARNING_RATE, momentum=0.9, weight_decay=5e-4, foreach=True
        )
        self._preconditioner = preconditioner

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        self._preconditioner.step()
        return super().step(closure)
