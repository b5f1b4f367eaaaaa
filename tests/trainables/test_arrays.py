"""Arrays in a user's file: tasks, models, a short training, the key, and refusals."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from precond import HyperparameterError
from trainables.data import DataError, Loading, TensorData, source
from trainables.files import checksum
from trainables.train import Trainer
from trainables.workloads import deviations, resolve, workload

CPU = torch.device("cpu")
SHORT = {"batch_size": 20, "epochs": 3}


def arrays(*shape: int, labels: bool = True) -> dict[str, Any]:
    """Return arrays; the mean of an example's inputs is its target, or determines its label."""
    random = numpy.random.default_rng(0)
    values: dict[str, Any] = {}
    for part, count in (("train", 100), ("test", 40)):
        x = random.normal(size=(count, *shape)).astype("float32")
        mean = x.reshape(count, -1).mean(1)
        values |= {f"x_{part}": x, f"y_{part}": (mean > 0).astype("int64") if labels else mean}
    return values


def write(path: Path, values: Mapping[str, Any], **changes: Any) -> str:
    """Write a file and return the name of its dataset; a change to None removes an array."""
    merged = {k: v for k, v in {**values, **changes}.items() if v is not None}
    numpy.savez(path, **merged)
    return f"array:{path}"


def refusals(name: str) -> list[str]:
    """Return the lines of the error, without the name of the dataset."""
    with pytest.raises(HyperparameterError) as caught:
        resolve(f"{name}/mlp", "sgd")
    lines = str(caught.value).splitlines()
    assert all(line.startswith(f"{name}: ") for line in lines), lines
    return [line.removeprefix(f"{name}: ") for line in lines]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.npz"


# ---------------------------------------------------------------------- data and tasks


@pytest.mark.parametrize("shape", [(6,), (2, 8, 8)])
def test_arrays_are_loaded_unchanged(path: Path, shape: tuple[int, ...]):
    values = arrays(*shape)
    dataset = source(write(path, values))
    assert (dataset.classes, dataset.train_examples, dataset.test_examples) == (2, 100, 40)
    assert (dataset.channels, dataset.size) == (shape[0], 8 if len(shape) == 3 else 1)
    data = dataset.load(Loading(CPU, Path("x"), {}))
    assert isinstance(data, TensorData)
    parts = (data.train_inputs, data.train_targets, data.test_inputs, data.test_targets)
    for key, tensor in zip(("x_train", "y_train", "x_test", "y_test"), parts, strict=True):
        assert tensor.numpy().dtype == values[key].dtype and (tensor.numpy() == values[key]).all()
    data = dataset.load(Loading(CPU, Path("x"), {}, train_fraction=0.9))
    assert (data.train_examples, data.evaluation_examples) == (90, 10)


@pytest.mark.parametrize("model", ["cnn", "mlp", "linear", "autoencoder", "resnet20"])
def test_models_train_on_images(path: Path, model: str):
    name = f"{write(path, arrays(3, 8, 8))}/{model}"
    config = resolve(name, "nysact-s", {"rank": 2}, SHORT)
    metrics = Trainer(config, CPU).run_epoch(0)
    assert f"test/{'mse' if model == 'autoencoder' else 'accuracy'}" in metrics
    assert set(deviations(config)) <= {"batch_size", "epochs", "rank"}


@pytest.mark.parametrize("labels", [True, False])
def test_a_short_training_on_vectors_beats_a_trivial_baseline(path: Path, labels: bool):
    values = arrays(5, labels=labels)
    name = write(path, values)
    config = resolve(f"{name}/mlp", "adam", {"lr": 0.01}, {**SHORT, "epochs": 10})
    trainer = Trainer(config, CPU)
    metrics = [trainer.run_epoch(epoch) for epoch in range(10)][-1]
    if labels:
        assert metrics["test/accuracy"] > 0.85
    else:
        assert metrics["test/mse"] < 0.3 * values["y_test"].var()


@pytest.mark.parametrize("shape", [(5,), (2, 8, 8)])
def test_the_autoencoder_reconstructs_the_inputs(path: Path, shape: tuple[int, ...]):
    config = resolve(f"{write(path, arrays(*shape))}/autoencoder", "adam", {"lr": 0.01}, SHORT)
    trainer = Trainer(config, CPU)
    first, *_, last = [trainer.run_epoch(epoch)["train/mse"] for epoch in range(3)]
    assert last < min(first, 1.2)  # 1 is the error of the mean
    inputs = next(iter(trainer.data.test_batches()))[0]
    assert trainer.model(inputs).shape == inputs.shape == (40, *shape)


def test_targets_of_a_regression_can_have_several_outputs(path: Path):
    values = arrays(5, labels=False)
    targets = {
        k: numpy.stack([v, -v], 1).astype("float64") for k, v in values.items() if k[0] == "y"
    }
    name = write(path, values, **targets)
    assert source(name).classes == 2 and workload(f"{name}/linear").task.name == "regression"
    assert "test/mse" in Trainer(resolve(f"{name}/linear", "sgd", recipe=SHORT), CPU).run_epoch(0)


