"""What is wrong with a trial's values beside its hyperparameters: one line each, with the value and what is allowed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from precond.registry import lookup
from trainables.config import PRECISIONS
from trainables.recipes import SCHEDULES
from trainables.settings import setting_problems

if TYPE_CHECKING:
    from trainables.workloads import Workload


def settings_that_do_not_fit(workload: Workload, stated: Mapping[str, Any], epochs: Any) -> list[str]:
    """One line for each setting out of range, or that does not fit the model or the number of epochs."""
    if wrong := setting_problems(stated, workload.setting_names, workload.name):
        return wrong
    settings = workload.settings(stated)
    if _is_integer(epochs) and 1 <= epochs <= settings["warmup_epochs"]:
        wrong.append(f"warmup_epochs = {settings['warmup_epochs']}: must be below epochs = {epochs}")
    fit = workload.fit(settings)
    return wrong + workload.model.problems(workload.architecture, fit, settings.get("test_resolution", fit.size))


def fields_out_of_range(workload: Workload, fields: Mapping[str, Any], shapes: nn.Module | None) -> list[str]:
    """One line for each other field out of range."""
    wrong = []
    batch_size, fraction = fields["batch_size"], fields.get("train_fraction", 1.0)
    if not isinstance(fraction, (int, float)) or not 0 < fraction <= 1:
        wrong.append(f"train_fraction = {fraction!r}: must be a number in (0, 1]")
        fraction = 1.0
    most = int(workload.source.train_examples * fraction)
    normalises = shapes is not None and any(isinstance(m, _BatchNorm) for m in shapes.modules())
    least = 2 if normalises else 1
    if not _is_integer(batch_size) or not least <= batch_size <= most:
        reason = "; batch normalisation needs two" if batch_size == 1 and least == 2 else ""
        wrong.append(f"batch_size = {batch_size!r}: must be an integer in {least}..{most}, the training set{reason}")
    if not _is_integer(fields["epochs"]) or fields["epochs"] < 1:
        wrong.append(f"epochs = {fields['epochs']!r}: must be an integer >= 1")
    for name, allowed in {"schedule": SCHEDULES, "precision": PRECISIONS}.items():
        if fields.get(name, allowed[0]) not in allowed:
            wrong.append(f"{name} = {fields[name]!r}: must be one of {', '.join(allowed)}")
    for name in ("compile", "channels_last"):
        if not isinstance(fields.get(name, False), bool):
            wrong.append(f"{name} = {fields[name]!r}: must be true or false")
    return wrong


def workers_that_do_not_fit(optimizer: str, workers: Any, batch_size: Any) -> list[str]:
    """One line if a trial cannot have so many processes."""
    if not _is_integer(workers) or workers < 1 or (_is_integer(batch_size) and workers > batch_size):
        return [f"workers = {workers!r}: must be an integer in 1..{batch_size}, the batch size"]
    card = lookup(optimizer).card
    if workers > 1 and card is not None and (reason := card.unsupported.get("data parallel")):
        return [f"workers = {workers}: {optimizer} trains in one process only: {reason}"]
    return []


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
