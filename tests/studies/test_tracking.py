import json
import math
import threading
from dataclasses import replace

import pytest
from folders import STUDY, metrics, planned, run

from studies.harness.evidence import ledger
from studies.harness.evidence.statistics import summarize
from studies.harness.tracking.background import BackgroundSync
from studies.harness.tracking.sync import MlflowClient, default_uri, sync
from trainables.store import DIVERGED

WRITES = ("create_run", "log_batch", "set_tag", "update_run", "set_terminated", "log_artifact", "log_text")


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    return default_uri(tmp_path_factory.mktemp("mlflow"))  # creating a database takes seconds: one for all tests


@pytest.fixture
def study(request):
    return replace(STUDY, name=request.node.name)


@pytest.fixture
def runs(uri, study):
    """Reads back all runs of the test's experiment: (the parent, the trials' by key)."""
    client = MlflowClient(tracking_uri=uri)

    def read(name=study.name):
        found = client.search_runs([client.get_experiment_by_name(name).experiment_id])
        parents = [run for run in found if run.data.tags["kind"] == "study"]
        children = [run for run in found if run.data.tags["kind"] == "trial"]
        by_key = {run.data.tags["trial_key"]: run for run in children}
        assert len(parents) == 1 and len(by_key) == len(children)
        return parents[0], by_key

    return read


def history(uri, run, name):
    points = MlflowClient(tracking_uri=uri).get_metric_history(run.info.run_id, name)
    return [(point.step, point.value, point.timestamp) for point in points]


def test_runs_hold_what_the_folders_hold(tmp_path, uri, study, runs):
    trials = planned(seeds=1)[:4]
    stores = [run(tmp_path, trial) for trial in trials]
    assert sync(study, trials, tmp_path, uri) == 8
    parent, children = runs()
    for trial, store in zip(trials, stores, strict=True):
        child = children[trial.config.trial_key]
        assert child.info.status == "FINISHED"
        assert child.info.run_name == f"{trial.arm.label} s0"
        assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert child.data.tags["status"] == "completed"
        assert child.data.tags["torch"] == "2.15.0"
        assert child.data.params["lr"] == "0.1" and child.data.params["seed"] == "0"
        for name in metrics(trial, 0):
            folder = [(line["epoch"], line["metrics"][name], int(1000 * line["time"])) for line in store.epochs()]
            assert history(uri, child, name) == folder
    assert children[trials[3].config.trial_key].data.tags["level"] == "10"
    assert children[trials[3].config.trial_key].data.params["rank"] == "10"


def test_parent_holds_the_summary_and_the_artifacts(tmp_path, uri, study, runs):
    trials = planned(seeds=2)[:8]
    for trial in trials[1:]:
        run(tmp_path, trial)
    page = tmp_path / "report.md"
    page.write_text("one")
    sync(study, trials, tmp_path, uri, [page])
    parent, _ = runs()
    assert parent.info.run_name == f"{study.name} digits/cnn"
    assert parent.info.status == "RUNNING"
    assert parent.data.metrics["trials/completed"] == 7 and parent.data.metrics["trials/not run"] == 1
    expected = metrics(trials[4], 1)["test/accuracy"]
    assert parent.data.metrics["mean/nysact-g.rank.20"] == expected
    artifacts = tmp_path / "mlartifacts" / parent.info.run_id / "artifacts"
    assert (artifacts / "report.md").read_text() == "one"

    run(tmp_path, trials[0])
    page.write_text("two")
    sync(study, trials, tmp_path, uri, [page])
    parent, _ = runs()
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["trials/completed"] == 8
    assert (artifacts / "report.md").read_text() == "two"


def test_second_sync_writes_nothing(tmp_path, uri, study, monkeypatch):
    trials = planned(seeds=1)[:3]
    run(tmp_path, trials[0])
    run(tmp_path, trials[1], 1, None)
    page = tmp_path / "report.md"
    page.write_text("one")
    sync(study, trials, tmp_path, uri, [page])
    for write in WRITES:
        monkeypatch.setattr(MlflowClient, write, lambda *args, write=write: pytest.fail(f"{write} was called"))
    assert sync(study, trials, tmp_path, uri, [page]) == 0


