"""The function `precond.audit`, which runs two optimizers and compares their updates."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from precond.auditing import estimation
from precond.auditing.explanation import Pair, explain
from precond.auditing.problem import CONTENTS, Problem
from precond.auditing.report import Audit, FirstDifference
from precond.auditing.running import follow
from precond.auditing.sides import AuditError, Side, first_line, side
from precond.auditing.trajectory import Trajectory
from precond.auditing.undistinguished import undistinguished
from precond.hyperparameters import HyperparameterError, is_integer

STEPS = 20
TOLERANCE = 1e-9
SMALL = "an audit builds it on a small model in float64"
TRIAL_STEPS = 3  # by which an optimizer shows that it accepts a model

Description = str | Callable[[nn.Module], Optimizer]


def audit(
    a: Description, b: Description, *, steps: int = STEPS, tolerance: float = TOLERANCE
) -> Audit:
    """Run two optimizers on the same weights and gradients, and explain the first difference.

    >>> print(precond.audit("torch.optim.AdamW:lr=0.01", "my_file.py:MyAdam:lr=0.01"))

    Both train a copy of one small model in float64. Each step of `b` starts from the weights that
    `a` has at this step. The learning rate is halved after half of the steps, because some
    conventions show only if it changes.

    Args:
        a: An optimizer: a name with values, such as `nysact-s:rank=5,lr=0.01`, a class of torch,
            such as `torch.optim.SGD:lr=0.1`, or a class or function in a file, such as
            `my_file.py:MyOptimizer:lr=0.1`. The class takes the parameters, or the model if its
            first argument has the name `model`, `module`, `net` or `network`. Or a function that
            takes a model and returns its optimizer.
        b: The other optimizer.
        steps: The number of steps, at least 2.
        tolerance: The largest relative difference between two updates of a tensor that counts as
            rounding.

    Returns:
        The result; `str(result)` is a report.

    Raises:
        AuditError: A description is not valid, or an optimizer raises an error.
        HyperparameterError: A value of a registered optimizer is out of range.
    """
    if not (is_integer(steps) and steps >= 2):
        raise AuditError(f"steps = {steps!r}: must be an integer >= 2")
    if not (isinstance(tolerance, float) and 0 < tolerance < 1):
        raise AuditError(f"tolerance = {tolerance!r}: must be a number between 0 and 1")
    sides = side(a), side(b)
    contents, omitted = _contents(sides)
    problem = Problem(contents, steps)
    path = _run(sides[0], problem)
    other = _run(sides[1], problem, path)
    pair = Pair(sides, (path, other), problem, tolerance)
    differences = torch.stack(
        [
            estimation.deviation(u, v, w, path)
            for u, v, w in zip(path.updates, other.updates, path.weights, strict=True)
        ]
    )
    first = _first(pair, differences)
    names = tuple(path.layout.shapes)
    unequal = [
        name for name, column in zip(names, differences.T, strict=True) if column.max() > tolerance
    ]
    return Audit(
        labels=(sides[0].label, sides[1].label),
        steps=steps,
        tolerance=tolerance,
        model=contents,
        omitted=omitted,
        tensors=names,
        table=tuple(map(tuple, differences.tolist())),
        first=first,
        explanations=() if first is None else tuple(explain(pair, unequal)),
        undistinguished=tuple(undistinguished(pair)),
        resolution=_resolution(pair),
    )


def _contents(sides: tuple[Side, Side]) -> tuple[str, tuple[str, ...]]:
    """Return the largest model that both sides accept, and the reasons against larger ones.

    Raises:
        AuditError: A side accepts none of the models; the message has its first error.
    """
    reasons: list[str] = []
    for contents in CONTENTS:
        for optimizer in sides:
            try:
                follow(optimizer, Problem(contents, TRIAL_STEPS))
            except AuditError:
                raise
            except HyperparameterError as error:
                text = str(error).replace("\n", "; ")
                raise HyperparameterError(f"{optimizer.label}: {text} ({SMALL})") from None
            except Exception as error:
                reasons.append(f"{optimizer.label}: {first_line(error)}")
                break
        else:
            return contents, tuple(dict.fromkeys(reasons))
    raise AuditError(f"{reasons[0]} ({SMALL})")


def _run(optimizer: Side, problem: Problem, path: Trajectory | None = None) -> Trajectory:
    try:
        trajectory = follow(optimizer, problem, path)
    except Exception as error:
        raise AuditError(f"{optimizer.label}: {first_line(error)}") from error
    for number, update in enumerate(trajectory.updates, 1):
        sizes = trajectory.layout.norms(update)
        for name, size in zip(trajectory.layout.shapes, sizes.tolist(), strict=True):
            if not math.isfinite(size):
                raise AuditError(
                    f"{optimizer.label}: its update of {name} in step {number} is not finite, so "
                    "the audit cannot compare it. Use another value, such as a smaller lr"
                )
    return trajectory


def _resolution(pair: Pair) -> float:
    """Return the relative difference below which rounding hides a difference, at most 1.

    It is that of the tensor with the largest one, in the step with its longest update. Tensors
    that no side changes are omitted.
    """
    norms = pair.trajectories[0].layout.norms
    sizes = [
        torch.maximum(norms(u), norms(v))
        for u, v in zip(*(t.updates for t in pair.trajectories), strict=True)
    ]
    rounding = [estimation.ROUNDING * norms(w) for w in pair.trajectories[0].weights]
    least = (torch.stack(rounding) / torch.stack(sizes)).nan_to_num(torch.inf).amin(0)
    changed = least[least.isfinite()]
    return min(1.0, changed.max().item()) if len(changed) else 1.0


def _first(pair: Pair, differences: Tensor) -> FirstDifference | None:
    """Return the first step whose updates differ, with the tensor with the largest difference."""
    steps = (differences > pair.limit).any(1).nonzero()
    if not len(steps):
        return None
    step = int(steps[0])
    largest = differences[step].max()
    number = int((differences[step] >= 0.99 * largest).nonzero()[0])  # the first one of a tie
    norms = pair.trajectories[0].layout.norms
    u, v = (trajectory.updates[step] for trajectory in pair.trajectories)
    sizes = norms(u), norms(v)
    cosines = (norms(u + v).square() - norms(u - v).square()) / (4 * sizes[0] * sizes[1])
    return FirstDifference(
        step=step + 1,
        tensor=list(pair.trajectories[0].layout.shapes)[number],
        difference=differences[step, number].item(),
        cosine=cosines.nan_to_num(0.0).min().item(),
        ratio=(sizes[1][number] / sizes[0][number]).item() if sizes[0][number] else None,
    )
