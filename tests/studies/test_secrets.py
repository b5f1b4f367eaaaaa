"""Secrets in the environment and in addresses stay there: no file, log or line of a study holds one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import threading
from base64 import b64encode
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from studies.harness.cluster import tuning
from studies.harness.command.run import refuse

ROOT = Path(__file__).parents[2]
CANARY = "canary5f1d7c"
SECRETS = {  # with values that can be told apart
    "MLFLOW_TRACKING_PASSWORD": f"{CANARY}password",
    "AWS_SECRET_ACCESS_KEY": f"{CANARY}key",
    "RAY_AUTH_TOKEN": f"{CANARY}token",
    "OF_SOMETHING_ELSE": f"{CANARY}else",
}
FORMS = (
    CANARY.encode(),
    b64encode(f"me:{CANARY}".encode())[:-2],
)  # as it is, and as the password travels
STUDY = ("--optimizers", "sgd", "--seeds", "1", "--epochs", "1")


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """An MLflow that refuses everybody: its address, and with what each request came."""
    seen: list[str] = []

    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers.get("Authorization", ""))
            self.send_error(401)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            """Nothing on the screen."""

    with HTTPServer(("127.0.0.1", 0), Refusing) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{listening.server_port}", seen
        listening.shutdown()


def study(uri: str, out: Path, ray: str) -> subprocess.CompletedProcess[str]:
    own = {
        "MLFLOW_TRACKING_URI": uri,
        "MLFLOW_TRACKING_USERNAME": "me",
        "RAY_TMPDIR": ray,
        "PYTHONPATH": str(ROOT),
    }
    environment = {**os.environ, **SECRETS, **own, "RAY_raylet_start_wait_time_s": "180"}
    command = [sys.executable, ROOT / "studies" / "ablation_rank.py", *STUDY, "--out", out]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)


def test_no_secret_of_the_environment_is_written_or_shown(
    tmp_path: Path, server: tuple[str, list[str]]
):
    address, seen = server
    out = tmp_path / "out"
    with tempfile.TemporaryDirectory(prefix="ray-") as ray:  # a short name: Ray's sockets are in it
        ended = study(f"http://{address}", out, ray)
        assert ended.returncode == 0, ended.stderr
        assert any(seen), "the password was never used: nothing could leak"
        written = [
            path for folder in (out, Path(ray)) for path in folder.rglob("*") if path.is_file()
        ]
        assert any(path.parent.name == "logs" for path in written) and (out / "reports").is_dir()
        assert [
            str(path) for path in written if any(form in path.read_bytes() for form in FORMS)
        ] == []
    assert CANARY not in ended.stdout + ended.stderr


def test_the_actor_of_a_trial_with_several_processes_gets_no_key(monkeypatch: pytest.MonkeyPatch):
    """Ray would write the environment that Tune passes to it into a log."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRETS["AWS_SECRET_ACCESS_KEY"])
    monkeypatch.setenv("RAY_CHDIR_TO_TRIAL_DIR", "0")
    actor: Any = tuning._Workers().get(type("Team", (tuning.tune.Trainable,), {}))
    assert "RAY_CHDIR_TO_TRIAL_DIR" in str(actor._default_options)
    assert CANARY not in str(actor._default_options)


def test_a_password_in_an_address_is_refused_and_not_repeated(
    tmp_path: Path, server: tuple[str, list[str]]
):
    address, seen = server
    ended = study(f"http://me:{CANARY}@{address}", tmp_path / "out", str(tmp_path))
    assert (
        ended.returncode == 2
        and f"MLFLOW_TRACKING_URI = http://***@{address}: must be" in ended.stderr
    )
    assert CANARY not in ended.stdout + ended.stderr
    assert not (tmp_path / "out").exists() and not seen


@pytest.mark.parametrize(
    "address", ["http://me:{}@h:1/x", "https://{}@h", "postgresql://me:a/{}@h@i/db", "x//{}\n@"]
)
def test_whatever_refuses_an_address_does_not_repeat_its_password(
    address: str, capsys: pytest.CaptureFixture[str]
):
    refuse([f"Got unexpected extra argument ({address.format(CANARY)})"])
    assert re.fullmatch(
        r"error: Got unexpected extra argument \(.*\*\*\*@.*\)\n", capsys.readouterr().err
    )