def test_the_file_enters_the_key(path: Path):
    name = f"{write(path, arrays(5))}/mlp"
    config = resolve(name, "sgd", recipe=SHORT)
    assert config.data == checksum(path)
    write(path, arrays(6))
    changed = resolve(name, "sgd", recipe=SHORT)
    assert changed.trial_key != config.trial_key and changed.data == checksum(path)
    with pytest.raises(DataError, match="restore the data"):
        Trainer(config, CPU)


# ---------------------------------------------------------------------- refusals


class Malicious:
    """An object that creates a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_pickles_are_never_loaded(path: Path, tmp_path: Path):
    target = tmp_path / "executed"
    objects = numpy.array([Malicious(target)], dtype=object)
    [line] = refusals(write(path, arrays(5), x_test=objects))
    assert (
        line == "x_test contains pickled objects, which are never loaded: save an array of numbers"
    )
    path.write_bytes(pickle.dumps(Malicious(target)))
    [line] = refusals(f"array:{path}")
    assert line == f"{path} is not an archive of arrays: write the file with numpy.savez"
    assert not target.exists()
    pickle.loads(path.read_bytes())
    assert target.exists()  # so loading the pickle would have run its code


def test_files_without_arrays_are_refused(path: Path, tmp_path: Path):
    assert refusals(f"array:{path}") == [f"{path}: No such file or directory"]
    assert refusals(f"array:{tmp_path}") == [f"{tmp_path} is a folder: give the path of a file"]
    numpy.save(tmp_path / "single.npy", numpy.zeros(3))
    assert "is not an archive of arrays" in refusals(f"array:{tmp_path / 'single.npy'}")[0]
    name = write(path, arrays(5), y_train=None, x_test=None)
    rule = "is missing: the file must contain x_train, y_train, x_test, y_test"
    assert refusals(name) == [f"y_train {rule}", f"x_test {rule}"]
    with zipfile.ZipFile(path, "w") as archive:
        for key in ("x_train", "y_train", "x_test", "y_test"):
            archive.writestr(f"{key}.npy", b"\x93NUMPY\x01\x00 damaged")
    lines = refusals(name)
    assert len(lines) == 4 and all("is damaged (" in line for line in lines)


NAN = numpy.full((100, 5), numpy.nan, "float32")
CHANGES = [
    ({"x_train": NAN}, ["x_train has 500 NaN or infinite values in float32"]),
    (
        {"x_test": numpy.full((40, 5), 1e300)},
        ["x_test has 200 NaN or infinite values in float32"],
    ),
    (
        {"x_train": numpy.zeros((100, 5), "uint8")},
        ["x_train is uint8: must be floating-point"],
    ),
    (
        {"y_train": numpy.zeros(100, "int32"), "y_test": numpy.array(["a"] * 40)},
        [
            "y_train is int32: must be int64 labels or floating-point",
            "y_test is <U1: must be int64 labels or floating-point",
        ],
    ),
    (
        {"x_train": numpy.zeros((100, 5, 2))},
        ["x_train has shape [100, 5, 2]: must be [n, length], or [n, channels, side, side]"],
    ),
    (
        {"x_train": numpy.zeros((100, 1, 8, 9)), "x_test": numpy.zeros((40, 1, 4, 4))},
        ["x_train has images of 8 x 9 pixels: must be squares of at least 8", "of 4 x 4 pixels"],
    ),
    (
        {"y_train": numpy.zeros((100, 1), "int64")},
        ["y_train has shape [100, 1]: must be int64 [n]"],
    ),
    ({"x_train": numpy.zeros((99, 5))}, ["x_train has 99 examples, but y_train has 100"]),
    ({"x_test": numpy.zeros((0, 5))}, ["x_test has shape [0, 5]: must be"]),
    (
        {"x_test": numpy.zeros((40, 6))},
        ["x_train is float32 [n, 5], but x_test is float32 [n, 6]: must be equal"],
    ),
    (
        {"y_test": numpy.zeros(40)},
        ["y_train is int64 [n], but y_test is float32 [n]: must be equal"],
    ),
    (
        {"y_train": numpy.zeros(100, "int64")},
        ["y_train has labels 0 to 0: must be 0 to the number"],
    ),
    ({"y_train": numpy.full(100, -1)}, ["y_train has labels -1 to -1: must be 0 to the number"]),
    ({"y_test": numpy.full(40, 2)}, ["y_test has labels 2 to 2: must be in 0..1, as in y_train"]),
]


@pytest.mark.parametrize(("changes", "lines"), CHANGES, ids=range(len(CHANGES)))
def test_each_unsuitable_array_is_refused_in_one_line(
    path: Path, changes: dict[str, Any], lines: list[str]
):
    actual = refusals(write(path, arrays(5), **changes))
    assert len(actual) == len(lines), actual
    assert all(line in text for text, line in zip(actual, lines, strict=True)), actual


def test_models_for_images_refuse_vectors_and_other_channels(path: Path):
    name = write(path, arrays(5))
    with pytest.raises(HyperparameterError) as caught:
        resolve(f"{name}/cnn", "sgd", recipe=SHORT)
    rule = "cnn requires images, but the inputs are vectors; choose mlp, linear, autoencoder"
    assert str(caught.value) == rule
    write(path, arrays(1, 8, 8))
    with pytest.raises(HyperparameterError, match="requires images with 3 channels, but these"):
        resolve(f"{name}/resnet32", "sgd", recipe=SHORT)
