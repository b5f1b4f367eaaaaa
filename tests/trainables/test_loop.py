"""Settings of the training loop, and the times of its phases.

The settings are label smoothing, Mixup, CutMix, warm-up, weight decay, precision and compilation.
"""

from __future__ import annotations

import functools
import io
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from synthetic import synthetic
from test_train import deterministic_metrics, run_trial
from torch import nn

import precond
from trainables import descent, measure, train, workloads
from trainables.config import stream_seed
from trainables.data.transforms import Mixer
from trainables.descent import parameter_groups, schedule
from trainables.models import large, small
from trainables.train import Trainer
from trainables.workloads import resolve

CPU = torch.device("cpu")


def build_trainer(workload: str = "digits/mlp", optimizer: str = "sgd", **settings: Any) -> Trainer:
    return Trainer(resolve(workload, optimizer, recipe={"epochs": 3, **settings}), CPU)


def first_batch(trainer: Trainer) -> tuple[torch.Tensor, torch.Tensor]:
    seed = stream_seed(0, "order", 0)
    return next(iter(trainer.data.train_batches(trainer.config.batch_size, seed)))


def numbered_images(batch: int, channels: int, size: int) -> torch.Tensor:
    """Return images `[batch, channels, size, size]` in which all pixels are the image's index."""
    pixels = torch.arange(float(batch)).view(batch, 1, 1, 1)
    return pixels.expand(batch, channels, size, size).contiguous()


# ---------------------------------------------------------------------- the loss


def test_smoothed_labels_are_spread_over_all_classes(monkeypatch: pytest.MonkeyPatch):
    trainer = build_trainer(label_smoothing=0.3)
    inputs, labels = first_batch(trainer)
    target = 0.7 * F.one_hot(labels, 10).double() + 0.3 / 10
    expected = -(target * trainer.model(inputs).double().log_softmax(1)).sum(1).mean().item()
    losses: list[float] = []
    backward = precond.backward

    def record(loss: torch.Tensor, optimizer: Any) -> None:
        losses.append(loss.item())
        backward(loss, optimizer)

    monkeypatch.setattr(precond, "backward", record)
    trainer.run_epoch(0)
    assert losses[0] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    "settings", [{"mixup": 0.2}, {"cutmix": 1.0}, {"mixup": 0.2, "cutmix": 1.0}]
)
def test_mixing_depends_on_its_seed_only_and_keeps_the_global_random_state(
    settings: dict[str, float],
):
    mixer = Mixer(settings, 10)
    inputs, labels = numbered_images(8, 1, 6), torch.arange(8)
    torch.manual_seed(5)
    expected_draw = torch.rand(3)
    torch.manual_seed(5)
    first, same, other = (mixer(inputs, labels, seed=seed) for seed in (1, 1, 2))
    assert torch.rand(3).equal(expected_draw)
    assert first[0].equal(same[0]) and first[1].equal(same[1]) and not first[1].equal(other[1])
    assert first[1].shape == (8, 10) and torch.allclose(first[1].sum(1), torch.ones(8))
    # Images and labels are mixed with the previous example of the batch, in the same proportion.
    share = first[1][torch.arange(8), labels]
    mixed = share * labels + (1 - share) * labels.roll(1)
    torch.testing.assert_close(first[0].mean((1, 2, 3)), mixed.float())


def test_batches_are_unchanged_without_mixup_and_cutmix():
    inputs, labels = torch.randn(4, 1, 2, 2), torch.arange(4)
    assert Mixer({}, 10)(inputs, labels, seed=0) == (inputs, labels)


def test_mixup_and_cutmix_are_both_drawn():
    mixer = Mixer({"mixup": 0.5, "cutmix": 0.5}, 2)
    inputs, labels = numbered_images(2, 1, 32), torch.arange(2)
    cut = [len(mixer(inputs, labels, seed=seed)[0][0].unique()) == 2 for seed in range(20)]
    assert 3 < sum(cut) < 17


