"""`python -m studies estimate`: the end and the cost on machines that are lost, and its errors."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from studies.ablation_rank import STUDY
from studies.harness.command import manage
from studies.harness.command.cli import invoke
from trainables.store import trial_folder

PRICES = ["--price", "0.5", "--on-demand-price", "2", "--machines", "2"]
STUDY_FLAGS = ["--", "--optimizers", "sgd", "--seeds", "4", "--epochs", "10"]


Estimate = Callable[[list[str]], int]


@pytest.fixture
def estimate(monkeypatch: pytest.MonkeyPatch) -> Estimate:
    def run(arguments: list[str]) -> int:
        monkeypatch.setattr(sys, "argv", ["studies", "estimate", *arguments])
        return invoke(manage.GROUP)

    return run


def rows(output: str) -> dict[str, list[str]]:
    """Return the cells of each row of the table, without units."""
    lines = [
        line.split("  ") for line in output.splitlines() if line.startswith(("spot", "on dem"))
    ]
    return {cells[0]: [cell.strip() for cell in cells[1:] if cell.strip()] for cells in lines}


def test_without_losses_both_kinds_of_machines_end_at_the_same_time(
    estimate: Estimate, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    flags = ["--preemption-rate", "0", "--epoch-seconds", "360", "--startup", "1800", *STUDY_FLAGS]
    assert estimate(["ablation_rank", *PRICES, *flags, "--out", str(tmp_path)]) == 0
    output = capsys.readouterr().out
    # Four trials of an hour on two machines, which start within half an hour: 2 times 2.5 hours.
    summary = "4 missing trials, 4.0 hours of training (360 s for each epoch)"
    assert summary in " ".join(output.split())
    assert rows(output) == {
        "spot": ["0.5", "0", "2.5 hours", "2.5 hours", "2.50", "2.50", "0.0%"],
        "on demand": ["2", "0", "2.5 hours", "2.5 hours", "10.00", "10.00", "0.0%"],
    }
    assert not list(tmp_path.iterdir()) and max(map(len, output.splitlines())) <= 80


def test_losses_cost_time_and_money(
    estimate: Estimate, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    flags = ["--preemption-rate", "0.5", "--epoch-seconds", "360", *STUDY_FLAGS]
    assert estimate(["ablation_rank", *PRICES, *flags, "--out", str(tmp_path)]) == 0
    spot = rows(capsys.readouterr().out)["spot"]
    mean, most = float(spot[4]), float(spot[5])
    # Without losses, two machines are up for 2 hours and 5 minutes each and cost 2.08 USD. A loss
    # takes 5 minutes to start and 3 minutes of repeated training on average; 2.2 losses are expected.
    assert 2.08 + 0.10 < mean < 2.08 + 0.20 and most > mean


def test_epochs_are_measured_in_the_output_folder(
    estimate: Estimate, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    trials = [trial.config for trial in STUDY.trials(seeds=range(4)) if trial.arm.label == "sgd"]
    config = trials[0]
    folder = trial_folder(tmp_path, config.trial_key)
    folder.mkdir(parents=True)
    content = {"schema": 1, "key": config.trial_key, "config": config.to_dict()}
    (folder / "config.json").write_text(json.dumps(content))
    metrics = {"time/train_s": 300.0, "time/eval_s": 60.0}
    lines = [{"epoch": epoch, "metrics": metrics} for epoch in range(10)]
    (folder / "epochs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    flags = ["--preemption-rate", "0", "--", "--optimizers", "sgd", "--seeds", "4"]
    assert estimate(["ablation_rank", *PRICES, *flags, "--out", str(tmp_path)]) == 0
    output = capsys.readouterr().out
    # Three trials of 20 epochs, and the ten epochs that are left of the first one.
    assert "4 missing trials, 7.0 hours of training (measured epochs in" in " ".join(output.split())


def test_trials_share_a_gpu(estimate: Estimate, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    flags = ["--preemption-rate", "0", "--epoch-seconds", "360", "--startup", "0", *STUDY_FLAGS]
    flags += ["--gpus-per-trial", "0.5", "--out", str(tmp_path)]
    assert estimate(["ablation_rank", *PRICES, *flags]) == 0
    output = capsys.readouterr().out
    assert "2 concurrent trials each" in " ".join(output.split())
    assert rows(output)["spot"][2:5] == ["60 min", "60 min", "1.00"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--preemption-rate", "30", "--epoch-seconds", "900", *STUDY_FLAGS],
            "--preemption-rate = 30: must be at most 6 per hour, because a machine needs 20 min",
        ),
        (  # commits after each fifth epoch
            [
                "--preemption-rate",
                "4",
                "--epoch-seconds",
                "360",
                *STUDY_FLAGS,
                "--commit-every=1500",
            ],
            "--preemption-rate = 4: must be at most 3.43 per hour, because a machine needs 35 min",
        ),
        (
            ["--preemption-rate", "nan", *STUDY_FLAGS],
            "Invalid value for '--preemption-rate': nan is not in the range 0<=x<=1000000.0",
        ),
        (
            ["--preemption-rate", "0", "--epoch-seconds", "0", *STUDY_FLAGS],
            "Invalid value for '--epoch-seconds': 0.0 is not in the range 0.001<=x<=1000000.0",
        ),
        (
            ["--preemption-rate", "0", *STUDY_FLAGS],
            "sgd on digits/autoencoder: no epochs in ",
        ),
        (
            ["--preemption-rate", "0", "--epoch-seconds", "9", *STUDY_FLAGS, "--gpus-per-trial=2"],
            "--gpus-per-machine = 1: must be at least 2, the GPUs of a trial",
        ),
        (
            ["--preemption-rate", "0", "--epoch-seconds", "9", *STUDY_FLAGS, "--address=auto"],
            "--address: not available after --; omit the option",
        ),
        (
            ["--preemption-rate", "0", "--epoch-seconds", "9", "--", "--optimizers", "sdg"],
            '--optimizers = "sdg": not an optimizer of ablation_rank',
        ),
    ],
)
def test_errors_have_a_line_each(
    flags: list[str],
    message: str,
    estimate: Estimate,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
):
    assert estimate(["ablation_rank", *PRICES, *flags, "--out", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1 and not captured.out
