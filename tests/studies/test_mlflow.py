"""MLflow as a user meets it: moved folders, deleted runs, selections, parameters, odd paths."""

from __future__ import annotations

import io
import json
import shutil
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from folders import STUDY, planned, write_trial
from rich.console import Console

from studies.harness.command import tracking as commands
from studies.harness.design.arms import Trial
from studies.harness.design.ending import COMPLETE, ENVIRONMENT, SOME_FAILED
from studies.harness.design.options import Options, default_uri
from studies.harness.design.result import Report
from studies.harness.design.uris import sqlite_path, sqlite_uri
from studies.harness.kinds.artefact import Plan
from studies.harness.tracking import ui
from studies.harness.tracking.background import Tracking, up_to_date
from studies.harness.tracking.client import MlflowClient, check, create_database
from studies.harness.tracking.view import Sent, View
from studies.harness.tracking.views import TrialsView
from trainables.store import trial_folder


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an empty database; its creation takes seconds, so the tests copy it."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    create_database(sqlite_uri(path))
    return path


@pytest.fixture
def new_root(tmp_path: Path, database: Path) -> Callable[..., Path]:
    """Return a function that creates an output folder with trials of two arms and a database."""

    def create(name: str = "out", trials: list[Trial] | None = None) -> Path:
        root = tmp_path / name
        root.mkdir()
        shutil.copy(database, root / "mlflow.db")
        for trial in trials or planned(seeds=2)[:4]:
            write_trial(root, trial)
        (root / "report.md").write_text("text")
        return root

    return create


def view(root: Path, trials: list[Trial] | None = None, **fields: Any) -> TrialsView:
    trials = trials or planned(seeds=2)[:4]
    settings = {"facts": STUDY, "workload": "digits/cnn", "metric": "test/accuracy", **fields}
    return TrialsView(**settings, trials=lambda: trials, options=Options(out=root))


def send(root: Path, trials: list[Trial] | None = None, **fields: Any) -> Sent:
    report = Report(files=[root / "report.md"])
    return view(root, trials, **fields).send(default_uri(root), report, "digest")


def runs(root: Path, kind: str) -> list[Any]:
    client = MlflowClient(tracking_uri=default_uri(root))
    experiment = client.get_experiment_by_name(STUDY.name)
    return list(client.search_runs([experiment.experiment_id], f"tags.kind = '{kind}'"))


def artifact(root: Path, run: Any, name: str, folder: Path) -> str:
    """Return the content of an artifact, as a client reads it that knows the database only."""
    client = MlflowClient(tracking_uri=default_uri(root))
    folder.mkdir(exist_ok=True)
    return Path(client.download_artifacts(run.info.run_id, name, str(folder))).read_text()


# ---------------------------------------------------------------------- moved folders


@pytest.mark.parametrize("copied", [False, True])
def test_artifacts_are_found_after_the_output_folder_has_moved(
    new_root: Callable[..., Path], tmp_path: Path, copied: bool
):
    root, moved = new_root(), tmp_path / "moved"
    send(root)
    shutil.copytree(root, moved)
    if not copied:
        shutil.rmtree(root)
    assert not up_to_date(default_uri(moved), ["digest"])
    assert list(ui.links(moved, "http://127.0.0.1:5000"))  # as `python -m studies ui` does
    assert up_to_date(default_uri(moved), ["digest"])
    client = MlflowClient(tracking_uri=default_uri(moved))
    location = client.get_experiment_by_name(STUDY.name).artifact_location
    assert location == (moved / "mlartifacts").as_uri()
    assert {run.info.artifact_uri for run in runs(moved, "trial")} == {
        f"{location}/{run.info.run_id}/artifacts" for run in runs(moved, "trial")
    }
    shutil.rmtree(root, ignore_errors=True)
    assert artifact(moved, runs(moved, "study")[0], "report.md", tmp_path / "got") == "text"


def test_update_writes_artifacts_into_the_moved_folder(
    new_root: Callable[..., Path], tmp_path: Path
):
    root, moved = new_root(), tmp_path / "moved"
    send(root)
    root.rename(moved)
    (moved / "report.md").write_text("new")
    send(moved)
    assert not root.exists()
    assert artifact(moved, runs(moved, "study")[0], "report.md", tmp_path / "got") == "new"


def test_experiments_of_others_keep_their_artifacts(new_root: Callable[..., Path], tmp_path: Path):
    """Neither a user's own experiment nor that of a study with another output folder has moved."""
    root, other = new_root(), new_root("other")
    client = MlflowClient(tracking_uri=default_uri(root))
    gone = (tmp_path / "gone" / "mlartifacts").as_uri()
    client.create_run(client.create_experiment("of a user", artifact_location=gone))
    facts = replace(STUDY, name="of another folder")
    view(other, facts=facts).send(default_uri(root), Report(files=[other / "report.md"]))
    send(root)
    assert list(ui.links(root, ""))
    locations = {e.name: e.artifact_location for e in client.search_experiments()}
    assert locations["of a user"] == gone
    assert locations["of another folder"] == (other / "mlartifacts").as_uri()


