"""A report is never replaced by one that shows less. Trials are written, not trained."""

from __future__ import annotations

import csv
import json
import runpy
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import folders
import pytest
from folders import write_trial

import studies
from precond.registry import REGISTRY
from studies import ablation_rank
from studies.harness.cluster import execute
from studies.harness.command import cli, manage, reports
from studies.harness.design.arms import Arm, Trial, grid
from studies.harness.design.options import Options
from studies.harness.evidence.analysis import Evidence
from studies.harness.kinds import records
from studies.harness.kinds.artefact import Plan
from studies.harness.kinds.study.figures import CurveFigure, Extension, Figure, LevelFigure
from studies.harness.kinds.study.study import Study
from trainables.store import FAILED, trial_folder

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples/custom_optimizer.py"


@dataclass(frozen=True, kw_only=True)
class NoFigure(Figure):
    """A figure that draws nothing, because drawing takes most of the time of a report."""

    def extend(self, plan: Plan, evidence: Evidence) -> Extension:
        return Extension()


SMALL = Study(
    name="small",
    title="A study of few arms",
    workload="digits/cnn",
    seeds=2,
    arms=[Arm(optimizer="sgd"), *grid("nysact-s", rank=[5, 10])],
    figure=NoFigure(),
)
Invoke = Callable[..., int]


class Runner:
    """Replaces Ray: writes the folders of the trials.

    Attributes:
        limit: The number of trials after which the command receives SIGINT; None for no signal.
        status: The status of the written trials.
    """

    def __init__(self) -> None:
        self.limit: int | None = None
        self.status = "completed"
        self.keys: list[str] = []

    def train(self, trials: Sequence[Trial], options: Options, *arguments: Any) -> str:
        arguments[-1]()  # creates the folders
        for number, trial in enumerate(trials):
            if number == self.limit:
                return "SIGINT"
            self.keys.append(trial.config.trial_key)
            write_trial(options.root, trial, status=self.status)
        return "done"


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> Runner:
    runner = Runner()
    monkeypatch.setattr(execute, "train", runner.train)
    monkeypatch.setattr(folders, "accuracy", lambda trial, epoch: _accuracy(trial, epoch))
    return runner


def _accuracy(trial: Trial, epoch: int) -> float:
    return 0.9 + int(trial.config.trial_key[:4], 16) / 1e6 - 0.1 / (epoch + 1)


