"""MLflow as a user meets it: moved folders, deleted runs, selections, parameters, odd paths."""

from __future__ import annotations

import io
import json
import shutil
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import pytest
from folders import STUDY, planned
from mlflow_folders import artifact, new_root, runs, send, view
from rich.console import Console

from studies.harness.design.arms import Trial
from studies.harness.design.options import Options, default_uri
from studies.harness.design.result import Report
from studies.harness.design.uris import sqlite_path
from studies.harness.tracking import ui
from studies.harness.tracking.background import Tracking, up_to_date
from studies.harness.tracking.client import MlflowClient
from studies.harness.tracking.view import Sent
from trainables.store import trial_folder

# ---------------------------------------------------------------------- moved folders


@pytest.mark.parametrize("copied", [False, True])
def test_artifacts_are_found_after_the_output_folder_has_moved(tmp_path: Path, copied: bool):
    root, moved = new_root(tmp_path), tmp_path / "moved"
    send(root)
    shutil.copytree(root, moved)
    if not copied:
        shutil.rmtree(root)
    assert not up_to_date(default_uri(moved), ["digest"], moved)
    assert list(ui.links(moved, "http://127.0.0.1:5000"))  # as `python -m studies ui` does
    assert up_to_date(default_uri(moved), ["digest"], moved)
    client = MlflowClient(tracking_uri=default_uri(moved))
    location = client.get_experiment_by_name(STUDY.name).artifact_location
    assert location == (moved / "mlartifacts").as_uri()
    assert {run.info.artifact_uri for run in runs(moved, "trial")} == {
        f"{location}/{run.info.run_id}/artifacts" for run in runs(moved, "trial")
    }
    shutil.rmtree(root, ignore_errors=True)
    assert artifact(moved, runs(moved, "study")[0], "report.md", tmp_path / "got") == "text"


def test_update_writes_artifacts_into_the_moved_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    root, moved = new_root(tmp_path), tmp_path / "moved"
    send(root)
    root.rename(moved)
    # mlflow caches the folder of each run in the process; the next command is a new process.
    monkeypatch.setattr(
        "mlflow.tracking._tracking_service.utils._artifact_repos_cache", OrderedDict()
    )
    (moved / "report.md").write_text("new")
    send(moved)
    assert not root.exists()
    assert artifact(moved, runs(moved, "study")[0], "report.md", tmp_path / "got") == "new"


def test_experiments_of_others_keep_their_artifacts(tmp_path: Path):
    """Neither a user's own experiment nor that of a study with another output folder has moved."""
    root, other = new_root(tmp_path), new_root(tmp_path, "other")
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
def test_any_character_may_occur_in_the_path_of_the_output_folder(tmp_path: Path, name: str):
    root = new_root(tmp_path, name)
    assert sqlite_path(default_uri(root)) == root / "mlflow.db"
    send(root)
    assert up_to_date(default_uri(root), ["digest"], root)
    assert artifact(root, runs(root, "study")[0], "report.md", tmp_path / "got") == "text"
    assert any("/runs/" in address for _, address in ui.links(root, ""))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "got"])


# ---------------------------------------------------------------------- parameters and texts


def test_parameters_are_the_values_that_differ_with_optimizer_and_seed(tmp_path: Path):
    trials = [trial for trial in planned(seeds=2) if trial.arm.label in {"sgd", "nysact-s rank=10"}]
    root = new_root(tmp_path, trials=trials)
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
    tmp_path: Path,
):
    first = planned(seeds=1)[:1]
    arm, config = first[0]
    other = Trial(replace(arm, factors=("batch_size",), overrides={"batch_size": 16}),
                  replace(config, batch_size=16))  # fmt: skip
    root = new_root(tmp_path, trials=[*first, other])
    send(root, first)
    assert "batch_size" not in runs(root, "trial")[0].data.params
    send(root, [*first, other], selection="levels=batch_size")
    sizes = {run.data.params["batch_size"] for run in runs(root, "trial")}
    assert sizes == {"16", str(config.batch_size)}


def test_experiment_and_parent_run_have_the_title_and_the_current_claims(
    tmp_path: Path,
):
    root = new_root(tmp_path)
    for facts in (STUDY, replace(STUDY, title="Another title", claims=())):
        send(root, facts=facts)
        client = MlflowClient(tracking_uri=default_uri(root))
        experiment = client.get_experiment_by_name(STUDY.name).tags["mlflow.note.content"]
        parent = runs(root, "study")[0].data.tags["mlflow.note.content"]
        for note in (experiment, parent):
            assert note.startswith(f"{facts.title}\n")
            assert ("**Claims.**" in note) == bool(facts.claims)
            assert all(f"- {claim.text}" in note for claim in facts.claims)


# ---------------------------------------------------------------------- selections


def test_selection_has_a_parent_run_and_shares_the_trials(tmp_path: Path):
    root, trials = new_root(tmp_path), planned(seeds=2)[:4]
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
def test_workload_may_contain_a_quote(tmp_path: Path, workload: str, monkeypatch):
    monkeypatch.setattr(type(STUDY), "claims_on", lambda facts, name: list(facts.claims))
    root = new_root(tmp_path)
    send(root, workload=workload)
    assert send(root, workload=workload) == Sent()


# ---------------------------------------------------------------------- deleted runs


def test_deleted_experiment_is_restored_with_a_line(tmp_path: Path):
    root = new_root(tmp_path)
    send(root)
    client = MlflowClient(tracking_uri=default_uri(root))
    for background in (False, True):
        client.delete_experiment(client.get_experiment_by_name(STUDY.name).experiment_id)
        assert not up_to_date(default_uri(root), ["digest"], root)
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
def test_deleted_run_is_created_again_by_the_next_update(tmp_path: Path, kind: str):
    root = new_root(tmp_path)
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
