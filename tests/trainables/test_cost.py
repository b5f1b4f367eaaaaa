"""Tests of the cost benchmark: kinds of steps, races, intervals and result files."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

import precond
from precond.parts.stacks import named_tensors
from trainables.cost import __main__ as cost
from trainables.cost import steps
from trainables.cost.benchmark import state_bytes
from trainables.cost.contestants import PLAIN, REFRESH, STATISTICS, Kind, build
from trainables.cost.files import configuration, file_name, result_name, seconds_per_epoch
from trainables.cost.intervals import Median, median
from trainables.cost.race import race
from trainables.cost.released import _kinds
from trainables.models.small import digits_cnn
from trainables.workloads import resolve

# The optimizers of this package that have preconditioners.
PRECONDITIONED = ["nysact-s", "nysact-g", "foof", "kfac", "eva", "ekfac", "steve"]


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4, 1, 8, 8, generator=generator)
    return images, torch.randint(10, (4,), generator=generator)


@pytest.mark.parametrize("n", [6, 7, 20, 21, 50])
def test_interval_is_the_narrowest_with_95_percent_coverage(n):
    """The values are 1 to n, so that the ends of the interval are ranks.

    The number of values below the true median is binomial.
    """
    result = median(range(1, n + 1))

    def coverage(low: float, high: float) -> float:
        return sum(math.comb(n, below) / 2**n for below in range(n + 1) if low <= below < high)

    assert coverage(result.low, result.high) >= 0.95
    assert coverage(result.low + 1, result.high - 1) < 0.95
    assert (result.median, result.low + result.high) == ((n + 1) / 2, n + 1)


def test_interval_of_fewer_than_six_values_is_refused():
    with pytest.raises(ValueError, match="5 values: a 95% interval requires at least 6"):
        median([1.0] * 5)


@pytest.mark.parametrize("name", PRECONDITIONED)
def test_weights_of_step_kinds_equal_their_frequencies(name):
    """The kinds of steps are counted over a period long after the first step.

    The released code has the same schedule.
    """
    intervals = {"cov_interval": 3, "inv_interval": 4, "basis_interval": 4}
    overrides = {k: v for k, v in intervals.items() if k in precond.defaults(name)}
    contestant = build(name, digits_cnn(), overrides)
    algorithm, period = contestant.optimizer.algorithm, 12

    def kind_of(step: int) -> str:
        if algorithm.refresh_due(step):
            return REFRESH
        return STATISTICS if algorithm.statistics_due(step) else PLAIN

    counts = Counter(map(kind_of, range(120, 120 + period)))
    weights = {kind.name: kind.weight for kind in contestant.kinds}
    assert weights == {kind: count / period for kind, count in counts.items()}
    assert sum(weights.values()) == pytest.approx(1)
    if name in ("foof", "kfac", "nysact-s"):
        assert [(k.name, k.weight) for k in _kinds(3, 4)] == [*weights.items()]


@pytest.mark.parametrize("name", PRECONDITIONED)
def test_step_is_of_the_requested_kind(name, monkeypatch):
    """A step records statistics and computes factors only if its kind requires it.

    The kind of the previous step has no effect.
    """
    contestant = build(name, digits_cnn(), {})
    contestant.warm_up(batch())
    calls: Counter[str] = Counter()
    algorithm = type(contestant.optimizer.algorithm)
    for method in ("accumulate", "refresh"):
        original = getattr(algorithm, method)

        def spy(self, *args, _original=original, _method=method):
            calls[_method] += 1
            return _original(self, *args)

        monkeypatch.setattr(algorithm, method, spy)
    for kind in [*contestant.kinds, *reversed(contestant.kinds)]:
        calls.clear()
        contestant.seconds(kind, batch(), 1, cost.CLOCKS["wall"])
        assert (calls["accumulate"] > 0) == (kind.name != PLAIN), kind
        assert (calls["refresh"] > 0) == (kind.name == REFRESH), kind


class SimulatedContestant:
    """A contestant that returns fixed seconds for each kind of step, and logs the steps."""

    def __init__(self, log, name, **seconds):
        self.log, self.name, self.times = log, name, seconds
        weights = (
            {PLAIN: 0.8, STATISTICS: 0.18, REFRESH: 0.02} if len(seconds) > 1 else {PLAIN: 1.0}
        )
        self.kinds = [Kind(kind, weights[kind], 0) for kind in seconds]

    def seconds(self, kind, batch, repeat, clock):
        self.log.append(f"{self.name} {kind.name}")
        return self.times[kind.name]


def test_race_weights_the_kinds_of_steps_and_reverses_their_order_in_a_block():
    log: list[str] = []
    base, other = (
        SimulatedContestant(log, "B", plain=1.0),
        SimulatedContestant(log, "X", plain=1.1, statistics=1.6, refresh=3.6),
    )
    result = race(base, other, batch(), 6, 2, cost.CLOCKS["wall"])
    half = ["B plain", "X plain", "X statistics", "X refresh"]
    assert log == [*half, *reversed(half)] * 7  # the first block is discarded
    assert result["ratio"]["median"] == pytest.approx(0.8 * 1.1 + 0.18 * 1.6 + 0.02 * 3.6)
    shares = {name: share["median"] for name, share in result["shares"].items()}
    assert shares == pytest.approx({"apply": 0.1, "statistics": 0.2 * 0.5, "refresh": 0.02 * 2.0})
    assert sum(shares.values()) == pytest.approx(result["ratio"]["median"] - 1)


@pytest.mark.parametrize(("name", "sketches"), [("nysact-s", 2), ("nysact-g", 3)])
def test_bytes_of_nysact_state_equal_the_formula_of_the_paper(name, sketches):
    """For p inputs and rank r, a layer has 2pr + r numbers (NysAct-S) or 3pr (NysAct-G).

    A layer also has four counters, a gradient buffer, and the momentum as the state of the rule.
    """
    rank, counters = 4, 4 * 8
    contestant = build(name, digits_cnn(), {"rank": rank})
    contestant.warm_up(batch())
    shapes = [layer.shape for layer in contestant.optimizer._layers.values()]
    columns = 8 * rank if name == "nysact-s" else 0
    limit = sum(4 * sketches * shape.d_in * rank + columns + counters for shape in shapes)
    sizes = state_bytes(contestant)
    weights = sum(4 * p.numel() for p in contestant.model.parameters())
    assert 0.9 * limit < sizes["algorithm"] <= limit
    assert sizes["gradient_buffer"] == sum(4 * shape.d_in * shape.d_out for shape in shapes)
    assert sizes["rule"] == sizes["weights"] == weights


def test_file_name_depends_only_on_values_that_affect_the_cost():
    config = resolve("digits/cnn", "nysact-s")
    name = result_name(config)
    assert name.startswith("nysact-s-")
    same_cost = resolve("digits/cnn", "nysact-s", {"damping": 0.5, "lr": 0.01}, seed=3)
    assert result_name(same_cost) == name
    assert result_name(resolve("digits/cnn", "nysact-s", {"rank": 5})) != name
    assert result_name(resolve("digits/cnn", "nysact-s", {"momentum": 0.0})) != name
    assert result_name(resolve("digits/cnn", "nysact-s", recipe={"batch_size": 32})) != name
    by_hand = configuration("digits/cnn", "nysact-s", config.hyperparameters, config.batch_size)
    assert file_name(by_hand) == name
    assert file_name({**by_hand, "channels_last": True}) != name
    setting = cost.Setting(
        "digits/cnn", config.batch_size, torch.device("cpu"), False, {"damping": 1}, None
    )
    assert file_name(setting.configuration("nysact-s")) == name


def test_seconds_per_epoch_include_steps_and_evaluation(tmp_path: Path):
    config = resolve("digits/cnn", "foof")
    assert seconds_per_epoch(config, tmp_path, 10, 100) is None
    step = {"median": 0.5, "low": 0.4, "high": 0.7}
    content = json.dumps({"step_seconds": step, "evaluation_seconds_per_example": 0.01})
    (tmp_path / result_name(config)).write_text(content)
    assert seconds_per_epoch(config, tmp_path, 10, 100) == Median(6.0, 5.0, 8.0)


def test_all_invalid_arguments_are_reported_together(capsys):
    command = "mnist/cnn --optimizers nysact,foof --set damping=-1 --blocks 3 --threads 0"
    assert cost.main(command.split()) == 2
    lines = capsys.readouterr().err.splitlines()
    expected = ["workload", "nysact", "damping", "--blocks 3", "--threads 0"]
    for word, line in zip(expected, lines, strict=True):
        assert line.startswith("error: ") and word in line
    assert cost.main(["--reference", "nowhere"]) == 2
    assert "must be a checkout" in capsys.readouterr().err


def test_benchmark_command_measures_ratio_memory_and_evaluation(tmp_path: Path):
    """The command needs a new process: it sets the threads and resets the peak memory."""
    flags = "digits/cnn --batch-size 8 --blocks 6 --threads 1 --repeat 1 --optimizers eva"
    command = [sys.executable, "-m", "trainables.cost", *flags.split(), "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    assert "memory_format contiguous" in done.stdout
    assert "threads 1" in done.stdout
    [path] = tmp_path.glob("cost/*/eva-*.json")
    result = json.loads(path.read_text())
    assert result["against"]["sgd"]["ratio"]["low"] <= result["against"]["sgd"]["ratio"]["median"]
    assert result["memory"]["peak_bytes"] > result["memory"]["state_bytes"]["weights"] > 0
    assert result["evaluation_seconds_per_example"] > 0


def test_a_hyperparameter_of_no_optimizer_is_refused():
    arguments = ["digits/cnn", "--optimizers=sgd,kfac"]
    assert cost.errors([*arguments, "--set", "damping=0.1"]) == []
    [line] = cost.errors([*arguments, "--set", "dampign=0.1"])
    assert line.startswith("--set dampign: no hyperparameter of these optimizers.")
    assert 'Did you mean "damping"' in line


def test_steps_are_timed_in_turns_for_composed_names_too(capsys):
    names = "adamw,nysact-s,nysact-s+orthogonal"
    command = ["digits/cnn", f"--optimizers={names}", "--blocks=6", "--threads=1"]
    assert steps.main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["sgd", *names.split(",")]
    assert "1.00 [1.00, 1.00] x sgd" in lines[0]


def test_a_step_that_is_timed_is_plain():
    """The factors exist, nothing is recorded, and the gradients are random."""
    contestant, _ = steps.contestant("nysact-s", "digits/cnn", torch.device("cpu"))
    contestant.place(contestant.kinds[0].place)
    assert contestant.kinds[0].name == PLAIN
    optimizer = contestant.optimizer
    assert not any(bank.recording for bank in optimizer._banks)
    before = [tensor.clone() for tensor in state_tensors(optimizer)]
    optimizer.step()
    assert all(map(torch.equal, before, state_tensors(optimizer)))


def state_tensors(optimizer) -> list[torch.Tensor]:
    """Return the tensors of the preconditioners."""
    return [tensor for bank in optimizer._banks for _, tensor in named_tensors(bank.state)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--optimizers=nysact-s+sgin"], 'unknown rule "sgin". Did you mean "sign"?'),
        (["--blocks=5"], "--blocks 5: must be an integer >= 6"),
        (["--threads=0"], "--threads 0: must be an integer >= 1"),
        (["digits/cn"], "digits/cn"),
    ],
)
def test_an_invalid_command_for_steps_is_a_one_line_error(arguments, message, capsys):
    assert steps.main(arguments) == 2
    output = capsys.readouterr()
    assert output.out == "" and output.err.count("\n") == 1 and message in output.err