def test_each_step_of_each_epoch_has_a_different_mixing_seed(monkeypatch: pytest.MonkeyPatch):
    seeds: list[int] = []
    mix = Mixer.__call__

    def record(self: Mixer, inputs: torch.Tensor, labels: torch.Tensor, seed: int):
        seeds.append(seed)
        return mix(self, inputs, labels, seed)

    monkeypatch.setattr(Mixer, "__call__", record)
    trainer = build_trainer(mixup=0.2)
    metrics = trainer.run_epoch(0)
    trainer.run_epoch(1)
    assert len(seeds) == 36 == len(set(seeds))  # two epochs of 18 steps
    assert 0.1 < metrics["train/accuracy"] <= 1  # counts the class with the larger share


# ---------------------------------------------------------------------- schedule and weight decay


def test_the_warm_up_is_linear_and_the_schedule_follows():
    cosine = schedule("cosine", 110, warmup=10)
    assert [cosine(step) for step in (0, 5, 10, 60, 110)] == pytest.approx([0.01, 0.505, 1, 0.5, 0])
    constant = schedule("constant", 110, warmup=10)
    assert [constant(step) for step in (0, 5, 10, 110)] == pytest.approx([0.01, 0.505, 1, 1])
    assert schedule("cosine", 10)(0) == 1


def test_the_warm_up_is_counted_in_epochs():
    trainer = build_trainer(warmup_epochs=1)
    trainer.run_epoch(0)
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(0.1)
    trainer.run_epoch(1)
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(0.05)


def test_the_evaluation_uses_the_averaged_weights_of_schedule_free():
    pytest.importorskip("pytorch_optimizer")
    trainer = build_trainer(optimizer="schedulefree-adamw")
    evaluated = trainer.run_epoch(0)["test/loss"]
    trained = [p.detach().clone() for p in trainer.model.parameters()]
    assert trainer.evaluate()["loss"] == evaluated
    assert all(map(torch.equal, trained, trainer.model.parameters()))
    trainer.optimizer.eval()  # type: ignore[attr-defined]
    assert trainer.evaluate()["loss"] == evaluated
    with torch.no_grad():
        for p, value in zip(trainer.model.parameters(), trained, strict=True):
            p.copy_(value)
    assert trainer.evaluate()["loss"] != evaluated


PEERS = ["muon", "psgd-kron", "schedulefree-adamw", "sophia-h", "shampoo-graft"]


@pytest.mark.parametrize("optimizer", [*PEERS, "pytorch-optimizer:kron"])
def test_a_peer_resumes_bitwise_from_the_state_of_a_trial(optimizer: str):
    pytest.importorskip("pytorch_optimizer")
    first, second = (build_trainer(optimizer=optimizer) for _ in range(2))
    first.run_epoch(0)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    results = [trainer.run_epoch(1) for trainer in (first, second)]
    names = [name for name in results[0] if name.startswith(("train/", "test/"))]
    assert [results[0][name] for name in names] == [results[1][name] for name in names]
    assert all(map(torch.equal, first.model.parameters(), second.model.parameters()))


