"""Tasks: losses and metrics against explicit formulas, and a plugin's workload for each task."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

import precond
from trainables import metrics, plugins, tasks, workloads
from trainables.cost.benchmark import Setting
from trainables.cost.race import evaluation_seconds
from trainables.plugins import PluginError
from trainables.store import TrialStore
from trainables.tasks import Task
from trainables.train import Trainer, epochs, headline
from trainables.workloads import resolve

G = torch.Generator().manual_seed(0)
LABELS = torch.randint(3, (12,), generator=G)
LOGITS = torch.randn(12, 3, generator=G)
TOKENS = torch.randint(3, (12, 4), generator=G)
TOKENS[0, :3] = TOKENS[5] = tasks.IGNORED
TOKEN_LOGITS = torch.randn(12, 4, 3, generator=G)
PIXELS = torch.randint(3, (12, 2, 5), generator=G)
PIXELS[1, 0] = PIXELS[11] = tasks.IGNORED
PIXEL_LOGITS = torch.randn(12, 3, 2, 5, generator=G)
VALUES, TARGETS = torch.randn(12, 2, 3, generator=G), torch.randn(12, 2, 3, generator=G)


def surprise(logits: Tensor, label: int) -> float:
    """Return the cross-entropy of one unit, `-log softmax(logits)[label]`."""
    values = logits.double().exp()
    return -math.log(float(values[label] / values.sum()))


def classification() -> dict[str, float]:
    losses = [surprise(z, int(y)) for z, y in zip(LOGITS, LABELS, strict=True)]
    correct = [int(z.argmax()) == int(y) for z, y in zip(LOGITS, LABELS, strict=True)]
    return {"loss": sum(losses) / 12, "accuracy": sum(correct) / 12}


def next_token() -> dict[str, float]:
    pairs = zip(TOKEN_LOGITS.reshape(-1, 3), TOKENS.flatten().tolist(), strict=True)
    losses = [surprise(z, y) for z, y in pairs if y != tasks.IGNORED]
    assert len(losses) == 48 - 7
    mean = sum(losses) / len(losses)
    return {"loss": mean, "perplexity": math.exp(mean)}


def segmentation() -> dict[str, float]:
    logits = PIXEL_LOGITS.permute(0, 2, 3, 1).reshape(-1, 3)
    pairs = [
        (z, y) for z, y in zip(logits, PIXELS.flatten().tolist(), strict=True) if y != tasks.IGNORED
    ]
    assert len(pairs) == 120 - 15
    return {
        "loss": sum(surprise(z, y) for z, y in pairs) / len(pairs),
        "pixel_accuracy": sum(int(z.argmax()) == y for z, y in pairs) / len(pairs),
    }


def regression() -> dict[str, float]:
    squares = (VALUES.double() - TARGETS.double()) ** 2
    return {"loss": float(squares.sum() / 2 / 12), "mse": float(squares.mean())}


def evaluate(task: Task, outputs: Any, targets: Any, batch_size: int) -> dict[str, float]:
    """Evaluate in batches, as the training loop does."""
    loss, units, measures = 0.0, 0.0, torch.zeros(len(task.metrics), dtype=torch.float64)
    for z, y in zip(outputs.split(batch_size), targets.split(batch_size), strict=True):
        loss += float(task.loss_sum(z, y))
        measures += task.measures(z, y)
        units += float(task.units(y))
    means = [total / units for total in measures.tolist()]
    return {"loss": loss / units, **task.values(loss / units, means)}


CASES = [
    (tasks.CLASSIFICATION, LOGITS, LABELS, classification),
    (tasks.NEXT_TOKEN, TOKEN_LOGITS, TOKENS, next_token),
    (tasks.SEGMENTATION, PIXEL_LOGITS, PIXELS, segmentation),
    (tasks.REGRESSION, VALUES, TARGETS, regression),
]


@pytest.mark.parametrize("batch_size", [1, 5, 12])
@pytest.mark.parametrize(("task", "outputs", "targets", "formula"), CASES)
def test_evaluation_equals_the_formulas_for_each_batch_size(
    task: Task, outputs: Tensor, targets: Tensor, formula: Any, batch_size: int
):
    expected = formula()
    assert evaluate(task, outputs, targets, batch_size) == pytest.approx(expected, rel=1e-5)
    assert task.headline.name == list(expected)[1]
    assert not task.problems(targets)


@pytest.mark.parametrize(("task", "outputs", "targets", "formula"), CASES)
def test_training_loss_is_the_mean_over_the_units(
    task: Task, outputs: Tensor, targets: Tensor, formula: Any
):
    assert float(task.loss(outputs, targets)) == pytest.approx(formula()["loss"], rel=1e-5)


def test_reconstruction_compares_outputs_with_inputs():
    task = tasks.RECONSTRUCTION
    assert task.targets(VALUES, LABELS) is VALUES
    assert float(task.loss(TARGETS, task.targets(VALUES, LABELS))) == pytest.approx(
        regression()["loss"], rel=1e-5
    )


def test_class_of_a_mixed_label_is_the_likeliest():
    mixed = torch.tensor([[0.2, 0.5, 0.3], [0.6, 0.4, 0.0]])
    logits = torch.tensor([[0.0, 1.0, 0.0], [0.0, 1.0, 0.0]])
    assert tasks.CLASSIFICATION.measures(logits, mixed).tolist() == [1.0]


@pytest.mark.parametrize(
    ("task", "targets", "line"),
    [
        (tasks.CLASSIFICATION, TARGETS, "labels are [12, 2, 3] float32: must be [n] int64"),
        (tasks.NEXT_TOKEN, LABELS, "targets are [12] int64: must be [n, context] int64"),
        (tasks.SEGMENTATION, {"mask": PIXELS}, "labels are dict: must be [n, height, width] int64"),
        (
            tasks.REGRESSION,
            LABELS,
            "targets are [12] int64: must be [n, outputs] and floating-point",
        ),
    ],
)
def test_targets_that_do_not_suit_the_task_are_described(task: Task, targets: Any, line: str):
    assert task.problems(targets) == line


# ---------------------------------------------------------------------- workloads of plugins

HEADER = """
import torch
from torch import nn
from trainables.plugins import workload

