"""The recipes by workload, and those for a user's data by model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from trainables.recipes import Recipe, digits, nysact, small, steve

RECIPES: dict[str, Recipe] = {
    "digits/cnn": digits.DIGITS_CNN,
    "digits/mlp": digits.DIGITS_MLP,
    "digits/autoencoder": digits.DIGITS_AUTOENCODER,
    "mnist5k/mlp": small.MNIST5K_MLP,
    "mnist5k/cnn": small.MNIST5K_CNN,
    "mnist5k/autoencoder": small.MNIST5K_AUTOENCODER,
    "diabetes/mlp": small.DIABETES_MLP,
    "illconditioned/linear": small.ILLCONDITIONED_LINEAR,
    "text/gpt": small.TEXT_GPT,
    "cifar10/resnet32": nysact.CIFAR10_RESNET32,
    "cifar10/resnet110": nysact.CIFAR10_RESNET110,
    "cifar10/densenet121": nysact.CIFAR10_DENSENET121,
    "cifar10/lenet5": nysact.CIFAR10_LENET5,
    "cifar10/resnet50": steve.CIFAR10_RESNET50,
    "cifar100/resnet32": nysact.CIFAR100_RESNET32,
    "cifar100/resnet110": nysact.CIFAR100_RESNET110,
    "cifar100/densenet121": nysact.CIFAR100_DENSENET121,
    "cifar100/vit_s16": steve.CIFAR100_VIT_S16,
    "tinyimagenet/resnet50": steve.TINYIMAGENET_RESNET50,
    "imagenet/resnet50": nysact.IMAGENET_RESNET50,
    "imagenet/deit_s": nysact.IMAGENET_DEIT_S,
}
# The recipe for a user's images, by model: a recipe of the same or of a similar model.
FOLDER_RECIPES: dict[str, Recipe] = {
    "cnn": replace(digits.DIGITS_CNN, numerics=2),  # its pooling was added in version 2
    "mlp": digits.DIGITS_CNN,
    "autoencoder": digits.DIGITS_AUTOENCODER,
    **dict.fromkeys(("lenet5", "resnet20", "resnet32", "resnet110", "densenet121"), nysact.CIFAR),
    "resnet50": nysact.IMAGENET_RESNET50,
    "deit_s": nysact.IMAGENET_DEIT_S,
    "vit_s16": steve.CIFAR100_VIT_S16,
}
ARRAY_RECIPES = {**FOLDER_RECIPES, "linear": digits.DIGITS_MLP}


@dataclass(frozen=True)
class UserData:
    """The workloads with a user's data, whose names are `PREFIX:PATH/MODEL`.

    Attributes:
        pattern: The form of a name, for messages.
        recipes: Recipes by model.
    """

    pattern: str
    recipes: Mapping[str, Recipe]


USER_DATA: Mapping[str, UserData] = {
    "imagefolder": UserData("imagefolder:PATH/MODEL", FOLDER_RECIPES),
    "text": UserData("text:PATH/MODEL", {"gpt": small.TEXT_GPT}),
    "array": UserData("array:FILE.npz/MODEL", ARRAY_RECIPES),
}
"""The workloads with a user's data, by prefix; `trainables.data.USER_DATASETS` opens the data."""
