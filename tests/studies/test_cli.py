"""The command line: plans, selections and invalid commands, which write nothing."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import click
import pytest

from studies import Range
from studies.ablation_rank import STUDY
from studies.harness.command import cli, lock, manage
from studies.harness.command.cli import main
from studies.harness.command.flags import FLAGS
from studies.harness.design.arms import Arm, Trial
from studies.harness.design.claims import Better
from studies.harness.design.options import Options
from studies.harness.kinds.study.plan import plan
from studies.harness.kinds.study.problems import claim_problems
from studies.harness.kinds.study.study import Study
from studies.tune_optimizers import SEARCH
from trainables.config import SCHEMA
from trainables.store import TrialStore

ROOT = Path(__file__).parents[2]


def trials(**options) -> list[Trial]:
    return list(plan(STUDY, Options(**options)).trials)


@pytest.fixture
def run_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Return a function that runs the command of `ablation_rank` in this process.

    The current folder is an empty temporary folder. The function returns the exit code,
    standard output and standard error.
    """

    def run(*arguments: str, study: Study = STUDY) -> tuple[int, str, str]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["ablation_rank.py", *arguments])
        with pytest.raises(SystemExit) as exit_:
            main(study)
        return int(exit_.value.code or 0), *capsys.readouterr()

    return run


def test_default_plan_has_more_extreme_ranks_than_the_papers_figure():
    planned = trials()
    assert len(planned) == 70 and len({trial.config.trial_key for trial in planned}) == 70
    assert {trial.arm.label for trial in planned if trial.arm.factors} == {
        f"nysact-{kind} rank={rank}" for kind in "sg" for rank in (1, 2, 5, 10, 20, 40)
    }


def test_plan_on_another_workload_is_the_papers_figure():
    planned = plan(STUDY, Options(), "digits/cnn").trials
    assert len(planned) == 50 and len({trial.config.trial_key for trial in planned}) == 50
    assert {trial.arm.label for trial in planned if trial.arm.factors} == {
        f"nysact-{kind} rank={rank}" for kind in "sg" for rank in (5, 10, 15, 20)
    }
    assert {trial.config.seed for trial in planned} == set(range(5))


def test_adding_seeds_or_levels_keeps_existing_trials():
    five, six = ({t.config.trial_key for t in trials(seeds=list(range(n)))} for n in (5, 6))
    assert five < six and len(six - five) == 14
    extended = trials(levels={"rank": [1, 2, 5, 10, 20, 30, 40]}, seeds=list(range(5)))
    keys = {trial.config.trial_key for trial in extended}
    assert five < keys and len(keys - five) == 10


def test_options_select_optimizers_levels_and_smoke_trials():
    assert {t.arm.optimizer for t in trials(optimizers=["foof", "sgd"])} == {"foof", "sgd"}
    ranks = {t.config.hyperparameters.get("rank") for t in trials(only={"rank": [5, 20]})}
    assert ranks == {5, 20, None}  # the reference optimizers foof and sgd have no rank
    smoke = trials(smoke=True)
    assert len(smoke) == 12 and {t.config.epochs for t in smoke} == {2}


def test_set_applies_to_every_arm_that_has_the_setting():
    configs = [t.config for t in trials(settings={"damping": 1, "batch_size": 32}, epochs=3)]
    assert {config.hyperparameters.get("damping") for config in configs} == {1.0, None}
    assert {config.batch_size for config in configs} == {32}
    assert {config.epochs for config in configs} == {3}


def test_two_arms_with_the_same_trials_are_refused():
    arms = [Arm(optimizer="sgd"), Arm(optimizer="sgd", overrides={"lr": 0.1}, factors=("lr",))]
    study = Study(**{**vars(STUDY), "arms": arms})
    with pytest.raises(ValueError, match=r"arms sgd and sgd lr=0\.1 are the same trials"):
        study.trials("digits/cnn")