@pytest.mark.parametrize("name", ["a?b", "a#b", "100%", "a%20b", "ä b"])
def test_any_character_may_occur_in_the_path_of_the_output_folder(
    new_root: Callable[..., Path], tmp_path: Path, name: str
):
    root = new_root(name)
    assert sqlite_path(default_uri(root)) == root / "mlflow.db"
    send(root)
    assert up_to_date(default_uri(root), ["digest"])
    assert artifact(root, runs(root, "study")[0], "report.md", tmp_path / "got") == "text"
    assert any("/runs/" in address for _, address in ui.links(root, ""))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "got"])


# ---------------------------------------------------------------------- parameters and texts


def test_parameters_are_the_values_that_differ_with_optimizer_and_seed(
    new_root: Callable[..., Path], tmp_path: Path
):
    trials = [trial for trial in planned(seeds=2) if trial.arm.label in {"sgd", "nysact-s rank=10"}]
    root = new_root(trials=trials)
    send(root, trials)
    by_label = {run.info.run_name: run for run in runs(root, "trial")}
    assert by_label["sgd s1"].data.params == {"optimizer": "sgd", "seed": "1"}
    run, trial = by_label["nysact-s rank=10 s1"], trials[3]
    assert run.data.params == {"optimizer": "nysact-s", "rank": "10", "seed": "1"}
    folder = trial_folder(root, trial.config.trial_key)
    content = (folder / "config.json").read_text()
    assert artifact(root, run, "config.json", tmp_path / "got") == content
    [group] = [run for run in runs(root, "group") if run.info.run_name == "nysact-s rank=10"]
    assert group.data.params == {"optimizer": "nysact-s", "rank": "10"}
    config = json.loads(artifact(root, group, "config.json", tmp_path / "got"))["config"]
    assert config["hyperparameters"]["rank"] == 10 and "seed" not in config


def test_parameter_that_varies_in_a_later_selection_is_added_to_existing_runs(
    new_root: Callable[..., Path],
):
    first = planned(seeds=1)[:1]
    arm, config = first[0]
    other = Trial(replace(arm, factors=("batch_size",), overrides={"batch_size": 16}),
                  replace(config, batch_size=16))  # fmt: skip
    root = new_root(trials=[*first, other])
    send(root, first)
    assert "batch_size" not in runs(root, "trial")[0].data.params
    send(root, [*first, other], selection="levels=batch_size")
    sizes = {run.data.params["batch_size"] for run in runs(root, "trial")}
    assert sizes == {"16", str(config.batch_size)}


def test_experiment_and_parent_run_have_the_title_and_the_current_claims(
    new_root: Callable[..., Path],
):
    root = new_root()
    for facts in (STUDY, replace(STUDY, title="Another title", claims=())):
        send(root, facts=facts)
        client = MlflowClient(tracking_uri=default_uri(root))
        experiment = client.get_experiment_by_name(STUDY.name).tags["mlflow.note.content"]
        parent = runs(root, "study")[0].data.tags["mlflow.note.content"]
        for note in (experiment, parent):
            assert note.startswith(f"**{facts.title}**")
            assert ("**Claims.**" in note) == bool(facts.claims)
            assert all(f"- {claim.text}" in note for claim in facts.claims)


# ---------------------------------------------------------------------- selections


def test_selection_has_a_parent_run_and_shares_the_trials(new_root: Callable[..., Path]):
    root, trials = new_root(), planned(seeds=2)[:4]
    send(root, trials[:2])
    send(root, trials[1:], selection="seeds=5,6")
    parents = {run.info.run_name: run.info.run_id for run in runs(root, "study")}
    assert set(parents) == {f"{STUDY.name} digits/cnn", f"{STUDY.name} digits/cnn, seeds=5,6"}
    main, selection = parents.values() if "seeds" in [*parents][1] else [*parents.values()][::-1]
    by_key = {run.data.tags["trial_key"]: run.data.tags for run in runs(root, "trial")}
    assert len(runs(root, "trial")) == len(by_key) == 4
    parent_of = [by_key[t.config.trial_key]["mlflow.parentRunId"] for t in trials]
    assert parent_of == [main, main, selection, selection]
    assert all("selection" not in tags for tags in by_key.values())
    groups = [run.data.tags["mlflow.parentRunId"] for run in runs(root, "group")]
    assert sorted(groups) == sorted([main] * 2 + [selection] * 3)
    before = [send(root, trials[:2]), send(root, trials[1:], selection="seeds=5,6")]
    assert before == [Sent(), Sent()]
    links = [address for _, address in ui.links(root, "")]
    assert any("configurations-digits-cnn-seeds-5-6&" in address for address in links)


@pytest.mark.parametrize("workload", ["digits/cnn", "csv:/tmp/it's/mlp"])
def test_workload_may_contain_a_quote(new_root: Callable[..., Path], workload: str, monkeypatch):
    monkeypatch.setattr(type(STUDY), "claims_on", lambda facts, name: list(facts.claims))
    root = new_root()
    send(root, workload=workload)
    assert send(root, workload=workload) == Sent()


# ---------------------------------------------------------------------- deleted runs


