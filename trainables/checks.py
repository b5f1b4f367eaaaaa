"""Errors in a trial's fields other than hyperparameters and settings: a line each, with the value and the range."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from precond.registry import lookup
from trainables.config import PRECISIONS
from trainables.recipes import SCHEDULES


def field_problems(fields: Mapping[str, Any], train_examples: int, shapes: nn.Module | None) -> list[str]:
    """Return one line for each field out of range; `shapes` is the model, or None if it cannot be built."""
    errors = []
    batch_size, fraction = fields["batch_size"], fields.get("train_fraction", 1.0)
    if not isinstance(fraction, (int, float)) or not 0 < fraction <= 1:
        errors.append(f"train_fraction = {fraction!r}: must be a number in (0, 1]")
        fraction = 1.0
    most = int(train_examples * fraction)
    normalises = shapes is not None and any(isinstance(m, _BatchNorm) for m in shapes.modules())
    least = 2 if normalises else 1
    if not is_integer(batch_size) or not least <= batch_size <= most:
        reason = "; batch normalisation needs two" if batch_size == 1 and least == 2 else ""
        errors.append(f"batch_size = {batch_size!r}: must be an integer in {least}..{most}, the training set{reason}")
    if not is_integer(fields["epochs"]) or fields["epochs"] < 1:
        errors.append(f"epochs = {fields['epochs']!r}: must be an integer >= 1")
    for name, allowed in {"schedule": SCHEDULES, "precision": PRECISIONS}.items():
        if fields.get(name, allowed[0]) not in allowed:
            errors.append(f"{name} = {fields[name]!r}: must be one of {', '.join(allowed)}")
    for name in ("compile", "channels_last"):
        if not isinstance(fields.get(name, False), bool):
            errors.append(f"{name} = {fields[name]!r}: must be true or false")
    return errors


def worker_problems(optimizer: str, workers: Any, batch_size: Any) -> list[str]:
    """Return one line if a trial cannot have this number of processes."""
    if not is_integer(workers) or workers < 1 or (is_integer(batch_size) and workers > batch_size):
        return [f"workers = {workers!r}: must be an integer in 1..{batch_size}, the batch size"]
    card = lookup(optimizer).card
    if workers > 1 and card is not None and (reason := card.unsupported.get("data parallel")):
        return [f"workers = {workers}: {optimizer} trains in one process only: {reason}"]
    return []


def is_integer(value: Any) -> bool:
    """Return True for an int that is not a bool."""
    return isinstance(value, int) and not isinstance(value, bool)
