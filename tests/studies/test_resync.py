"""`python -m studies sync` rebuilds MLflow's database from the trial folders."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from folders import STUDY, run

from studies.activation_norms import PROBE
from studies.harness.command import manage, reports
from studies.harness.design.arms import Arm, grid
from studies.harness.design.ending import COMPLETE, ENVIRONMENT
from studies.harness.design.options import default_uri, report_folder
from studies.harness.design.result import Report
from studies.harness.kinds.probe.execute import measure
from studies.harness.kinds.study.plan import StudyPlan
from studies.harness.kinds.study.study import Study
from studies.harness.tracking import view
from studies.harness.tracking.client import MlflowClient

ONE = replace(STUDY, arms=[Arm(optimizer="sgd"), *grid("nysact-s", rank=[100, 200])], seeds=1)
SMALL = replace(PROBE, seeds=1, published={PROBE.workload: {"epochs": 1}})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An output folder with two workloads of a study, a report and a probe.

    On one of the workloads, rank 200 is refused; the other has more seeds than the study.
    """
    small = replace(ONE, arms=ONE.arms[:2])
    trials = [
        *small.trials("digits/mlp", [0], {"epochs": 1}),
        *ONE.trials("cifar10/resnet32", [0, 6], {"epochs": 1}),
    ]
    for trial in trials:
        run(tmp_path, trial)
    page = report_folder(tmp_path, ONE.name, "cifar10/resnet32") / "report.html"
    page.parent.mkdir(parents=True)
    page.write_text("<h1>Rank</h1>")
    measure(SMALL, SMALL.trials()[0].config, tmp_path, torch.device("cpu"))
    return tmp_path


def test_sync_sends_everything_once(root: Path):
    workloads = ("digits/mlp", "cifar10/resnet32")
    study = replace(ONE, published={name: {"epochs": 1} for name in workloads})
    stored = Report(files=[], metrics={"mean/sgd": 0.5})
    assert list(view.send_all([study, SMALL], root, last_report=lambda plan: stored)) == [
        (f"{study.name} on cifar10/resnet32", "8 epochs sent"),
        (f"{SMALL.name} on {SMALL.workload}", "sent"),
    ]
    # This study shares some of its trials and has no report.
    other = replace(study, name="shares", arms=[ONE.arms[0], Arm(optimizer="foof")])
    second = list(view.send_all([study, other, SMALL], root, None))
    assert [sent for _, sent in second] == ["0 epochs sent", "nothing to send"]
    client = MlflowClient(tracking_uri=default_uri(root))
    experiment = client.get_experiment_by_name(study.name)
    runs = client.search_runs([experiment.experiment_id])
    trials = [run for run in runs if run.data.tags["kind"] == "trial"]
    assert sorted(run.data.params["seed"] for run in trials) == ["0"] * 4 + ["6"] * 4
    [parent] = [run for run in runs if run.data.tags["kind"] == "study"]
    assert [file.path for file in client.list_artifacts(parent.info.run_id)] == ["report.html"]
    assert parent.data.metrics["mean/sgd"] == 0.5  # of the stored report


def test_a_new_database_has_the_numbers_of_the_last_report(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def report(self: Study, plan: StudyPlan) -> Report:
        return Report(files=[plan.folder / "report.html"], metrics={"mean/nysact-s rank=100": 0.5})

    monkeypatch.setattr(Study, "report", report)
    study = replace(ONE, published={"cifar10/resnet32": {"epochs": 1}})
    [plan] = [plan for plan in study.stored(root) if plan.workload == "cifar10/resnet32"]
    reports.make(plan)
    monkeypatch.setattr(manage, "artefacts", lambda: {ONE.name: study})
    assert manage._sync.callback(root, None) == COMPLETE
    assert f"{study.name} on cifar10/resnet32: 8 epochs sent\n" in capsys.readouterr().out
    client = MlflowClient(tracking_uri=default_uri(root))
    experiment = client.get_experiment_by_name(study.name)
    runs = client.search_runs([experiment.experiment_id], "tags.workload = 'cifar10/resnet32'")
    [parent] = [run for run in runs if run.data.tags["kind"] == "study"]
    assert parent.data.metrics["mean/nysact-s.rank.100"] == 0.5
    assert [file.path for file in client.list_artifacts(parent.info.run_id)] == ["report.html"]


def test_damaged_folder_is_reported_in_one_line(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(manage, "artefacts", lambda: {ONE.name: ONE})
    next((root / "trials").iterdir()).joinpath("config.json").write_text("{")
    assert manage._sync.callback(root, None) == ENVIRONMENT
    assert "no results are lost; try again" in capsys.readouterr().err
