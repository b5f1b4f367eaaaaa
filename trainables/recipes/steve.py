"""Recipes of the STEVE paper (section 4), which uses one learning rate for all optimizers.

The as-released variant of STEVE is Algorithm 1 as printed, with SGD for parameters without
Kronecker factors. KFAC and EKFAC average with alpha = 0.9 and update their curvature at the same
steps as STEVE (docs/recipes.md).
"""

from dataclasses import replace
from typing import Any

from trainables.recipes import Parameters, Recipe

AS_RELEASED = {
    "steve": {"bias_correction": "paper", "second_moment": "per_example", "fallback": "sgd"},
    "ekfac": {"second_moment": "running"},
}
ASSUMED = (
    "batch size 128",
    "crop padding: one eighth of the side of the image",
    "damping of KFAC (1) and EKFAC (3): tuned on digits",
    "momentum 0.9 and no weight decay for KFAC, EKFAC and SGD; KL-clip 1e-3 for KFAC",
)


def _optimizers(lr: float, interval: int) -> dict[str, dict[str, Any]]:
    """Return hyperparameters by optimizer; bases and factors are updated every `interval` steps."""
    sgd = {"lr": lr, "momentum": 0.9, "weight_decay": 0.0}
    adam = {"lr": lr, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}
    return {
        "sgd": sgd,
        "adam": adam,
        "kfac": {
            **sgd,
            "ema_decay": 0.9,
            "damping": 1.0,
            "cov_interval": interval,
            "inv_interval": interval,
        },
        "ekfac": {**sgd, "ema_decay": 0.9, "damping": 3.0, "basis_interval": interval},
        "steve": {**adam, "basis_interval": interval},
    }


CIFAR10_RESNET50 = Recipe(
    paper="STEVE",
    batch_size=128,
    epochs=100,
    schedule="constant",
    settings={"crop_padding": 4, "flip": True},
    optimizers=_optimizers(lr=1e-3, interval=500),
    as_released=AS_RELEASED,
    assumed=(*ASSUMED, "images of 32 pixels, and therefore a 3 x 3 first layer without pooling"),
    parameters=Parameters(exact=23_520_842),
)

TINYIMAGENET_RESNET50 = replace(
    CIFAR10_RESNET50,
    settings={"crop_padding": 8, "flip": True},
    optimizers=_optimizers(lr=1e-4, interval=600),
    assumed=(
        *ASSUMED,
        "images of 64 pixels, and the first layer and pooling of the original ResNet-50",
    ),
    parameters=Parameters(exact=23_917_832),
)

CIFAR100_VIT_S16 = replace(
    CIFAR10_RESNET50,
    settings={"crop_padding": 4, "flip": True, "resolution": 224},
    optimizers=_optimizers(lr=5e-5, interval=50),
    assumed=(*ASSUMED, "images scaled to 224 pixels", "initial weights: as in DeiT"),
    parameters=Parameters(exact=21_704_164),
)