G = torch.Generator().manual_seed(0)
X = torch.randn(60, 6, generator=G)
IMAGES = torch.randn(60, 1, 4, 4, generator=G)
WORDS = torch.arange(60)[:, None].add(torch.arange(5)) % 7

def halves(x, y):
    return x[:40], y[:40], x[40:], y[40:]

class Dictionary(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 1)

    def forward(self, inputs):
        return {"value": self.linear(inputs["x"]) * inputs["mask"]}

def masked():
    mask = (torch.arange(60) % 3 > 0).float()[:, None]
    part = lambda s: ({"x": X[s], "mask": mask[s]}, {"y": X[s].sum(1, keepdim=True) * mask[s]})
    return *part(slice(40)), *part(slice(40, 60))

def absolute(outputs, targets):
    return (outputs["value"] - targets["y"]).abs().mean()
"""
KINDS = {
    "sums/linear": (
        """
@workload("sums/linear", data=lambda: halves(X, X.sum(1, keepdim=True)), batch_size=8, epochs=6,
          loss="regression", optimizers={"sgd": {"lr": 0.05}})
def model():
    return nn.Linear(6, 1)
""",
        "test/mse",
    ),
    "noise/autoencoder": (
        """
@workload("noise/autoencoder", data=lambda: halves(X, X), batch_size=8, epochs=6,
          loss="reconstruction", optimizers={"sgd": {"lr": 0.05}})
def model():
    return nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 6))
""",
        "test/mse",
    ),
    "counting/embedding": (
        """
@workload("counting/embedding", data=lambda: halves(WORDS, (WORDS + 1) % 7), batch_size=8,
          epochs=6, loss="next-token", optimizers={"sgd": {"lr": 0.5}})
def model():
    return nn.Sequential(nn.Embedding(7, 8), nn.Linear(8, 7))
""",
        "test/perplexity",
    ),
    "signs/conv": (
        """
@workload("signs/conv", data=lambda: halves(IMAGES, (IMAGES[:, 0] > 0).long()), batch_size=8,
          epochs=6, loss="segmentation", optimizers={"sgd": {"lr": 0.5}})
