"""Behaviours of the schedulers of `torch.optim`."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import Optimizer, lr_scheduler
from torch.optim.swa_utils import SWALR

from tests.precond.behaviours.subject import (
    Subject,
    assert_descends,
    assert_equal,
    backward,
    behaviour,
    make_model,
    train,
    weights,
)

SCHEDULERS: dict[str, Callable[[Optimizer, float], Any]] = {
    "StepLR": lambda o, lr: lr_scheduler.StepLR(o, step_size=3),
    "MultiStepLR": lambda o, lr: lr_scheduler.MultiStepLR(o, [2, 5]),
    "ConstantLR": lambda o, lr: lr_scheduler.ConstantLR(o, total_iters=3),
    "LinearLR": lambda o, lr: lr_scheduler.LinearLR(o, total_iters=4),
    "ExponentialLR": lambda o, lr: lr_scheduler.ExponentialLR(o, 0.9),
    "LambdaLR": lambda o, lr: lr_scheduler.LambdaLR(o, lambda step: min(1.0, step / 3)),
    "MultiplicativeLR": lambda o, lr: lr_scheduler.MultiplicativeLR(o, lambda step: 0.95),
    "PolynomialLR": lambda o, lr: lr_scheduler.PolynomialLR(o, total_iters=12, power=2.0),
    "CosineAnnealingLR": lambda o, lr: lr_scheduler.CosineAnnealingLR(o, T_max=10),
    "CosineAnnealingWarmRestarts": lambda o, lr: lr_scheduler.CosineAnnealingWarmRestarts(o, 4),
    "CyclicLR": lambda o, lr: lr_scheduler.CyclicLR(o, lr / 2, lr, 3, cycle_momentum=False),
    "CyclicLR_with_momentum": lambda o, lr: lr_scheduler.CyclicLR(o, lr / 2, lr, 3),
    "OneCycleLR": lambda o, lr: lr_scheduler.OneCycleLR(o, lr, total_steps=14),
    "OneCycleLR_without_momentum": lambda o, lr: lr_scheduler.OneCycleLR(
        o, lr, total_steps=14, cycle_momentum=False
    ),
    "ReduceLROnPlateau": lambda o, lr: lr_scheduler.ReduceLROnPlateau(o, patience=0),
    "SequentialLR": lambda o, lr: lr_scheduler.SequentialLR(
        o,
        [
            lr_scheduler.LinearLR(o, 0.1, total_iters=3),
            lr_scheduler.CosineAnnealingLR(o, T_max=10),
        ],
        [3],
    ),
    "ChainedScheduler": lambda o, lr: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o, total_iters=3), lr_scheduler.ExponentialLR(o, 0.9)]
    ),
    "SWALR": lambda o, lr: SWALR(o, swa_lr=lr / 10, anneal_epochs=5),
}

# These schedulers only set the learning rates, as LambdaLR and CosineAnnealingLR do. They are
# tested with one optimizer for each kind of step, and the others with every optimizer.
SIMILAR = (
    *("StepLR", "MultiStepLR", "ConstantLR", "LinearLR", "ExponentialLR", "MultiplicativeLR"),
    *("PolynomialLR", "CosineAnnealingWarmRestarts", "CyclicLR", "OneCycleLR_without_momentum"),
    "ChainedScheduler",
)


def values(optimizer: Optimizer) -> tuple[float, Any]:
    """Return the learning rate of the first group, and its momentum or first beta."""
    group = optimizer.param_groups[0]
    momentum = group.get("momentum", group.get("betas", [None])[0])
    return float(group["lr"]), momentum


def advance(scheduler: Any) -> None:
    """Take one step of a scheduler; `ReduceLROnPlateau` receives a metric that never improves."""
    plateau = isinstance(scheduler, lr_scheduler.ReduceLROnPlateau)
    scheduler.step(1.0) if plateau else scheduler.step()


def expected_values(name: str, subject: Subject, cycles: bool) -> list[tuple[float, Any]]:
    """Return the `values` of torch's SGD in 10 steps; the momentum is None unless it `cycles`."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=subject.lr, momentum=0.9)
    scheduler = SCHEDULERS[name](optimizer, subject.lr)
    results = []
    for _ in range(10):
        results.append(values(optimizer) if cycles else (values(optimizer)[0], None))
        optimizer.step()
        advance(scheduler)
    return results


