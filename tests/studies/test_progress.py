"""What a run shows while it trains: on a terminal of 80 columns, and in a log."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from studies.ablation_rank import STUDY
from studies.harness.cluster import progress
from studies.harness.cluster.progress import StudyProgress
from studies.harness.kinds.study.study import Trial


@pytest.fixture
def trials() -> list[Trial]:
    return replace(STUDY, arms=STUDY.arms[:3]).trials(seeds=[0, 1])


def console(terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=80, color_system=None)


def keys(trials: list[Trial]) -> list[str]:
    return [trial.config.trial_key for trial in trials]


def lines(shown: Console) -> list[str]:
    assert isinstance(shown.file, io.StringIO)
    return shown.file.getvalue().splitlines()


def test_the_log_says_what_runs_and_how_it_does(trials, monkeypatch):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    shown = console(terminal=False)
    with StudyProgress(trials, shown) as running:
        running.epoch(keys(trials)[0], 0, 0.5)
        running.epoch(keys(trials)[1], 0, 0.25)
        running.epoch(keys(trials)[0], 1, 0.75)
        running.finished(keys(trials)[0], "completed", "")
    epochs = trials[0].config.epochs
    found = lines(shown)
    assert found[0] == f"0/6 trials, starting; nysact-s rank=5 s0 1/{epochs} 50.00%"
    assert (
        found[2].startswith("0/6 trials, ")
        and f"nysact-s rank=5 s0 2/{epochs} 75.00%; nysact-s" in found[2]
    )
    assert found[3].startswith("1/6 trials, ") and "rank=5" not in found[3]
    assert all(len(line) <= 80 for line in found)


def test_nothing_is_printed_between_the_lines_of_a_log(trials):
    shown = console(terminal=False)
    with StudyProgress(trials, shown) as running:
        for epoch in range(5):
            running.epoch(keys(trials)[0], epoch, 0.5)
    assert lines(shown) == []


def test_the_first_error_is_said_at_once_and_the_same_again_is_counted(trials):
    """A reason may hold what rich would take for markup."""
    shown = console(terminal=False)
    with StudyProgress(trials, shown) as running:
        for key in keys(trials)[:3]:
            running.finished(key, "failed", "KeyError: [bold]")
        running.finished(keys(trials)[3], "diverged", "loss = nan at epoch 0, step 3")
        assert len(lines(shown)) == 2
    first, second, folded = lines(shown)
    assert (
        first
        == f"nysact-s rank=5 s0 failed: KeyError: [bold] (trials/{keys(trials)[0][:16]}/log.txt)"
    )
    assert second.startswith("nysact-s rank=5 s1 diverged: loss = nan at epoch 0, step 3 (trials/")
    assert folded == "3 trials failed: KeyError: [bold]"


def test_a_terminal_has_a_bar_and_a_line_for_each_running_trial(trials):
    shown = console(terminal=True)
    running = StudyProgress(trials, shown)
    for key in keys(trials):
        running.epoch(key, 0, 0.5)
    running.finished(keys(trials)[0], "oom", "out of memory")
    with shown.capture() as captured:
        shown.print(running._render())
    head, *below = captured.get().splitlines()
    assert head.startswith("1/6 trials, 1 not completed, ") and "━" in head
    assert len(below) == progress.LINES and all("1/" in line and "50.00%" in line for line in below)
    assert all(len(line) <= 80 for line in (head, *below))
