"""Trials with several processes write one folder, with the metrics of a single process."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from trainables import plugins
from trainables.config import TrialConfig
from trainables.data import DataError
from trainables.files import read_lines
from trainables.store import StoreError, TrialStore
from trainables.team import spawn
from trainables.train import epochs
from trainables.workloads import resolve

# A model without batch statistics, in float64, so that the sums over the processes equal those of
# one process. The two epochs have ten steps.
PLUGIN = """
import torch
from torch import nn
from trainables.plugins import workload

def data():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(120, 6, generator=generator, dtype=torch.float64)
    y = (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
    return x[:90], y[:90], x[90:], y[90:]

@workload("noise/norm", data=data, batch_size=18, epochs=2)
def norm():
    return nn.Sequential(nn.Linear(6, 16), nn.LayerNorm(16), nn.Tanh(), nn.Linear(16, 3)).double()
"""
NAMES = ["sgd", "nysact-s", "kfac", "kbfgs", "eva", "ekfac", "steve"]


@pytest.fixture(scope="module")
def plugin(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("plugin") / "noise.py"
    path.write_text(PLUGIN)
    plugins.load(path)
    return path


def train(
    config: TrialConfig, root: str, stop_after: int | None = None, diagnostics: bool = False
) -> None:
    store = TrialStore(root, config)
    if store.folder.exists() or config.workers == 1:
        store.create()
    running = epochs(config, store, commit_every=0, diagnostics=diagnostics)
    for number, _ in enumerate(running, start=1):
        if number == stop_after:
            return


def train_all(configs: list[TrialConfig], root: str, stop_after: int | None = None) -> None:
    for config in configs:
        train(config, root, stop_after)


def completed_metrics(root: Path, config: TrialConfig) -> list[dict[str, float]]:
    store = TrialStore(root, config)
    assert (store.status() or {}).get("status") == "completed", store.folder
    return [line["metrics"] for line in store.epochs()]


def test_two_processes_have_the_metrics_of_one_process(plugin, tmp_path):
    """The metrics agree up to rounding, also with unequal shares and after a resume."""
    plugins.write_copy(plugin, tmp_path)
    pairs = []
    for name in NAMES:
        for size in (18, 17):  # shares of 9 and 9, and of 8 and 9
            single_process, two_processes = (
                resolve("noise/norm", name, recipe={"batch_size": size, "workers": n})
                for n in (1, 2)
            )
            assert single_process.trial_key != two_processes.trial_key
            pairs.append((single_process, two_processes))
            TrialStore(tmp_path, two_processes).create()
            train(single_process, str(tmp_path))
    two_process_configs = [config for _, config in pairs]
    spawn(train_all, 2, "cpu", two_process_configs, str(tmp_path), 1)
    spawn(train_all, 2, "cpu", two_process_configs, str(tmp_path))
    for single_process, two_processes in pairs:
        expected, results = (
            completed_metrics(tmp_path, single_process),
            completed_metrics(tmp_path, two_processes),
        )
        assert len(results) == len(expected) == 2
        for first, second in zip(expected, results, strict=True):
            for key in ("train/loss", "test/loss", "train/accuracy", "test/accuracy"):
                place = f"{two_processes.optimizer} {two_processes.batch_size} {key}"
                assert second[key] == pytest.approx(first[key], rel=1e-9), place
        attempts = read_lines(TrialStore(tmp_path, two_processes).folder / "attempts.jsonl")
        assert [attempt["committed"] for attempt in attempts] == [0, 1]


def train_until_rank_1_exits(config: TrialConfig, root: str) -> None:
    running = epochs(config, TrialStore(root, config), commit_every=0)
    next(running)
    if torch.distributed.get_rank() == 1:
        os._exit(0)
    list(running)


def test_a_lost_process_does_not_fail_the_trial(plugin, tmp_path):
    """The remaining process fails in its next collective operation; the trial has no status."""
    plugins.write_copy(plugin, tmp_path)
    config = resolve("noise/norm", "sgd", recipe={"workers": 2, "epochs": 3})
    store = TrialStore(tmp_path, config)
    store.create()
    with pytest.raises(torch.multiprocessing.ProcessRaisedException):
        spawn(train_until_rank_1_exits, 2, "cpu", config, str(tmp_path))
    assert store.status() is None and [line["epoch"] for line in store.epochs()] == [0]


def raise_data_error() -> None:
    raise DataError("the data are damaged")


def test_a_data_error_of_a_process_is_one_line_of_the_caller():
    with pytest.raises(StoreError, match=r"^the data are damaged$"):
        spawn(raise_data_error, 2, "cpu")


def test_optimizers_without_data_parallel_support_are_refused(plugin):
    """Each process would compute the Hessian of only its share of the batch."""
    with pytest.raises(ValueError, match="workers = 2: must be 1 for sketchysgd"):
        resolve("noise/norm", "sketchysgd", recipe={"workers": 2})


@pytest.mark.parametrize("workers", [0, -1, 1.5, 91])
def test_a_number_of_workers_out_of_range_is_refused(plugin, workers):
    """Each worker needs at least one example of the batch."""
    with pytest.raises(ValueError, match=f"workers = {workers}"):
        resolve("noise/norm", "sgd", recipe={"workers": workers})


def test_diagnostics_of_two_processes_equal_those_of_one_process(plugin, tmp_path):
    """Only one of the processes writes the rows; the values agree up to rounding."""
    plugins.write_copy(plugin, tmp_path)
    single_process, two_processes = (
        resolve("noise/norm", "nysact-g", {"rank": 3}, recipe={"workers": n}) for n in (1, 2)
    )
    TrialStore(tmp_path, two_processes).create()
    train(single_process, str(tmp_path), diagnostics=True)
    spawn(train, 2, "cpu", two_processes, str(tmp_path), None, True)
    expected_rows, rows = (
        read_lines(TrialStore(tmp_path, config).folder / "diagnostics.jsonl")
        for config in (single_process, two_processes)
    )
    places = [(row["epoch"], row["layer"]) for row in rows]
    assert places == [(epoch, layer) for epoch in range(2) for layer in ("0", "3")]
    for row, expected_row in zip(rows, expected_rows, strict=True):
        for key, expected in expected_row.items():
            exact = expected is None or key == "layer"
            assert row[key] == (expected if exact else pytest.approx(expected, rel=1e-6)), key
    pairs = zip(
        completed_metrics(tmp_path, two_processes),
        completed_metrics(tmp_path, single_process),
        strict=True,
    )
    for metrics, expected in pairs:
        assert metrics["diag/cosine_min"] == pytest.approx(expected["diag/cosine_min"], rel=1e-6)