INVALID_ARGUMENTS = [
    (["--seeds", "-1"], ["--seeds = -1: must be a number of seeds in 1..10000, or distinct"]),
    (["--seeds", "3,3"], ["--seeds = 3,3"]),
    (["--seeds", "4294967296,"], ["--seeds = 4294967296,"]),
    (
        ["--only", "rank=0"],
        ["--only rank=0: not a level of ablation_rank; its levels are 1, 2, 5, 10, 20, 40"],
    ),
    (["--only", "rank=8"], ["its levels are 1, 2, 5, 10, 20, 40"]),
    (["--only", "rank=8", "--workload", "digits/cnn"], ["its levels are 5, 10, 15, 20"]),
    (["--only", "rank"], ["--only rank: must have the form NAME=VALUE, such as rank=5,10"]),
    (
        ["--levels", "rank=100000"],
        ["rank = 100000: the widest layer (3) has 129 inputs (bias included), use 1..129"],
    ),
    (
        ["--levels", "rank=100000", "--workload", "digits/cnn"],
        ["rank = 100000: the widest layer (10) has 513 inputs (bias included), use 1..513"],
    ),
    (["--levels", "rank=4.0"], ["rank = 4.0: must be an integer >= 1"]),
    (["--levels", "rank=true"], ["rank = True: must be an integer >= 1"]),
    (["--only", "rnk=5"], ['Did you mean "rank"']),
    (["--workload", "digit/cnn"], ['Did you mean "digits/cnn"']),
    (["--optimizers", "fof"], ['Did you mean "foof"']),
    (["--optimizers", "FooF"], ['Did you mean "foof"']),
    (["--optimizers", "zzz"], ["foof, sgd; or name its file with --plugin"]),
    (["--set", "damping=0"], ["damping = 0: must be a finite number > 0"]),
    (["--set", "lr=nan"], ["lr = nan: must be a finite number >= 0"]),
    (["--set", "lr=inf"], ["lr = inf: must be a finite number >= 0"]),
    (["--set", "lr=1e999"], ["lr = inf"]),
    (["--set", "rank=4.0"], ["--levels rank=4.0", "rank = 4.0: must be an integer >= 1"]),
    (["--set", "cov_interval=100", "--set", "inv_interval=10"], ["Set inv_interval >= 100"]),
    (["--set", "tcov=100", "--set", "tinv=10"], ["Set inv_interval >= 100"]),
    (["--set", "foo=1"], ["--set foo: no optimizer of ablation_rank has this setting"]),
    (["--set", "dampng=1"], ['Did you mean "damping"']),
    (["--set", "batch_size=60000"], ["batch_size = 60000: must be an integer in 1..1197"]),
    (["--set", "batch_size=0"], ["batch_size = 0: must be an integer in 1..1197"]),
    (
        ["--set", "batch_size=1", "--workload", "digits/cnn"],
        ["batch_size = 1: must be an integer in 2..1197"],
    ),
    (["--set", "schedule=cosin"], ["must be one of cosine, constant"]),
    (["--set", "momentum=0", "--set", "nesterov=true"], ["nesterov = True: needs momentum > 0"]),
    (["--epochs", "0"], ["--epochs = 0: must be an integer >= 1"]),
    (["--gpus-per-trial", "1"], ["this machine has no GPU"]),
    (["--gpus-per-trial", "auto"], ["--gpus-per-trial = auto: this machine has no GPU"]),
    (["--gpus-per-trial", "nan"], ["--gpus-per-trial = nan"]),
    (
        ["--gpus-per-trial", "1.5"],
        ["--gpus-per-trial = 1.5: must be auto, a share of one GPU in 0..1, or a whole number"],
    ),
    (["--max-concurrent", "0"], ["--max-concurrent = 0: must be an integer >= 1"]),
    (["--workers-per-trial", "0"], ["--workers-per-trial = 0: must be an integer in 1.."]),
    (
        ["--workers-per-trial", "4096"],
        ["--workers-per-trial = 4096: must be an integer in 1.."],
    ),
    (["--plugin", "nowhere.py"], ["--plugin nowhere.py: No such file or directory"]),
    (["--workload", "digits/cn"], ['unknown. Did you mean "digits/cnn"']),
    (["--workload", "digits/cnn,digits/mpl"], ['"digits/mpl": unknown. Did you mean "digits/mlp"']),
    (
        ["--workload", "digits/cnn,digits/cnn"],
        ["--workload = digits/cnn,digits/cnn: must name each workload once"],
    ),
    (["--workload", "imagefolder:nowhere/resnet32"], ["nowhere"]),
    (
        ["--set", "batch_size=1", "--workload", "digits/cnn"],
        ["batch normalisation needs two"],
    ),
    (["--set", "batch_size=1198"], ["batch_size = 1198: must be an integer in 1..1197"]),
    (
        ["--set", "batch_size=1198", "--workload", "digits/cnn"],
        ["batch_size = 1198: must be an integer in 2..1197"],
    ),
    (["--tracking-uri", "ftp://x"], ["--tracking-uri = ftp://x: must be none, sqlite:///FILE"]),
    (["--tracking-uri", "http://me:secret@host"], ["without a password"]),
    (["--address", "ray://head:10001"], ["ray:// is not supported"]),
    (["--time-budget", "9" * 400], ["must be a time > 0"]),
    (["--seeds", " "], ['--seeds = " ": must be a number of seeds']),
    (["--epochs", "\n"], ['--epochs = "\\n": must be an integer >= 1']),
    (["--workload", ""], ["--workload"]),
    (["--time-budget", "soon"], ["--time-budget = soon: must be a time"]),
    (["--commit-every", "-1"], ["--commit-every = -1: must be a number of seconds >= 0"]),
    (["--retry", "lost"], ["--retry = lost: must be one of diverged, oom, failed"]),
    (
        ["--rerun", "123"],
        ['--rerun = "123": must be the first digits of the key of a trial of the plan'],
    ),
    (["--sedes", "3"], ["--sedes: unknown option. Did you mean --seeds?"]),
    (["rank=5"], ["Got unexpected extra argument (rank=5). See --help"]),
    (
        ["--seeds", "-1", "--set", "lr=nan", "--only", "rnk=5"],
        ["--seeds = -1", "lr = nan", 'mean "rank"'],
    ),
]


