"""The cost benchmark: exact shares of the kinds of steps, steps of the kind they claim, an interval that covers."""

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
from trainables.cost import __main__ as cost
from trainables.cost.benchmark import state_bytes
from trainables.cost.contestants import PLAIN, REFRESH, STATISTICS, Kind, build
from trainables.cost.files import configuration, file_name, result_name, seconds_per_epoch
from trainables.cost.intervals import Median, median
from trainables.cost.race import race
from trainables.cost.released import _kinds
from trainables.models.small import digits_cnn
from trainables.workloads import resolve

OURS = ["nysact-s", "nysact-g", "foof", "kfac", "eva", "ekfac", "steve"]


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(4, 1, 8, 8, generator=generator), torch.randint(
        10, (4,), generator=generator
    )


@pytest.mark.parametrize("n", [6, 7, 20, 21, 50])
def test_the_interval_covers_the_median_with_95_percent_and_no_narrower_one_does(n):
    """The number of values below the true median is binomial: with ranks 1 to n as values the ends are ranks."""
    found = median(range(1, n + 1))
    inside = [
        math.comb(n, below) / 2**n for below in range(n + 1) if found.low <= below < found.high
    ]
    assert sum(inside) >= 0.95
    narrower = [
        math.comb(n, below) / 2**n
        for below in range(n + 1)
        if found.low + 1 <= below < found.high - 1
    ]
    assert sum(narrower) < 0.95
    assert (found.median, found.low + found.high) == ((n + 1) / 2, n + 1)


def test_too_few_values_have_no_interval():
    with pytest.raises(ValueError, match="5 values: 95 percent need at least 6"):
        median([1.0] * 5)


@pytest.mark.parametrize("name", OURS)
def test_the_shares_of_the_kinds_are_those_of_a_run(name):
    """Over a period of the intervals, after the first step; and the released code has the same schedule."""
    intervals = {"cov_interval": 3, "inv_interval": 4, "basis_interval": 4}
    contestant = build(
        name, digits_cnn(), {k: v for k, v in intervals.items() if k in precond.defaults(name)}
    )
    algorithm, period = contestant.optimizer.algorithm, 12
    run = Counter(
        REFRESH
        if algorithm.refresh_due(s)
        else STATISTICS
        if algorithm.statistics_due(s)
        else PLAIN
        for s in range(120, 120 + period)
    )
    assert {kind.name: kind.weight for kind in contestant.kinds} == {
        k: n / period for k, n in run.items()
    }
    assert sum(kind.weight for kind in contestant.kinds) == pytest.approx(1)
    if name in ("foof", "kfac", "nysact-s"):
        assert [(k.name, k.weight) for k in _kinds(3, 4)] == [
            (k.name, k.weight) for k in contestant.kinds
        ]


@pytest.mark.parametrize("name", OURS)
def test_a_step_is_of_the_kind_that_it_is_put_at(name, monkeypatch):
    """Whatever kind the step before was: statistics are recorded and factors made when the kind says so."""
    contestant = build(name, digits_cnn(), {})
    contestant.warm_up(batch())
    seen: Counter[str] = Counter()
    algorithm = type(contestant.optimizer.algorithm)
    for method in ("accumulate", "refresh"):
        original = getattr(algorithm, method)

        def spy(self, *args, _original=original, _method=method):
            seen[_method] += 1
            return _original(self, *args)

        monkeypatch.setattr(algorithm, method, spy)
    for kind in [*contestant.kinds, *reversed(contestant.kinds)]:
        seen.clear()
        contestant.seconds(kind, batch(), 1, cost.CLOCKS["wall"])
        assert (seen["accumulate"] > 0, seen["refresh"] > 0) == (
            kind.name != PLAIN,
            kind.name == REFRESH,
        ), kind


class Stub:
    """A contestant whose steps take a stated time."""

    def __init__(self, log, name, **seconds):
        self.log, self.name, self.times = log, name, seconds
        weights = (
            {PLAIN: 0.8, STATISTICS: 0.18, REFRESH: 0.02} if len(seconds) > 1 else {PLAIN: 1.0}
        )
        self.kinds = [Kind(kind, weights[kind], 0) for kind in seconds]

    def seconds(self, kind, batch, repeat, clock):
        self.log.append(f"{self.name} {kind.name}")
        return self.times[kind.name]


