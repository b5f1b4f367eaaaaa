"""What the loop does beside the optimizer: smoothing, mixing, warm-up, decay groups, precision, compilation, phases."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from synthetic import synthetic
from test_train import numbers, run
from torch import nn

import precond
from trainables import descent, measure, train, workloads
from trainables.data.transforms import Mixer
from trainables.descent import parameter_groups, schedule
from trainables.models import large, small
from trainables.train import Trainer
from trainables.workloads import resolve

CPU = torch.device("cpu")


def trainer(workload: str = "digits/mlp", optimizer: str = "sgd", **settings: Any) -> Trainer:
    return Trainer(resolve(workload, optimizer, recipe={"epochs": 3, **settings}), CPU)


def first_batch(of: Trainer) -> tuple[torch.Tensor, torch.Tensor]:
    return next(iter(of.data.train_batches(of.config.batch_size, train.stream_seed(0, "order", 0))))


# ---------------------------------------------------------------------- the loss


def test_smoothed_labels_are_spread_over_all_classes(monkeypatch: pytest.MonkeyPatch):
    plain = trainer(label_smoothing=0.3)
    inputs, labels = first_batch(plain)
    target = 0.7 * F.one_hot(labels, 10).double() + 0.3 / 10
    expected = -(target * plain.model(inputs).double().log_softmax(1)).sum(1).mean().item()
    losses: list[float] = []
    backward = precond.backward

    def noting(loss: torch.Tensor, optimizer: Any) -> None:
        losses.append(loss.item())
        backward(loss, optimizer)

    monkeypatch.setattr(precond, "backward", noting)
    plain.run_epoch(0)
    assert losses[0] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    "settings", [{"mixup": 0.2}, {"cutmix": 1.0}, {"mixup": 0.2, "cutmix": 1.0}]
)
def test_mixing_is_decided_by_its_seed_alone_and_leaves_the_models_stream_alone(
    settings: dict[str, float],
):
    mixer = Mixer(settings, 10)
    inputs, labels = (
        torch.arange(8.0).view(8, 1, 1, 1).expand(8, 1, 6, 6).contiguous(),
        torch.arange(8),
    )
    torch.manual_seed(5)
    expected_draw = torch.rand(3)
    torch.manual_seed(5)
    first, same, other = (mixer(inputs, labels, seed=seed) for seed in (1, 1, 2))
    assert torch.rand(3).equal(expected_draw)
    assert first[0].equal(same[0]) and first[1].equal(same[1]) and not first[1].equal(other[1])
    assert first[1].shape == (8, 10) and torch.allclose(first[1].sum(1), torch.ones(8))
    # Each image and its label are the same mixture of the batch and the batch rolled by one.
    share = first[1][torch.arange(8), labels]
    mixed = share * labels + (1 - share) * labels.roll(1)
    torch.testing.assert_close(first[0].mean((1, 2, 3)), mixed.float())


def test_nothing_is_mixed_without_either():
    inputs, labels = torch.randn(4, 1, 2, 2), torch.arange(4)
    assert Mixer({}, 10)(inputs, labels, seed=0) == (inputs, labels)


def test_both_kinds_of_mixing_occur():
    mixer = Mixer({"mixup": 0.5, "cutmix": 0.5}, 2)
    inputs, labels = (
        torch.arange(2.0).view(2, 1, 1, 1).expand(2, 1, 32, 32).contiguous(),
        torch.arange(2),
    )
    cut = [len(mixer(inputs, labels, seed=seed)[0][0].unique()) == 2 for seed in range(20)]
    assert 3 < sum(cut) < 17


def test_every_step_of_every_epoch_is_mixed_otherwise(monkeypatch: pytest.MonkeyPatch):
    seeds: list[int] = []
    mixed = Mixer.__call__

    def noting(self: Mixer, inputs: torch.Tensor, labels: torch.Tensor, seed: int):
        seeds.append(seed)
        return mixed(self, inputs, labels, seed)

    monkeypatch.setattr(Mixer, "__call__", noting)
    each = trainer(mixup=0.2)
    metrics = each.run_epoch(0)
    each.run_epoch(1)
    assert len(seeds) == 36 == len(set(seeds))
    assert 0.1 < metrics["train/accuracy"] <= 1  # counted against the larger share


# ---------------------------------------------------------------------- learning rate and weight decay


def test_the_warm_up_is_linear_and_the_schedule_follows():
    cosine = schedule("cosine", 110, warmup=10)
    assert [cosine(step) for step in (0, 5, 10, 60, 110)] == pytest.approx([0.01, 0.505, 1, 0.5, 0])
    constant = schedule("constant", 110, warmup=10)
    assert [constant(step) for step in (0, 5, 10, 110)] == pytest.approx([0.01, 0.505, 1, 1])
    assert schedule("cosine", 10)(0) == 1


def test_the_warm_up_is_counted_in_epochs():
    each = trainer(warmup_epochs=1)  # of 18 steps
    each.run_epoch(0)
    assert each.optimizer.param_groups[0]["lr"] == pytest.approx(0.1)
    each.run_epoch(1)
    assert each.optimizer.param_groups[0]["lr"] == pytest.approx(0.05)


class Everything(nn.Module):
    """A parameter of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm2d = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.linear, self.norm = nn.Linear(4, 4), nn.LayerNorm(4)
        self.class_token = nn.Parameter(torch.ones(1, 1, 4))