def test_a_trial_in_flight_goes_on_in_the_same_run(tmp_path, uri, study, runs):
    trial = planned(seeds=1, epochs=5)[0]
    run(tmp_path, trial, 2, None)
    assert sync(study, [trial], tmp_path, uri) == 2
    before = runs()[1][trial.config.trial_key]
    assert before.info.status == "RUNNING" and before.data.tags["status"] == "in flight"
    run(tmp_path, trial)
    assert sync(study, [trial], tmp_path, uri) == 3
    after = runs()[1][trial.config.trial_key]
    assert after.info.run_id == before.info.run_id and after.info.status == "FINISHED"
    assert [step for step, _, _ in history(uri, after, "test/accuracy")] == [0, 1, 2, 3, 4]


def test_diverged_is_failed_with_its_reason_and_a_retry_reopens_it(tmp_path, uri, study, runs):
    trial = planned(seeds=1)[0]
    store = run(tmp_path, trial, 1, DIVERGED, epoch=1, step=7)
    sync(study, [trial], tmp_path, uri)
    child = runs()[1][trial.config.trial_key]
    assert child.info.status == "FAILED"
    assert (child.data.tags["status"], child.data.tags["status_reason"]) == ("diverged", "epoch=1, step=7")
    (store.folder / "status.json").unlink()
    sync(study, [trial], tmp_path, uri)
    child = runs()[1][trial.config.trial_key]
    assert (child.info.status, child.data.tags["status_reason"]) == ("RUNNING", "")


def test_values_that_are_not_finite_are_not_sent(tmp_path, uri, study, runs):
    trial = planned(seeds=1)[0]
    store = run(tmp_path, trial, 0, None)
    store.record(0, {"train/loss": math.inf, "test/loss": math.nan, "test/accuracy": 0.1})
    store.finish(DIVERGED, epoch=0)
    assert sync(study, [trial], tmp_path, uri) == 1
    assert runs()[1][trial.config.trial_key].data.metrics == {"test/accuracy": 0.1}


def test_points_sent_before_a_kill_are_not_doubled(tmp_path, uri, study, runs):
    trial = planned(seeds=1)[0]
    run(tmp_path, trial)
    sync(study, [trial], tmp_path, uri)
    child = runs()[1][trial.config.trial_key]
    MlflowClient(tracking_uri=uri).set_tag(child.info.run_id, "epochs_sent", "0")
    assert sync(study, [trial], tmp_path, uri) == 2
    assert [step for step, _, _ in history(uri, child, "test/accuracy")] == [0, 1]


def test_long_curves_go_in_parts_that_a_server_takes(tmp_path, uri, study, runs, monkeypatch):
    trial = planned(seeds=1, epochs=300)[0]
    run(tmp_path, trial)
    sizes, log_batch = [], MlflowClient.log_batch

    def count(client, run_id, metrics=(), params=(), tags=()):
        sizes.append(len(metrics) + len(params) + len(tags))
        return log_batch(client, run_id, metrics, params, tags)

    monkeypatch.setattr(MlflowClient, "log_batch", count)
    sync(study, [trial], tmp_path, uri)
    assert max(sizes) <= 1000  # the local database would take more
    points = history(uri, runs()[1][trial.config.trial_key], "mem/peak_mb")
    assert [step for step, _, _ in points] == list(range(300))


def test_other_plans_and_smoke_are_left_alone(tmp_path, uri, study, runs):
    trials = planned(seeds=1)[:2]
    for trial in trials:
        run(tmp_path, trial)
    sync(study, trials, tmp_path, uri)
    sync(study, trials[:1], tmp_path, uri)
    sync(study, trials[:1], tmp_path, uri, smoke=True)
    assert len(runs()[1]) == 2
    parent, children = runs(f"{study.name}-smoke")
    assert len(children) == 1 and parent.data.tags["smoke"] == "True"


def test_background_tells_of_the_first_failure_only_and_goes_on():
    told, calls, enough = [], [], threading.Event()

    def view():
        calls.append(None)
        if len(calls) == 3:
            enough.set()
        raise OSError("no server\nand a long story")

    background = BackgroundSync(view, told.append, interval_s=0.001)
    assert enough.wait(10)
    background.stop()
    assert told == ["tracking failed, training goes on: OSError: no server"]
    assert isinstance(background.error, OSError)


def test_nothing_begun_makes_only_the_parent(tmp_path, uri, study, runs):
    assert sync(study, planned(seeds=1), tmp_path, uri) == 0
    parent, children = runs()
    assert not children and parent.data.metrics["trials/not run"] == len(ledger.frame(planned(seeds=1), tmp_path))


def group_runs(uri, study):
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name(study.name).experiment_id
    found = client.search_runs([experiment], "tags.kind = 'group'")
    return {run.info.run_name: run for run in found}, len(found)


