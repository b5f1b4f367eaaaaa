"""Secrets in environment variables or in an address do not get into files, logs or output."""

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
SECRETS = {  # all values contain the canary
    "MLFLOW_TRACKING_PASSWORD": f"{CANARY}password",
    "AWS_SECRET_ACCESS_KEY": f"{CANARY}key",
    "RAY_AUTH_TOKEN": f"{CANARY}token",
    "OF_SOMETHING_ELSE": f"{CANARY}else",
}
# The secret as plain text, and in the encoding of HTTP's basic authentication.
ENCODED_SECRETS = (CANARY.encode(), b64encode(f"me:{CANARY}".encode())[:-2])
STUDY = ("--optimizers", "sgd", "--seeds", "1", "--epochs", "3")


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """A server that refuses every request.

    The values are its address and a list that receives the `Authorization` header of each request.
    """
    received: list[str] = []

    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            received.append(self.headers.get("Authorization", ""))
            self.send_error(401)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    with HTTPServer(("127.0.0.1", 0), Refusing) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{listening.server_port}", received
        listening.shutdown()


def run_study(uri: str, out: Path, ray: str) -> subprocess.CompletedProcess[str]:
    settings = {
        "MLFLOW_TRACKING_URI": uri,
        "MLFLOW_TRACKING_USERNAME": "me",
        "RAY_TMPDIR": ray,
        "RAY_raylet_start_wait_time_s": "180",
        "PYTHONPATH": str(ROOT),
    }
    environment = {**os.environ, **SECRETS, **settings}
    command = [sys.executable, ROOT / "studies" / "ablation_rank.py", *STUDY, "--out", out]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)


def test_no_secret_of_the_environment_is_written_or_printed(
    tmp_path: Path, server: tuple[str, list[str]]
):
    address, received = server
    out = tmp_path / "out"
    # The paths of Ray's sockets must be short.
    with tempfile.TemporaryDirectory(prefix="ray-") as ray:
        process = run_study(f"http://{address}", out, ray)
        assert process.returncode == 0, process.stderr
        assert any(received), "no request contained the password, so the test checks nothing"
        files = [*out.rglob("*"), *Path(ray).rglob("*")]
        contents = {path: path.read_bytes() for path in files if path.is_file()}
        assert any(path.parent.name == "logs" for path in contents) and (out / "reports").is_dir()
        leaks = [
            path for path, text in contents.items() if any(form in text for form in ENCODED_SECRETS)
        ]
        assert leaks == []
    assert CANARY not in process.stdout + process.stderr


def test_actor_of_a_trial_with_several_processes_receives_no_secret(
    monkeypatch: pytest.MonkeyPatch,
):
    """Ray logs the environment variables that Tune passes to an actor."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRETS["AWS_SECRET_ACCESS_KEY"])
    monkeypatch.setenv("RAY_CHDIR_TO_TRIAL_DIR", "0")
    actor: Any = tuning._Workers().get(type("Team", (tuning.tune.Trainable,), {}))
    assert "RAY_CHDIR_TO_TRIAL_DIR" in str(actor._default_options)
    assert CANARY not in str(actor._default_options)


def test_password_in_an_address_is_refused_and_not_printed(
    tmp_path: Path, server: tuple[str, list[str]]
):
    address, received = server
    process = run_study(f"http://me:{CANARY}@{address}", tmp_path / "out", str(tmp_path))
    assert process.returncode == 2
    assert f"MLFLOW_TRACKING_URI = http://***@{address}: must be" in process.stderr
    assert CANARY not in process.stdout + process.stderr
    assert not (tmp_path / "out").exists() and not received


@pytest.mark.parametrize(
    "address", ["http://me:{}@h:1/x", "https://{}@h", "postgresql://me:a/{}@h@i/db", "x//{}\n@"]
)
def test_error_messages_hide_the_password_of_an_address(
    address: str, capsys: pytest.CaptureFixture[str]
):
    refuse([f"Got unexpected extra argument ({address.format(CANARY)})"])
    assert re.fullmatch(
        r"error: Got unexpected extra argument \(.*\*\*\*@.*\)\n", capsys.readouterr().err
    )