NORMS = {"norm2d.weight", "norm2d.bias", "norm.weight", "norm.bias"}
SPARED = {
    "nothing": set(),
    "norm": NORMS,
    "vectors": NORMS | {"conv.bias", "linear.bias", "class_token"},
}


@pytest.mark.parametrize("exempt", SPARED)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "nysact-s", "steve", "sketchysgd", "soap"])
def test_weight_decay_spares_what_it_says(exempt: str, optimizer: str):
    model = Everything()
    groups = parameter_groups(model, exempt)
    built = precond.build(optimizer, model, params=groups, weight_decay=0.1)
    decays = {p: group["weight_decay"] for group in built.param_groups for p in group["params"]}
    spared = {name for name, p in model.named_parameters() if not decays[p]}
    assert spared == SPARED[exempt] and set(decays.values()) <= {0.0, 0.1} and len(decays) == 9


def test_the_trials_optimizer_has_the_groups_of_its_settings():
    """Weights without gradient shrink by lr x decay in the first step, and those that are spared do not."""
    config = resolve("digits/cnn", "sgd", {"weight_decay": 0.5}, {"decay_exempt": "norm"})
    model = workloads.workload("digits/cnn").build(config.settings)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    descent.build_optimizer(config, model).step()
    for name, p in model.named_parameters():
        factor = 1 if name.split(".")[0] in ("1", "4", "7") else 1 - 0.1 * 0.5
        torch.testing.assert_close(p.detach(), factor * before[name])


# ---------------------------------------------------------------------- how it is computed


def test_bf16_computes_in_bf16_and_keeps_float32_weights():
    each = trainer("digits/cnn", "nysact-s", precision="bf16")
    seen: set[torch.dtype] = set()
    each.model.register_forward_hook(lambda _, __, output: seen.add(output.dtype))
    metrics, exact = each.run_epoch(0), trainer("digits/cnn", "nysact-s").run_epoch(0)
    assert seen == {torch.bfloat16} and {p.dtype for p in each.model.parameters()} == {
        torch.float32
    }
    assert (
        metrics["train/loss"]
        != exact["train/loss"]
        == pytest.approx(metrics["train/loss"], rel=0.1)
    )


def test_channels_last_is_a_layout_and_no_other_function():
    each, plain = trainer("digits/cnn", "foof", channels_last=True), trainer("digits/cnn", "foof")
    convolution = each.model[3]
    assert convolution.weight.is_contiguous(memory_format=torch.channels_last)
    layouts: list[bool] = []
    convolution.register_forward_hook(
        lambda _, inputs, __: layouts.append(
            inputs[0].is_contiguous(memory_format=torch.channels_last)
        )
    )
    assert each.run_epoch(0)["train/loss"] == pytest.approx(
        plain.run_epoch(0)["train/loss"], rel=1e-3
    )
    assert all(layouts)


def test_a_compiled_trial_goes_through_the_compiler_and_keeps_its_names(
    monkeypatch: pytest.MonkeyPatch,
):
    calls: list[nn.Module] = []

    def eager(model: nn.Module) -> Any:
        calls.append(model)
        return functools.partial(compiler, backend="eager")(model)

    compiler = torch.compile
    monkeypatch.setattr(torch, "compile", eager)
    plain, compiled = (
        trainer("digits/cnn", "nysact-s"),
        trainer("digits/cnn", "nysact-s", compile=True),
    )
    assert calls == [compiled.model]
    ours, theirs = compiled.run_epoch(0), plain.run_epoch(0)
    assert {name: ours[name] for name in ("train/loss", "test/loss")} == {
        name: theirs[name] for name in ("train/loss", "test/loss")
    }
    assert compiled.state_dict()["model"].keys() == plain.state_dict()["model"].keys()
    torch._dynamo.reset()


