"""`system/...`: what a trial's worker says of its own process and device, beside the numbers it leaves alone."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from trainables.measure import Usage, peak_memory_mb
from trainables.store import TrialStore
from trainables.train import epochs
from trainables.workloads import resolve


def clocks(monkeypatch: pytest.MonkeyPatch, wall: list[float], busy: list[float]) -> None:
    monkeypatch.setattr(time, "perf_counter", iter(wall).__next__)
    monkeypatch.setattr(time, "process_time", iter(busy).__next__)


def test_every_epoch_has_them_and_mlflow_knows_them_by_their_prefix(tmp_path: Path):
    config = resolve("digits/mlp", "sgd", recipe={"epochs": 2})
    store = TrialStore(tmp_path, config)
    store.create()
    list(epochs(config, store))
    for line in store.epochs():
        found = {
            name: value for name, value in line["metrics"].items() if name.startswith("system/")
        }
        assert set(found) == {"system/cpu_percent", "system/rss_mb"}
        assert found["system/cpu_percent"] > 0
        assert 50 < found["system/rss_mb"] <= 1.1 * peak_memory_mb(torch.device("cpu"))


def test_each_reading_is_since_the_last_one(monkeypatch: pytest.MonkeyPatch):
    clocks(monkeypatch, [0.0, 10.0, 12.0], [100.0, 105.0, 109.0])
    usage = Usage(torch.device("cpu"))
    assert usage.read()["system/cpu_percent"] == 50
    assert usage.read()["system/cpu_percent"] == 200  # two cores


@pytest.mark.parametrize("library", [True, False])
def test_a_gpu_has_its_own_and_no_library_fails_a_trial(
    monkeypatch: pytest.MonkeyPatch, library: bool
):
    def busy(device: torch.device) -> int:
        if not library:
            raise ModuleNotFoundError("nvidia-ml-py")
        return 87

    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (3 * 2**30, 4 * 2**30))
    monkeypatch.setattr(torch.cuda, "utilization", busy)
    found = Usage(torch.device("cuda", 0)).read()
    assert found["system/gpu_memory_mb"] == 1024
    assert found.get("system/gpu_percent") == (87.0 if library else None)
