"""Recipes have the values of the NysAct paper (Tables 7 and 8), its code and the STEVE paper."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import pytest

import precond
from trainables.recipes import SCHEDULES, Recipe
from trainables.recipes.tables import FOLDER_RECIPES, RECIPES
from trainables.settings import NEUTRAL, Settings

NYSACT_CIFAR = [
    f"cifar{n}/{model}" for n in (10, 100) for model in ("resnet32", "resnet110", "densenet121")
]

# The rows of Table 7; None stands for a dot in the paper. The values of eps are those of the
# released code, because they are not legible in the paper.
COLUMNS = (
    "lr",
    "momentum",
    "beta1",
    "beta2",
    "weight_decay",
    "eps",
    "damping",
    "cov_interval",
    "inv_interval",
    "rank",
)
TABLE_7_CIFAR: dict[str, tuple[Any, ...]] = {
    "sgd": (0.1, 0.9, None, None, 0.0005, None, None, None, None, None),
    "adam": (0.001, None, 0.9, 0.999, 0.0005, 1e-8, None, None, None, None),
    "adamw": (0.001, None, 0.9, 0.999, 0.05, 1e-8, None, None, None, None),
    "kfac": (0.1, 0.9, None, 0.95, 0.0005, None, 0.03, 5, 50, None),
    "eva": (0.1, 0.9, None, 0.95, 0.0005, None, 0.03, 5, 50, None),
    "foof": (0.1, 0.9, None, 0.95, 0.0005, None, 1.0, 5, 50, None),
    "nysact-s": (0.1, 0.9, None, 0.95, 0.0005, None, 1.0, 5, 50, 10),
    "nysact-g": (0.1, 0.9, None, 0.95, 0.0005, None, 1.0, 5, 50, 10),
}
# In a cell "a / b" of the paper, a is for ResNet-50 and b for DeiT-S. The paper has no run of
# NysAct-G on ImageNet; the recipe uses the values of NysAct-S.
TABLE_7_RESNET50: dict[str, tuple[Any, ...]] = {
    "sgd": (0.5, 0.9, None, None, 0.00002, None, None, None, None, None),
    "adamw": (0.001, None, 0.9, 0.999, 0.05, 1e-8, None, None, None, None),
    "kfac": (0.5, 0.9, None, 0.95, 0.00002, None, 0.1, 5, 50, None),
    "eva": (0.5, 0.9, None, 0.95, 0.00002, None, 0.1, 5, 50, None),
    "foof": (0.5, 0.9, None, 0.95, 0.00002, None, 1.0, 5, 50, None),
    "nysact-s": (0.5, 0.9, None, 0.95, 0.00002, None, 1.0, 5, 50, 50),
    "nysact-g": (0.5, 0.9, None, 0.95, 0.00002, None, 1.0, 5, 50, 50),
}
TABLE_7_DEIT: dict[str, tuple[Any, ...]] = {
    "sgd": (0.5, 0.9, None, None, 0.00002, None, None, None, None, None),
    "adamw": (0.001, None, 0.9, 0.999, 0.05, 1e-8, None, None, None, None),
    "kfac": (0.5, 0.9, None, 0.95, 0.00002, None, 0.1, 5, 5, None),
    "eva": (0.5, 0.9, None, 0.95, 0.00002, None, 0.1, 5, 5, None),
    "foof": (0.5, 0.9, None, 0.95, 0.00002, None, 1.0, 5, 5, None),
    "nysact-s": (0.5, 0.9, None, 0.95, 0.0001, None, 1.0, 5, 5, 20),
    "nysact-g": (0.5, 0.9, None, 0.95, 0.0001, None, 1.0, 5, 5, 20),
}
TABLE_7 = {
    **dict.fromkeys(NYSACT_CIFAR, TABLE_7_CIFAR),
    "imagenet/resnet50": TABLE_7_RESNET50,
    "imagenet/deit_s": TABLE_7_DEIT,
}
ROWS = [(workload, optimizer) for workload, rows in TABLE_7.items() for optimizer in rows]


def resolved_hyperparameters(workload: str, optimizer: str, as_released: bool) -> dict[str, Any]:
    return {
        **precond.defaults(optimizer),
        **RECIPES[workload].hyperparameters(optimizer, as_released),
    }


@pytest.mark.parametrize(("workload", "optimizer"), ROWS, ids=[f"{w} {o}" for w, o in ROWS])
def test_the_as_released_variant_has_all_values_of_table_7(workload: str, optimizer: str):
    row = dict(zip(COLUMNS, TABLE_7[workload][optimizer], strict=True))
    recipe = RECIPES[workload].hyperparameters(optimizer, as_released=True)
    values = resolved_hyperparameters(workload, optimizer, True)
    if row["beta1"] is not None:
        assert recipe["betas"] == (row.pop("beta1"), row.pop("beta2"))
    # In the code of Eva, and of KFAC for ImageNet, beta_2 is the weight of the new value.
    reverse = optimizer == "eva" or (optimizer == "kfac" and workload.startswith("imagenet"))
    if (beta2 := row.pop("beta2", None)) is not None:
        assert recipe["ema_decay"] == pytest.approx(1 - beta2 if reverse else beta2)
    if optimizer == "eva":  # Eva computes no inverse
        assert row.pop("inv_interval") in (5, 50) and "inv_interval" not in values
    for name, value in row.items():
        if value is not None:
            assert recipe[name] == value, name
        else:
            assert name not in values, f"{name}: the table has no value"


@pytest.mark.parametrize(("workload", "optimizer"), ROWS, ids=[f"{w} {o}" for w, o in ROWS])
def test_the_corrected_variant_differs_only_in_conventions_and_their_values(
    workload: str, optimizer: str
):
    as_released, corrected = (
        resolved_hyperparameters(workload, optimizer, kind) for kind in (True, False)
    )
    changes = {name for name in as_released if as_released[name] != corrected[name]}
    conventions = {
        "nesterov",
        "decoupled",
        "resample",
        "shift",
        "init",
        "first_inverse",
        "damping_rule",
        "sharing",
        "g_scale",
        "ema_init",
    }
    values = {"damping", "ema_decay"} if optimizer in ("kfac", "eva") else set()
    assert changes <= conventions | values


def test_as_released_conventions_are_those_of_the_released_code():
    """docs/recipes.md lists the conventions, and docs/algorithms.md explains the options."""
    nysact = {"resample": "official", "shift": "official"}
    foof = {"init": "identity", "first_inverse": "skip"}
    eva = {"g_scale": "official", "ema_decay": 0.05, "ema_init": "first", "kl_clip": 1e-3}
    for workload in TABLE_7:
        as_released = {
            name: resolved_hyperparameters(workload, name, True) for name in TABLE_7[workload]
        }
        imagenet = workload.startswith("imagenet")
        kfac_cifar = {
            "damping_rule": "eigen",
            "sharing": "expand",
            "init": "identity",
            "ema_decay": 0.95,
        }
        kfac_imagenet = {
            "damping_rule": "factored",
            "sharing": "reduce",
            "init": "first",
            "ema_decay": 0.05,
        }
        kfac = {
            **(kfac_imagenet if imagenet else kfac_cifar),
            "g_scale": "official",
            "kl_clip": 1e-3,
        }
        expected = {"kfac": kfac, "eva": eva, "foof": foof, "nysact-s": nysact, "nysact-g": nysact}
        for name, options in expected.items():
            assert options.items() <= as_released[name].items(), (workload, name)
        deit = workload == "imagenet/deit_s"
        assert as_released["sgd"]["nesterov"] == (workload.startswith("cifar100") or deit)
        assert as_released["nysact-s"]["decoupled"] == as_released["foof"]["decoupled"] == deit


# The rows of Table 8: the values for ResNets and for DeiT.
TABLE_8 = {
    "Train Res": (176, 224),
    "Test Res": (224, 224),
    "Batch size": (1024, 1024),
    "LR decay": ("cosine", "cosine"),
    "Warmup epochs": (5, 5),
    "Label Smoothing": (0.1, 0.1),
    "Stochastic Depth": (0.0, 0.2),
    "Repeated Augmentation": (True, True),
    "Horizontal flip": (True, True),
    "Random Resized Crop": (True, True),
    "Auto Augmentation": ("TrivialAugment", "RandAugment(9/0.5)"),
    "Mixup": (0.2, 0.8),
    "Cutmix": (1.0, 1.0),
    "Random Erasing": (0.1, 0.25),
}


@pytest.mark.parametrize(("column", "workload"), [(0, "imagenet/resnet50"), (1, "imagenet/deit_s")])
def test_recipes_have_all_values_of_table_8(column: int, workload: str):
    recipe = RECIPES[workload]
    settings = {**NEUTRAL, **recipe.settings}
    augmentations = {
        "TrivialAugment": settings["trivial_augment"],
        "RandAugment(9/0.5)": settings["randaugment"] == (9, 0.5),
    }
    assert {
        "Train Res": settings["resolution"],
        "Test Res": settings["test_resolution"],
        "Batch size": recipe.batch_size,
        "LR decay": recipe.schedule,
        "Warmup epochs": settings["warmup_epochs"],
        "Label Smoothing": settings["label_smoothing"],
        "Stochastic Depth": settings["drop_path"],
        "Repeated Augmentation": settings["repeated_augmentation"] > 1,
        "Horizontal flip": settings["flip"],
        "Random Resized Crop": settings["random_resized_crop"],
        "Auto Augmentation": " ".join(name for name, used in augmentations.items() if used),
        "Mixup": settings["mixup"],
        "Cutmix": settings["cutmix"],
        "Random Erasing": settings["random_erasing"],
    } == {row: cells[column] for row, cells in TABLE_8.items()}


@pytest.mark.parametrize("workload", NYSACT_CIFAR)
def test_cifar_recipes_have_the_settings_of_the_nysact_paper(workload: str):
    """Section 6.1 and the released code: batches of 128, cosine schedule, padding of 4, flips."""
    recipe = RECIPES[workload]
    assert (recipe.batch_size, recipe.epochs, recipe.schedule) == (128, 200, "cosine")
    assert recipe.settings == {"crop_padding": 4, "flip": True}


# The learning rate, and the number of steps between updates of the curvature.
STEVE_PAPER = {
    "cifar10/resnet50": (1e-3, 500),
    "tinyimagenet/resnet50": (1e-4, 600),
    "cifar100/vit_s16": (5e-5, 50),
}


@pytest.mark.parametrize("workload", STEVE_PAPER)
def test_recipes_have_the_values_of_the_steve_paper(workload: str):
    lr, interval = STEVE_PAPER[workload]
    recipe = RECIPES[workload]
    assert (recipe.epochs, recipe.schedule) == (100, "constant")
    for optimizer in ("sgd", "adam", "kfac", "ekfac", "steve"):
        assert resolved_hyperparameters(workload, optimizer, False)["lr"] == lr
    adam, steve = (
        resolved_hyperparameters(workload, "adam", False),
        resolved_hyperparameters(workload, "steve", False),
    )
    assert adam["betas"] == steve["betas"] == (0.9, 0.999) and adam["eps"] == steve["eps"] == 1e-8
    kfac, ekfac = (
        resolved_hyperparameters(workload, "kfac", False),
        resolved_hyperparameters(workload, "ekfac", False),
    )
    assert kfac["ema_decay"] == ekfac["ema_decay"] == 0.9
    assert kfac["inv_interval"] == kfac["cov_interval"] == interval
    assert ekfac["basis_interval"] == steve["basis_interval"] == interval
    as_released = resolved_hyperparameters(workload, "steve", True)
    assert as_released["bias_correction"] == "paper"
    assert as_released["second_moment"] == "per_example"
    for missing_value in ("batch size", "damping of KFAC", "images"):
        assert any(missing_value in line for line in recipe.assumed)


@pytest.mark.parametrize("recipe", [*RECIPES.values(), *FOLDER_RECIPES.values()])
def test_recipe_values_are_in_their_ranges(recipe: Recipe):
    assert recipe.schedule in SCHEDULES
    assert set(recipe.settings) <= {field.name for field in fields(Settings)}
    assert Settings(**recipe.settings).problems() == []
    for optimizer in {*recipe.optimizers, *recipe.as_released}:
        for as_released in (False, True):
            assert precond.check(optimizer, recipe.hyperparameters(optimizer, as_released)) == []


@pytest.mark.parametrize("workload", RECIPES)
def test_exact_parameter_counts_round_to_the_published_counts_or_have_a_note(workload: str):
    parameters = RECIPES[workload].parameters
    assert parameters is not None
    if parameters.published is not None and not parameters.note:
        digits = 1 if math.floor(parameters.published) != parameters.published else 0
        assert round(parameters.exact / 1e6, digits) == parameters.published
    explained = [
        name for name, recipe in RECIPES.items() if recipe.parameters and recipe.parameters.note
    ]
    assert sorted(explained) == ["cifar10/densenet121", "cifar100/densenet121", "imagenet/resnet50"]
