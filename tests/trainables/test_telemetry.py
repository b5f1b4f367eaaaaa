"""Diagnostics of a trial: no number moves, what is logged and written, and that a resumed trial logs the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from precond.diagnostics.monitor import COUNTS, MEASURES
from trainables import workloads
from trainables.__main__ import main
from trainables.config import TrialConfig
from trainables.files import read_lines
from trainables.store import TrialStore
from trainables.telemetry import summarize
from trainables.train import epochs

DESCRIBED = ("time/", "mem/", "system/", "diag/overhead")  # what depends on the machine's speed
LAYERS = ["0", "3", "6", "10"]


@pytest.fixture
def config() -> TrialConfig:
    values = {"cov_interval": 3, "inv_interval": 6}
    return workloads.resolve("digits/cnn", "nysact-g", values, recipe={"epochs": 3})


def run(
    root: Path, config: TrialConfig, stop_after: int | None = None, diagnostics: bool = True
) -> TrialStore:
    """Train with a commit after each epoch; `stop_after` abandons the generator, as a killed worker does."""
    store = TrialStore(root, config)
    store.create()
    for count, _ in enumerate(
        epochs(config, store, commit_every=0, diagnostics=diagnostics), start=1
    ):
        if count == stop_after:
            break
    return store


def numbers(store: TrialStore) -> list[dict[str, float]]:
    lines = [line["metrics"] for line in store.epochs()]
    return [{k: v for k, v in line.items() if not k.startswith(DESCRIBED)} for line in lines]


def table(store: TrialStore) -> list[dict]:
    return read_lines(store.folder / "diagnostics.jsonl")


def test_a_watched_trial_has_the_same_numbers_and_more(tmp_path: Path, config: TrialConfig):
    """At most 12 `diag/` metrics an epoch, aggregates of the table, which has a line for each epoch and layer."""
    plain, watched = (run(tmp_path / str(on), config, diagnostics=on) for on in (False, True))
    assert not (plain.folder / "diagnostics.jsonl").exists()
    assert [
        {k: v for k, v in line.items() if "diag/" not in k} for line in numbers(watched)
    ] == numbers(plain)
    lines = table(watched)
    assert [(line["epoch"], line["layer"]) for line in lines] == [
        (e, layer) for e in range(3) for layer in LAYERS
    ]
    assert all(set(line) == {"epoch", "layer", *MEASURES, *COUNTS} for line in lines)
    for epoch, line in enumerate(watched.epochs()):
        found = {k: v for k, v in line["metrics"].items() if k.startswith("diag/")}
        assert 0 < found.pop("diag/overhead") < 1
        here = {row["layer"]: row for row in lines if row["epoch"] == epoch}
        assert found == summarize(here) and len(found) <= 11
        assert found["diag/cosine_min"] == min(row["cosine"] for row in here.values())
        assert found["diag/stable_rank_max"] == max(row["stable_rank"] for row in here.values())
    assert "diag/staleness_max" in found and "diag/residual_max" in found


def test_a_resumed_trial_logs_the_same_diagnostics(tmp_path: Path, config: TrialConfig):
    whole = run(tmp_path / "whole", config)
    run(tmp_path / "stopped", config, stop_after=2)
    resumed = run(tmp_path / "stopped", config)
    assert numbers(resumed) == numbers(whole)
    assert table(resumed) == table(whole)


def test_a_trial_that_ended_without_diagnostics_stays_as_it_is(tmp_path: Path, config: TrialConfig):
    """They are not in the key: a shared trial has them or not, and they can be asked for halfway."""
    halfway = run(tmp_path, config, stop_after=1, diagnostics=False)
    assert table(halfway) == []
    run(tmp_path, config)
    assert {line["epoch"] for line in table(halfway)} == {1, 2}
    before = (halfway.folder / "diagnostics.jsonl").read_bytes()
    run(tmp_path, config)
    assert (halfway.folder / "diagnostics.jsonl").read_bytes() == before


def test_a_torn_line_is_cut_and_no_line_comes_twice(tmp_path: Path, config: TrialConfig):
    store = TrialStore(tmp_path, config)
    store.create()
    store.begin({})
    for epoch in (0, 0, 1):
        store.record(epoch, {}, [{"epoch": epoch, "layer": layer} for layer in LAYERS])
        store._append_pending()
    path = store.folder / "diagnostics.jsonl"
    with open(path, "a") as file:
        file.write('{"epoch": 2, "la')
    store.begin({})
    assert [line["epoch"] for line in table(store)] == [0] * 4 + [1] * 4
    assert path.read_text().endswith("}\n")


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_optimizers_without_diagnostics_log_none(tmp_path: Path, name: str):
    store = run(tmp_path, workloads.resolve("digits/cnn", name, recipe={"epochs": 1}))
    assert (store.status() or {})["status"] == "completed"
    assert table(store) == [] and not any(key.startswith("diag/") for key in numbers(store)[0])


def test_summaries_leave_out_layers_without_a_measure():
    row = {**dict.fromkeys(MEASURES), **dict.fromkeys(COUNTS, 0)}
    found = summarize(
        {
            "a": {**row, "cosine": 0.5, "failed": 2},
            "b": {**row, "cosine": 0.1, "dropped": 1},
            "c": {**row},
        }
    )
    assert found == {"diag/cosine_median": 0.3, "diag/cosine_min": 0.1, "diag/rescues": 3.0}


def test_trials_without_ray_have_the_flag(tmp_path: Path, config: TrialConfig):
    trials = tmp_path / "trials.jsonl"
    trials.write_text(json.dumps({"key": config.trial_key, "config": config.to_dict()}))
    assert main([str(trials), "--out", str(tmp_path), "--diagnostics"]) == 0
    assert len(table(TrialStore(tmp_path, config))) == 12