@pytest.mark.parametrize(
    ("arguments", "messages"),
    INVALID_ARGUMENTS,
    ids=[" ".join(arguments) for arguments, _ in INVALID_ARGUMENTS],
)
def test_invalid_arguments_print_one_line_each_and_write_nothing(
    run_study, tmp_path: Path, arguments, messages
):
    if "--gpus-per-trial" in arguments:
        torch = pytest.importorskip("torch")
        if torch.cuda.is_available():
            pytest.skip("this machine has a GPU")
    code, out, err = run_study(*arguments)
    assert code == 2 and out == ""
    lines = err.splitlines()
    assert len(lines) == len(messages) and all(line.startswith("error: ") for line in lines), err
    for message in messages:
        assert message in err
    assert list(tmp_path.iterdir()) == []


def test_metric_that_the_workload_lacks_is_refused(run_study, tmp_path: Path):
    figure = replace(STUDY.figure, metric="test/accuracy")
    study = replace(STUDY, figure=figure)
    code, out, err = run_study("--workload", "digits/autoencoder", study=study)
    assert (code, out) == (2, "") and list(tmp_path.iterdir()) == []
    assert err == (
        'error: metric = "test/accuracy": digits/autoencoder has no such metric. '
        "Known: test/headline, test/mse, test/loss\n"
    )
    study = replace(STUDY, figure=replace(figure, metric="test/acuracy"))
    code, out, err = run_study("--workload", "digits/cnn", study=study)
    assert (code, out) == (2, "") and list(tmp_path.iterdir()) == []
    assert len(err.splitlines()) == 1 and 'Did you mean "test/accuracy"?' in err


