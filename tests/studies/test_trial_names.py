"""`status`, and the commands that take the first digits of a trial's key."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from folders import planned, write_trial

from studies.ablation_rank import STUDY
from studies.harness.command import lock
from studies.harness.command.cli import invoke
from studies.harness.command.manage import GROUP
from studies.harness.command.naming import LISTED, find, key_problem
from studies.harness.command.run import run_command
from studies.harness.design.arms import Trial
from studies.harness.design.options import Options
from studies.harness.evidence import status
from trainables.store import TrialStore

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Return a function that runs `python -m studies ... --out tmp_path`."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.setattr(sys, "argv", ["studies", *arguments, "--out", str(tmp_path)])
        code = invoke(GROUP)
        out, err = capsys.readouterr()
        return code, out, err

    return run


def begun(root: Path, trial: Trial, generation: int | None) -> None:
    """Write the folder of a trial that a worker of a driver has begun."""
    store = TrialStore(root, trial.config, generation)
    store.create()
    store.begin({})


def test_status_distinguishes_trials_in_flight_interrupted_and_not_run(
    tmp_path: Path, command: Command
):
    first, second, third = planned(seeds=1)[:3]
    with lock.exclusive(tmp_path) as generation:
        begun(tmp_path, first, generation)
    with lock.exclusive(tmp_path) as generation:
        begun(tmp_path, second, generation)
        TrialStore(tmp_path, third.config).create()
        _, out, _ = command("status")
        assert "trials: 1 in flight, 1 interrupted, 1 not run" in out
        assert re.search("sgd seed 0: interrupted, 0 of 2 epochs committed, started ", out)
        assert "foof lr=0.1 seed 0: in flight, " in out and "driver: pid " in out
    _, out, _ = command("status")
    assert "trials: 2 interrupted, 1 not run" in out
    assert "No driver is running; the command of the study resumes the trials." in out


def test_a_report_does_not_call_a_prepared_trial_in_flight(tmp_path: Path):
    trial = planned(seeds=1)[0]
    store = TrialStore(tmp_path, trial.config)
    store.create()
    assert status.progress(store.folder)["status"] == status.NOT_RUN
    store.begin({})
    assert status.progress(store.folder)["status"] == status.IN_FLIGHT


def test_status_tells_arms_apart(tmp_path: Path, command: Command):
    sgd = planned(seeds=1)[0]
    variants = [
        sgd.config,
        replace(sgd.config, precision="bf16"),
        replace(sgd.config, workload="digits/mlp"),
        replace(sgd.config, workload="digits/mlp", hyperparameters={"lr": 0.3}),
    ]
    for config in variants:
        begun(tmp_path, Trial(sgd.arm, config), None)
    write_trial(tmp_path, Trial(sgd.arm, replace(sgd.config, epochs=1)))
    _, out, _ = command("status")
    names = [line.split("  ", 1)[1].partition(":")[0] for line in out.splitlines()[:4]]
    assert sorted(names) == [
        "digits/cnn sgd epochs=2 precision=bf16 seed 0",
        "digits/cnn sgd epochs=2 precision=float32 seed 0",
        "digits/mlp sgd lr=0.1 seed 0",
        "digits/mlp sgd lr=0.3 seed 0",
    ]


def test_the_first_digits_of_a_key_are_enough(tmp_path: Path, command: Command):
    trials = planned(seeds=3)
    for trial in trials:
        TrialStore(tmp_path, trial.config).create()
    keys = [trial.config.trial_key for trial in trials]
    prefixes = {key: next(key[:n] for n in range(1, 17) if _unique(key[:n], keys)) for key in keys}
    shortest = min(prefixes.values(), key=len)
    assert len(shortest) < 4
    folders, errors = find(tmp_path, shortest)
    assert (len(folders), errors) == (1, [])
    assert command("show", shortest)[0] == 0
    assert command("explain", shortest, folders[0].name)[1].startswith("The two keys name the same")
    assert command("clean", "--dry-run", shortest)[0] == 0


def _unique(prefix: str, keys: list[str]) -> bool:
    return sum(key.startswith(prefix) for key in keys) == 1


def test_digits_that_match_several_keys_list_their_trials(tmp_path: Path, command: Command):
    trials = planned(seeds=5)
    for trial in trials:
        TrialStore(tmp_path, trial.config).create()
    digits = [trial.config.trial_key[0] for trial in trials]
    digit = max(set(digits), key=digits.count)
    code, _, err = command("show", digit)
    matches = [trial for trial in trials if trial.config.trial_key.startswith(digit)]
    assert (
        code == 2 and f'"{digit}": {len(matches)} trials in ' in err and "give more digits" in err
    )
    key = min(trial.config.trial_key for trial in matches)
    assert re.search(rf"{key[:16]} \((sgd|foof|nysact-.) .*seed \d\)", err)
    code, _, err = command("show", "zz")
    assert code == 2 and '"zz": must be the first digits of the key of a trial in ' in err


def test_the_list_of_matching_trials_is_bounded():
    keys = [f"a{number:02}" for number in range(20)]
    line = key_problem("a", keys, str.upper, "in outputs") or ""
    assert line.count("(A") == LISTED and f" and {20 - LISTED} more; give more digits" in line
    assert key_problem("a0", keys[:1], str, "") is None
    assert "must be the first digits" in (key_problem("", keys[:1], str, "") or "")


def test_rerun_needs_the_first_digits_of_exactly_one_planned_trial(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    def dry_run(key: str) -> int:
        options = Options(
            out=tmp_path, dry_run=True, as_json=True, optimizers=["sgd"], seeds=[*range(20)],
            rerun=(key,),
        )  # fmt: skip
        return run_command([STUDY], options)

    keys = [trial.config.trial_key for trial in STUDY.trials(seeds=range(20))]
    sgd = [t.config.trial_key for t in STUDY.trials(seeds=range(20)) if t.arm.label == "sgd"]
    assert len(keys) > len(sgd)
    digits = [key[0] for key in sgd]
    assert dry_run(max(set(digits), key=digits.count)) == 2
    assert re.search(
        r"--rerun = .*: \d+ trials of the plan .*\(sgd seed \d+\)", capsys.readouterr().err
    )
    assert dry_run(next(sgd[0][:n] for n in range(1, 65) if _unique(sgd[0][:n], sgd))) == 0
