"""`python -m studies sync` rebuilds MLflow's database from the folders of all workloads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from folders import STUDY, write_trial

from studies.activation_norms import PROBE
from studies.harness.command import reports
from studies.harness.command import tracking as tracking_commands
from studies.harness.design.arms import Arm, grid
from studies.harness.design.ending import COMPLETE, SOME_FAILED
from studies.harness.design.options import Options, default_uri, report_folder
from studies.harness.design.result import Report
from studies.harness.kinds.probe.execute import measure
from studies.harness.kinds.search.proposer import Proposer
from studies.harness.kinds.study.plan import StudyPlan
from studies.harness.kinds.study.study import Study
from studies.harness.tracking import sync
from studies.harness.tracking.client import MlflowClient
from studies.tune_optimizers import SEARCH

RANK_STUDY = replace(
    STUDY, arms=[Arm(optimizer="sgd"), *grid("nysact-s", rank=[100, 200])], seeds=1
)
SMALL_PROBE = replace(PROBE, seeds=1, published={PROBE.workload: {"epochs": 1}})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An output folder with trials of a study on two workloads, a report, and a probe's result.

    On digits/mlp, rank 200 has no trial; on cifar10/resnet32, seed 6 is not one of the study's.
    """
    without_rank_200 = replace(RANK_STUDY, arms=RANK_STUDY.arms[:2])
    trials = [
        *without_rank_200.trials("digits/mlp", [0], {"epochs": 1}),
        *RANK_STUDY.trials("cifar10/resnet32", [0, 6], {"epochs": 1}),
    ]
    for trial in trials:
        write_trial(tmp_path, trial)
    page = report_folder(tmp_path, RANK_STUDY.name, "cifar10/resnet32") / "report.html"
    page.parent.mkdir(parents=True)
    page.write_text("<h1>Rank</h1>")
    measure(SMALL_PROBE, SMALL_PROBE.trials()[0].config, tmp_path, torch.device("cpu"))
    return tmp_path


def test_sync_sends_everything_once(root: Path):
    workloads = ("digits/mlp", "cifar10/resnet32")
    study = replace(RANK_STUDY, published={name: {"epochs": 1} for name in workloads})
    stored = Report(files=[], metrics={"mean/sgd": 0.5})
    first = list(sync.send_all([study, SMALL_PROBE], root, last_report=lambda plan: stored))
    assert [(update.name, str(update.sent)) for update in first] == [
        (f"{study.name} on cifar10/resnet32", "13 runs and 8 epochs sent"),
        (f"{SMALL_PROBE.name} on {SMALL_PROBE.workload}", "1 run sent"),
    ]
    # The next study shares the trials of its SGD arm with the first study, and has no report.
    other = replace(study, name="shares", arms=[RANK_STUDY.arms[0], Arm(optimizer="foof")])
    second = list(sync.send_all([study, other, SMALL_PROBE], root, None))
    # Only the page of the report is new, because the stored report of the first call had no files.
    assert [str(update.sent) for update in second] == ["1 run sent", "nothing new"]
    client = MlflowClient(tracking_uri=default_uri(root))
    experiment = client.get_experiment_by_name(study.name)
    runs = client.search_runs([experiment.experiment_id])
    trials = [run for run in runs if run.data.tags["kind"] == "trial"]
    assert sorted(run.data.params["seed"] for run in trials) == ["0"] * 4 + ["6"] * 4
    [parent] = [run for run in runs if run.data.tags["kind"] == "study"]
    assert [file.path for file in client.list_artifacts(parent.info.run_id)] == ["report.html"]
    assert parent.data.metrics["mean/sgd"] == 0.5  # from the stored report


def test_sync_to_a_new_database_sends_the_numbers_of_the_last_report(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def report(self: Study, plan: StudyPlan) -> Report:
        return Report(files=[plan.folder / "report.html"], metrics={"mean/nysact-s rank=100": 0.5})

    monkeypatch.setattr(Study, "report", report)
    study = replace(RANK_STUDY, published={"cifar10/resnet32": {"epochs": 1}})
    [plan] = [plan for plan in study.stored(root).plans if plan.workload == "cifar10/resnet32"]
    reports.make(plan)
    monkeypatch.setattr(tracking_commands, "artefacts", lambda: {RANK_STUDY.name: study})
    assert tracking_commands._sync.callback(root, None) == COMPLETE
    assert (
        f"{study.name} on cifar10/resnet32: 13 runs and 8 epochs sent\n" in capsys.readouterr().out
    )
    client = MlflowClient(tracking_uri=default_uri(root))
    experiment = client.get_experiment_by_name(study.name)
    runs = client.search_runs([experiment.experiment_id], "tags.workload = 'cifar10/resnet32'")
    [parent] = [run for run in runs if run.data.tags["kind"] == "study"]
    assert parent.data.metrics["mean/nysact-s.rank.100"] == 0.5
    assert [file.path for file in client.list_artifacts(parent.info.run_id)] == ["report.html"]


def test_sync_reports_a_search_with_other_settings_and_sends_the_rest(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    [plan] = SEARCH.plan(Options(out=root, epochs=3))
    assert Proposer(plan, "sgd", root).next()
    literals = {SEARCH.name: SEARCH, SMALL_PROBE.name: SMALL_PROBE}
    monkeypatch.setattr(tracking_commands, "artefacts", lambda: literals)
    assert tracking_commands._sync.callback(root, None) == SOME_FAILED
    first, second, *_ = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{SEARCH.name}: not sent, because {root}")
    assert "contains a search with trial.epochs = 3, not 20; to send it, repeat" in first
    assert second == f"{SMALL_PROBE.name} on {SMALL_PROBE.workload}: 1 run sent"


def test_sync_of_an_empty_folder_reports_that_there_is_nothing_to_send(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(tracking_commands, "artefacts", lambda: {RANK_STUDY.name: RANK_STUDY})
    assert tracking_commands._sync.callback(tmp_path, None) == COMPLETE
    assert capsys.readouterr().out.startswith(
        f"no results to send in {tmp_path}; run a study first"
    )
    assert not list(tmp_path.iterdir())


def test_damaged_folder_is_reported_in_one_line(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(tracking_commands, "artefacts", lambda: {RANK_STUDY.name: RANK_STUDY})
    next((root / "trials").iterdir()).joinpath("config.json").write_text("{")
    assert tracking_commands._sync.callback(root, None) == SOME_FAILED
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{RANK_STUDY.name}: not sent, because {root}") and "config.json" in line