def test_environment_variables_are_checked_like_flags(run_study, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@server")
    code, _, err = run_study("--dry-run")
    assert code == 2 and "RAY_ADDRESS = ray://head:10001: must be auto or HOST:PORT" in err
    assert "MLFLOW_TRACKING_URI = " in err and "without a password" in err
    assert len(err.splitlines()) == 2
    code, _, _ = run_study("--dry-run", "--address", "auto", "--tracking-uri", "none")
    assert code == 0  # flags take precedence


def test_output_folder_that_is_a_file_is_refused(run_study, tmp_path: Path):
    (tmp_path / "file").write_text("content")
    code, _, err = run_study("--out", "file")
    assert code == 2 and "file is a file; name a folder" in err
    assert (tmp_path / "file").read_text() == "content"


def test_a_folder_of_a_newer_version_is_refused_before_anything_is_written(
    run_study, tmp_path: Path
):
    store = TrialStore(tmp_path / "outputs", trials()[0].config)
    store.create()
    document = json.loads((store.folder / "config.json").read_text())
    (store.folder / "config.json").write_text(json.dumps({**document, "schema": SCHEMA + 1}))
    before = sorted(tmp_path.rglob("*"))
    code, _, err = run_study()
    assert code == 2 and f"has schema {SCHEMA + 1}" in err and len(err.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_locked_output_folder_gives_exit_code_4(run_study, tmp_path: Path):
    with lock.exclusive(tmp_path / "outputs"):
        code, _, err = run_study("--tracking-uri", "none")
    assert code == 4 and "is in use by pid" in err and len(err.splitlines()) == 1


@pytest.mark.parametrize("folder", ["/proc/nowhere", "/sys/nowhere"])
def test_unwritable_output_folder_gives_exit_code_4(run_study, folder: str):
    code, _, err = run_study("--tracking-uri", "none", "--out", folder)
    assert code == 4 and err.startswith("error: cannot write to ") and len(err.splitlines()) == 1


def test_full_disk_gives_exit_code_4(run_study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("studies.harness.command.run.FREE_BYTES", 2**60)
    code, _, err = run_study("--tracking-uri", "none")
    assert code == 4 and "disk full" in err and len(err.splitlines()) == 1
    assert not (tmp_path / "outputs" / "trials").exists()


def test_missing_data_are_refused_before_anything_is_written(
    run_study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    calls = []

    def prepare_data(names: set[str], data_dir: Path, **flags: bool) -> list[str]:
        calls.append((names, data_dir, flags))
        return ["there/data: not found", "there/labels: not found"] if names else []

    monkeypatch.setattr("studies.harness.command.run.prepare_data", prepare_data)
    # The command sets this variable; monkeypatch restores it after the test.
    monkeypatch.setenv("PRECOND_DATA", "before the command")
    code, out, err = run_study("--data-dir", "there", "--verify-data")
    assert code == 2 and out == ""
    assert err == "error: there/data: not found\nerror: there/labels: not found\n"
    assert calls == [
        ({"digits/autoencoder"}, tmp_path / "there", {"download": False, "verify": True})
    ]
    # Relative image folders are resolved against this variable.
    assert os.environ["PRECOND_DATA"] == str(tmp_path / "there")
    assert run_study("--dry-run")[0] == 0 and len(calls) == 1  # a plan needs no data
    assert list(tmp_path.iterdir()) == []


def test_dry_run_prints_the_plan_and_starts_nothing(
    run_study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    assert "Too few seeds: " in " ".join(run_study("--dry-run", "--seeds", "3")[1].split())
    monkeypatch.setattr("studies.harness.command.estimate.TOTAL_SECONDS", 600)
    code, out, _ = run_study("--dry-run")
    assert code == 0 and "70 to go" in out and "nysact-g rank=20" in out
    text = " ".join(out.split())
    assert "7 claims about 18 pairs of arms" in text
    assert "Too few seeds: " not in text
    names = "at most 20 steps of nysact-s, nysact-g, foof, sgd"  # smaller batches on a busy machine
    assert re.search(rf"\(measured: {names}( with smaller batches .*)? on one CPU thread", text)
    assert re.search(r"Disk space: at most \d+ MB\.", text)
    assert list(tmp_path.iterdir()) == []


def test_dry_run_prints_the_error_of_a_step(run_study, monkeypatch: pytest.MonkeyPatch):
    def failing(*_, **__):
        raise ValueError("no luck")

    monkeypatch.setattr("studies.harness.command.estimate.probe", failing)
    code, out, _ = run_study("--dry-run", "--seeds", "1")
    assert code == 0 and "because a step failed: ValueError('no luck')." in " ".join(out.split())


def test_dry_run_as_json_prints_one_line_for_each_trial(run_study):
    code, out, _ = run_study("--dry-run", "--json", "--seeds", "1")
    lines = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and [line["key"] for line in lines] == [
        t.config.trial_key for t in trials(seeds=[0])
    ]


@pytest.mark.parametrize("command", sorted(manage.GROUP.commands))
def test_help_of_the_commands_names_no_private_function(command):
    context = click.Context(manage.GROUP.commands[command], info_name=command)
    text = context.get_help()
    assert not re.search(r"\b_[A-Za-z]", text), text
    trains = command in ("run", "tune-recipe", "judge")
    assert ("--out" in text) == ("--out FOLDER" in text) or trains, text


def test_help_names_the_claim_the_exit_codes_and_every_flag(run_study):
    code, out, _ = run_study("--help")
    assert (
        code == 0
        and "Claims to test:\n    - nysact-* rank=5 is better than sgd\n" in out
        and "143  stopped by SIGTERM" in out
    )
    assert all(name in out for option in FLAGS for name in option.opts if name.startswith("--"))


@pytest.mark.parametrize("claims", [None, "foof is best", ["foof is best"], Better("a", than="b")])
def test_help_and_errors_do_not_need_valid_claims(claims):
    study = replace(STUDY, claims=claims)
    assert "Claims to test" not in str(cli.command(study).help)
    assert claim_problems(study)[0].startswith("claims: ")


def test_invalid_command_in_a_subprocess_prints_one_line_and_writes_nothing(tmp_path: Path):
    command = [sys.executable, ROOT / "studies" / "ablation_rank.py", "--seeds", "-1"]
    process = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert process.returncode == 2 and len(process.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------- python -m studies


@pytest.fixture
def run_studies_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    """Return a function that runs `python -m studies` in this process.

    The function returns the exit code, standard output and standard error.
    """

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["studies", *arguments])
        return cli.invoke(manage.GROUP), *capsys.readouterr()

    return run


def write_unfinished_trial(root: Path, trial: Trial) -> TrialStore:
    store = TrialStore(root, trial.config)
    store.create()
    store.begin({})
    store.record(0, {"test/accuracy": 0.5})
    return store


def test_list_prints_every_file_of_studies(run_studies_command):
    code, out, _ = run_studies_command("list")
    files = {path.stem for path in (ROOT / "studies").glob("*.py")} - {"__init__", "__main__"}
    assert code == 0 and files and all(name in out for name in files)
    assert {*manage.artefacts()} == files


def test_list_names_an_invalid_study_and_the_others(run_studies_command, monkeypatch):
    spaces = {"sgd": {"lr": Range(1e-6, 1e-5, log=True)}}
    invalid = replace(SEARCH, name="broken", spaces=spaces, spaces_on={})
    monkeypatch.setattr(manage, "artefacts", lambda: {"broken": invalid, "ablation_rank": STUDY})
    code, out, _ = run_studies_command("list")
    lines = [line.split() for line in out.splitlines()]
    assert code == 0 and any(line[0] == "broken" and line[-1] == "invalid" for line in lines)
    assert any(line[0] == "ablation_rank" and line[-1] == "0/70" for line in lines)


def test_every_study_of_the_project_is_valid(run_studies_command):
    assert "invalid" not in run_studies_command("list")[1]


def test_a_command_without_arguments_prints_its_help(run_studies_command):
    code, _, err = run_studies_command()
    assert (
        code == 2
        and "check-cluster  Check a cluster file before `ray up` or `kubectl apply`.\n" in err
    )


def test_status_show_and_explain_describe_the_trials_of_a_folder(
    run_studies_command, tmp_path: Path
):
    first, second = trials()[0], trials()[1]
    write_unfinished_trial(tmp_path / "outputs", first).finish("completed")
    write_unfinished_trial(tmp_path / "outputs", second)
    code, out, _ = run_studies_command("status")
    assert (
        code == 0
        and "trials: 1 completed, 1 in flight" in out
        and "0 of 20 epochs committed" in out
    )
    code, out, _ = run_studies_command("show", first.config.trial_key[:8])
    assert code == 0 and json.loads(out)["status"]["status"] == "completed"
    code, out, _ = run_studies_command(
        "explain", first.config.trial_key[:8], second.config.trial_key
    )
    assert code == 0 and out == "hyperparameters.rank: 1 | 2\n"
    code, _, err = run_studies_command("show", "ffffff")
    assert code == 2 and '"ffffff": must be the first digits of the key of a trial in' in err


def test_status_prints_the_levels_of_the_trials_in_flight(run_studies_command, tmp_path: Path):
    by_label = {trial.arm.label: trial for trial in reversed(trials())}
    write_unfinished_trial(tmp_path / "outputs", by_label["sgd"])
    write_unfinished_trial(tmp_path / "outputs", by_label["nysact-s rank=5"])
    _, out, _ = run_studies_command("status")
    assert "nysact-s rank=5 seed 0:" in out and "sgd seed 0:" in out
    write_unfinished_trial(tmp_path / "outputs", by_label["nysact-s rank=10"])  # as in the recipe
    _, out, _ = run_studies_command("status")
    assert "nysact-s rank=10 seed 0:" in out


def test_clean_deletes_unused_checkpoints_and_named_trials_only(
    run_studies_command, tmp_path: Path
):
    other, named = (write_unfinished_trial(tmp_path / "outputs", trial) for trial in trials()[:2])
    (other.folder / "quarantine").mkdir()
    (other.folder / "checkpoint-3.tmp").mkdir()
    code, out, _ = run_studies_command("clean", "--dry-run", named.config.trial_key)
    assert code == 0 and "quarantine" in out
    assert named.folder.exists() and (other.folder / "quarantine").exists()
    code, _, _ = run_studies_command("clean", named.config.trial_key)
    assert code == 0 and not named.folder.exists()
    assert sorted(path.name for path in other.folder.iterdir()) == ["attempts.jsonl", "config.json"]


def test_run_refuses_an_unknown_study(run_studies_command, tmp_path: Path):
    code, _, err = run_studies_command("run", "ablation_rnk", "--seeds", "0")
    assert code == 2 and 'Did you mean "ablation_rank"' in err and "--seeds = 0" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_during_exit_keeps_output_and_exit_code(number: int):
    """Like Ray's exit handlers, the handler that raises the signal is registered before `leave` runs.

    Exit handlers run in reverse order, so the handler of `leave` ignores the signals in time.
    """
    script = f"""
import atexit, signal, click
from studies.harness.command.cli import leave
atexit.register(signal.raise_signal, {int(number)})
leave(click.Command("work", callback=lambda: print("the last line") or 3))
"""
    process = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (process.returncode, process.stdout, process.stderr) == (3, "the last line\n", "")


@pytest.mark.parametrize("name", ["status", "reports", "sync", "ui"])
def test_empty_variable_of_the_output_folder_is_refused_by_every_command(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("PRECOND_OUT", "")
    monkeypatch.setattr(sys, "argv", ["studies", name])
    assert cli.invoke(manage.GROUP) == 2
    line = 'PRECOND_OUT = "": must be a folder; unset the variable for the default'
    assert line in capsys.readouterr().err


def test_ui_without_a_database_says_how_to_build_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sys, "argv", ["studies", "ui", "--out", str(tmp_path)])
    assert cli.invoke(manage.GROUP) == 2 and "run a study first" in capsys.readouterr().err
    TrialStore(tmp_path, STUDY.trials()[0].config).create()
    assert cli.invoke(manage.GROUP) == 2
    error = capsys.readouterr().err  # sync sends no trial that has not begun
    assert "repeat the command that trained the trials, with --report-only" in error