def train_with(subject: Subject, name: str) -> None:
    """Train with a scheduler, and resume from its state and that of the optimizer.

    The loss falls, the scheduled values are those of torch's SGD, and a resumed run takes the same
    steps as the run that continues.
    """
    cycles = name in ("CyclicLR_with_momentum", "OneCycleLR")
    models, optimizers = zip(*(subject.pair() for _ in range(2)), strict=True)
    schedulers = [SCHEDULERS[name](optimizer, subject.lr) for optimizer in optimizers]
    results = []

    def before_step() -> None:
        current = values(optimizers[0])
        results.append(current if cycles else (current[0], None))

    assert_descends(
        models[0],
        optimizers[0],
        before_step=before_step,
        after_step=lambda: advance(schedulers[0]),
    )
    for actual, expected in zip(results, expected_values(name, subject, cycles), strict=True):
        assert actual == pytest.approx(expected)
    for objects in (models, optimizers, schedulers):
        objects[1].load_state_dict(copy.deepcopy(objects[0].state_dict()))
    for model, optimizer, scheduler in zip(models, optimizers, schedulers, strict=True):
        train(model, optimizer, 3, after_step=lambda scheduler=scheduler: advance(scheduler))
    assert values(optimizers[1]) == pytest.approx(values(optimizers[0]))
    assert_equal(weights(models[1]), weights(models[0]))


def behaviour_of(name: str) -> str:
    """Return the name of the behaviour of a scheduler."""
    return f"the_loss_falls_with_{name}"


def _register(name: str) -> None:
    def trains(subject: Subject) -> None:
        train_with(subject, name)

    trains.__name__ = behaviour_of(name)
    behaviour(trains)


for _name in SCHEDULERS:
    _register(_name)


@behaviour
def a_scheduler_changes_a_tensor_lr_in_place(subject: Subject) -> None:
    lr = torch.tensor(subject.lr)
    model = make_model()
    optimizer = subject.build(model, lr=lr)
    group_lr = optimizer.param_groups[0]["lr"]
    scheduler = lr_scheduler.ExponentialLR(optimizer, 0.5)
    assert_descends(model, optimizer, after_step=scheduler.step)
    assert optimizer.param_groups[0]["lr"] is group_lr
    assert group_lr.item() == pytest.approx(subject.lr * 0.5**10)


@behaviour
def a_scheduler_has_a_factor_for_each_group(subject: Subject) -> None:
    model = make_model()
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    optimizer = subject.build(model, [{"params": matrices}, {"params": vectors, "lr": 1e-3}])
    scheduler = lr_scheduler.LambdaLR(optimizer, [lambda step: 0.9**step, lambda step: 1.0])
    assert_descends(model, optimizer, after_step=scheduler.step)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx(
        [subject.lr * 0.9**10, 1e-3]
    )


@behaviour
def a_scheduler_notices_the_order_of_steps(subject: Subject) -> None:
    """A scheduler's step before the first step of the optimizer warns; the right order does not."""
    for correct in (True, False):
        model, optimizer = subject.pair()
        scheduler = lr_scheduler.ExponentialLR(optimizer, 0.9)
        backward(model, optimizer)
        with warnings.catch_warnings(record=True) as messages:
            warnings.simplefilter("always")
            if correct:
                optimizer.step()
            scheduler.step()
        assert any("lr_scheduler.step()" in str(m.message) for m in messages) != correct
