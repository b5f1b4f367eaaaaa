"""Models by name: `model(name)` returns a `Model`, which builds a network for a dataset.

`large` contains networks of torchvision with changes. `small` contains networks that are written
for this project, and `language` contains a language model. The initial weights are drawn from
torch's global generator. The models do not depend on datasets, recipes or optimizers.

This package may import torch, `precond` and `trainables.tasks`, and torchvision inside the
functions that build the networks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from torch import nn

from precond import HyperparameterError
from precond.counts import counted
from precond.hyperparameters import nearest
from trainables.models.language import gpt
from trainables.models.large import densenet121, resnet50, vit_s16
from trainables.models.small import (
    autoencoder,
    digits_cnn,
    digits_mlp,
    lenet5,
    linear,
    resnet20,
    resnet32,
    resnet110,
)
from trainables.tasks import RECONSTRUCTION, Task


class Fit(NamedTuple):
    """The arguments for building a network.

    Attributes:
        classes: Number of outputs; for text, the size of the vocabulary.
        channels: Channels of the images, or the length of vectors.
        size: Side of the training images in pixels; 1 for vectors; for text, the length of the
            context.
        drop_path: Rate of stochastic depth, for models that support it.
    """

    classes: int
    channels: int
    size: int
    drop_path: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Model:
    """A registered model.

    Attributes:
        build: Builds the network, with initial weights from torch's global generator.
        channels: The required number of channels of the images, or None for any number.
        size: The required side of the images in pixels, or None for any side.
        patch: The side of the images must be a multiple of this number of pixels.
        one_size: True if the test images must have the size of the training images.
        stochastic_depth: True if the setting `drop_path` applies to the model.
        vectors: True if the inputs can also be vectors `[batch, channels]`.
        task: The task of the model, or None if it is that of the dataset.
    """

    build: Callable[[Fit], nn.Module]
    channels: int | None = 3
    size: int | None = None
    patch: int = 1
    one_size: bool = False
    stochastic_depth: bool = False
    vectors: bool = False
    task: Task | None = None

    def problems(self, name: str, fit: Fit, test_size: int) -> list[str]:
        """Return one line for each property of the inputs that the model does not accept."""
        if fit.size == 1 and not self.vectors:
            models = ", ".join(key for key, model in MODELS.items() if model.vectors)
            return [f"{name} requires images, but the inputs are vectors; choose {models}"]
        errors = []
        if self.channels not in (None, fit.channels):
            difference = (
                f"{counted(self.channels, 'channel')}, but these images have {fit.channels}"
            )
            errors.append(f"{name} requires images with {difference}")
        if self.size not in (None, fit.size):
            errors.append(f"resolution = {fit.size}: must be {self.size} for {name}")
        if fit.size % self.patch:
            rule = f"must be a multiple of {self.patch} for {name}"
            errors.append(f"resolution = {fit.size}: {rule}")
        if self.one_size and test_size != fit.size:
            rule = f"must be equal to resolution = {fit.size} for {name}"
            errors.append(f"test_resolution = {test_size}: {rule}")
        return errors


_VIT = Model(
    build=lambda fit: vit_s16(fit.classes, fit.size, fit.drop_path),
    patch=16,
    one_size=True,
    stochastic_depth=True,
)

MODELS: dict[str, Model] = {
    "cnn": Model(build=lambda fit: digits_cnn(16, *fit[:3]), channels=None, one_size=True),
    "mlp": Model(
        build=lambda fit: digits_mlp(128, *fit[:3]), channels=None, one_size=True, vectors=True
    ),
    "linear": Model(build=lambda fit: linear(*fit[:3]), channels=None, one_size=True, vectors=True),
    "autoencoder": Model(
        build=lambda fit: autoencoder(fit.channels, fit.size),
        channels=None,
        one_size=True,
        vectors=True,
        task=RECONSTRUCTION,
    ),
    "gpt": Model(build=lambda fit: gpt(fit.classes, fit.size), channels=None),
    "lenet5": Model(build=lambda fit: lenet5(fit.classes), size=32, one_size=True),
    "resnet20": Model(build=lambda fit: resnet20(fit.classes)),
    "resnet32": Model(build=lambda fit: resnet32(fit.classes)),
    "resnet110": Model(build=lambda fit: resnet110(fit.classes)),
    "densenet121": Model(build=lambda fit: densenet121(fit.classes, small=fit.size <= SMALL)),
    "resnet50": Model(build=lambda fit: resnet50(fit.classes, small=fit.size <= SMALL)),
    "vit_s16": _VIT,
    "deit_s": _VIT,
}
SMALL = 32  # largest side for which the first layers of DenseNet and ResNet-50 keep the resolution


def model(name: str) -> Model:
    """Return a registered model.

    Raises:
        HyperparameterError: The name is unknown; the message contains the nearest and all known
            names.
    """
    if name not in MODELS:
        raise HyperparameterError(f'model = "{name}": unknown.{nearest(name, MODELS)}')
    return MODELS[name]
