"""The progress display of a study's training, on a terminal of 80 columns and in a log."""

from __future__ import annotations

import io
from dataclasses import replace
from types import SimpleNamespace

import pytest
from rich.console import Console

from studies.ablation_rank import STUDY
from studies.harness.cluster import notebook, progress
from studies.harness.cluster.progress import StudyProgress
from studies.harness.design.arms import Arm
from studies.harness.kinds.study.study import Trial


@pytest.fixture
def trials() -> list[Trial]:
    return replace(STUDY, arms=STUDY.arms[:3]).trials("digits/cnn", seeds=[0, 1])


def console(terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=80, color_system=None)


def keys(trials: list[Trial]) -> list[str]:
    return [trial.config.trial_key for trial in trials]


def printed_lines(output: Console) -> list[str]:
    assert isinstance(output.file, io.StringIO)
    return output.file.getvalue().splitlines()


def test_log_shows_counts_and_running_trials(trials, monkeypatch):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    log = console(terminal=False)
    with StudyProgress(trials, log) as study_progress:
        assert study_progress._counts() == "0/6 trials, starting"
        study_progress.epoch(keys(trials)[0], 0, {"test/accuracy": 0.5})
        study_progress.epoch(keys(trials)[1], 0, {"test/accuracy": 0.25})
        study_progress.epoch(keys(trials)[0], 1, {"test/accuracy": 0.75})
        study_progress.finished(keys(trials)[0], "completed", "")
    epochs = trials[0].config.epochs
    first, _, third, fourth = printed_lines(log)
    assert first == f"0/6 trials; nysact-s rank=5 seed 0: epoch 1/{epochs}, accuracy 50.00%"
    assert third.startswith("0/6 trials, ")
    assert f"nysact-s rank=5 seed 0: epoch 2/{epochs}, accuracy 75.00%; n" in third
    assert fourth.startswith("1/6 trials, ") and "rank=5" not in fourth
    assert all(len(line) <= 80 for line in printed_lines(log))


def test_log_shows_the_headline_metric_of_the_workload(monkeypatch):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    study = replace(STUDY, arms=[Arm(optimizer="sgd")], arms_on={})
    [sgd] = study.trials("digits/autoencoder", seeds=[0])
    log = console(terminal=False)
    with StudyProgress([sgd], log) as study_progress:
        study_progress.epoch(sgd.config.trial_key, 0, {"test/loss": 32.0, "test/mse": 1.0625})
    assert printed_lines(log) == ["0/1 trials; sgd seed 0: epoch 1/20, mse 1.062"]


def test_log_has_no_line_before_the_interval_ends(trials):
    log = console(terminal=False)
    with StudyProgress(trials, log) as study_progress:
        for epoch in range(5):
            study_progress.epoch(keys(trials)[0], epoch, {"test/accuracy": 0.5})
    assert printed_lines(log) == []


def test_first_error_is_printed_and_equal_errors_are_counted(trials):
    """A reason may contain brackets, which rich must not parse as markup."""
    log = console(terminal=False)
    with StudyProgress(trials, log) as study_progress:
        for key in keys(trials)[:3]:
            study_progress.finished(key, "failed", "KeyError: [bold]")
        study_progress.finished(keys(trials)[3], "diverged", "loss = nan at epoch 0, step 3")
        assert len(printed_lines(log)) == 2
    first, second, count = printed_lines(log)
    log_file = f"trials/{keys(trials)[0][:16]}/log.txt"
    assert first == f"nysact-s rank=5 seed 0 failed: KeyError: [bold] ({log_file})"
    assert second.startswith(
        "nysact-s rank=5 seed 1 diverged: loss = nan at epoch 0, step 3 (trials/"
    )
    assert count == "3 trials failed: KeyError: [bold]"


def test_terminal_shows_a_bar_and_a_line_for_each_running_trial(trials):
    terminal = console(terminal=True)
    study_progress = StudyProgress(trials, terminal)
    for key in keys(trials):
        study_progress.epoch(key, 0, {"test/accuracy": 0.5})
    study_progress.finished(keys(trials)[0], "oom", "out of memory")
    with terminal.capture() as output:
        terminal.print(study_progress._render())
    head, *below = output.get().splitlines()
    assert head.startswith("1/6 trials, 1 failed or diverged, ") and "━" in head
    assert len(below) == progress.LINES and all("1/" in line and "50.00%" in line for line in below)
    assert all(len(line) <= 80 for line in (head, *below))


def test_a_notebook_has_one_output_that_is_replaced(trials, monkeypatch):
    contents: list[str] = []
    handle = SimpleNamespace(update=lambda data, raw: contents.append(data["text/plain"]))

    def display(data: dict[str, str], raw: bool, display_id: bool) -> SimpleNamespace:
        contents.append(data["text/plain"])
        return handle

    monkeypatch.setattr("IPython.display.display", display)
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    monkeypatch.setattr(notebook, "SECONDS", 0.0)
    key = trials[0].config.trial_key
    output = Console(file=io.StringIO(), force_jupyter=True)
    with StudyProgress(trials, output) as study_progress:
        study_progress.epoch(key, 0, {"test/accuracy": 0.5})
        study_progress.finished(key)
    assert "0/6 trials, starting" in contents[0] and "epoch 1/" in contents[1]
    assert "1/6 trials" in contents[-1] and "\u2501" in contents[-1]
