"""MLflow receives the values of the output folder, and each value is sent only once."""

import io
import json
import math
import subprocess
import sys
import threading
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from folders import STUDY, metrics, planned, write_trial
from rich.console import Console

from studies.harness.design.options import Options, default_uri
from studies.harness.design.result import Report
from studies.harness.evidence import ledger
from studies.harness.evidence.metrics import bounds, step
from studies.harness.statistics.intervals import summarize
from studies.harness.tracking import background
from studies.harness.tracking.background import Tracking, up_to_date
from studies.harness.tracking.client import MlflowClient
from studies.harness.tracking.view import MARK, Sent, View
from studies.harness.tracking.views import ReportView, TrialsView
from trainables.store import DIVERGED

WRITES = ["create_run", "log_batch", "set_tag", "update_run", "set_terminated"]
WRITES += ["log_artifact", "log_text"]


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    # All tests share a database, because the creation of a database takes seconds.
    return default_uri(tmp_path_factory.mktemp("mlflow"))


@pytest.fixture
def study(request):
    return replace(STUDY, name=request.node.name)


@pytest.fixture
def runs(uri, study):
    """Return a function that returns a study's parent run, and the runs of its trials by key."""
    client = MlflowClient(tracking_uri=uri)

    def read(name=study.name):
        all_runs = client.search_runs([client.get_experiment_by_name(name).experiment_id])
        parents = [run for run in all_runs if run.data.tags["kind"] == "study"]
        children = [run for run in all_runs if run.data.tags["kind"] == "trial"]
        by_key = {run.data.tags["trial_key"]: run for run in children}
        assert len(parents) == 1 and len(by_key) == len(children)
        return parents[0], by_key

    return read


def view(study, trials, root, **options):
    settings = {
        "facts": study,
        "workload": "digits/cnn",
        "metric": study.figure.on("digits/cnn").metric,
    }
    return TrialsView(**settings, trials=lambda: trials, options=Options(out=root, **options))


def sync(study, trials, root, uri, files=(), smoke=False, **numbers):
    """Send a study's trials and a report; return the number of epochs sent."""
    report = Report(files=files, metrics=numbers)
    return view(study, trials, root, smoke=smoke).send(uri, report).epochs


def history(uri, run, name):
    points = MlflowClient(tracking_uri=uri).get_metric_history(run.info.run_id, name)
    return [(point.step, point.value, point.timestamp) for point in points]


def test_runs_have_the_values_of_the_trial_folders(tmp_path, uri, study, runs):
    trials = planned(seeds=1)[:4]
    stores = [write_trial(tmp_path, trial) for trial in trials]
    assert sync(study, trials, tmp_path, uri) == 8
    parent, children = runs()
    for trial, store in zip(trials, stores, strict=True):
        child = children[trial.config.trial_key]
        assert child.info.status == "FINISHED"
        assert child.info.run_name == f"{trial.arm.label} s0"
        assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert child.data.tags["status"] == "completed"
        assert child.data.tags["torch"] == "2.15.0"
        assert child.data.params["seed"] == "0"
        for name in metrics(trial, 0):
            folder = [
                (line["epoch"], line["metrics"][name], int(1000 * line["time"]))
                for line in store.epochs()
            ]
            assert history(uri, child, name) == folder
    assert children[trials[3].config.trial_key].data.tags["level"] == "10"
    assert children[trials[3].config.trial_key].data.params["rank"] == "10"


def test_parent_run_has_the_summary_and_the_artifacts(tmp_path, uri, study, runs):
    trials = planned(seeds=2)[:8]
    for trial in trials[1:]:
        write_trial(tmp_path, trial)
    page = tmp_path / "report.md"
    page.write_text("one")
    expected = metrics(trials[4], 1)["test/accuracy"]
    numbers = {"mean/nysact-g rank=20": expected, "sd/nysact-g rank=20": math.nan}
    sync(study, trials, tmp_path, uri, [page], **numbers)
    parent, _ = runs()
    assert parent.info.run_name == f"{study.name} digits/cnn"
    assert parent.info.status == "RUNNING"
    assert parent.data.metrics["trials/completed"] == 7
    assert parent.data.metrics["trials/not run"] == 1
    assert parent.data.metrics["mean/nysact-g.rank.20"] == expected
    assert "sd/nysact-g.rank.20" not in parent.data.metrics
    artifacts = tmp_path / "mlartifacts" / parent.info.run_id / "artifacts"
    assert (artifacts / "report.md").read_text() == "one"

    write_trial(tmp_path, trials[0])
    page.write_text("two")
    sync(study, trials, tmp_path, uri, [page])
    parent, _ = runs()
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["trials/completed"] == 8
    assert (artifacts / "report.md").read_text() == "two"


