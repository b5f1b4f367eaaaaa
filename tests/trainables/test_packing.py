"""Tests of the number of trials per GPU, with simulated GPUs and with a measurement on the CPU."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from trainables.config import TrialConfig
from trainables.packing import MAX_PROCESSES, Load, grow, share, side_by_side
from trainables.workloads import resolve


def simulate_gpu(throughputs: list[float], memory_mb: float, capacity_mb: float = 1000.0):
    """Simulate a GPU.

    Args:
        throughputs: Steps per second of 1, 2, ... processes.
        memory_mb: Memory of each process.
        capacity_mb: Memory of the GPU.

    Returns:
        A function that replaces the measurement, and a list of the arguments of its calls (numbers
        of processes).
    """

    def measure(processes: int) -> Load:
        calls.append(processes)
        speed = throughputs[min(processes, len(throughputs)) - 1]
        return Load(
            processes=processes,
            steps_per_s=speed,
            memory_mb=memory_mb * processes,
            capacity_mb=capacity_mb,
        )

    calls: list[int] = []
    return measure, calls


@pytest.mark.parametrize(
    ("throughputs", "memory_mb", "expected", "expected_calls"),
    [
        ([10, 19, 25, 25.5], 10, 3, [1, 2, 3, 4]),  # the fourth process adds two percent
        ([10, 9], 10, 1, [1, 2]),
        ([10, 20, 30, 40], 300, 3, [1, 2, 3]),  # a fourth process would need 1200 of 1000 MB
        ([10, 20], 900, 1, [1]),
        ([2.0**n for n in range(20)], 1, MAX_PROCESSES, list(range(1, MAX_PROCESSES + 1))),
    ],
)
def test_a_process_is_added_only_if_it_fits_and_raises_the_throughput(
    throughputs, memory_mb, expected, expected_calls
):
    measure, calls = simulate_gpu(throughputs, memory_mb)
    assert len(grow(measure)) == expected and calls == expected_calls


def test_a_measurement_above_the_memory_limit_is_not_used():
    def measure(processes: int) -> Load:
        # Two processes need 985 of 1000 MB. The prediction, 2 x 400, is below the limit of 900.
        return Load(
            processes=processes,
            steps_per_s=processes,
            memory_mb=400 * processes**1.3,
            capacity_mb=1000,
        )

    assert len(grow(measure)) == 1


def test_only_the_optimizer_with_the_most_memory_is_packed_and_the_result_is_reused(tmp_path: Path):
    """The stored result does not depend on the order or the seeds of the trials.

    A new optimizer leads to a new measurement."""
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
    # The result is the largest share over the workloads.
    assert share(tmp_path, [sgd, foof, other], "cpu", measure) == 0.5
    assert calls[0] == ("sgd", 1) and {name for name, _ in calls} == {"sgd"}
    stored = json.loads((tmp_path / "packing" / "cpu" / "digits-cnn.json").read_text())
    assert stored["hungriest"] == "foof" and stored["processes"] == 2 and len(stored["loads"]) == 2


def test_an_incomplete_result_file_leads_to_a_new_measurement(tmp_path: Path):
    path = tmp_path / "packing" / "cpu" / "digits-cnn.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"processes": 3')
    measure, calls = simulate_gpu([10, 9], 10)
    sgd = resolve("digits/cnn", "sgd")
    assert share(tmp_path, [sgd], "cpu", lambda config, n: measure(n)) == 1 and calls


def test_the_load_of_two_processes_is_measured_while_they_train(tmp_path: Path):
    load = side_by_side(tmp_path, resolve("digits/cnn", "sgd"), 2, "cpu", seconds=0.5)
    assert load.processes == 2 and load.steps_per_s > 0
    assert load.memory_mb == 0 and load.capacity_mb == math.inf