class AllKinds(nn.Module):
    """A module with every kind of parameter that weight decay distinguishes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm2d = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.linear, self.norm = nn.Linear(4, 4), nn.LayerNorm(4)
        self.class_token = nn.Parameter(torch.ones(1, 1, 4))


NORMS = {"norm2d.weight", "norm2d.bias", "norm.weight", "norm.bias"}
EXEMPT = {
    "nothing": set(),
    "norm": NORMS,
    "vectors": NORMS | {"conv.bias", "linear.bias", "class_token"},
}


@pytest.mark.parametrize("setting", EXEMPT)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "nysact-s", "steve", "sketchysgd", "soap"])
def test_exempt_parameters_have_no_weight_decay(setting: str, optimizer: str):
    model = AllKinds()
    groups = parameter_groups(model, setting)
    built = precond.build(optimizer, model, params=groups, weight_decay=0.1)
    decays = {p: group["weight_decay"] for group in built.param_groups for p in group["params"]}
    exempt = {name for name, p in model.named_parameters() if not decays[p]}
    assert exempt == EXEMPT[setting] and set(decays.values()) <= {0.0, 0.1} and len(decays) == 9


def test_the_setting_decay_exempt_reaches_the_optimizer():
    """With zero gradients, the first step shrinks a parameter by lr x decay unless it is exempt."""
    config = resolve("digits/cnn", "sgd", {"weight_decay": 0.5}, {"decay_exempt": "norm"})
    model = workloads.workload("digits/cnn").build(config.settings)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    descent.build_optimizer(config, model).step()
    for name, p in model.named_parameters():
        # Modules 1, 4 and 7 are the batch norms.
        factor = 1 if name.split(".")[0] in ("1", "4", "7") else 1 - 0.1 * 0.5
        torch.testing.assert_close(p.detach(), factor * before[name])


# ---------------------------------------------------------------------- precision and compilation


def test_bf16_computes_in_bf16_and_keeps_float32_weights():
    trainer = build_trainer("digits/cnn", "nysact-s", precision="bf16")
    dtypes: set[torch.dtype] = set()
    trainer.model.register_forward_hook(lambda _, __, output: dtypes.add(output.dtype))
    loss = trainer.run_epoch(0)["train/loss"]
    expected = build_trainer("digits/cnn", "nysact-s").run_epoch(0)["train/loss"]
    assert dtypes == {torch.bfloat16}
    assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}
    assert loss != expected == pytest.approx(loss, rel=0.1)


def test_channels_last_changes_the_layout_but_not_the_loss():
    trainer = build_trainer("digits/cnn", "foof", channels_last=True)
    convolution = trainer.model[3]
    assert convolution.weight.is_contiguous(memory_format=torch.channels_last)
    layouts: list[bool] = []

    def record(_: nn.Module, inputs: tuple[torch.Tensor], __: torch.Tensor) -> None:
        layouts.append(inputs[0].is_contiguous(memory_format=torch.channels_last))

    convolution.register_forward_hook(record)
    expected = build_trainer("digits/cnn", "foof").run_epoch(0)["train/loss"]
    assert trainer.run_epoch(0)["train/loss"] == pytest.approx(expected, rel=1e-3)
    assert all(layouts)


def test_a_compiled_model_keeps_its_parameter_names_and_loss(monkeypatch: pytest.MonkeyPatch):
    calls: list[nn.Module] = []

    def eager(model: nn.Module) -> Any:
        calls.append(model)
        return functools.partial(compiler, backend="eager")(model)

    compiler = torch.compile
    monkeypatch.setattr(torch, "compile", eager)
    plain = build_trainer("digits/cnn", "nysact-s")
    compiled = build_trainer("digits/cnn", "nysact-s", compile=True)
    assert calls == [compiled.model]
    metrics, expected = compiled.run_epoch(0), plain.run_epoch(0)
    for name in ("train/loss", "test/loss"):
        assert metrics[name] == expected[name]
    assert compiled.state_dict()["model"].keys() == plain.state_dict()["model"].keys()
    torch._dynamo.reset()


def test_resume_with_many_settings_is_bitwise(tmp_path: Path):
    settings = {
        "epochs": 3,
        "mixup": 0.2,
        "cutmix": 1.0,
        "label_smoothing": 0.1,
        "warmup_epochs": 1,
        "decay_exempt": "vectors",
        "precision": "bf16",
    }
    config = resolve("digits/cnn", "nysact-g", {}, settings)
    complete = run_trial(tmp_path / "complete", config)
    stopped = run_trial(tmp_path / "stopped", config, stop_after=2)
    assert (stopped.load() or (None,))[0] == 1
    assert deterministic_metrics(run_trial(tmp_path / "stopped", config)) == deterministic_metrics(
        complete
    )


def test_training_on_a_fraction_is_scored_on_the_held_out_examples():
    trainer = build_trainer(train_fraction=0.9)
    metrics = trainer.run_epoch(0)
    assert trainer.data.train_examples + trainer.data.evaluation_examples == 1197
    assert trainer.data.evaluation_examples == pytest.approx(120, abs=5)
    assert "val/accuracy" in metrics and not any(name.startswith("test/") for name in metrics)
    text = f"accuracy {metrics['val/accuracy']:.2%}"
    assert train.headline(trainer.config, metrics) == text
    assert build_trainer().run_epoch(0)["test/accuracy"] > 0.5


# ---------------------------------------------------------------------- transformers


@pytest.fixture
def tiny_vit(monkeypatch: pytest.MonkeyPatch):
    for name, value in {"WIDTH": 24, "DEPTH": 3, "HEADS": 2}.items():
        monkeypatch.setattr(large, name, value)
    monkeypatch.setattr(workloads, "source", synthetic)
    workloads.skeleton.cache_clear()
    yield
    workloads.skeleton.cache_clear()


def test_stochastic_depth_grows_to_its_rate_and_skips_branches_per_example(tiny_vit: None):
    torch.manual_seed(0)
    model = large.vit_s16(3, 32, drop_path=0.5)
    blocks = list(model.encoder.layers)
    rates = [(block.dropout.p, block.mlp[-1].p) for block in blocks]
    assert rates == [(0.0, 0.0), (0.25, 0.25), (0.5, 0.5)]
    ones = torch.ones(4000, 1, 2)
    outputs = blocks[2].dropout.train()(ones)
    assert set(outputs.unique().tolist()) == {0.0, 2.0}
    assert outputs.mean().item() == pytest.approx(1, abs=0.1)
    x = torch.randn(4, 3, 32, 32)
    assert not model.train()(x).equal(model(x))
    assert model.eval()(x).equal(model(x))


@pytest.mark.parametrize("optimizer", precond.available())
def test_each_optimizer_trains_a_transformer(tiny_vit: None, optimizer: str):
    """Attention must use a kernel that supports second derivatives if the optimizer needs them."""
    rank = {"rank": 5} if "rank" in precond.defaults(optimizer) else {}
    settings = {"batch_size": 4, "epochs": 1, "resolution": 32, "drop_path": 0.2}
    trainer = Trainer(resolve("cifar100/vit_s16", optimizer, rank, settings), CPU)
    metrics = trainer.run_epoch(0)
    assert metrics["train/loss"] == pytest.approx(4.6, abs=0.3)


def test_the_second_evaluation_of_a_batch_is_not_part_of_the_metrics():
    """With a learning rate of 0, the loss is that of SGD, although the forward runs twice."""
    results, calls = [], []
    for optimizer in ("sgd", "kbfgs"):
        trainer = Trainer(resolve("digits/mlp", optimizer, {"lr": 0.0}, {"epochs": 1}), CPU)
        counts: list[bool] = []
        trainer.model.register_forward_pre_hook(
            lambda module, _, counts=counts: counts.append(module.training)
        )
        results.append(trainer.run_epoch(0))
        calls.append(sum(counts))
    for name in ("train/loss", "train/accuracy", "test/loss"):
        assert results[0].get(name) == results[1].get(name)
    assert calls[1] == 2 * calls[0] > 0


# ---------------------------------------------------------------------- phases


def test_phases_sum_to_the_training_time(monkeypatch: pytest.MonkeyPatch):
    """The clock advances by one second at each reading, so that lost seconds would be noticed."""
    now = iter(range(10**6))
    monkeypatch.setattr(measure.time, "perf_counter", lambda: float(next(now)))
    metrics = build_trainer().run_epoch(0)
    phases = ("data", "forward_backward", "step")
    assert [metrics[f"time/{phase}_s"] for phase in phases] == [18, 18, 18]
    assert metrics["time/other_s"] == metrics["time/train_s"] - 54 <= 2


def test_seconds_in_the_optimizer_step_belong_to_the_phase_step():
    trainer = build_trainer()
    trainer.optimizer.register_step_pre_hook(lambda *_: measure.time.sleep(0.02))
    metrics = trainer.run_epoch(0)
    assert metrics["time/step_s"] >= 18 * 0.02 > metrics["time/data_s"]
    assert 0 <= metrics["time/other_s"] < 0.2 * metrics["time/train_s"]


def test_an_epoch_reports_the_checkpoint_seconds_of_the_previous_commit(tmp_path: Path):
    store = run_trial(tmp_path, resolve("digits/mlp", "sgd", recipe={"epochs": 3}))
    seconds = [line["metrics"]["time/checkpoint_s"] for line in store.epochs()]
    assert seconds[0] == 0 and all(value > 0 for value in seconds[1:])


def test_cifar_resnets_accept_other_image_sizes():
    assert small.resnet20(4)(torch.randn(2, 3, 20, 20)).shape == (2, 4)
