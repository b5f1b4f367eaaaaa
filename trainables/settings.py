"""How a trial is trained beside its optimizer: augmentation, regularisation and warm-up, by name.

Every setting has a neutral value, which means "not done". Neutral values are left out of a trial's key, so that a
setting that is added later changes no older trial's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from precond.hyperparameters import (
    amounts,
    choice,
    count,
    flag,
    fraction,
    nearest,
    non_negative,
    optional,
    probability,
    problems,
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings and their neutral values.

    Attributes:
        crop_padding: Pixels of zeros around an image of which a crop of its own size is then taken at random.
        flip: Mirror half of the images.
        resolution: Side in pixels while training; None is the images' own, and resolved before it enters a trial.
        test_resolution: Side while testing; None is `resolution`.
        random_resized_crop: Train on random parts of 8 to 100 % of an image, scaled to `resolution`.
        trivial_augment: TrivialAugment (Mueller and Hutter 2021).
        randaugment: Magnitude and its standard deviation (Cubuk et al. 2019); None for not at all.
        random_erasing: Probability of erasing a rectangle (Zhong et al. 2020).
        repeated_augmentation: Copies of an image, augmented each by itself, that are drawn together.
        drop_path: Rate of stochastic depth in the last block, growing to it linearly from 0 in the first.
        mixup: alpha of Mixup's Beta(alpha, alpha); 0 for none. With `cutmix`, too, a coin decides for each batch.
        cutmix: alpha of CutMix; 0 for none.
        label_smoothing: Share of the label that is spread over all classes while training.
        warmup_epochs: Epochs in which the learning rate rises linearly, from 1 % of it.
        decay_exempt: What weight decay spares: `nothing`, the `norm` layers' parameters, or all `vectors`: those,
            biases, class tokens and position embeddings.
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

    problems = problems


NEUTRAL: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(Settings)}
LOOP = ("mixup", "cutmix", "label_smoothing", "warmup_epochs", "decay_exempt")  # apply to whatever is trained
MODEL = ("drop_path",)  # applies to models that have it
IMAGES = tuple(name for name in NEUTRAL if name not in (*LOOP, *MODEL))  # apply to datasets of images


def applicable(*, images: bool, stochastic_depth: bool) -> list[str]:
    """Names of the settings that a workload has."""
    return [
        name for name in NEUTRAL if name in LOOP or (name in IMAGES and images) or (name in MODEL and stochastic_depth)
    ]


def setting_problems(values: Mapping[str, Any], names: Iterable[str], workload: str) -> list[str]:
    """One line for each value out of its range, and for each setting that a workload does not have."""
    names = list(names)
    foreign = [f"{name}: {workload} has no such setting.{nearest(name, names)}" for name in values if name not in names]
    return foreign + Settings(**{name: value for name, value in values.items() if name in NEUTRAL}).problems()


def significant(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that are not neutral: what a trial's key is made of."""
    return {name: value for name, value in values.items() if value != NEUTRAL.get(name)}
