"""How many trials share a GPU: the rule, on loads that are given, and the measuring itself, on this machine's CPU."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from trainables.config import TrialConfig
from trainables.packing import MOST, Load, grow, share, side_by_side
from trainables.workloads import resolve


def loads(throughputs: list[float], memory_mb: float, capacity_mb: float = 1000.0):
    """A GPU with such a throughput for 1, 2, ... processes, each of which takes so much memory."""

    def measure(processes: int) -> Load:
        asked.append(processes)
        speed = throughputs[min(processes, len(throughputs)) - 1]
        return Load(
            processes=processes,
            steps_per_s=speed,
            memory_mb=memory_mb * processes,
            capacity_mb=capacity_mb,
        )

    asked: list[int] = []
    return measure, asked


@pytest.mark.parametrize(
    ("throughputs", "memory_mb", "expected", "asked"),
    [
        ([10, 19, 25, 25.5], 10, 3, [1, 2, 3, 4]),  # the fourth adds two percent
        ([10, 9], 10, 1, [1, 2]),
        ([10, 20, 30, 40], 300, 3, [1, 2, 3]),  # a fourth would need 1200 of 1000 MB: not tried
        ([10, 20], 900, 1, [1]),
        ([2.0**n for n in range(20)], 1, MOST, list(range(1, MOST + 1))),
    ],
)
def test_one_more_process_must_fit_and_gain(throughputs, memory_mb, expected, asked):
    measure, tried = loads(throughputs, memory_mb)
    assert len(grow(measure)) == expected and tried == asked


def test_memory_that_grows_faster_than_the_number_is_noticed():
    def measure(processes: int) -> Load:
        return Load(
            processes=processes,
            steps_per_s=processes,
            memory_mb=400 * processes**1.3,
            capacity_mb=1000,
        )

    assert len(grow(measure)) == 1


def test_it_is_measured_once_with_the_hungriest_optimizer_and_kept(tmp_path: Path):
    """Another optimizer of the workload is new; the same are not, in whatever order and with whatever seed."""
    calls: list[tuple[str, int]] = []

    def measure(config: TrialConfig, processes: int) -> Load:
        calls.append((config.optimizer, processes))
        memory = {"sgd": 100, "nysact-g": 150, "foof": 400}[config.optimizer]
        return Load(
            processes=processes,
            steps_per_s=10.0 * processes,
            memory_mb=memory * processes,
            capacity_mb=1000.0,
        )

    sgd, nysact, foof = (resolve("digits/cnn", name) for name in ("sgd", "nysact-g", "foof"))
    assert share(tmp_path, [sgd, nysact], "cpu", measure) == 0.1666  # 6 x 150 <= 900
    assert calls == [("sgd", 1), ("nysact-g", 1), *(("nysact-g", n) for n in range(1, 7))]
    calls.clear()
    assert share(tmp_path, [nysact.with_seed(3), sgd], "cpu", measure) == 0.1666 and calls == []
    assert share(tmp_path, [sgd, foof], "cpu", measure) == 0.5
    other = resolve("digits/mlp", "sgd")
    calls.clear()
    assert (
        share(tmp_path, [sgd, foof, other], "cpu", measure) == 0.5
    )  # the largest share that any of them needs
    assert calls[0] == ("sgd", 1) and {name for name, _ in calls} == {"sgd"}
    kept = json.loads((tmp_path / "packing" / "cpu" / "digits-cnn.json").read_text())
    assert kept["hungriest"] == "foof" and kept["processes"] == 2 and len(kept["loads"]) == 2


def test_half_a_file_is_measured_again(tmp_path: Path):
    path = tmp_path / "packing" / "cpu" / "digits-cnn.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"processes": 3')
    measure, asked = loads([10, 9], 10)
    assert (
        share(tmp_path, [resolve("digits/cnn", "sgd")], "cpu", lambda config, n: measure(n)) == 1
        and asked
    )


def test_processes_side_by_side_are_measured_by_training(tmp_path: Path):
    load = side_by_side(tmp_path, resolve("digits/cnn", "sgd"), 2, "cpu", seconds=0.5)
    assert (
        load.processes == 2
        and load.steps_per_s > 0
        and load.memory_mb == 0
        and load.capacity_mb == math.inf
    )