def test_parent_run_has_the_decisions_on_the_claims_as_tags(tmp_path, uri, study, runs):
    trials = planned(seeds=2)[:2]
    for trial in trials:
        write_trial(tmp_path, trial)
    claims = [{"sentence": "Supported: a is better than b.", "verdict": "supported"}]
    view(study, trials, tmp_path).send(uri, Report(files=[], claims=claims))
    tags = runs()[0].data.tags
    assert (tags["claim/1"], tags["verdict/1"]) == ("Supported: a is better than b.", "supported")
    assert f"- {study.claims[0].text}" in tags["mlflow.note.content"]
    view(study, trials, tmp_path).send(uri, Report(files=[], claims=[]))
    assert not {"claim/1", "verdict/1"} & {*runs()[0].data.tags}


@pytest.mark.parametrize("mark", ["", "digest"])
def test_second_sync_writes_nothing(tmp_path, uri, study, monkeypatch, mark):
    trials = planned(seeds=1)[:3]
    write_trial(tmp_path, trials[0])
    write_trial(tmp_path, trials[1], 1, None)
    page = tmp_path / "report.md"
    page.write_text("one")
    report = Report(files=[page], metrics={"mean/sgd": 0.5})
    view(study, trials, tmp_path).send(uri, report, mark)
    for write in WRITES:
        monkeypatch.setattr(
            MlflowClient, write, lambda *args, write=write: pytest.fail(f"{write} was called")
        )
    assert view(study, trials, tmp_path).send(uri, report, mark) == Sent()


def test_kill_during_database_creation_leaves_no_database(tmp_path, study, monkeypatch):
    """MLflow cannot use a database that lacks some tables."""

    def killed(*paths):
        raise KeyboardInterrupt

    uri = default_uri(tmp_path)
    write_trial(tmp_path, planned(1)[0], epochs=1)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("os.link", killed)
        sync(study, planned(1)[:1], tmp_path, uri)
    assert not (tmp_path / "mlflow.db").exists()
    assert sync(study, planned(1)[:1], tmp_path, uri) == 1


def test_resumed_trial_continues_in_the_same_run(tmp_path, uri, study, runs):
    trial = planned(seeds=1, epochs=5)[0]
    write_trial(tmp_path, trial, 2, None)
    assert sync(study, [trial], tmp_path, uri) == 2
    before = runs()[1][trial.config.trial_key]
    assert before.info.status == "RUNNING" and before.data.tags["status"] == "in flight"
    write_trial(tmp_path, trial)
    assert sync(study, [trial], tmp_path, uri) == 3
    after = runs()[1][trial.config.trial_key]
    assert after.info.run_id == before.info.run_id and after.info.status == "FINISHED"
    assert [step for step, _, _ in history(uri, after, "test/accuracy")] == [0, 1, 2, 3, 4]


def test_run_of_a_diverged_trial_is_failed_and_a_retry_reopens_it(tmp_path, uri, study, runs):
    trial = planned(seeds=1)[0]
    store = write_trial(tmp_path, trial, 1, DIVERGED, epoch=1, step=7)
    sync(study, [trial], tmp_path, uri)
    child = runs()[1][trial.config.trial_key]
    assert child.info.status == "FAILED"
    assert (child.data.tags["status"], child.data.tags["status_reason"]) == (
        "diverged",
        "epoch=1, step=7",
    )
    (store.folder / "status.json").unlink()
    sync(study, [trial], tmp_path, uri)
    child = runs()[1][trial.config.trial_key]
    assert (child.info.status, child.data.tags["status_reason"]) == ("RUNNING", "")


def test_values_that_are_not_finite_are_not_sent(tmp_path, uri, study, runs):
    trial = planned(seeds=1)[0]
    store = write_trial(tmp_path, trial, 0, None)
    store.record(0, {"train/loss": math.inf, "test/loss": math.nan, "test/accuracy": 0.1})
    store.finish(DIVERGED, epoch=0)
    assert sync(study, [trial], tmp_path, uri) == 1
    assert runs()[1][trial.config.trial_key].data.metrics == {"test/accuracy": 0.1}