def model():
    return nn.Conv2d(1, 2, 1)
""",
        "test/pixel_accuracy",
    ),
    "masked/linear": (
        """
@workload("masked/linear", data=masked, batch_size=8, epochs=6, optimizers={"sgd": {"lr": 0.05}},
          loss=lambda o, t: {"loss": ((o["value"] - t["y"]) ** 2).mean(), "aside": 1},
          metrics={"absolute": absolute}, higher_is_better=False)
def model():
    return Dictionary()
""",
        "test/absolute",
    ),
    "plain/linear": (
        """
@workload("plain/linear", data=lambda: halves(X, X.sum(1, keepdim=True)), batch_size=8, epochs=6,
          loss=lambda o, t: (o - t).square().mean(), optimizers={"sgd": {"lr": 0.05}})
def model():
    return nn.Linear(6, 1)
""",
        "test/loss",
    ),
}


@pytest.fixture(autouse=True)
def no_plugins() -> Iterator[None]:
    """Remove the plugins and their metrics after each test."""
    known = dict(metrics.METRICS)
    yield
    plugins.unregister()
    metrics.METRICS.clear()
    metrics.METRICS.update(known)


def load(folder: Path, code: str) -> str:
    path = folder / "plugin.py"
    path.write_text(HEADER + code)
    return plugins.load(path)


@pytest.mark.parametrize("name", KINDS)
def test_a_plugin_trains_each_kind_of_task(name: str, tmp_path: Path):
    code, metric = KINDS[name]
    load(tmp_path, code)
    plugins.write_copy(tmp_path / "plugin.py", tmp_path)
    config = resolve(name, "sgd", {"weight_decay": 0.0})
    store = TrialStore(tmp_path, config)
    store.create()
    results = list(epochs(config, store))
    assert store.status() == {**(store.status() or {}), "status": "completed"}
    better = metrics.metric(metric).higher_is_better
    first, last = results[0][metric], results[-1][metric]
    assert last > 0.9 if better else last < first
    assert results[-1]["test/loss"] < results[0]["test/loss"]
    assert headline(config, results[-1]).startswith(metric.removeprefix("test/"))
    part = {key for key in results[0] if key.startswith(("train/", "test/"))}
    assert part == {f"{p}/{m}" for p in ("train", "test") for m in {"loss", metric[5:]}}


@pytest.mark.parametrize("name", [*KINDS, "digits/cnn", "digits/autoencoder"])
def test_costs_are_measured_with_the_loss_of_the_task(name: str, tmp_path: Path):
    """The step of a contestant equals a step of plain SGD with the loss of the task.

    A plugin's 40 training examples are repeated in the batch of 50.
    """
    if name in KINDS:
        load(tmp_path, KINDS[name][0])
    setting = Setting(name, 50, torch.device("cpu"), False, {}, None)
    batch, chosen = setting.batch(), workloads.workload(name)
    assert {len(leaf) for leaf in tree_leaves(batch)} == {50}
    contestant, model = setting.contestant("sgd"), setting.model()
    contestant.train(*batch)
    optimizer = precond.build("sgd", model, **{**setting.hyperparameters("sgd"), "lr": 1e-3})
    chosen.task.loss(model(batch[0]), batch[1]).backward()
    optimizer.step()
    for actual, expected in zip(contestant.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(actual, expected)
    assert evaluation_seconds(contestant, batch, time.perf_counter) > 0


def test_evaluation_of_a_plugin_does_not_depend_on_its_batches(tmp_path: Path):
    load(tmp_path, KINDS["masked/linear"][0])
    config = resolve("masked/linear", "sgd")
    trainer = Trainer(config, torch.device("cpu"))
    data: Any = trainer.data
    with torch.no_grad():
        outputs = trainer.model.eval()(data.test_inputs)
    error = outputs["value"] - data.test_targets["y"]
    evaluated = trainer.evaluate()
    assert evaluated["absolute"] == pytest.approx(float(error.abs().mean()), rel=1e-6)
    assert evaluated["loss"] == pytest.approx(float((error**2).mean()), rel=1e-6)
    batches = data.test_batches
    data.test_batches = lambda: batches(3)
    assert trainer.evaluate() == pytest.approx(evaluated, rel=1e-6)


@pytest.mark.parametrize("name", ["noise/autoencoder", "counting/embedding", "signs/conv"])
def test_a_task_with_other_metrics_keeps_its_loss_and_targets(name: str, tmp_path: Path):
    """The metric repeats the loss, so its evaluation must be that of the loss."""
    code = KINDS[name][0].replace(
        "epochs=6,", "epochs=6, metrics={'surprisal': SURPRISAL}, higher_is_better=False,"
    )
    task = {"noise": "RECONSTRUCTION", "counting": "NEXT_TOKEN", "signs": "SEGMENTATION"}
    metric = (
        f"from trainables import tasks\nSURPRISAL = tasks.{task[name.partition('/')[0]]}.loss\n"
    )
    load(tmp_path, metric + code)
    trainer = Trainer(resolve(name, "sgd"), torch.device("cpu"))
    evaluated = trainer.evaluate()
    assert set(evaluated) == {"loss", "surprisal"}
    assert evaluated["surprisal"] == pytest.approx(evaluated["loss"], rel=1e-5)


def test_dictionaries_of_a_plugin_can_be_held_out(tmp_path: Path):
    load(tmp_path, KINDS["masked/linear"][0])
    config = resolve("masked/linear", "sgd", recipe={"train_fraction": 0.75})
    trainer = Trainer(config, torch.device("cpu"))
    assert (trainer.data.train_examples, trainer.data.evaluation_examples) == (30, 10)
    assert "absolute" in trainer.evaluate()


ARGUMENTS = "'a/b', data=lambda: halves(X, X), batch_size=8, epochs=1"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("loss='regresion'", 'loss = "regresion": unknown. Did you mean "regression"'),
        ("loss=absolute, metrics={'mae': absolute}", 'metric "mae" has no direction'),
        (
            "loss=absolute, metrics={'mae': absolute, 'r2': absolute}, higher_is_better={'mae': False}",
            'metric "r2" has no direction: pass higher_is_better={"r2": True} or False',
        ),
        (
            "metrics={'accuracy': absolute}, higher_is_better=False",
            'metric "accuracy" exists, and higher values are better',
        ),
        (
            "metrics={'loss': absolute}, higher_is_better=False",
            'metric "loss": must be a Python name other than "loss"',
        ),
        (
            "metrics={'m/e': absolute}, higher_is_better=False",
            'metric "m/e": must be a Python name other than "loss"',
        ),
    ],
)
def test_an_invalid_task_of_a_plugin_is_refused_in_one_line(
    arguments: str, line: str, tmp_path: Path
):
    code = f"@workload({ARGUMENTS}, {arguments})\ndef model():\n    return nn.Linear(6, 6)\n"
    with pytest.raises(PluginError) as error:
        load(tmp_path, code)
    assert line in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("data", "loss", "line"),
    [
        ("halves(X, X)", "lambda o, t: (o - t) ** 2", "the loss is [2, 6] float32: must be a"),
        ("halves(X, X)", "lambda o, t: 1.0", "the loss is float: must be a floating-point scalar"),
        ("halves(X, X)", "lambda o, t: o['value']", "loss of a/b: "),
        ("halves(X, X[:, 0])", "'regression'", "targets are [40] float32: must be [n, outputs]"),
        (
            "halves(X, X[:, :1])",
            "'regression'",
            "outputs are [2, 6] and targets are [2, 1]: must have equal shapes",
        ),
        ("(X[:9], X[:8], X, X)", "'regression'", "8 and 9 examples; inputs and targets must"),
        ("(X, {}, X, X)", "'regression'", "must be a tuple of four tensors"),
    ],
)
def test_data_and_losses_that_do_not_fit_are_reported_before_training(
    data: str, loss: str, line: str, tmp_path: Path
):
    arguments = f"'a/b', data=lambda: {data}, batch_size=8, epochs=1, loss={loss}"
    load(tmp_path, f"@workload({arguments})\ndef model():\n    return nn.Linear(6, 6)\n")
    source = workloads.workload("a/b").source
    problems = source.problems(tmp_path) or workloads.workload("a/b").problems({}, 1)
    assert len(problems) == 1 and line in problems[0] and "\n" not in problems[0]
