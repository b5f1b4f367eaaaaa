"""`python -m studies sync` and `ui`: the lines that they print, and their exit codes."""

from __future__ import annotations

import socket
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from folders import STUDY, planned
from mlflow_folders import new_root, view

from studies.harness.command import tracking as commands
from studies.harness.design.ending import COMPLETE, ENVIRONMENT, INVALID_COMMAND, SOME_FAILED
from studies.harness.design.options import Options
from studies.harness.design.result import Report
from studies.harness.kinds import records
from studies.harness.kinds.artefact import Plan
from studies.harness.tracking import ui
from studies.harness.tracking.view import Sent, View


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

    def stored(self, root: Path) -> records.Stored:
        if self.view is None:
            raise ValueError("unreadable plan")
        plan = Plan(artefact=self, workload="digits/cnn", options=Options(out=root))
        return records.Stored([plan])

    def tracking(self, plan: Plan) -> View | None:
        return self.view


def sync(monkeypatch: pytest.MonkeyPatch, root: Path, *stored: Stored, uri: str | None = None):
    monkeypatch.setattr(commands, "artefacts", lambda: {item.name: item for item in stored})
    return commands._sync.callback(root, uri)


def test_sync_sends_the_other_studies_after_an_error(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    root = new_root(tmp_path)
    facts = replace(STUDY, name="broken")
    broken = BrokenView(facts=facts, workload="digits/cnn", options=Options(out=root))
    stored = [Stored("unreadable", None), Stored("broken", broken), Stored("good", view(root))]
    assert sync(monkeypatch, root, *stored) == SOME_FAILED
    assert capsys.readouterr().out.splitlines() == [
        "unreadable: not sent, because unreadable plan",
        "broken on digits/cnn: not sent, because list index out of range",
        f"{STUDY.name} on digits/cnn: 9 runs and 8 epochs sent",
    ]


def test_sync_counts_the_trials_that_belong_to_no_study(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    root = new_root(tmp_path)
    good = Stored("good", view(root, planned(seeds=2)[:3], selection="seeds=0"))
    assert sync(monkeypatch, root, good) == COMPLETE
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"{STUDY.name} on digits/cnn, seeds=0: 7 runs and 6 epochs sent"
    assert second.startswith(f"1 of 4 trials in {root} belongs to no study or selection above; ")
    assert sync(monkeypatch, root, Stored("good", view(root))) == COMPLETE
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_sync_ends_if_the_server_does_not_answer(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    root = new_root(tmp_path)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # not listening
        uri = f"http://127.0.0.1:{closed.getsockname()[1]}"
        stored = [Stored("first", view(root)), Stored("second", view(root))]
        assert sync(monkeypatch, root, *stored, uri=uri) == ENVIRONMENT
    output = capsys.readouterr()
    assert output.out == "" and output.err.count("\n") == 1
    assert f"{uri} cannot be used" in output.err and "no results are lost" in output.err


def test_ui_names_a_port_that_is_in_use_before_it_starts(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    root = new_root(tmp_path)
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


def test_ui_without_a_database_names_a_command_that_creates_one(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    """`sync` creates nothing for trials that belong to no study, such as those of a plugin."""
    root = new_root(tmp_path)
    (root / "mlflow.db").unlink()
    unreadable, readable = Stored("unreadable", None), Stored("good", view(root))
    repeat = "to build it, repeat the command that trained the trials, with --report-only"
    send = f"to build it from the trials: python -m studies sync --out {root}"
    for stored, advice in (([unreadable], repeat), ([unreadable, readable], send)):
        monkeypatch.setattr(
            commands, "artefacts", lambda stored=stored: {s.name: s for s in stored}
        )
        assert commands._ui.callback(root, 5000, links_only=True) == INVALID_COMMAND
        expected = f"error: {root}: has no MLflow database; {advice}\n"
        assert capsys.readouterr().err == expected