def test_deleted_experiment_is_restored_with_a_line(new_root: Callable[..., Path]):
    root = new_root()
    send(root)
    client = MlflowClient(tracking_uri=default_uri(root))
    for background in (False, True):
        client.delete_experiment(client.get_experiment_by_name(STUDY.name).experiment_id)
        assert not up_to_date(default_uri(root), ["digest"])
        console = Console(file=io.StringIO(), width=200)
        tracking = Tracking([view(root)], Options(out=root), console)
        if background:  # let the thread's update come first
            tracking._stopped.set()
            tracking._thread.join()
        tracking.finish([Report(files=[root / "report.md"])], ["digest"])
        line = f"MLflow experiment {STUDY.name} was deleted; it has been restored\n"
        assert console.file.getvalue() == line
        assert len(runs(root, "trial")) == 4 and len(runs(root, "study")) == 1


@pytest.mark.parametrize("kind", ["trial", "group", "study"])
def test_deleted_run_is_created_again_by_the_next_update(new_root: Callable[..., Path], kind: str):
    root = new_root()
    send(root)
    count, deleted = len(runs(root, kind)), runs(root, kind)[0]
    MlflowClient(tracking_uri=default_uri(root)).delete_run(deleted.info.run_id)
    send(root)
    assert len(runs(root, kind)) == count
    assert deleted.info.run_id not in {run.info.run_id for run in runs(root, kind)}
    [parent] = runs(root, "study")
    children = runs(root, "trial") + runs(root, "group")
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    assert send(root) == Sent()


# ---------------------------------------------------------------------- sync and ui


@dataclass(frozen=True, kw_only=True)
class BrokenView(View):
    """A view that cannot be sent."""

    def send(self, uri: str, report: Report | None = None, mark: str = "") -> Sent:
        raise IndexError("list index\nout of range")


@dataclass(frozen=True)
class Stored:
    """An artefact with a given view, or one whose plans cannot be read if the view is None."""

    name: str
    view: View | None

    def stored(self, root: Path) -> list[Plan]:
        if self.view is None:
            raise ValueError("unreadable plan")
        return [Plan(artefact=self, workload="digits/cnn", options=Options(out=root))]

    def tracking(self, plan: Plan) -> View | None:
        return self.view


def sync(monkeypatch: pytest.MonkeyPatch, root: Path, *stored: Stored, uri: str | None = None):
    monkeypatch.setattr(commands, "artefacts", lambda: {item.name: item for item in stored})
    return commands._sync.callback(root, uri)


def test_sync_sends_the_other_studies_after_an_error(
    new_root: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    root = new_root()
    facts = replace(STUDY, name="broken")
    broken = BrokenView(facts=facts, workload="digits/cnn", options=Options(out=root))
    stored = [Stored("unreadable", None), Stored("broken", broken), Stored("good", view(root))]
    assert sync(monkeypatch, root, *stored) == SOME_FAILED
    assert capsys.readouterr().out.splitlines() == [
        "unreadable: not sent, because unreadable plan",
        "broken on digits/cnn: not sent, because list index out of range",
        f"{STUDY.name} on digits/cnn: 7 runs and 8 epochs sent",
    ]


def test_sync_counts_the_trials_that_belong_to_no_study(
    new_root: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    root = new_root()
    good = Stored("good", view(root, planned(seeds=2)[:3], selection="seeds=0"))
    assert sync(monkeypatch, root, good) == COMPLETE
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"{STUDY.name} on digits/cnn, seeds=0: 7 runs and 6 epochs sent"
    assert second.startswith(f"1 of 4 trials in {root} belong to no study or selection above; ")
    assert sync(monkeypatch, root, Stored("good", view(root))) == COMPLETE
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_sync_ends_if_the_server_does_not_answer(
    new_root: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    root = new_root()
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # not listening
        uri = f"http://127.0.0.1:{closed.getsockname()[1]}"
        stored = [Stored("first", view(root)), Stored("second", view(root))]
        assert sync(monkeypatch, root, *stored, uri=uri) == ENVIRONMENT
        with pytest.raises(Exception, match="."):
            check(uri)
    output = capsys.readouterr()
    assert output.out == "" and output.err.count("\n") == 1
    assert f"{uri} cannot be used" in output.err and "no results are lost" in output.err


def test_ui_names_a_port_that_is_in_use_before_it_starts(
    new_root: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    root = new_root()
    monkeypatch.setattr(ui, "links", lambda *_: pytest.fail("the port was not checked first"))
    monkeypatch.setattr(ui, "serve", lambda *_: pytest.fail("the server was started"))
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        assert commands._ui.callback(root, port, links_only=False) == ENVIRONMENT
    output = capsys.readouterr()
    assert output.out == "" and output.err.startswith(f"error: --port = {port}: Address already in")
    assert "such as --port" in output.err and output.err.count("\n") == 1
    started = []
    monkeypatch.setattr(ui, "links", lambda *_: [])
    monkeypatch.setattr(ui, "serve", lambda *call: started.append(call) or COMPLETE)
    assert commands._ui.callback(root, port, links_only=False) == COMPLETE
    assert started == [(root, port)]
