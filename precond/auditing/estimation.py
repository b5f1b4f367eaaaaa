"""Estimate hyperparameters of the reference family from the updates of an optimizer."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import islice

import torch
from torch import Tensor

from precond.auditing import reference
from precond.auditing.conventions import Conventions, is_valid
from precond.auditing.trajectory import Trajectory

ITERATIONS = 12
FIRST = 4  # steps that the estimate uses; the caller checks all others
FAR = 1e-6  # a relative difference that cannot be rounding
PATIENCE = 2  # iterations that may reduce the residual by less than half
SMALL = 1e-4  # estimates with a smaller residual are checked on all steps
DIGITS = 12  # significant digits of an estimated value
ROUNDING = 4 * torch.finfo(torch.float64).eps  # of new weights - old weights, relative to weights


def deviation(update: Tensor, expected: Tensor, weights: Tensor, trajectory: Trajectory) -> Tensor:
    """Return the relative difference of two updates for each parameter, `[parameters]`.

    It is the norm of the difference, minus the rounding error of `new weights - old weights`, and
    divided by the larger norm of the two updates.
    """
    norms = trajectory.layout.norms
    excess = (norms(update - expected) - ROUNDING * norms(weights)).clamp(min=0)
    size = torch.maximum(norms(update), norms(expected)).clamp(min=1e-300)
    return torch.nan_to_num(excess / size, nan=torch.inf)


def error(
    conventions: Conventions, trajectory: Trajectory, updates: Iterable[Tensor], limit: float
) -> float:
    """Return the largest relative difference between the reference and given updates.

    The comparison ends after the first step whose difference is larger than `limit`. The result is
    infinite if this difference is much larger.
    """
    largest = 0.0
    expectations = reference.updates(conventions, trajectory)
    rows = zip(expectations, updates, trajectory.rows, strict=True)
    for expected, update, (weights, _, _) in rows:
        far = max(FAR, 10 * limit) * torch.maximum(update.norm(), expected.norm())
        if (update - expected).norm() > far:  # most candidates end here
            return math.inf
        value = deviation(update, expected, weights, trajectory).max().item()
        largest = max(largest, value)
        if largest > limit:
            break
    return largest


def estimate(
    start: Conventions, names: Sequence[str], trajectory: Trajectory, updates: Tensor, limit: float
) -> Conventions | None:
    """Return the conventions with values of `names` that reproduce the updates, or None.

    The values are found by Gauss-Newton iterations from those of `start`.

    Args:
        start: The conventions.
        names: The hyperparameters to estimate.
        trajectory: The weights and gradients.
        updates: The updates to reproduce, `[T, D]`.
        limit: The largest relative difference that counts as rounding.
    """
    x = torch.tensor([_initial(start, name) for name in names], dtype=torch.float64)
    for first in (1, FIRST):  # most candidates fail in the first step, which costs little
        x, size = _solve(start, names, x, trajectory, updates[:first])
        if not size <= SMALL:
            return None
    result = _with(start, names, [float(f"{value:.{DIGITS}g}") for value in x.tolist()])
    fits = is_valid(result) and error(result, trajectory, updates, limit) <= limit
    return result if fits else None


def _solve(
    start: Conventions, names: Sequence[str], x: Tensor, trajectory: Trajectory, updates: Tensor
) -> tuple[Tensor, float]:
    """Return the values after Gauss-Newton iterations, and the size of the residual."""
    size, patience = math.inf, PATIENCE
    for _ in range(ITERATIONS):
        residual = _residuals(start, names, x, trajectory, updates)
        old, size = size, residual.norm().item()
        patience -= not size < 0.5 * old
        if patience < 0 or not math.isfinite(size) or size == 0:
            break
        steps = 1e-6 * x.abs().clamp(min=1e-6)
        moved = [
            _residuals(start, names, x + step * unit, trajectory, updates)
            for step, unit in zip(steps, torch.eye(len(names), dtype=torch.float64), strict=True)
        ]
        jacobian = (torch.stack(moved, 1) - residual[:, None]) / steps
        if not jacobian.isfinite().all():
            break
        change = torch.linalg.lstsq(jacobian, residual[:, None]).solution[:, 0]
        x = _bounded(names, x, x - change)
        if change.norm() <= 1e-15 * x.norm():
            break
    return x, size


def _initial(start: Conventions, name: str) -> float:
    value = getattr(start, name)
    return value if value or name != "lr" else 1e-3


def _bounded(names: Sequence[str], old: Tensor, new: Tensor) -> Tensor:
    """Limit a step, so that betas remain below 1, and positive values remain positive."""
    low = torch.where(old > 0, 0.1 * old, -torch.inf)
    high = torch.tensor([torch.inf if not n.startswith("beta") else 1.0 for n in names])
    high = torch.where(high == 1, 1 - 0.1 * (1 - old), high.double())
    return torch.minimum(torch.maximum(new, low), high)


def _with(start: Conventions, names: Sequence[str], values: Sequence[float]) -> Conventions:
    return replace(start, **dict(zip(names, values, strict=True)))


def _residuals(
    start: Conventions, names: Sequence[str], x: Tensor, trajectory: Trajectory, updates: Tensor
) -> Tensor:
    """Return the differences of the first updates, divided by the size of each step's update."""
    conventions = _with(start, names, x.tolist())
    expected = torch.stack([*islice(reference.updates(conventions, trajectory), len(updates))])
    sizes = updates.norm(dim=1, keepdim=True).clamp(min=1e-300)
    return ((expected - updates) / sizes).flatten()