@pytest.fixture
def command(runner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Return a function that runs a study's command with the output folder `tmp_path`."""

    def invoke(*arguments: str, study: Study = SMALL, plugin: str | None = None) -> int:
        common = ["--out", str(tmp_path), "--tracking-uri", "none"]
        monkeypatch.setattr("sys.argv", [f"{study.name}.py", *arguments, *common])
        return cli.invoke(cli.command(study, plugin))

    return invoke


def files(root: Path) -> dict[Path, bytes]:
    """Return the visible files of all reports."""
    return {path: path.read_bytes() for path in root.rglob("reports/*/*/*") if path.name[0] != "."}


def ended(folder: Path) -> dict[str, dict[str, str]]:
    """Return the rows of the trials of a report that have ended, by key."""
    with open(folder / "trials.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return {r["trial_key"]: r for r in rows if r["status"] not in ("in flight", "not run")}


def all_ended(root: Path) -> dict[Path, dict[str, dict[str, str]]]:
    return {path.parent: ended(path.parent) for path in root.rglob("reports/*/*/trials.csv")}


def sizes(folder: Path) -> dict[str, str]:
    """Return the number of completed trials of each arm."""
    with open(folder / "arms.csv", newline="") as file:
        return {row["arm"]: row["n"] for row in csv.DictReader(file)}


@pytest.fixture
def plugin(tmp_path: Path) -> Iterator[str]:
    """A copy of the example of a plugin; its optimizer is removed after the test."""
    before, path = {*REGISTRY}, tmp_path / "custom_optimizer.py"
    path.write_text(f"{EXAMPLE.read_text()}\n# {tmp_path}\n")
    yield str(path)
    for name in {*REGISTRY} - before:
        del REGISTRY[name]


@pytest.fixture
def custom(plugin: str, monkeypatch: pytest.MonkeyPatch) -> Study:
    """The study in the example of a plugin."""
    literals: list[Study] = []
    monkeypatch.setattr(
        studies, "main", lambda study, plugin: literals.append(study), raising=False
    )
    runpy.run_path(plugin, run_name="__main__")
    return literals[0]


# ---------------------------------------------------------------------- commands after commands


def test_the_commands_of_the_readme_leave_every_earlier_report_as_it_was(
    command: Invoke, tmp_path: Path, custom: Study, plugin: str, monkeypatch: pytest.MonkeyPatch
):
    for figure in (LevelFigure, CurveFigure):  # drawing takes most of the time of a report
        monkeypatch.setattr(figure, "extend", lambda self, plan, evidence: Extension())
    study = ablation_rank.STUDY
    main = tmp_path / f"reports/{study.name}/digits-autoencoder"
    commands: list[tuple[Study, tuple[str, ...], str]] = [
        (study, (), "digits-autoencoder"),
        (study, ("--seeds", "6"), "digits-autoencoder"),
        (study, ("--dry-run",), ""),
        (study, ("--plugin", plugin, "--optimizers", "signsgd,sgd"), "+optimizers=sgd,signsgd"),
        (custom, ("--plugin", plugin, "--seeds", "3"), "digits-autoencoder"),
        (study, ("--smoke",), "digits-cnn"),
        (study, ("--report-only",), "digits-autoencoder"),
    ]
    for artefact, arguments, written in commands:
        before, rows = files(tmp_path), all_ended(tmp_path)
        assert command(*arguments, study=artefact) == 0
        after = files(tmp_path)
        changed = {path.parent for path in after if before.get(path) != after[path]}
        assert before.keys() <= after.keys()
        assert all(folder.name.endswith(written) for folder in changed), arguments
        for folder, trials in rows.items():
            assert trials.items() <= ended(folder).items(), (arguments, folder)
    assert {*sizes(main).values()} == {"6"}
    [selection] = main.parent.glob("*+*")
    assert selection.name == "digits-autoencoder+optimizers=sgd,signsgd"
    assert sizes(selection) == {"sgd": "6", "signsgd": "5"}
    assert "optimizers=sgd,signsgd" in (selection / "report.md").read_text()


def test_seeds_are_no_selection_and_the_report_shows_all_of_them(
    command: Invoke, runner: Runner, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    report = tmp_path / "reports/small/digits-cnn"
    assert command("--seeds", "3") == 0
    assert command("--seeds", "1") == 0 and {*sizes(report).values()} == {"3"}
    capsys.readouterr()
    runner.limit = 1
    assert command("--seeds", "5,6") == 130
    assert sizes(report) == {"sgd": "4", "nysact-s rank=5": "3", "nysact-s rank=10": "3"}
    output = capsys.readouterr().out
    assert "6 trials (3 arms x 2 seeds): 0 done, 6 to go" in output  # what the command trains
    assert [path.name for path in report.parent.iterdir()] == ["digits-cnn"]


def test_trials_of_another_study_are_part_of_the_report(command: Invoke, tmp_path: Path):
    assert command() == 0
    other = replace(SMALL, name="other", arms=[Arm(optimizer="sgd"), Arm(optimizer="foof")])
    assert command("--seeds", "4", study=other) == 0
    before = files(tmp_path)
    assert command() == 0 and files(tmp_path) != before
    expected = {"sgd": "4", "nysact-s rank=5": "2", "nysact-s rank=10": "2"}
    assert sizes(tmp_path / "reports/small/digits-cnn") == expected


def test_unreadable_trials_of_other_studies_are_ignored(command: Invoke, tmp_path: Path):
    assert command() == 0
    for name, content in [("0" * 16, "{"), ("1" * 16, '{"schema": 99, "key": "", "config": {}}')]:
        folder = tmp_path / "trials" / name
        folder.mkdir()
        (folder / "config.json").write_text(content)
    assert command("--report-only") == 0
    assert {*sizes(tmp_path / "reports/small/digits-cnn").values()} == {"2"}


@pytest.mark.parametrize(
    ("options", "name"),
    [
        (["--optimizers", "sgd"], "optimizers=sgd"),
        (["--only", "rank=5"], "only.rank=5"),
        (["--levels", "rank=5,20"], "levels.rank=5,20"),
        (["--set", "damping=0.5"], "set.damping=0.5"),
        (["--epochs", "1"], "epochs=1"),
    ],
)
def test_a_selection_has_a_report_of_its_own(
    command: Invoke, tmp_path: Path, options: list[str], name: str
):
    assert command("--report-only") == 0
    before = files(tmp_path)
    assert command(*options, "--report-only") == 0
    after = files(tmp_path)
    assert before.items() <= after.items()
    [folder] = {path.parent for path in after.keys() - before.keys()}
    assert folder == tmp_path / f"reports/small/digits-cnn+{name}"


# ---------------------------------------------------------------------- other ways to lose results


def edited(study: Study) -> Study:
    """Return the study after its arms were edited: no trial has been trained yet."""
    return replace(study, arms=[Arm(optimizer="foof"), Arm(optimizer="adam")])


def test_a_report_without_results_does_not_replace_one_with_results(
    command: Invoke, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert command() == 0
    before = files(tmp_path)
    capsys.readouterr()
    assert command("--report-only", study=edited(SMALL)) == 0
    assert files(tmp_path) == before
    output = " ".join(capsys.readouterr().out.split())
    assert "None of the 4 planned results exists, so the report was not replaced" in output
    assert "Its 6 results belong to an earlier version" in output


def test_reports_of_an_earlier_version_are_not_replaced_by_empty_ones(
    command: Invoke, tmp_path: Path
):
    assert command() == 0
    [path] = tmp_path.glob("reports/*/*/.report.json")
    record = json.loads(path.read_bytes())
    path.write_text(json.dumps({name: record[name] for name in ("inputs", "files", "report")}))
    before = files(tmp_path)
    assert command("--report-only", study=edited(SMALL)) == 0 and files(tmp_path) == before
    assert command("--report-only") == 0 and "options" not in json.loads(path.read_bytes())
    assert command("--seeds", "3") == 0 and "options" in json.loads(path.read_bytes())


def test_a_report_with_fewer_results_keeps_the_earlier_one_under_another_name(
    command: Invoke, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert command() == 0
    folder = tmp_path / "reports/small/digits-cnn"
    before = {path.name: content for path, content in files(tmp_path).items()}
    shorter = replace(SMALL, arms=[Arm(optimizer="sgd"), Arm(optimizer="foof")])
    for _ in range(2):
        assert command("--report-only", study=shorter) == 0
        assert sizes(folder) == {"sgd": "2", "foof": "0"}
        [earlier] = folder.parent.glob("digits-cnn+earlier-*")
        kept = {path.name: path.read_bytes() for path in earlier.iterdir() if path.name[0] != "."}
        assert kept == before
    assert f"kept in reports/small/{earlier.name}" in capsys.readouterr().out.replace("\n  ", " ")


def test_a_report_with_more_results_keeps_the_earlier_one_if_it_lacks_an_arm(
    command: Invoke, tmp_path: Path
):
    assert command() == 0
    folder = tmp_path / "reports/small/digits-cnn"
    other = replace(SMALL, seeds=8, arms=[Arm(optimizer="sgd")])
    assert command(study=other) == 0
    assert sizes(folder) == {"sgd": "8"}
    [earlier] = folder.parent.glob("digits-cnn+earlier-*")
    assert sizes(earlier) == {"sgd": "2", "nysact-s rank=5": "2", "nysact-s rank=10": "2"}


def test_a_report_is_kept_although_one_of_the_same_trials_was_kept_before(
    command: Invoke, runner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    other = replace(SMALL, arms=[Arm(optimizer="sgd"), Arm(optimizer="kfac")])
    assert command() == 0 and command(study=other) == 0
    folder = tmp_path / "reports/small/digits-cnn"
    [earlier] = folder.parent.glob("digits-cnn+earlier-*")
    shutil.copytree(earlier, tmp_path / "copy")
    assert command() == 0
    monkeypatch.setattr(folders, "accuracy", lambda trial, epoch: 0.5)
    assert command("--rerun", runner.keys[2]) == 0
    last = (folder / "arms.csv").read_bytes()
    # As after a kill before the earlier report was deleted.
    shutil.copytree(tmp_path / "copy", earlier)
    assert command(study=other) == 0
    assert (earlier / "arms.csv").read_bytes() == last


def test_an_earlier_report_is_deleted_when_a_report_shows_all_of_its_results(
    command: Invoke, tmp_path: Path
):
    other = replace(SMALL, arms=[Arm(optimizer="sgd"), Arm(optimizer="kfac")])
    for seeds in ("2", "3", "4"):
        assert command("--seeds", seeds) == 0 and command("--seeds", seeds, study=other) == 0
    folder = tmp_path / "reports/small/digits-cnn"
    [earlier] = folder.parent.glob("digits-cnn+earlier-*")
    assert set(sizes(folder).values()) == set(sizes(earlier).values()) == {"4"}


@pytest.mark.parametrize("record", ["{", '{"results": 3}', "old"])
def test_a_report_without_a_list_of_results_is_kept(
    command: Invoke, runner: Runner, tmp_path: Path, record: str
):
    assert command() == 0
    folder = tmp_path / "reports/small/digits-cnn"
    if record == "old":
        stored = json.loads((folder / ".report.json").read_bytes())
        record = json.dumps({name: stored[name] for name in ("inputs", "files", "report")})
    (folder / ".report.json").write_text(record)
    before = (folder / "arms.csv").read_bytes()
    runner.limit = 1
    assert command(study=replace(SMALL, arms=[Arm(optimizer="adam")])) == 130
    [earlier] = folder.parent.glob("digits-cnn+earlier-*")
    assert (earlier / "arms.csv").read_bytes() == before


def test_results_that_a_user_deleted_leave_the_report(command: Invoke, tmp_path: Path):
    assert command() == 0
    trial = SMALL.trials()[0]
    shutil.rmtree(trial_folder(tmp_path, trial.config.trial_key))
    assert command("--report-only") == 0
    folder = tmp_path / "reports/small/digits-cnn"
    assert sizes(folder)[trial.arm.label] == "1" and len([*folder.parent.iterdir()]) == 1


# ---------------------------------------------------------------------- next steps


def next_commands(output: str) -> str:
    return output[output.index("Next:") :]


def test_next_steps_after_an_interruption_resume_and_add_no_seed(
    command: Invoke, runner: Runner, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    runner.limit = 4
    assert command() == 130
    runner.limit = None
    assert command("--report-only") == 0
    steps = next_commands(capsys.readouterr().out)
    assert "the same command without --report-only" in steps and "--seeds" not in steps
    assert "trains the 2 unfinished trials" in steps
    write_trial(tmp_path, SMALL.trials(seeds=[5])[0], epochs=1, status=None)
    assert command() == 0
    steps = next_commands(capsys.readouterr().out.rpartition("A study of few arms")[2])
    assert "the same command with --seeds 5,  trains the 1 unfinished trial" in steps


def test_next_steps_repeat_failed_trials_of_other_seeds(
    command: Invoke, runner: Runner, capsys: pytest.CaptureFixture[str]
):
    runner.status = FAILED
    assert command("--seeds", "7,8", "--optimizers", "sgd") == 1
    steps = next_commands(capsys.readouterr().out)
    assert "the same command with --retry failed  trains" in steps
    runner.status = "completed"
    assert command() == 1
    steps = next_commands(capsys.readouterr().out)
    assert "the same command with --retry failed and with --seeds 7,8" in steps


def test_next_steps_of_unequal_seeds_name_the_seeds_that_some_arms_lack(
    command: Invoke, capsys: pytest.CaptureFixture[str]
):
    assert command() == 0
    assert "the same command with --seeds 3" in next_commands(capsys.readouterr().out)
    assert command("--optimizers", "sgd", "--seeds", "4") == 0
    assert command() == 0
    steps = next_commands(capsys.readouterr().out.rpartition("A study of few arms")[2])
    assert "the same command with --seeds 4" in steps and "all of these seeds" in steps


# ---------------------------------------------------------------------- stored plans and the list


def plans_of(root: Path, study: Study = SMALL) -> dict[str, list[str]]:
    """Return the keys of the trials of the stored plans, by selection."""
    return {p.selection: [t.config.trial_key for t in p.trials] for p in study.stored(root).plans}


def test_stored_returns_the_plans_of_all_reports(command: Invoke, tmp_path: Path):
    assert command("--seeds", "1") == 0
    assert command("--levels", "rank=5,20", "--epochs", "1", "--seeds", "3") == 0
    stored = SMALL.stored(tmp_path).plans
    assert [plan.selection for plan in stored] == ["", "levels.rank=5,20+epochs=1"]
    assert [len(plan.trials) for plan in stored] == [3, 9]
    for plan in stored:  # the same plans as those of the commands: nothing is written again
        inputs, report = reports.last(plan.folder)
        assert report is not None and reports.make(plan)[1] == inputs
        view = SMALL.tracking(plan)
        assert view is not None and view.selection == plan.selection
    assert SMALL.stored(tmp_path).problems == []


def test_a_folder_with_trials_alone_gives_the_studies_that_have_a_trial_of_each_arm(
    command: Invoke, tmp_path: Path
):
    assert command("--seeds", "0,3") == 0
    keys = plans_of(tmp_path)
    shutil.rmtree(tmp_path / "reports")
    assert plans_of(tmp_path) == keys and len(keys[""]) == 6
    shutil.rmtree(trial_folder(tmp_path, keys[""][0]))
    assert [len(trials) for trials in plans_of(tmp_path).values()] == [5]
    shutil.rmtree(trial_folder(tmp_path, keys[""][3]))  # the other seed of the same arm
    assert plans_of(tmp_path) == {}


def test_a_report_that_needs_a_plugin_is_skipped_with_the_reason(
    command: Invoke, tmp_path: Path, plugin: str
):
    arguments = ("--plugin", plugin, "--optimizers", "signsgd,sgd", "--seeds", "1")
    assert command(*arguments) == 0
    assert list(plans_of(tmp_path)) == ["optimizers=sgd,signsgd"]
    del REGISTRY["signsgd"]
    assert plans_of(tmp_path) == {}
    [line] = SMALL.stored(tmp_path).problems
    assert line.startswith("small on digits/cnn, optimizers=sgd,signsgd: ")
    assert plugin in line and line.endswith("with --report-only")


@pytest.mark.parametrize(
    "change",
    [
        {"options": None},
        {"options": {"smoke": False, "seeds": 3}},
        {"options": {"smoke": False, "seeds": None, "levels": [1]}},
        {"workload": "no/such"},
        {"workload": 3},
    ],
)
def test_a_damaged_record_is_skipped(command: Invoke, tmp_path: Path, change: dict[str, Any]):
    assert command("--optimizers", "sgd", "--report-only") == 0
    [path] = tmp_path.glob("reports/*/*/.report.json")
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **change}))
    stored = SMALL.stored(tmp_path)
    assert stored.plans == [] and len(stored.problems) == 1


def test_smoke_reports_are_stored_in_the_folder_of_smoke_runs(command: Invoke, tmp_path: Path):
    assert command("--smoke") == 0
    [plan] = SMALL.stored(tmp_path / "smoke").plans
    assert plan.options.smoke and plan.root == tmp_path / "smoke" and len(plan.trials) == 6
    assert SMALL.stored(tmp_path).plans == []


def test_the_list_of_reports_has_their_results_pages_and_commands(
    command: Invoke,
    tmp_path: Path,
    plugin: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.chdir(tmp_path.parent)
    study = ablation_rank.STUDY
    assert command("--optimizers", "sgd", "--seeds", "2", study=study) == 0
    arguments = "--plugin", plugin, "--optimizers", "signsgd", "--set", "lr=0.1"
    assert command(*arguments, "--report-only") == 0
    assert command("--workload", "digits/mlp", "--report-only") == 0
    capsys.readouterr()
    assert manage.GROUP.main(["reports", "--out", str(tmp_path)], standalone_mode=False) == 0
    output = capsys.readouterr().out.replace(tmp_path.name, "OUT")
    blocks = [block.splitlines() for block in output.split("\n\n")]
    rank, signsgd, mlp = ["\n".join(block) for block in blocks]
    assert rank.startswith("ablation_rank on digits/autoencoder, optimizers=sgd: 2/2 results\n")
    assert "OUT/reports/ablation_rank/digits-autoencoder+optimizers=sgd/report.html" in rank
    assert "ablation_rank.py --optimizers sgd --seeds 2 --out OUT --report-only" in rank
    assert signsgd.startswith("small on digits/cnn, optimizers=signsgd+set.lr=0.1: 0/2 results")
    assert "small.py --plugin " in signsgd
    assert "custom_optimizer.py --optimizers signsgd --set lr=0.1" in signsgd
    assert mlp.startswith("small on digits/mlp: 0/6 results\n")


def test_the_list_of_reports_of_an_empty_folder_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert manage.GROUP.main(["reports", "--out", str(tmp_path)], standalone_mode=False) == 0
    assert capsys.readouterr().out.startswith("no reports in ")


def test_the_record_of_a_failed_study_counts_its_results(
    command: Invoke, runner: Runner, tmp_path: Path
):
    runner.status = FAILED
    assert command() == 1
    record = records.read(tmp_path / "reports/small/digits-cnn")
    assert len(record["results"]) == record["planned"] == 6