def test_points_sent_before_a_kill_are_not_duplicated(tmp_path, uri, study, runs):
    trial = planned(seeds=1)[0]
    write_trial(tmp_path, trial)
    sync(study, [trial], tmp_path, uri)
    child = runs()[1][trial.config.trial_key]
    MlflowClient(tracking_uri=uri).set_tag(child.info.run_id, "epochs_sent", "0")
    assert sync(study, [trial], tmp_path, uri) == 2
    assert [step for step, _, _ in history(uri, child, "test/accuracy")] == [0, 1]


def test_long_curves_are_sent_in_several_requests(tmp_path, uri, study, runs, monkeypatch):
    trial = planned(seeds=1, epochs=300)[0]
    write_trial(tmp_path, trial)
    sizes, log_batch = [], MlflowClient.log_batch

    def count(client, run_id, metrics=(), params=(), tags=()):
        sizes.append(len(metrics) + len(params) + len(tags))
        return log_batch(client, run_id, metrics, params, tags)

    monkeypatch.setattr(MlflowClient, "log_batch", count)
    sync(study, [trial], tmp_path, uri)
    assert max(sizes) <= 1000  # the limit of a server; the local database has none
    points = history(uri, runs()[1][trial.config.trial_key], "mem/peak_mb")
    assert [step for step, _, _ in points] == list(range(300))


def test_smaller_plan_and_smoke_run_do_not_change_existing_runs(tmp_path, uri, study, runs):
    trials = planned(seeds=1)[:2]
    for trial in trials:
        write_trial(tmp_path, trial)
    write_trial(tmp_path / "smoke", trials[0])
    sync(study, trials, tmp_path, uri)
    sync(study, trials[:1], tmp_path, uri)
    sync(study, trials[:1], tmp_path, uri, smoke=True)
    assert len(runs()[1]) == 2
    parent, children = runs(f"{study.name}-smoke")
    assert len(children) == 1 and parent.data.tags["smoke"] == "True"


@dataclass(frozen=True, kw_only=True)
class Failing(View):
    """A view whose server does not answer."""

    calls: list[None]
    enough: threading.Event

    def send(self, uri, report=None, mark=""):
        self.calls.append(None)
        if len(self.calls) == 3:
            self.enough.set()
        raise OSError("no server\nand more lines")


def terminal():
    return Console(file=io.StringIO(), width=200)


def test_background_prints_the_first_failure_only_and_continues(tmp_path, monkeypatch):
    monkeypatch.setattr(background, "INTERVAL_S", 0.001)
    options, console, enough = Options(out=tmp_path), terminal(), threading.Event()
    failing = Failing(facts=STUDY, workload="digits/cnn", options=options, calls=[], enough=enough)
    tracking = Tracking([failing], options, console)
    assert enough.wait(10)
    first = "MLflow tracking failed; training continues: OSError: no server\n"
    assert console.file.getvalue() == first
    assert isinstance(tracking.error, OSError)
    tracking.finish([Report(files=[])], [""])
    assert not tracking._thread.is_alive()
    consequence = "all results are in the output folder"
    second = f"MLflow tracking failed; {consequence}: OSError: no server\n"
    assert console.file.getvalue() == first + second


def test_unstarted_trials_create_only_the_parent_run(tmp_path, uri, study, runs):
    assert sync(study, planned(seeds=1), tmp_path, uri) == 0
    parent, children = runs()
    count = len(ledger.frame(planned(seeds=1), tmp_path))
    assert not children and parent.data.metrics["trials/not run"] == count


def group_runs(uri, study):
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name(study.name).experiment_id
    groups = client.search_runs([experiment], "tags.kind = 'group'")
    return {run.info.run_name: run for run in groups}, len(groups)


