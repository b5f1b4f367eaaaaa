"""`python -m studies sync --to`: exports are read with the readers of the other trackers."""

from __future__ import annotations

import json
import math
import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
import yaml
from folders import STUDY, planned, write_trial

from studies.harness.command import export as command
from studies.harness.command import manage
from studies.harness.design.options import Options
from studies.harness.export import format as interface
from studies.harness.export import formats
from studies.harness.export.files import MARK, TEMPORARY
from studies.harness.kinds import records
from studies.harness.kinds.artefact import Plan
from studies.harness.kinds.search.proposals import Proposals, proposals_path
from studies.harness.tracking.view import View
from studies.harness.tracking.views import TrialsView
from trainables.files import read_lines
from trainables.store import DIVERGED, TrialStore

NAMES = formats.names()
TRIALS = planned(seeds=2, epochs=3)[:6]
COMPLETE, FAILED, FLYING, UNSTARTED, LATER, STOPPED = TRIALS
Epochs = dict[int, dict[str, float]]


class Killed(BaseException):
    """Stands for a signal."""


@dataclass(frozen=True)
class Stored:
    """An artefact with the report of two trials."""

    name: str

    def stored(self, root: Path) -> records.Stored:
        plan = Plan(artefact=self, workload="digits/cnn", options=Options(out=root))
        return records.Stored([plan])

    def tracking(self, plan: Plan) -> View:
        facts = replace(STUDY, name=self.name)
        fields: dict[str, Any] = {"metric": "test/accuracy", "trials": lambda: TRIALS[:2]}
        return TrialsView(facts=facts, workload=plan.workload, options=plan.options, **fields)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An output folder with a completed, a diverged, an unfinished and an unstarted trial."""
    root = tmp_path / "out"
    write_trial(root, COMPLETE)
    store = write_trial(root, FAILED, epochs=2, status=None)
    store.record(2, {"train/loss": math.nan, "test/loss": math.inf})
    store.finish(DIVERGED, reason="loss = nan")
    write_trial(root, FLYING, epochs=1, status=None)
    TrialStore(root, UNSTARTED.config).create()
    monkeypatch.setattr(command, "artefacts", lambda: {n: Stored(n) for n in ("first", "second")})
    return root


def run(*arguments: Any) -> int:
    return manage.GROUP.main(["sync", *map(str, arguments)], standalone_mode=False)


def expected(root: Path, trial: Any) -> Epochs:
    folder = TrialStore(root, trial.config).folder
    return {line["epoch"]: line["metrics"] for line in read_lines(folder / "epochs.jsonl")}


def marks(target: Path) -> dict[str, Path]:
    """Return the folders of the exported runs by key; each key occurs once."""
    paths = list(target.rglob(MARK))
    folders = {json.loads(path.read_text())["key"]: path.parent for path in paths}
    assert len(folders) == len(paths)
    return folders


def tensorboard(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    return events.Reload()


def tensorboard_epochs(folder: Path) -> Epochs:
    events, epochs = tensorboard(folder), {}
    for tag in events.Tags()["scalars"]:
        for event in events.Scalars(tag):
            epochs.setdefault(event.step, {})[tag] = event.value
    return epochs


def wandb_records(folder: Path) -> list[Any]:
    """Return the records of an offline run, as `wandb sync` reads them."""
    from wandb.proto.wandb_internal_pb2 import Record
    from wandb.sdk.internal.datastore import DataStore

    [file] = folder.glob("run-*.wandb")
    store = DataStore()
    store.open_for_scan(str(file))
    parsed = []
    while (data := store.scan_data()) is not None:
        parsed.append(Record.FromString(data))
    store.close()
    return parsed


def wandb_epochs(folder: Path) -> Epochs:
    epochs = {}
    for record in wandb_records(folder):
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            values = {i.nested_key[0]: json.loads(i.value_json) for i in items}
            step = values.pop("_step")
            assert step == record.history.step.num
            epochs[step] = {name: v for name, v in values.items() if not name.startswith("_")}
    return epochs


def csv_epochs(folder: Path) -> Epochs:
    rows = pd.read_csv(folder / "metrics.csv").set_index("step")
    return {int(step): {**row} for step, row in rows.drop(columns="time").iterrows()}  # type: ignore[call-overload]


READERS: Mapping[str, Callable[[Path], Epochs]] = {
    "csv": csv_epochs,
    "tensorboard": tensorboard_epochs,
    "wandb-offline": wandb_epochs,
}


def assert_exported(name: str, folder: Path, wanted: Epochs) -> None:
    """Check that all metrics are equal; an empty cell of a table is a missing metric."""
    actual, stored = READERS[name](folder), np.float32 if name == "tensorboard" else float
    assert sorted(actual) == sorted(wanted)
    for epoch, metrics in wanted.items():
        for name in {*metrics, *actual[epoch]}:
            value, reference = actual[epoch].get(name, math.nan), metrics.get(name, math.nan)
            np.testing.assert_equal(value, float(stored(reference)))


def skip_unless_installed(name: str) -> None:
    if not formats.load(name).available:
        pytest.skip(f"{formats.load(name).LIBRARY} is not installed")


@pytest.mark.parametrize("name", NAMES)
def test_every_metric_of_every_epoch_is_exported_once(
    root: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
):
    skip_unless_installed(name)
    target = tmp_path / "a" / "b"
    assert run("--out", root, "--to", name, target) == 0
    first, *_ = capsys.readouterr().out.splitlines()
    assert first.endswith(f"3 trials in {target}: 3 written, 0 replaced, 0 already there")
    folders = marks(target)
    assert set(folders) == {trial.config.trial_key for trial in (COMPLETE, FAILED, FLYING)}
    for trial in (COMPLETE, FAILED, FLYING):
        assert_exported(name, folders[trial.config.trial_key], expected(root, trial))

    before = {path: path.stat().st_mtime_ns for path in target.rglob("*") if path.is_file()}
    write_trial(root, FLYING, epochs=3)
    write_trial(root, LATER)
    assert run("--out", root, "--to", name, target) == 0
    first, *_ = capsys.readouterr().out.splitlines()
    assert first.endswith("4 trials in " + f"{target}: 1 written, 1 replaced, 2 already there")
    after = marks(target)
    assert {key: after[key] for key in folders} == folders and len(after) == 4
    for trial in (FLYING, LATER):
        assert_exported(name, after[trial.config.trial_key], expected(root, trial))
    replaced = after[FLYING.config.trial_key]
    for path, time in before.items():
        assert path.is_relative_to(replaced) or path.stat().st_mtime_ns == time
    assert not list(target.glob(f"{TEMPORARY}*"))


def test_tensorboard_has_the_hyperparameters_and_the_status_of_each_trial(
    root: Path, tmp_path: Path
):
    skip_unless_installed("tensorboard")
    from tensorboard.plugins.hparams import api_pb2, metadata

    write_trial(root, STOPPED, epochs=1, status=None)
    proposals = Proposals(proposals_path(root, "tune", "digits/cnn", "sgd"), {})
    proposals.append({"lr": 0.1}, STOPPED.config.trial_key, {})
    proposals.stop(0, 1, {0: 0.5}, 2.0)
    assert run("--out", root, "--to", "tensorboard", tmp_path / "tb") == 0
    statuses, optimizers = {}, {t.config.trial_key: t.config.optimizer for t in TRIALS}
    for key, folder in marks(tmp_path / "tb").items():
        data = tensorboard(folder).summary_metadata
        start = metadata.parse_session_start_info_plugin_data(
            data[metadata.SESSION_START_INFO_TAG].plugin_data.content
        )
        end = metadata.parse_session_end_info_plugin_data(
            data[metadata.SESSION_END_INFO_TAG].plugin_data.content
        )
        statuses[key] = api_pb2.Status.Name(end.status)
        assert start.group_name == key and start.hparams["batch_size"].number_value == 64
        assert start.hparams["optimizer"].string_value == optimizers[key]
    keys = [trial.config.trial_key for trial in (COMPLETE, FAILED, FLYING, STOPPED)]
    ends = [f"STATUS_{word}" for word in ("SUCCESS", "FAILURE", "RUNNING", "UNKNOWN")]
    assert [statuses[key] for key in keys] == ends


def test_csv_has_a_folder_for_each_configuration_and_a_version_for_each_seed(
    root: Path, tmp_path: Path
):
    skip_unless_installed("csv")
    write_trial(root, COMPLETE._replace(config=COMPLETE.config.with_seed(7)))
    assert run("--out", root, "--to", "csv", tmp_path / "csv") == 0
    folder = marks(tmp_path / "csv")[COMPLETE.config.trial_key]
    assert sorted(path.name for path in folder.parent.iterdir()) == ["version_0", "version_7"]
    values = yaml.safe_load((folder / "hparams.yaml").read_text())
    assert values["optimizer"] == "sgd" and values["seed"] == 0 and values["lr"] == 0.1
    assert values["status"] == "completed" and values["studies"] == "first, second"
    times = pd.read_csv(folder / "metrics.csv")["time"]
    lines = read_lines(TrialStore(root, COMPLETE.config).folder / "epochs.jsonl")
    assert list(times) == [line["time"] for line in lines]


def test_wandb_runs_have_the_studies_as_tags_and_the_key_as_id(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    skip_unless_installed("wandb-offline")
    # Variables of the user must not send anything, nor change the runs.
    user = {"WANDB_MODE": "online", "WANDB_PROJECT": "x", "WANDB_RUN_ID": "x", "WANDB_NOTES": "x"}
    for name, value in user.items():
        monkeypatch.setenv(name, value)
    processes = {process.pid for process in psutil.process_iter()}
    assert run("--out", root, "--to", "wandb-offline", tmp_path / "wb") == 0
    children = psutil.Process().children(recursive=True)
    assert not [c for c in children if c.pid not in processes and "wandb" in c.name()]
    variables = {name: v for name, v in os.environ.items() if name.startswith("WANDB_")}
    assert variables == user
    folders = marks(tmp_path / "wb")
    assert sorted(folders.values()) == sorted((tmp_path / "wb").iterdir())
    assert capfd.readouterr().err == ""
    for trial, code, tags in [(COMPLETE, 0, ["first", "second"]), (FAILED, 1, ["first", "second"]),
                              (FLYING, 0, [])]:  # fmt: skip
        key = trial.config.trial_key
        parsed = wandb_records(folders[key])
        [head] = [r.run for r in parsed if r.WhichOneof("record_type") == "run"]
        assert (head.run_id, head.project, list(head.tags)) == (key[:16], "precond", tags)
        assert head.notes == ""
        config = {u.key: json.loads(u.value_json) for u in head.config.update}
        assert config["optimizer"] == trial.config.optimizer and config["lr"] == 0.1
        [end] = [r.exit for r in parsed if r.WhichOneof("record_type") == "exit"]
        assert end.exit_code == code
        summary = [
            u for r in parsed if r.WhichOneof("record_type") == "summary" for u in r.summary.update
        ]
        assert {json.loads(u.value_json) for u in summary if u.key == "trial_key"} == {key}


def test_killed_export_leaves_no_incomplete_run(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    skip_unless_installed("tensorboard")
    form, target = formats.load("tensorboard"), tmp_path / "tb"
    write = type(form).write

    def killed(self: Any, run: Any, folder: Path) -> None:
        write(self, run, folder)
        if run.key == max(trial.config.trial_key for trial in (COMPLETE, FAILED, FLYING)):
            raise Killed

    monkeypatch.setattr(type(form), "write", killed)
    with pytest.raises(Killed):
        run("--out", root, "--to", "tensorboard", target)
    assert sorted(marks(target).values()) == sorted(target.iterdir()) and len(marks(target)) == 2
    monkeypatch.undo()
    (target / f"{TEMPORARY}x" / "new").mkdir(parents=True)  # of a process that has ended
    monkeypatch.setattr(command, "artefacts", dict)
    assert run("--out", root, "--to", "tensorboard", target) == 0
    assert sorted(marks(target).values()) == sorted(target.iterdir()) and len(marks(target)) == 3


def test_name_of_an_exported_run_does_not_change_with_later_trials(root: Path, tmp_path: Path):
    skip_unless_installed("tensorboard")
    target = tmp_path / "tb"
    assert run("--out", root, "--to", "tensorboard", target) == 0
    before = marks(target)
    other = FLYING._replace(config=replace(FLYING.config, batch_size=16))
    write_trial(root, other)
    write_trial(root, FLYING, epochs=3)  # is exported again
    assert run("--out", root, "--to", "tensorboard", target) == 0
    after = marks(target)
    assert {key: after[key] for key in before} == before
    assert "batch_size=16" in after[other.config.trial_key].name


def test_damaged_trial_has_a_line_and_the_others_are_exported(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    skip_unless_installed("tensorboard")
    folder = TrialStore(root, COMPLETE.config).folder
    (folder / "epochs.jsonl").write_text("{\n")
    other = TrialStore(root, UNSTARTED.config).folder
    (other / "config.json").write_text("{")
    assert run("--out", root, "--to", "tensorboard", tmp_path / "tb") == 1
    lines = capsys.readouterr().out.splitlines()
    damaged = sorted([folder.name, other.name])
    assert [line.split(":")[0] for line in lines[:2]] == damaged
    assert all("not exported, because" in line for line in lines[:2])
    assert len(marks(tmp_path / "tb")) == 2


def test_folder_of_the_user_is_not_replaced(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    skip_unless_installed("tensorboard")
    target = tmp_path / "tb"
    assert run("--out", root, "--to", "tensorboard", target) == 0
    folder = marks(target)[COMPLETE.config.trial_key]
    (folder / MARK).unlink()
    capsys.readouterr()
    assert run("--out", root, "--to", "tensorboard", target) == 4
    [line] = capsys.readouterr().err.splitlines()
    assert str(folder) in line and "move it away" in line and folder.exists()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--to", "tensorbord", "{tmp}/x"], 'Did you mean "tensorboard"?'),
        (["--to", "csv", "{tmp}/file"], "must be a folder"),
        (["--to", "csv", "{tmp}/out"], "contains trials"),
        (["--to", "csv", "{tmp}/out/trials/x"], "contains trials"),
        (["--to", "csv", "{tmp}/x", "--tracking-uri", "http://127.0.0.1:1"], "--tracking-uri"),
    ],
)
def test_invalid_option_is_refused_in_one_line(
    root: Path,
    tmp_path: Path,
    arguments: list[str],
    reason: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(interface, "find_spec", lambda name: ModuleSpec(name, None, origin="x"))
    (tmp_path / "file").write_text("x")
    before = sorted(tmp_path.rglob("*"))
    assert run("--out", root, *(word.format(tmp=tmp_path) for word in arguments)) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert reason in line and sorted(tmp_path.rglob("*")) == before


def test_error_of_the_library_is_one_line(
    root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    skip_unless_installed("tensorboard")

    def fail(*values: Any) -> None:
        raise ValueError("no writer\nat all")

    monkeypatch.setattr(type(formats.load("tensorboard")), "write", fail)
    assert run("--out", root, "--to", "tensorboard", tmp_path / "x") == 4
    assert capsys.readouterr().err == (
        "error: --to tensorboard: tensorboard: ValueError: no writer\n"
    )
    assert not list((tmp_path / "x").iterdir())


@pytest.mark.parametrize("spec", [None, ModuleSpec("a-folder-without-code", None)])
@pytest.mark.parametrize("name", NAMES)
def test_missing_library_is_named_with_its_extra(
    root: Path,
    tmp_path: Path,
    name: str,
    spec: ModuleSpec | None,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(interface, "find_spec", lambda name: spec)
    assert run("--out", root, "--to", name, tmp_path / "x") == 2
    form = formats.load(name)
    advice = f'requires {form.LIBRARY}; install it with pip install "precond[{form.EXTRA}]"'
    assert capsys.readouterr().err == f"error: --to {name}: {advice}\n"
    assert not (tmp_path / "x").exists()
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert form.LIBRARY in project["optional-dependencies"][form.EXTRA][0]


def test_folder_without_trials_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    skip_unless_installed("tensorboard")
    assert run("--out", tmp_path / "out", "--to", "tensorboard", tmp_path / "x") == 0
    assert "no results to export" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
