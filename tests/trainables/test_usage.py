"""The metrics `system/...`: CPU, memory and GPU usage of a worker."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from trainables.measure import Usage, peak_memory_mb
from trainables.store import TrialStore
from trainables.train import epochs
from trainables.workloads import resolve


def set_clocks(monkeypatch: pytest.MonkeyPatch, wall: list[float], busy: list[float]) -> None:
    monkeypatch.setattr(time, "perf_counter", iter(wall).__next__)
    monkeypatch.setattr(time, "process_time", iter(busy).__next__)


def test_each_epoch_has_metrics_of_cpu_and_memory_usage(tmp_path: Path):
    config = resolve("digits/mlp", "sgd", recipe={"epochs": 2})
    store = TrialStore(tmp_path, config)
    store.create()
    list(epochs(config, store))
    for line in store.epochs():
        usage = {
            name: value for name, value in line["metrics"].items() if name.startswith("system/")
        }
        assert set(usage) == {"system/cpu_percent", "system/rss_mb"}
        assert usage["system/cpu_percent"] > 0
        assert 50 < usage["system/rss_mb"] <= 1.1 * peak_memory_mb(torch.device("cpu"))


def test_cpu_usage_is_measured_since_the_last_reading(monkeypatch: pytest.MonkeyPatch):
    set_clocks(monkeypatch, [0.0, 10.0, 12.0], [100.0, 105.0, 109.0])
    usage = Usage(torch.device("cpu"))
    assert usage.read()["system/cpu_percent"] == 50
    assert usage.read()["system/cpu_percent"] == 200  # two cores


@pytest.mark.parametrize("library", [True, False])
def test_a_gpu_adds_metrics_and_a_missing_library_is_ignored(
    monkeypatch: pytest.MonkeyPatch, library: bool
):
    def busy(device: torch.device) -> int:
        if not library:
            raise ModuleNotFoundError("nvidia-ml-py")
        return 87

    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (3 * 2**30, 4 * 2**30))
    monkeypatch.setattr(torch.cuda, "utilization", busy)
    usage = Usage(torch.device("cuda", 0)).read()
    assert usage["system/gpu_memory_mb"] == 1024
    assert usage.get("system/gpu_percent") == (87.0 if library else None)