def test_a_race_weighs_the_kinds_and_turns_around():
    log: list[str] = []
    base, other = Stub(log, "B", plain=1.0), Stub(log, "X", plain=1.1, statistics=1.6, refresh=3.6)
    result = race(base, other, batch(), 6, 2, cost.CLOCKS["wall"])
    half = ["B plain", "X plain", "X statistics", "X refresh"]
    assert log == [*half, *reversed(half)] * 7  # the first block is discarded
    assert result["ratio"]["median"] == pytest.approx(0.8 * 1.1 + 0.18 * 1.6 + 0.02 * 3.6)
    shares = {name: share["median"] for name, share in result["shares"].items()}
    assert shares == pytest.approx({"apply": 0.1, "statistics": 0.2 * 0.5, "refresh": 0.02 * 2.0})
    assert sum(shares.values()) == pytest.approx(result["ratio"]["median"] - 1)


@pytest.mark.parametrize(("name", "sketches"), [("nysact-s", 2), ("nysact-g", 3)])
def test_the_state_of_nysact_is_what_the_paper_says(name, sketches):
    """2pr + r numbers a layer (S) or 3pr (G), and four counters; beyond that one gradient buffer and the momentum."""
    rank, counters = 4, 4 * 8
    contestant = build(name, digits_cnn(), {"rank": rank})
    contestant.warm_up(batch())
    shapes = [layer.shape for layer in contestant.optimizer._layers.values()]
    columns = 8 * rank if name == "nysact-s" else 0
    limit = sum(4 * sketches * shape.d_in * rank + columns + counters for shape in shapes)
    found = state_bytes(contestant)
    assert 0.9 * limit < found["algorithm"] <= limit
    assert found["gradient_buffer"] == sum(4 * shape.d_in * shape.d_out for shape in shapes)
    assert (
        found["rule"]
        == found["weights"]
        == sum(4 * p.numel() for p in contestant.model.parameters())
    )


def test_a_file_belongs_to_what_decides_the_cost():
    config = resolve("digits/cnn", "nysact-s")
    name = result_name(config)
    assert name.startswith("nysact-s-")
    assert (
        result_name(resolve("digits/cnn", "nysact-s", {"damping": 0.5, "lr": 0.01}, seed=3)) == name
    )
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


def test_seconds_per_epoch_are_steps_and_evaluation(tmp_path: Path):
    config = resolve("digits/cnn", "foof")
    assert seconds_per_epoch(config, tmp_path, 10, 100) is None
    step = {"median": 0.5, "low": 0.4, "high": 0.7}
    content = json.dumps({"step_seconds": step, "evaluation_seconds_per_example": 0.01})
    (tmp_path / result_name(config)).write_text(content)
    assert seconds_per_epoch(config, tmp_path, 10, 100) == Median(6.0, 5.0, 8.0)


def test_wrong_values_are_told_all_at_once(capsys):
    bad = [
        "mnist/cnn",
        "--optimizers",
        "nysact,foof",
        "--set",
        "damping=-1",
        "--blocks",
        "3",
        "--threads",
        "0",
    ]
    assert cost.main(bad) == 2
    lines = capsys.readouterr().err.splitlines()
    expected = ["workload", "nysact", "damping", "--blocks 3", "--threads 0"]
    assert len(lines) == len(expected)
    assert all(
        word in line and line.startswith("error: ")
        for word, line in zip(expected, lines, strict=True)
    )
    assert cost.main(["--reference", "nowhere"]) == 2
    assert "must be a checkout" in capsys.readouterr().err


def test_a_measurement_end_to_end(tmp_path: Path):
    """In processes of its own: it sets threads, and resets memory marks."""
    command = [
        sys.executable,
        "-m",
        "trainables.cost",
        "digits/cnn",
        "--batch-size",
        "8",
        "--blocks",
        "6",
    ]
    command += ["--threads", "1", "--repeat", "1", "--optimizers", "eva", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    assert "memory_format contiguous" in done.stdout
    assert "threads 1" in done.stdout
    [path] = tmp_path.glob("cost/*/eva-*.json")
    result = json.loads(path.read_text())
    assert result["against"]["sgd"]["ratio"]["low"] <= result["against"]["sgd"]["ratio"]["median"]
    assert result["memory"]["peak_bytes"] > result["memory"]["state_bytes"]["weights"] > 0
    assert result["evaluation_seconds_per_example"] > 0
