"""A real MLflow server on the loopback address gets each run once, from any copy of a folder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from folders import ARMS, STUDY, write_trial
from mlflow.tracking import MlflowClient
from mlflow_folders import empty_database

from studies.harness.command import manage, tracking
from studies.harness.design.options import default_uri
from tests.faults.server import Server
from trainables.files import read_lines
from trainables.store import trial_folder

SMALL = replace(STUDY, arms=ARMS[:2], claims=(), seeds=2, published={"digits/cnn": {"epochs": 2}})
TRIALS = SMALL.trials("digits/cnn", [0, 1], {"epochs": 2})


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "server").mkdir()
    (tmp_path / "server" / "server.db").write_bytes(empty_database())
    server = Server(tmp_path / "server")
    server.start()
    try:
        server.wait()
        yield server
    finally:
        server.kill()


def run(*arguments: Any) -> int:
    return manage.GROUP.main([*map(str, arguments)], standalone_mode=False)


def contents(uri: str) -> dict[tuple[str, str], Any]:
    """Return parameters, metrics, curves, status and tags of all runs by kind and key."""
    client, runs = MlflowClient(tracking_uri=uri), {}
    experiment = client.get_experiment_by_name(SMALL.name)
    for entry in client.search_runs([experiment.experiment_id]):
        data, info = entry.data, entry.info
        tags = {name: value for name, value in data.tags.items() if name != "mlflow.parentRunId"}
        curves = {
            name: [
                (point.step, point.value) for point in client.get_metric_history(info.run_id, name)
            ]
            for name in data.metrics
        }
        key = tags["kind"], tags.get("trial_key") or tags.get("group_key", "")
        assert key not in runs
        runs[key] = data.params, data.metrics, curves, info.status, info.run_name, tags
    return runs


def test_each_run_is_sent_once_from_any_copy_of_the_folder(
    tmp_path: Path,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setattr(tracking, "artefacts", lambda: {SMALL.name: SMALL})
    first, second, both, other = (tmp_path / name for name in ("a", "b", "c", "d"))
    for number, trial in enumerate(TRIALS):
        write_trial(first if number < 3 else second, trial)
    assert run("merge", first, second, "--into", both) == 0
    assert run("pack", both, tmp_path / "c.tar") == 0
    assert run("unpack", tmp_path / "c.tar", "--into", other) == 0
    capsys.readouterr()

    lines = []
    for root in (first, both, both, other):
        assert run("sync", "--out", root, "--tracking-uri", server.uri) == 0
        lines += capsys.readouterr().out.splitlines()
    outcomes = [line.partition(": ")[2] for line in lines]
    assert outcomes == [
        "6 runs and 6 epochs sent",
        "3 runs and 2 epochs sent",
        *["nothing new"] * 2,
    ]
    runs = contents(server.uri)
    for trial in TRIALS:
        curves = runs["trial", trial.config.trial_key][2]
        folder = trial_folder(both, trial.config.trial_key)
        expected: dict[str, list[tuple[int, float]]] = {}
        for line in read_lines(folder / "epochs.jsonl"):
            for name, value in line["metrics"].items():
                expected.setdefault(name, []).append((line["epoch"], value))
        assert curves == expected

    for root in (both, other):
        (root / "mlflow.db").write_bytes(empty_database())
        assert run("sync", "--out", root) == 0
    assert contents(default_uri(other)) == contents(default_uri(both))
    trials = {key: values for key, values in runs.items() if key[0] == "trial"}
    local = contents(default_uri(other))
    assert trials == {key: values for key, values in local.items() if key[0] == "trial"}
    assert {key: values[:2] for key, values in runs.items()} == {
        key: values[:2] for key, values in local.items()
    }
