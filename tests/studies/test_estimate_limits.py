"""The estimate of a dry run is bounded in time and memory, and says how it was measured."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import pytest

from studies.ablation_rank import STUDY
from studies.harness.command import estimate as module
from studies.harness.command.estimate import Estimate, Probe, estimate, probe
from studies.harness.command.limited import MeasurementError, OverLimitError, limited
from studies.harness.design.options import Options
from trainables.workloads import resolve


def test_a_measurement_that_takes_too_long_ends():
    start = time.monotonic()
    with pytest.raises(OverLimitError):
        limited(lambda: time.sleep(60), 0.05)
    assert time.monotonic() - start < 30


def test_a_measurement_that_needs_too_much_memory_ends():
    def allocate() -> int:
        return len(bytearray(2**46))

    with pytest.raises(OverLimitError):
        limited(allocate, 60)


def test_a_measurement_returns_its_result_or_its_error():
    assert limited(lambda: [1.5, 2], 60) == [1.5, 2]
    with pytest.raises(MeasurementError, match="ZeroDivisionError"):
        limited(lambda: 1 / 0, 60)


def test_the_probe_of_a_large_batch_uses_fewer_examples():
    config = resolve("cifar10/resnet32", "sgd")
    result = probe(config, steps=2, seconds=0.0)
    assert result.examples == 2 < config.batch_size and result.seconds > 0


def test_optimizers_beyond_the_limits_are_named_and_not_included(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    shares = []

    def limited_to_sgd(work: partial, seconds: float) -> list[float]:
        shares.append(seconds)
        if work.args[0].optimizer != "sgd":
            raise OverLimitError
        return [0.01, 100, 2]

    monkeypatch.setattr(module, "limited", limited_to_sgd)
    trials = STUDY.trials(seeds=[0])
    estimated = estimate(trials, Options(out=tmp_path, max_concurrent=1))
    assert (estimated.probed, estimated.unknown) == (("sgd",), ("nysact-s", "nysact-g", "foof"))
    [sgd] = [trial.config for trial in trials if trial.arm.label == "sgd"]
    assert estimated.seconds == pytest.approx(sgd.epochs * 0.01 * 1197)
    assert shares[0] <= module.TOTAL_SECONDS / 4 and shares[-1] > shares[0]
    text = str(estimated)
    assert "at most 20 steps of sgd with smaller batches (2 examples) on one CPU thread" in text
    assert (
        "Not included: nysact-s, nysact-g, foof, which exceed the limits of a dry run (15 s" in text
    )


def test_an_estimate_without_any_measurement_says_so():
    text = str(Estimate(0.0, 1, 0, (), unknown=("kfac",)))
    assert text.startswith("The training time is not estimated, because the steps of kfac exceed")
    assert "Disk" not in text


def test_the_range_of_the_batches_is_stated():
    assert "smaller batches (2 to 8 examples)" in str(
        Estimate(1.0, 1, 0, ("a", "b"), batches=(2, 8))
    )
    assert Probe(0.0, 0, 0).examples == 0