def test_group_run_has_the_mean_over_completed_seeds(tmp_path, uri, study, runs):
    trials = [trial for trial in planned(seeds=3) if trial.arm.label in {"sgd", "nysact-s rank=10"}]
    for trial in trials:
        if trial == trials[0]:
            write_trial(tmp_path, trial, 1, DIVERGED, epoch=1)
        else:
            write_trial(tmp_path, trial)
    sync(study, trials, tmp_path, uri)
    groups, count = group_runs(uri, study)
    assert set(groups) == {"sgd", "nysact-s rank=10"} and count == 2
    values = [
        metrics(trial, 1)["test/accuracy"] for trial in trials if trial.arm.optimizer == "nysact-s"
    ]
    name, workload = "test/accuracy", trials[0].config.workload
    expected = summarize(values, step(name, workload), bounds(name))
    group = groups["nysact-s rank=10"]
    for name in ("mean", "sd", "ci_lo", "ci_hi"):
        assert group.data.metrics[f"{name}/test/accuracy"] == pytest.approx(getattr(expected, name))
    assert group.data.metrics["n"] == 3 and groups["sgd"].data.metrics["n"] == 2
    assert groups["sgd"].data.tags["status"] == "2 completed, 1 diverged"
    assert group.info.status == "FINISHED"
    assert group.data.tags["mlflow.parentRunId"] == runs()[0].info.run_id
    assert group.data.tags["level"] == "10"
    assert group.data.tags["group_key"] == trials[1].config.group_key
    assert group.data.params["rank"] == "10" and "seed" not in group.data.params
    curve = [(step, value) for step, value, _ in history(uri, group, "test/accuracy")]
    means = [sum(metrics(t, epoch)["test/accuracy"] for t in trials[1::2]) / 3 for epoch in (0, 1)]
    assert curve == [(epoch, pytest.approx(mean)) for epoch, mean in enumerate(means)]
    artifacts = tmp_path / "mlartifacts" / group.info.run_id / "artifacts"
    assert len((artifacts / "seeds.csv").read_text().splitlines()) == 4
    curve_file = (artifacts / "curve.csv").read_text()
    assert curve_file.startswith("epoch,metric,n,mean,sd,ci_lo,ci_hi\n0,test/accuracy,3,")


def test_group_run_is_updated_and_has_its_curve_when_all_seeds_end(tmp_path, uri, study, runs):
    first, second, third = (trial for trial in planned(seeds=3) if trial.arm.optimizer == "foof")
    sync(study, [first, second], tmp_path, uri)
    assert group_runs(uri, study) == ({}, 0)
    write_trial(tmp_path, first)
    sync(study, [first, second], tmp_path, uri)
    partial = group_runs(uri, study)[0]["foof"]
    run_id = partial.info.run_id
    assert partial.info.status == "RUNNING" and partial.data.metrics["n"] == 1
    assert "sd/test/accuracy" not in partial.data.metrics
    assert history(uri, partial, "test/accuracy") == []
    write_trial(tmp_path, second)
    for _ in range(2):
        sync(study, [first, second], tmp_path, uri)
    complete = group_runs(uri, study)[0]["foof"]
    assert (complete.info.run_id, complete.info.status) == (run_id, "FINISHED")
    assert complete.data.metrics["n"] == 2
    assert [step for step, _, _ in history(uri, complete, "test/accuracy")] == [0, 1]
    write_trial(tmp_path, third)
    sync(study, [first, second, third], tmp_path, uri)
    groups, count = group_runs(uri, study)
    assert count == 1 and groups["foof"].info.run_id == run_id
    assert groups["foof"].data.metrics["n"] == 3


def test_experiment_has_a_view_of_each_workloads_configurations(tmp_path, uri, study):
    """The view is ordered by a metric, so that the UI does not collapse runs into their parent."""
    trials = planned(seeds=1)
    for _ in range(2):
        sync(study, trials, tmp_path, uri)
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name(study.name)
    tags = experiment.tags
    assert tags["mlflow.experimentKind"] == "custom_model_development"
    view = json.loads(tags["mlflow.sharedViewState.configurations-digits-cnn"])
    [parent] = client.search_runs([experiment.experiment_id], "tags.kind = 'study'")
    key = parent.info.run_id
    assert view["searchFilter"] == f"tags.kind = 'group' and tags.mlflow.parentRunId = '{key}'"
    assert view["orderByKey"] == "metrics.`mean/test/accuracy`"
    parallel = view["compareRunCharts"][0]
    assert parallel["selectedParams"] == ["optimizer", "rank"]
    assert parallel["selectedMetrics"] == ["mean/test/accuracy"]
    section = view["compareRunSections"][0]["uuid"]
    assert {chart["metricSectionId"] for chart in view["compareRunCharts"]} == {section}


