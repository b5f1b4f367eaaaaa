"""Models by name: torchvision's where it has them, our own where no library does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from torch import nn

from precond import HyperparameterError
from precond.hyperparameters import nearest
from trainables.models.cifar_resnet import resnet20, resnet32, resnet110
from trainables.models.densenet import densenet121
from trainables.models.digits_cnn import digits_cnn
from trainables.models.digits_mlp import digits_mlp
from trainables.models.lenet5 import lenet5
from trainables.models.resnet50 import resnet50
from trainables.models.vit import vit_s16


class Fit(NamedTuple):
    """What a model is made to fit.

    Attributes:
        classes: Outputs.
        channels: Of the images.
        size: Side in pixels of the images it trains on.
        drop_path: Rate of stochastic depth, for models that have it.
    """

    classes: int
    channels: int
    size: int
    drop_path: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Model:
    """A registered model.

    Attributes:
        build: Makes it, with initial weights from torch's global generator.
        channels: Of the images that it takes; None for any.
        size: The one side in pixels that it takes; None for any.
        patch: What the side must be a multiple of.
        one_size: Whether it tests on images of the size that it trained on only.
        stochastic_depth: Whether it has a rate `drop_path`.
    """

    build: Callable[[Fit], nn.Module]
    channels: int | None = 3
    size: int | None = None
    patch: int = 1
    one_size: bool = False
    stochastic_depth: bool = False

    def problems(self, name: str, fit: Fit, test_size: int) -> list[str]:
        """One line for each thing about the images that the model cannot take."""
        wrong = []
        if self.channels not in (None, fit.channels):
            wrong.append(f"{name} takes images with {self.channels} channels, these have {fit.channels}")
        if self.size not in (None, fit.size):
            wrong.append(f"resolution = {fit.size}: {name} takes images of {self.size} x {self.size} pixels only")
        if fit.size % self.patch:
            wrong.append(f"resolution = {fit.size}: {name} takes multiples of {self.patch}")
        if self.one_size and test_size != fit.size:
            wrong.append(f"test_resolution = {test_size}: {name} tests at the resolution it trains at, {fit.size}")
        return wrong


_VIT = Model(
    build=lambda fit: vit_s16(fit.classes, fit.size, fit.drop_path), patch=16, one_size=True, stochastic_depth=True
)

MODELS: dict[str, Model] = {
    "cnn": Model(build=lambda fit: digits_cnn(16, *fit[:3]), channels=None, one_size=True),
    "mlp": Model(build=lambda fit: digits_mlp(128, *fit[:3]), channels=None, one_size=True),
    "lenet5": Model(build=lambda fit: lenet5(fit.classes), size=32, one_size=True),
    "resnet20": Model(build=lambda fit: resnet20(fit.classes)),
    "resnet32": Model(build=lambda fit: resnet32(fit.classes)),
    "resnet110": Model(build=lambda fit: resnet110(fit.classes)),
    "densenet121": Model(build=lambda fit: densenet121(fit.classes, small=fit.size <= SMALL)),
    "resnet50": Model(build=lambda fit: resnet50(fit.classes, small=fit.size <= SMALL)),
    "vit_s16": _VIT,
    "deit_s": _VIT,
}
SMALL = 32  # pixels up to which DenseNet and ResNet-50 keep the resolution in their first layer


def model(name: str) -> Model:
    """A registered model.

    Raises:
        HyperparameterError: Unknown name; the message names the nearest and all known ones.
    """
    if name not in MODELS:
        raise HyperparameterError(f'model = "{name}": unknown.{nearest(name, MODELS)}')
    return MODELS[name]
