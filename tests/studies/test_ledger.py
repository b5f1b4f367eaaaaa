"""Ledger frames: tables of trial folders, with a row for each planned trial or committed epoch."""

import pytest
from folders import ARMS, accuracy, metrics, planned, write_trial

from studies.harness.design.options import default_root
from studies.harness.evidence import ledger, status
from trainables.config import SCHEMA
from trainables.store import DIVERGED, FAILED, OOM, StoreError, trial_folder


@pytest.fixture
def trials():
    return planned(seeds=1)


def test_rows_are_in_the_order_of_the_plan_and_contain_the_last_epoch(tmp_path, trials):
    for trial in reversed(trials):
        write_trial(tmp_path, trial)
    frame = ledger.frame(trials, tmp_path)
    assert list(frame["arm"]) == [arm.label for arm in ARMS]
    assert list(frame["test/accuracy"]) == [accuracy(trial, 1) for trial in trials]
    assert list(frame["committed"]) == [2] * len(trials)
    assert set(frame["torch"]) == {"2.15.0"}


def test_integer_factor_stays_integer_with_missing_values(tmp_path, trials):
    frame = ledger.frame(trials, tmp_path)
    assert ledger.factors(frame) == ["rank"]
    assert frame["rank"].isna().tolist()[:3] == [True, True, False]
    assert [str(level) for level in frame["rank"].dropna()] == ["5", "10", "20"] * 2


def test_each_status_is_reported(tmp_path, trials):
    write_trial(tmp_path, trials[0])
    write_trial(tmp_path, trials[1], 1, DIVERGED, epoch=1, step=7)
    write_trial(tmp_path, trials[2], 1, OOM)
    write_trial(tmp_path, trials[3], 1, FAILED, reason="ValueError: no")
    write_trial(tmp_path, trials[4], 1, None)
    frame = ledger.frame(trials, tmp_path)
    assert list(frame["status"])[:6] == [
        "completed",
        "diverged",
        "oom",
        "failed",
        "in flight",
        "not run",
    ]
    assert frame["reason"][1] == "epoch=1, step=7"
    assert frame["reason"][3] == "ValueError: no"
    assert frame["committed"][4] == 1


def test_folder_without_a_configuration_counts_as_not_run(tmp_path, trials):
    """A driver that is killed before it writes the configuration leaves an empty folder."""
    trial_folder(tmp_path, trials[0].config.trial_key).mkdir(parents=True)
    assert trials[0] in status.missing(trials, tmp_path)
    assert list(ledger.frame(trials, tmp_path)["status"]) == ["not run"] * len(trials)


def test_epoch_frame_has_one_row_per_committed_epoch(tmp_path, trials):
    write_trial(tmp_path, trials[0])
    write_trial(tmp_path, trials[1], 1, None)
    frame = ledger.frame(trials, tmp_path, per="epoch")
    assert list(zip(frame["arm"], frame["epoch"], strict=True)) == [
        ("sgd", 0),
        ("sgd", 1),
        ("foof", 0),
    ]
    assert list(frame["test/loss"]) == [
        metrics(trials[0], epoch)["test/loss"] for epoch in (0, 1, 0)
    ]
    assert (frame["time"] > 1e9).all()


def test_missing_returns_each_trial_without_a_result_once(tmp_path, trials):
    write_trial(tmp_path, trials[0])
    write_trial(tmp_path, trials[1], 1, DIVERGED)
    write_trial(tmp_path, trials[2], 1, None)
    assert status.missing([*trials[:4], trials[3]], tmp_path) == trials[2:4]
    assert status.missing(trials[:4], tmp_path, retry=[DIVERGED]) == trials[1:4]


def test_folder_of_a_newer_version_is_an_error(tmp_path, trials):
    config = write_trial(tmp_path, trials[0]).folder / "config.json"
    config.write_text(config.read_text().replace(f'"schema": {SCHEMA}', '"schema": 99'))
    with pytest.raises(StoreError, match="schema 99"):
        ledger.frame(trials, tmp_path)


def test_default_root_is_the_environment_variable_or_outputs(monkeypatch):
    monkeypatch.setenv("PRECOND_OUT", "elsewhere")
    assert str(default_root()) == "elsewhere"
    monkeypatch.delenv("PRECOND_OUT")
    assert str(default_root()) == "outputs"


def test_frame_contains_the_best_epoch_of_each_test_metric(tmp_path, trials, monkeypatch):
    curve = [(0.8, 0.9), (0.95, 0.7), (float("nan"), 0.5), (0.9, 0.6)]
    values = iter(curve)
    monkeypatch.setattr(
        "folders.metrics",
        lambda *_: dict(zip(("test/accuracy", "test/loss"), next(values), strict=True)),
    )
    write_trial(tmp_path, trials[0], len(curve))
    row = ledger.frame(trials[:2], tmp_path).iloc[0]
    assert (row["test/accuracy"], row["best/test/accuracy"], row["best/test/loss"]) == (
        0.9,
        0.95,
        0.5,
    )