def test_a_resumed_run_with_every_setting_is_bitwise_the_uninterrupted_one(tmp_path: Path):
    settings = {
        "epochs": 3,
        "mixup": 0.2,
        "cutmix": 1.0,
        "label_smoothing": 0.1,
        "warmup_epochs": 1,
    }
    config = resolve(
        "digits/cnn", "nysact-g", {}, {**settings, "decay_exempt": "vectors", "precision": "bf16"}
    )
    whole = run(tmp_path / "whole", config)
    stopped = run(tmp_path / "stopped", config, stop_after=2)
    assert (stopped.load() or (None,))[0] == 1
    assert numbers(run(tmp_path / "stopped", config)) == numbers(whole)


def test_a_trial_on_a_part_of_the_training_set_is_scored_on_the_rest():
    each = trainer(train_fraction=0.9)
    metrics = each.run_epoch(0)
    assert each.data.train_examples + each.data.evaluation_examples == 1197
    assert each.data.evaluation_examples == pytest.approx(120, abs=5)
    assert "val/accuracy" in metrics and not any(name.startswith("test/") for name in metrics)
    assert train.score(metrics) == metrics["val/accuracy"]
    assert train.score(trainer().run_epoch(0)) > 0.5


# ---------------------------------------------------------------------- transformers


@pytest.fixture
def tiny_vit(monkeypatch: pytest.MonkeyPatch):
    for name, value in {"WIDTH": 24, "DEPTH": 3, "HEADS": 2}.items():
        monkeypatch.setattr(large, name, value)
    monkeypatch.setattr(workloads, "source", synthetic)
    workloads.skeleton.cache_clear()
    yield
    workloads.skeleton.cache_clear()


def test_stochastic_depth_rises_to_its_rate_and_skips_whole_branches(tiny_vit: None):
    torch.manual_seed(0)
    model = large.vit_s16(3, 32, drop_path=0.5)
    blocks = list(model.encoder.layers)
    assert [(block.dropout.p, block.mlp[-1].p) for block in blocks] == [
        (0.0, 0.0),
        (0.25, 0.25),
        (0.5, 0.5),
    ]
    ones = torch.ones(4000, 1, 2)
    kept = blocks[2].dropout.train()(ones)
    assert set(kept.unique().tolist()) == {0.0, 2.0} and kept.mean().item() == pytest.approx(
        1, abs=0.1
    )
    x = torch.randn(4, 3, 32, 32)
    assert not model.train()(x).equal(model(x))
    assert model.eval()(x).equal(model(x))


@pytest.mark.parametrize("optimizer", precond.available())
def test_a_step_of_a_transformer(tiny_vit: None, optimizer: str):
    """Those that need second derivatives, too: attention has none but in its plain form."""
    rank = {"rank": 5} if "rank" in precond.defaults(optimizer) else {}
    settings = {"batch_size": 4, "epochs": 1, "resolution": 32, "drop_path": 0.2}
    each = Trainer(resolve("cifar100/vit_s16", optimizer, rank, settings), CPU)
    metrics = each.run_epoch(0)
    assert metrics["train/loss"] == pytest.approx(4.6, abs=0.3)


# ---------------------------------------------------------------------- phases


def test_the_phases_tile_the_training_time(monkeypatch: pytest.MonkeyPatch):
    """Under a clock that each reading advances by one second, every second is some phase's."""
    now = iter(range(10**6))
    monkeypatch.setattr(measure.time, "perf_counter", lambda: float(next(now)))
    metrics = trainer().run_epoch(0)
    assert [metrics[f"time/{phase}_s"] for phase in ("data", "forward_backward", "step")] == [
        18,
        18,
        18,
    ]
    assert metrics["time/other_s"] == metrics["time/train_s"] - 54 <= 2


def test_a_phase_has_the_seconds_that_are_spent_in_it():
    each = trainer()
    each.optimizer.register_step_pre_hook(lambda *_: measure.time.sleep(0.02))
    metrics = each.run_epoch(0)
    assert metrics["time/step_s"] >= 18 * 0.02 > metrics["time/data_s"]
    assert 0 <= metrics["time/other_s"] < 0.2 * metrics["time/train_s"]


def test_a_checkpoints_seconds_are_those_of_the_commit_before(tmp_path: Path):
    store = run(tmp_path, resolve("digits/mlp", "sgd", recipe={"epochs": 3}))
    seconds = [line["metrics"]["time/checkpoint_s"] for line in store.epochs()]
    assert seconds[0] == 0 and all(value > 0 for value in seconds[1:])


def test_a_cifar_resnet_takes_other_sizes():
    assert small.resnet20(4)(torch.randn(2, 3, 20, 20)).shape == (2, 4)