def test_run_of_a_stopped_trial_is_closed(tmp_path, uri, study, runs):
    first, second = planned(seeds=1)[:2]
    write_trial(tmp_path, first)
    write_trial(tmp_path, second, 1, None)
    key, plan_trials = second.config.trial_key, [first, second]
    trials_view = view(study, plan_trials, tmp_path)
    assert trials_view.send(uri).epochs == 3 and runs()[1][key].info.status == "RUNNING"
    for changed in (2, 0):  # the stopped trial and the parent run; nothing
        sent = replace(trials_view, stopped=lambda: [key]).send(uri)
        assert (sent.runs, sent.epochs) == (changed, 0)
        stopped = runs()[1][key]
        assert (stopped.info.status, stopped.data.tags["status"]) == ("KILLED", "stopped")
    assert runs()[0].info.status == "FINISHED"
    plan_trials.clear()
    both = replace(trials_view, stopped=lambda: [key, first.config.trial_key])
    assert both.send(uri).epochs == 0
    assert runs()[1][first.config.trial_key].info.status == "FINISHED"


def test_plan_without_trials_creates_no_experiment(tmp_path, uri, study):
    assert view(study, [], tmp_path).send(uri, Report(files=[])) == Sent()
    assert MlflowClient(tracking_uri=uri).get_experiment_by_name(study.name) is None


def test_update_without_a_report_keeps_the_numbers_of_the_last_report(tmp_path, uri, study, runs):
    trial, extended = planned(seeds=1)[0], planned(seeds=1)[:2]
    write_trial(tmp_path, trial)
    sync(study, [trial], tmp_path, uri, **{"mean/sgd": 0.5})
    view(study, extended, tmp_path).send(uri)
    summary = runs()[0].data.metrics
    assert summary["mean/sgd"] == 0.5
    assert summary["trials/planned"] == 2 and summary["trials/not run"] == 1


def test_report_run_is_sent_again_when_its_files_change(tmp_path, uri, study):
    options, page = Options(out=tmp_path), tmp_path / "report.md"
    numbers = {"growth/conv 1": 2.0, "growth/fc=2": 3.0, "growth/fc": math.inf}
    probe = ReportView(
        facts=study,
        workload="digits/cnn",
        options=options,
        kind="probe",
        key="ab" * 32,
        params={"lr": 0.1},
    )
    assert probe.send(uri) == Sent()
    client = MlflowClient(tracking_uri=uri)
    assert client.get_experiment_by_name(study.name) is None
    for content in ("one", "two"):
        page.write_text(content)
        report = Report(files=[page], metrics=numbers)
        assert [probe.send(uri, report), probe.send(uri, report)] == [Sent(runs=1), Sent()]
        [only] = client.search_runs([client.get_experiment_by_name(study.name).experiment_id])
        artifacts = tmp_path / "mlartifacts" / only.info.run_id / "artifacts"
        assert (artifacts / "report.md").read_text() == content
    assert only.data.metrics == {"growth/conv 1": 2.0, "growth/fc.2": 3.0}
    assert only.data.params == {"lr": "0.1"}
    assert (only.info.run_name, only.info.status) == (f"{study.name} digits/cnn", "FINISHED")
    tags = {
        name: value
        for name, value in only.data.tags.items()
        if not name.startswith(("mlflow.", "artifacts"))
    }
    shared = {
        "study": study.name,
        "paper": "NysAct",
        "table": "Figure 7",
        "workload": "digits/cnn",
        "smoke": "False",
    }
    assert tags == {**shared, "kind": "probe", "group_key": "ab" * 32}


# ---------------------------------------------------------------------- unchanged inputs

COMMAND = """
import sys
from pathlib import Path
from folders import STUDY, planned
from rich.console import Console
from studies.harness.design.options import Options
from studies.harness.design.result import Report
from studies.harness.tracking.background import Tracking, up_to_date
from studies.harness.tracking.views import TrialsView

root, uri, inputs = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
options = Options(out=root, tracking_uri=uri)
settings = {"facts": STUDY, "workload": "digits/cnn", "metric": "test/accuracy"}
view = TrialsView(**settings, trials=lambda: planned(1)[:1], options=options)
if not up_to_date(uri, inputs):
    Tracking([view], options, Console()).finish([Report(files=[root / "report.md"])], inputs)
print("mlflow" in sys.modules)
"""


