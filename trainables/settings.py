"""Settings of a trial besides its hyperparameters, and checks of a trial's fields.

Settings are augmentation, regularisation, warm-up, and the condition number of a dataset. Every
setting has a neutral value, which does not enter a trial's key. Settings that are added later
therefore do not change existing keys.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from precond.hyperparameters import (
    amounts,
    between,
    choice,
    count,
    flag,
    fraction,
    is_integer,
    nearest,
    non_negative,
    optional,
    probability,
    problems,
)
from precond.registry import lookup
from trainables.recipes import SCHEDULES

PRECISIONS = ("float32", "bf16")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings; their default values are neutral.

    Attributes:
        crop_padding: Pixels of zero padding around an image, before a random crop of the original
            size.
        flip: Mirror half of the images.
        resolution: Side of the training images in pixels. None means the side of the dataset's
            images; a trial's configuration contains the number.
        test_resolution: Side of the test images in pixels; None means `resolution`.
        random_resized_crop: Train on random parts of 8 to 100 % of an image, scaled to
            `resolution`.
        trivial_augment: TrivialAugment (Mueller and Hutter 2021).
        randaugment: Magnitude of RandAugment and its standard deviation (Cubuk et al. 2019); None
            switches RandAugment off.
        random_erasing: Probability of erasing a rectangle (Zhong et al. 2020).
        repeated_augmentation: Number of consecutive copies of an image, augmented independently.
        drop_path: Rate of stochastic depth in the last block. The rates of the blocks increase
            linearly, from 0 in the first block.
        mixup: Parameter alpha of Mixup's distribution Beta(alpha, alpha); 0 switches Mixup off. If
            `cutmix` is set too, one of the two is drawn for each batch.
        cutmix: Parameter alpha of CutMix; 0 switches CutMix off.
        label_smoothing: Fraction of the label that is distributed over all classes in training.
        warmup_epochs: Epochs in which the learning rate rises linearly from 1 % to 100 % of its
            value.
        decay_exempt: Parameters without weight decay. `nothing`: none. `norm`: those of the
            normalisation layers. `vectors`: all parameters except the weights of linear layers,
            convolutions and `nn.Embedding`.
        condition: Condition number of the dataset `illconditioned`.
    """

    crop_padding: int = count(0, low=0)
    flip: bool = flag(False)
    resolution: int | None = optional(count(None, low=8))  # type: ignore[arg-type]
    test_resolution: int | None = optional(count(None, low=8))  # type: ignore[arg-type]
    random_resized_crop: bool = flag(False)
    trivial_augment: bool = flag(False)
    randaugment: tuple[float, float] | None = optional(amounts(None))  # type: ignore[arg-type]
    random_erasing: float = probability(0.0)
    repeated_augmentation: int = count(1)
    drop_path: float = fraction(0.0)
    mixup: float = non_negative(0.0)
    cutmix: float = non_negative(0.0)
    label_smoothing: float = fraction(0.0)
    warmup_epochs: int = count(0, low=0)
    decay_exempt: str = choice("nothing", "norm", "vectors")
    condition: float = between(1.0, low=1, high=1e8)

    problems = problems


NEUTRAL: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(Settings)}
# Settings that apply to every workload, to tasks whose labels can be mixed, to models with
# stochastic depth, to datasets that declare them, and to image datasets.
LOOP = ("warmup_epochs", "decay_exempt")
LABELS = ("mixup", "cutmix", "label_smoothing")
MODEL = ("drop_path",)
DATASET = ("condition",)
IMAGES = tuple(name for name in NEUTRAL if name not in (*LOOP, *LABELS, *MODEL, *DATASET))


def applicable(
    *, images: bool, stochastic_depth: bool, mixes_labels: bool, dataset: Iterable[str] = ()
) -> list[str]:
    """Return the names of the settings that apply to a workload.

    Args:
        images: True if the dataset consists of images that are augmented.
        stochastic_depth: True if the model has stochastic depth.
        mixes_labels: True if the task has labels that can be mixed.
        dataset: The settings that the dataset declares.
    """
    names = {*LOOP, *dataset}
    names.update(LABELS if mixes_labels else (), MODEL if stochastic_depth else ())
    names.update(IMAGES if images else ())
    return [name for name in NEUTRAL if name in names]


def setting_problems(values: Mapping[str, Any], names: Iterable[str], workload: str) -> list[str]:
    """Return one line for each value out of range, and for each setting that does not apply.

    Args:
        values: Values by setting.
        names: The settings that apply to the workload.
        workload: The workload's name, for the messages.
    """
    names = list(names)
    inapplicable = [
        f"{name}: {workload} has no such setting.{nearest(name, names)}"
        for name in values
        if name not in names
    ]
    settings = Settings(**{name: value for name, value in values.items() if name in NEUTRAL})
    return inapplicable + settings.problems()


def significant(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that enter a trial's key: those that are not neutral."""
    return {name: value for name, value in values.items() if value != NEUTRAL.get(name)}


def field_problems(
    fields: Mapping[str, Any], train_examples: int, shapes: nn.Module | None
) -> list[str]:
    """Return one line for each field of a trial that is out of range.

    Args:
        fields: Fields of `TrialConfig`. `batch_size` and `epochs` are required; `schedule`,
            `precision`, `compile`, `channels_last` and `train_fraction` are checked if present.
        train_examples: Number of training examples of the dataset.
        shapes: The model on the meta device, or None if it cannot be built.
    """
    errors = []
    batch_size, fraction = fields["batch_size"], fields.get("train_fraction", 1.0)
    if not isinstance(fraction, (int, float)) or not 0 < fraction <= 1:
        errors.append(f"train_fraction = {fraction!r}: must be a number in (0, 1]")
        fraction = 1.0
    high = int(train_examples * fraction)
    normalises = shapes is not None and any(isinstance(m, _BatchNorm) for m in shapes.modules())
    low = 2 if normalises else 1
    if not is_integer(batch_size) or not low <= batch_size <= high:
        reason = f", where {high} is the size of the training set"
        if batch_size == 1 and low == 2:
            reason = "; batch normalisation needs two examples"
        errors.append(f"batch_size = {batch_size!r}: must be an integer in {low}..{high}{reason}")
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
    """Return a line if the number of workers is out of range or the optimizer does not allow it."""
    # A batch size below 1 has its own line, so it does not limit the workers.
    limit = max(1, batch_size) if is_integer(batch_size) else math.inf
    if not is_integer(workers) or not 1 <= workers <= limit:
        allowed = f"an integer in 1..{batch_size}, where {batch_size} is the batch size"
        return [f"workers = {workers!r}: must be {allowed}"]
    card = lookup(optimizer).card
    if workers > 1 and card is not None and (reason := card.unsupported.get("data parallel")):
        return [f"workers = {workers}: must be 1 for {optimizer}: {reason}"]
    return []
