"""The metrics and rows that the diagnostics of a trial add, also after a resume."""

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

MACHINE = ("time/", "mem/", "system/", "diag/overhead")  # metrics that depend on the machine
LAYERS = ["0", "3", "6", "10"]


@pytest.fixture
def config() -> TrialConfig:
    values = {"cov_interval": 3, "inv_interval": 6}
    return workloads.resolve("digits/cnn", "nysact-g", values, recipe={"epochs": 3})


def run_trial(
    root: Path, config: TrialConfig, stop_after: int | None = None, diagnostics: bool = True
) -> TrialStore:
    """Train with a commit after each epoch, and simulate a killed worker after `stop_after`."""
    store = TrialStore(root, config)
    store.create()
    for count, _ in enumerate(
        epochs(config, store, commit_every=0, diagnostics=diagnostics), start=1
    ):
        if count == stop_after:
            break
    return store


def deterministic_metrics(store: TrialStore) -> list[dict[str, float]]:
    lines = [line["metrics"] for line in store.epochs()]
    return [{k: v for k, v in line.items() if not k.startswith(MACHINE)} for line in lines]


def diagnostics_rows(store: TrialStore) -> list[dict]:
    return read_lines(store.folder / "diagnostics.jsonl")


def test_diagnostics_add_metrics_and_change_no_other_metric(tmp_path: Path, config: TrialConfig):
    """There are at most 12 metrics `diag/...` per epoch, and a row for each epoch and layer."""
    plain, observed = (
        run_trial(tmp_path / str(on), config, diagnostics=on) for on in (False, True)
    )
    assert not (plain.folder / "diagnostics.jsonl").exists()
    others = [
        {k: v for k, v in line.items() if "diag/" not in k}
        for line in deterministic_metrics(observed)
    ]
    assert others == deterministic_metrics(plain)
    rows = diagnostics_rows(observed)
    places = [(row["epoch"], row["layer"]) for row in rows]
    assert places == [(epoch, layer) for epoch in range(3) for layer in LAYERS]
    assert all(set(row) == {"epoch", "layer", *MEASURES, *COUNTS} for row in rows)
    for epoch, line in enumerate(observed.epochs()):
        metrics = {k: v for k, v in line["metrics"].items() if k.startswith("diag/")}
        assert 0 < metrics.pop("diag/overhead") < 1
        layers = {row["layer"]: row for row in rows if row["epoch"] == epoch}
        assert metrics == summarize(layers) and len(metrics) <= 11
        assert metrics["diag/cosine_min"] == min(row["cosine"] for row in layers.values())
        largest = max(row["stable_rank"] for row in layers.values())
        assert metrics["diag/stable_rank_max"] == largest
    assert "diag/staleness_max" in metrics and "diag/residual_max" in metrics


def test_a_resumed_trial_logs_the_same_diagnostics(tmp_path: Path, config: TrialConfig):
    complete = run_trial(tmp_path / "complete", config)
    run_trial(tmp_path / "stopped", config, stop_after=2)
    resumed = run_trial(tmp_path / "stopped", config)
    assert deterministic_metrics(resumed) == deterministic_metrics(complete)
    assert diagnostics_rows(resumed) == diagnostics_rows(complete)


def test_diagnostics_can_be_turned_on_when_a_trial_resumes(tmp_path: Path, config: TrialConfig):
    """Epochs before the resume have no rows, and a completed trial does not change."""
    stopped = run_trial(tmp_path, config, stop_after=1, diagnostics=False)
    assert diagnostics_rows(stopped) == []
    run_trial(tmp_path, config)
    assert {row["epoch"] for row in diagnostics_rows(stopped)} == {1, 2}
    before = (stopped.folder / "diagnostics.jsonl").read_bytes()
    run_trial(tmp_path, config)
    assert (stopped.folder / "diagnostics.jsonl").read_bytes() == before


def test_an_incomplete_line_of_diagnostics_is_removed_and_no_line_is_repeated(
    tmp_path: Path, config: TrialConfig
):
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
    assert [line["epoch"] for line in diagnostics_rows(store)] == [0] * 4 + [1] * 4
    assert path.read_text().endswith("}\n")


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_optimizers_without_diagnostics_log_no_diagnostics(tmp_path: Path, name: str):
    store = run_trial(tmp_path, workloads.resolve("digits/cnn", name, recipe={"epochs": 1}))
    assert (store.status() or {})["status"] == "completed"
    assert diagnostics_rows(store) == [] and not any(
        key.startswith("diag/") for key in deterministic_metrics(store)[0]
    )


def test_summaries_ignore_layers_without_a_value():
    row = {**dict.fromkeys(MEASURES), **dict.fromkeys(COUNTS, 0)}
    summary = summarize(
        {
            "a": {**row, "cosine": 0.5, "failed": 2},
            "b": {**row, "cosine": 0.1, "dropped": 1},
            "c": {**row},
        }
    )
    assert summary == {"diag/cosine_median": 0.3, "diag/cosine_min": 0.1, "diag/rescues": 3.0}


def test_the_command_without_ray_writes_diagnostics_on_request(tmp_path: Path, config: TrialConfig):
    trials = tmp_path / "trials.jsonl"
    trials.write_text(json.dumps({"key": config.trial_key, "config": config.to_dict()}))
    assert main([str(trials), "--out", str(tmp_path), "--diagnostics"]) == 0
    assert len(diagnostics_rows(TrialStore(tmp_path, config))) == 12
