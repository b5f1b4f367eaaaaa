"""The NysAct authors' optimizers, from a checkout of their repository, as contestants of the cost benchmark."""

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
        module: File in `cifar10/optimizers`.
        kind: Class.
        counter: Attribute with the number of the step; empty if the first parameter group has it.
        extra: Arguments that only this class has.
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
    name: str, model: nn.Module, stated: Mapping[str, Any], checkout: Path
) -> Contestant:
    """Return the released counterpart of a registered optimizer.

    Args:
        name: Registered name; one of `RELEASED`.
        model: The model to train, on its device.
        stated: Hyperparameters other than the defaults; intervals, damping and rank are passed on.
        checkout: Folder of the repository hseung88/nysact.
    """
    if (folder := str(checkout / FOLDER)) not in sys.path:
        sys.path.insert(0, folder)  # its files import each other as `optimizers`
    chosen, values = RELEASED[name], {**precond.defaults(name), **stated}
    create = getattr(importlib.import_module(f"optimizers.{chosen.module}"), chosen.kind)
    every, refresh = values["cov_interval"], values.get("inv_interval", values["cov_interval"])
    if (
        name == "eva"
    ):  # changes the gradients of an SGD, and computes its factor with the statistics
        preconditioner = create(model, LEARNING_RATE, fac_update_freq=every)
        optimizer: Any = _InFront(preconditioner, model)
    else:
        rank = {"rank_size": values["rank"]} if "rank" in values else {}
        options = {
            "damping": values["damping"],
            "Tcov": every,
            "Tinv": refresh,
            **rank,
            **chosen.extra,
        }
        optimizer = preconditioner = create(model.parameters(), LEARNING_RATE, **options)
        optimizer.model = model

    def place(step: int) -> None:
        if chosen.counter:
            setattr(preconditioner, chosen.counter, step)
        else:
            preconditioner.param_groups[0]["step"] = step

    return Contestant(PREFIX + name, model, optimizer, _kinds(every, refresh), place)


def _kinds(every: int, refresh: int) -> list[Kind]:
    """Return the kinds of steps with statistics and factors at multiples of two intervals."""
    return kinds_of(
        math.lcm(every, refresh), lambda step: step % every == 0, lambda step: step % refresh == 0
    )


class _InFront(torch.optim.SGD):
    """SGD along gradients that a preconditioner changed."""

    def __init__(self, preconditioner: Any, model: nn.Module):
        super().__init__(
            model.parameters(), LEARNING_RATE, momentum=0.9, weight_decay=5e-4, foreach=True
        )
        self._preconditioner = preconditioner

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        self._preconditioner.step()
        return super().step(closure)