def test_a_group_run_holds_the_mean_over_its_completed_seeds(tmp_path, uri, study, runs):
    trials = [trial for trial in planned(seeds=3) if trial.arm.label in {"sgd", "nysact-s rank=10"}]
    for trial in trials:
        if trial == trials[0]:
            run(tmp_path, trial, 1, DIVERGED, epoch=1)
        else:
            run(tmp_path, trial)
    sync(study, trials, tmp_path, uri)
    groups, count = group_runs(uri, study)
    assert set(groups) == {"sgd", "nysact-s rank=10"} and count == 2
    values = [metrics(trial, 1)["test/accuracy"] for trial in trials if trial.arm.optimizer == "nysact-s"]
    expected, group = summarize(values), groups["nysact-s rank=10"]
    for name in ("mean", "sd", "ci_lo", "ci_hi"):
        assert group.data.metrics[f"{name}/test/accuracy"] == pytest.approx(getattr(expected, name))
    assert group.data.metrics["n"] == 3 and groups["sgd"].data.metrics["n"] == 2
    assert groups["sgd"].data.tags["status"] == "2 completed, 1 diverged"
    assert group.info.status == "FINISHED" and group.data.tags["mlflow.parentRunId"] == runs()[0].info.run_id
    assert (group.data.tags["level"], group.data.tags["group_key"]) == ("10", trials[1].config.group_key)
    assert group.data.params["rank"] == "10" and "seed" not in group.data.params
    curve = [(step, value) for step, value, _ in history(uri, group, "test/accuracy")]
    means = [sum(metrics(t, epoch)["test/accuracy"] for t in trials[1::2]) / 3 for epoch in (0, 1)]
    assert curve == [(epoch, pytest.approx(mean)) for epoch, mean in enumerate(means)]
    artifacts = tmp_path / "mlartifacts" / group.info.run_id / "artifacts"
    assert len((artifacts / "seeds.csv").read_text().splitlines()) == 4
    assert (artifacts / "curve.csv").read_text().startswith("epoch,metric,n,mean,sd,ci_lo,ci_hi\n0,test/accuracy,3,")


def test_a_group_is_updated_in_place_and_has_its_curve_when_all_seeds_are_in(tmp_path, uri, study, runs):
    first, second, third = (trial for trial in planned(seeds=3) if trial.arm.optimizer == "foof")
    sync(study, [first, second], tmp_path, uri)
    assert group_runs(uri, study) == ({}, 0)
    run(tmp_path, first)
    sync(study, [first, second], tmp_path, uri)
    one = group_runs(uri, study)[0]["foof"]
    assert one.info.status == "RUNNING" and one.data.metrics["n"] == 1 and "sd/test/accuracy" not in one.data.metrics
    assert history(uri, one, "test/accuracy") == []
    run(tmp_path, second)
    for _ in range(2):
        sync(study, [first, second], tmp_path, uri)
    two = group_runs(uri, study)[0]["foof"]
    assert (two.info.run_id, two.info.status, two.data.metrics["n"]) == (one.info.run_id, "FINISHED", 2)
    assert [step for step, _, _ in history(uri, two, "test/accuracy")] == [0, 1]
    run(tmp_path, third)
    sync(study, [first, second, third], tmp_path, uri)
    groups, count = group_runs(uri, study)
    assert (count, groups["foof"].info.run_id, groups["foof"].data.metrics["n"]) == (1, one.info.run_id, 3)


def test_the_experiment_holds_a_view_of_each_workloads_configurations(tmp_path, uri, study):
    """By a metric's order, so that no run is folded into its parent; sent once."""
    trials = planned(seeds=1)
    for _ in range(2):
        sync(study, trials, tmp_path, uri)
    tags = MlflowClient(tracking_uri=uri).get_experiment_by_name(study.name).tags
    assert tags["mlflow.experimentKind"] == "custom_model_development"
    view = json.loads(tags["mlflow.sharedViewState.configurations-digits-cnn"])
    assert view["searchFilter"] == "tags.kind = 'group' and tags.workload = 'digits/cnn'"
    assert view["orderByKey"] == "metrics.`mean/test/accuracy`"
    parallel = view["compareRunCharts"][0]
    assert (parallel["selectedParams"], parallel["selectedMetrics"]) == (["optimizer", "rank"], ["mean/test/accuracy"])
    assert {chart["metricSectionId"] for chart in view["compareRunCharts"]} == {view["compareRunSections"][0]["uuid"]}
