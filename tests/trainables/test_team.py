"""A trial trained by two processes has the numbers of one, and one folder."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from trainables import plugins
from trainables.config import TrialConfig
from trainables.files import read_lines
from trainables.store import TrialStore
from trainables.team import spawn
from trainables.train import epochs
from trainables.workloads import resolve

# Ten steps in float64 of a model with LayerNorm: what a process computes is a part of a sum, and nothing else.
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
NAMES = ["sgd", "nysact-s", "kfac", "eva", "ekfac", "steve"]


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


def lines(root: Path, config: TrialConfig) -> list[dict[str, float]]:
    store = TrialStore(root, config)
    assert (store.status() or {}).get("status") == "completed", store.folder
    return [line["metrics"] for line in store.epochs()]


def test_two_processes_have_the_numbers_of_one(plugin, tmp_path):
    """Up to the order of sums; a batch of 18 is 9 and 9, of 17 it is 8 and 9. Resumed, the second epoch is the same."""
    plugins.keep(plugin, tmp_path)
    pairs = []
    for name in NAMES:
        for size in (18, 17):
            one, two = (
                resolve("noise/norm", name, recipe={"batch_size": size, "workers": n})
                for n in (1, 2)
            )
            assert one.trial_key != two.trial_key
            pairs.append((one, two))
            TrialStore(tmp_path, two).create()
            train(one, str(tmp_path))
    two = [config for _, config in pairs]
    spawn(train_all, 2, "cpu", two, str(tmp_path), 1)
    spawn(train_all, 2, "cpu", two, str(tmp_path))
    for one, two in pairs:
        expected, found = lines(tmp_path, one), lines(tmp_path, two)
        assert len(found) == len(expected) == 2
        for first, second in zip(expected, found, strict=True):
            for key in ("train/loss", "test/loss", "train/accuracy", "test/accuracy"):
                assert second[key] == pytest.approx(first[key], rel=1e-9), (
                    f"{two.optimizer} {two.batch_size} {key}"
                )
        attempts = (TrialStore(tmp_path, two).folder / "attempts.jsonl").read_text().splitlines()
        assert [json.loads(line)["committed"] for line in attempts] == [0, 1]


def train_until_one_is_gone(config: TrialConfig, root: str) -> None:
    running = epochs(config, TrialStore(root, config), commit_every=0)
    next(running)
    if torch.distributed.get_rank() == 1:
        os._exit(0)
    list(running)


def test_a_process_that_is_lost_fails_no_trial(plugin, tmp_path):
    """The other meets an error in its next sum, which is no error of the trial: it stays in flight."""
    plugins.keep(plugin, tmp_path)
    config = resolve("noise/norm", "sgd", recipe={"workers": 2, "epochs": 3})
    store = TrialStore(tmp_path, config)
    store.create()
    with pytest.raises(torch.multiprocessing.ProcessRaisedException):
        spawn(train_until_one_is_gone, 2, "cpu", config, str(tmp_path))
    assert store.status() is None and [line["epoch"] for line in store.epochs()] == [0]


def test_methods_that_see_one_process_only_are_refused(plugin):
    """Their Hessian would be of a share of the batch."""
    with pytest.raises(ValueError, match="workers = 2: sketchysgd"):
        resolve("noise/norm", "sketchysgd", recipe={"workers": 2})


@pytest.mark.parametrize("workers", [0, -1, 1.5, 91])
def test_a_number_of_workers_out_of_range_is_refused(plugin, workers):
    """A worker needs at least one example."""
    with pytest.raises(ValueError, match=f"workers = {workers}"):
        resolve("noise/norm", "sgd", recipe={"workers": workers})


def test_diagnostics_of_a_team_are_those_of_one_process(plugin, tmp_path):
    """A line for each epoch and layer, by one of them; the same up to the order of sums."""
    plugins.keep(plugin, tmp_path)
    one, two = (
        resolve("noise/norm", "nysact-g", {"rank": 3}, recipe={"workers": n}) for n in (1, 2)
    )
    TrialStore(tmp_path, two).create()
    train(one, str(tmp_path), diagnostics=True)
    spawn(train, 2, "cpu", two, str(tmp_path), None, True)
    expected, found = (
        read_lines(TrialStore(tmp_path, each).folder / "diagnostics.jsonl") for each in (one, two)
    )
    assert [(row["epoch"], row["layer"]) for row in found] == [
        (e, layer) for e in range(2) for layer in ("0", "3")
    ]
    for mine, theirs in zip(found, expected, strict=True):
        for key, value in theirs.items():
            assert mine[key] == (
                value if value is None or key == "layer" else pytest.approx(value, rel=1e-6)
            ), key
    for mine, theirs in zip(lines(tmp_path, two), lines(tmp_path, one), strict=True):
        assert mine["diag/cosine_min"] == pytest.approx(theirs["diag/cosine_min"], rel=1e-6)
