"""Workloads: a step of each optimizer, keys, settings, errors, and deviations from the recipe."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from synthetic import synthetic

import precond
from precond import HyperparameterError
from trainables import workloads
from trainables.config import TrialConfig
from trainables.train import Trainer
from trainables.workloads import RECIPES, deviations, resolve

SMALL = ["digits/cnn", "digits/mlp", "cifar10/lenet5", "cifar10/resnet32", "digits/autoencoder"]
SMALL += ["mnist5k/mlp", "mnist5k/cnn", "mnist5k/autoencoder", "diabetes/mlp"]
SMALL += ["illconditioned/linear", "text/gpt"]
LARGE = [name for name in RECIPES if name not in SMALL]


@pytest.fixture(autouse=True)
def no_data(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(workloads, "source", synthetic)


def resolve_errors(*arguments, **settings) -> list[str]:
    with pytest.raises(HyperparameterError) as caught:
        resolve(*arguments, recipe=settings)
    return str(caught.value).splitlines()


# ---------------------------------------------------------------------- steps of each optimizer


def check_one_step(workload: str, optimizer: str) -> None:
    settings = {"batch_size": 4, "epochs": 1, "warmup_epochs": 0}
    sizes = {"rank": 5, "window": 128}
    known = {key: sizes[key] for key in sizes if key in precond.defaults(optimizer)}
    config = resolve(workload, optimizer, known, settings)
    trainer = Trainer(config, torch.device("cpu"))
    tensors = ("train_inputs", "train_targets", "test_inputs", "test_targets")
    batch = {name: getattr(trainer.data, name)[:4] for name in tensors}
    trainer.data = replace(trainer.data, **batch)
    before = [p.detach().clone() for p in trainer.model.parameters()]
    metrics = trainer.run_epoch(0)
    assert all(math.isfinite(value) for value in metrics.values())
    pairs = list(zip(trainer.model.parameters(), before, strict=True))
    # The gradient of the bias of a key projection is a rounding error.
    changed = [not p.equal(q) for p, q in pairs if p.grad is None or p.grad.norm() > 1e-7]
    # The first step of SOAP and ADOPT only initialises their statistics.
    initialises = optimizer in ("soap", "adopt") and not any(changed)
    assert changed and (all(changed) or initialises)


@pytest.mark.parametrize("optimizer", precond.available())
@pytest.mark.parametrize("workload", SMALL)
def test_each_optimizer_trains_a_small_workload(workload: str, optimizer: str):
    check_one_step(workload, optimizer)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", precond.available())
@pytest.mark.parametrize("workload", LARGE)
def test_each_optimizer_trains_a_large_workload(workload: str, optimizer: str):
    check_one_step(workload, optimizer)


@pytest.mark.parametrize("workload", RECIPES)
def test_each_model_has_the_parameter_count_of_its_recipe(workload: str):
    config = resolve(workload, "nysact-s")
    model = workloads.workload(workload).build(config.settings) if workload in SMALL else None
    chosen = workloads.workload(workload)
    model = model or workloads.skeleton(chosen.model, chosen.fit(config.settings))
    parameters = RECIPES[workload].parameters
    assert parameters and sum(p.numel() for p in model.parameters()) == parameters.exact
    assert TrialConfig.from_dict(config.to_dict()) == config


def test_a_folder_of_images_is_a_workload():
    config = resolve("imagefolder:/some where/cats/dogs/resnet32", "nysact-s")
    assert config.settings["resolution"] == 32 and config.settings["crop_padding"] == 4
    assert workloads.workload(config.workload).source.name == "imagefolder:/some where/cats/dogs"


# ---------------------------------------------------------------------- keys


def test_keys_of_schema_1_are_unchanged():
    """These keys were computed before settings existed; trials with these keys must be reused."""
    keys = {
        "sgd": "ff7ff219e8f701995ed0577e9ac4b7d2936c3f5ad1fc97967fba53ec2f80d7fe",
        "nysact-s": "b4e5f77af4c6037e75fc5d69b4de4cbb4ab6d7cdb78a1ddab12e87a4f9df8ff3",
    }
    for optimizer, key in keys.items():
        config = resolve("digits/cnn", optimizer, recipe={"epochs": 2})
        if optimizer == "nysact-s":  # its NUMERICS was 2 when the key was computed
            config = replace(config, numerics={**config.numerics, "optimizer": 2})
        assert config.trial_key == key
        old = {name: value for name, value in config.to_dict().items() if name in SCHEMA_1}
        assert TrialConfig.from_dict(old).trial_key == key


SCHEMA_1 = [
    "workload",
    "optimizer",
    "hyperparameters",
    "batch_size",
    "epochs",
    "schedule",
    "seed",
    "numerics",
]
OTHER_VALUES = {
    "precision": "bf16",
    "compile": True,
    "channels_last": True,
    "workers": 2,
    "train_fraction": 0.9,
    "plugin": "0" * 64,
    "data": "0" * 64,
    "label_smoothing": 0.1,
    "mixup": 0.2,
    "cutmix": 1.0,
    "warmup_epochs": 1,
    "decay_exempt": "norm",
    "crop_padding": 2,
    "flip": False,
    "resolution": 16,
    "test_resolution": 64,
    "random_resized_crop": True,
    "trivial_augment": True,
    "randaugment": "9/0.5",
    "random_erasing": 0.1,
    "repeated_augmentation": 2,
}


@pytest.mark.parametrize("name", OTHER_VALUES)
def test_values_that_change_the_results_change_the_key(name: str):
    plain = resolve("cifar10/resnet32", "sgd")
    if name in ("plugin", "data"):  # set by the workload or the optimizer, not by the recipe
        other = replace(plain, **{name: OTHER_VALUES[name]})
    else:
        other = resolve("cifar10/resnet32", "sgd", recipe={name: OTHER_VALUES[name]})
    assert plain.trial_key != other.trial_key and plain.group_key != other.group_key


def test_equal_settings_in_different_forms_give_the_same_trial():
    pair, text = (
        resolve("cifar10/resnet32", "sgd", recipe={"randaugment": value, "mixup": mixup})
        for value, mixup in (((9, 0.5), 1), ("9/0.5", 1.0))
    )
    assert pair.trial_key == text.trial_key and pair.settings["randaugment"] == [9.0, 0.5]
    explicit = resolve("cifar10/resnet32", "sgd", recipe={"resolution": 32})
    assert explicit == resolve("cifar10/resnet32", "sgd")


def test_a_workload_has_only_the_settings_that_apply_to_it():
    digits, cifar, vit = (
        set(resolve(name, "sgd").settings) for name in ("digits/cnn", SMALL[3], "cifar100/vit_s16")
    )
    assert digits == {"mixup", "cutmix", "label_smoothing", "warmup_epochs", "decay_exempt"}
    assert digits < cifar and vit - cifar == {"drop_path"} and "resolution" in cifar


# ---------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cifar10/resnet23", 'Did you mean "cifar10/resnet32"'),
        ("digits/cn", 'Did you mean "digits/cnn"'),
        ("imagenet/resnet32", "unknown. Did you mean"),
        (
            "imagefolder:/data/cats/resnet23",
            'must be imagefolder:PATH/MODEL. Did you mean "resnet32"',
        ),
        ("imagefolder:resnet32", "must be imagefolder:PATH/MODEL"),
        ("imagefolder:a/gpt", "must be imagefolder:PATH/MODEL. Known: cnn, mlp, autoencoder, "),
        ("text:book.txt/mlp", "must be text:PATH/MODEL. Known: gpt"),
        ("text:/gpt", "must be text:PATH/MODEL"),
        ("array:a.npz/gpt", "must be array:FILE.npz/MODEL. Known: cnn, mlp, "),
        ("array:a.npz/mlpp", 'must be array:FILE.npz/MODEL. Did you mean "mlp"'),
        ("arrays:a.npz/mlp", "unknown. Did you mean"),
        ("resnet32", "unknown"),
    ],
)
def test_unknown_workloads_are_refused(name: str, message: str):
    [line] = resolve_errors(name, "sgd")
    assert line.startswith(f'workload = "{name}"') and message in line
    assert workloads.unknown_workload(name) == line


def test_batch_sizes_out_of_range_are_refused():
    rule = "must be an integer in {}..{}, where {} is the size of the training set"
    assert resolve_errors("cifar10/resnet32", "sgd", batch_size=2001) == [
        "batch_size = 2001: " + rule.format(2, 2000, 2000)
    ]
    assert resolve_errors("cifar10/resnet32", "sgd", batch_size=1) == [
        "batch_size = 1: must be an integer in 2..2000; batch normalisation needs two examples"
    ]
    assert resolve_errors("digits/mlp", "sgd", batch_size=1198) == [
        "batch_size = 1198: " + rule.format(1, 1197, 1197)
    ]
    assert resolve_errors("digits/mlp", "sgd", batch_size=1198, train_fraction=0.5) == [
        "batch_size = 1198: " + rule.format(1, 598, 598)
    ]
    assert resolve("digits/mlp", "sgd", recipe={"batch_size": 1}).batch_size == 1


@pytest.mark.parametrize(
    ("workload", "settings", "lines"),
    [
        (
            "digits/cnn",
            {"crop_padding": 4},
            ["crop_padding: digits/cnn has no such setting. Known: mixup"],
        ),
        (
            "cifar10/resnet32",
            {"drop_path": 0.1},
            ["drop_path: cifar10/resnet32 has no such setting"],
        ),
        (
            "cifar10/resnet32",
            {"mixup": -1, "flip": 1},
            ["flip = 1: must be true or false", "mixup = -1: must be"],
        ),
        (
            "cifar10/resnet32",
            {"randaugment": "9"},
            ["randaugment = (9.0,): must be two numbers >= 0, or None"],
        ),
        (
            "cifar10/resnet32",
            {"label_smoothing": 1.0},
            ["label_smoothing = 1.0: must be a number in [0, 1)"],
        ),
        (
            "cifar10/resnet32",
            {"decay_exempt": "bias"},
            ["decay_exempt = 'bias': must be one of nothing, norm"],
        ),
        ("digits/cnn", {"warmup_epochs": 20}, ["warmup_epochs = 20: must be below epochs = 20"]),
        (
            "cifar10/lenet5",
            {"resolution": 64},
            ["resolution = 64: must be 32 for lenet5"],
        ),
        (
            "cifar100/vit_s16",
            {"resolution": 40},
            ["resolution = 40: must be a multiple of 16 for vit_s16"],
        ),
        (
            "cifar100/vit_s16",
            {"test_resolution": 64},
            ["test_resolution = 64: must be equal to resolution = 224 for vit_s16"],
        ),
        ("digits/cnn", {"precision": "fp16"}, ["precision = 'fp16': must be one of float32, bf16"]),
        ("digits/cnn", {"compile": 1}, ["compile = 1: must be true or false"]),
        ("digits/cnn", {"train_fraction": 0}, ["train_fraction = 0: must be a number in (0, 1]"]),
    ],
)
def test_invalid_settings_are_refused(workload: str, settings: dict, lines: list[str]):
    messages = resolve_errors(workload, "sgd", **settings)
    assert len(messages) == len(lines), messages
    for message, line in zip(messages, lines, strict=True):
        assert line in message


# ---------------------------------------------------------------------- variants and deviations


def test_the_as_released_variant_uses_the_released_conventions_of_the_recipe():
    corrected, as_released = (
        resolve("cifar10/resnet32", "kfac", as_released=kind) for kind in (False, True)
    )
    names = ("g_scale", "damping")
    assert [corrected.hyperparameters[name] for name in names] == ["fisher", 1.0]
    assert [as_released.hyperparameters[name] for name in names] == ["official", 0.03]
    assert corrected.trial_key != as_released.trial_key


def test_deviations_are_pairs_of_recipe_and_trial_values():
    for kind in (False, True):
        for workload in (
            "digits/cnn",
            "cifar10/resnet32",
            "imagenet/deit_s",
            "imagefolder:a/resnet50",
            "illconditioned/linear",
            "text/gpt",
        ):
            assert deviations(resolve(workload, "kfac", as_released=kind)) == {}
    changed = resolve(
        "cifar10/resnet32",
        "kfac",
        {"damping": 0.1},
        {"epochs": 3, "mixup": 0.2, "resolution": 16},
        as_released=True,
    )
    assert deviations(changed) == {
        "epochs": (200, 3),
        "mixup": (0.0, 0.2),
        "resolution": (32, 16),
        "test_resolution": (32, 16),
        "damping": (0.03, 0.1),
    }


def test_deviations_need_no_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    config = resolve(f"imagefolder:{tmp_path}/resnet32", "sgd", {"lr": 0.2}, {"resolution": 24})
    monkeypatch.setattr(workloads, "source", lambda name: 1 / 0)
    assert deviations(config) == {"lr": (0.1, 0.2)}