def track(study, trials, root, uri, digest, **numbers):
    options, console = Options(out=root, tracking_uri=uri), terminal()
    report = Report(files=[root / "report.md"], metrics=numbers)
    Tracking([view(study, trials, root)], options, console).finish([report], [digest])
    assert console.file.getvalue() == ""


def test_command_does_not_import_mlflow_if_nothing_has_changed(tmp_path, uri, monkeypatch):
    write_trial(tmp_path, planned(seeds=1)[0])
    (tmp_path / "report.md").write_text("one")
    monkeypatch.setenv("PYTHONPATH", f"{Path(__file__).parents[1]}:{Path(__file__).parents[2]}")

    def command(digest):
        arguments = [sys.executable, "-c", COMMAND, tmp_path, uri, digest]
        process = subprocess.run(arguments, capture_output=True, text=True, timeout=300)
        assert process.returncode == 0, process.stderr
        return process.stdout

    assert [command(digest) for digest in ("a", "a", "b")] == ["True\n", "False\n", "True\n"]


def test_everything_is_sent_again_after_the_run_or_the_database_was_deleted(
    tmp_path, uri, study, runs
):
    trial = planned(seeds=1)[0]
    write_trial(tmp_path, trial)
    (tmp_path / "report.md").write_text("one")
    first, second = f"{study.name} 1", f"{study.name} 2"  # unique in the shared database
    track(study, [trial], tmp_path, uri, first)
    assert up_to_date(uri, []) and up_to_date(uri, [first])
    assert not up_to_date(uri, [first, second]) and not up_to_date(uri, [""])
    parent = runs()[0]
    MlflowClient(tracking_uri=uri).delete_run(parent.info.run_id)
    assert not up_to_date(uri, [first])
    track(study, [trial], tmp_path, uri, first)
    assert runs()[0].info.run_id != parent.info.run_id and up_to_date(uri, [first])

    database = tmp_path / "other.db"
    database.write_bytes(b"not a database, and longer than the header of a database file: " * 9)
    unreadable, absent = f"sqlite:///{database}", f"sqlite:///{tmp_path / 'none.db'}"
    for unknown in (unreadable, absent, "http://127.0.0.1:9"):
        assert not up_to_date(unknown, [first])
    database.unlink()
    track(study, [trial], tmp_path, f"sqlite:///{database}", first)
    assert up_to_date(f"sqlite:///{database}", [first])
    client = MlflowClient(tracking_uri=f"sqlite:///{database}")
    experiment = client.get_experiment_by_name(study.name)
    children = client.search_runs([experiment.experiment_id])
    assert {run.data.tags["kind"] for run in children} == {"study", "group", "trial"}


def test_mark_is_removed_before_another_state_is_sent(tmp_path, uri, study, runs, monkeypatch):
    """The mark is the digest of the inputs of the last complete update.

    If a command is killed while it sends, the next command must send everything again.
    """
    trials = planned(seeds=1)[:2]
    write_trial(tmp_path, trials[0])
    (tmp_path / "report.md").write_text("one")
    first, second = f"{study.name} 1", f"{study.name} 2"
    track(study, trials[:1], tmp_path, uri, first, **{"mean/sgd": 0.5})
    assert runs()[0].data.tags[MARK] == first
    write_trial(tmp_path, trials[1])

    def fail(*_):
        raise OSError("killed")

    with monkeypatch.context() as patch, pytest.raises(OSError):
        patch.setattr(MlflowClient, "set_terminated", fail)
        view(study, trials, tmp_path).send(uri, Report(files=[]), second)
    assert not up_to_date(uri, [first]) and not up_to_date(uri, [second])
    track(study, trials[:1], tmp_path, uri, first)
    assert runs()[0].data.tags[MARK] == first and runs()[0].data.metrics["trials/planned"] == 1
    view(study, trials, tmp_path).send(uri)  # as the background thread does
    assert runs()[0].data.tags[MARK] == ""


def test_report_run_is_marked_with_the_digest_of_its_inputs(tmp_path, uri, study):
    options = Options(out=tmp_path)
    probe = ReportView(
        facts=study, workload="digits/cnn", options=options, kind="probe", key="cd" * 32, params={}
    )
    for digest in (f"{study.name} 1", f"{study.name} 2"):  # the files are the same for both digests
        probe.send(uri, Report(files=[]), digest)
        assert up_to_date(uri, [digest])
    assert not up_to_date(uri, [f"{study.name} 1"])
