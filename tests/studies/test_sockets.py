"""What listens while a study runs here: on this machine's own address only, and only to who has the run's token."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
SESSION = """
import json, os, sys
import psutil, ray
from studies.harness.cluster import local as local_cluster

local_cluster.start(1)
ray.get(ray.remote(lambda: None).remote())  # so that there is a worker
family = [psutil.Process(), *psutil.Process().children(recursive=True)]
found = [(process.name(), *connection.laddr)
         for process in family for connection in process.net_connections("inet")
         if connection.status == psutil.CONN_LISTEN or not connection.raddr]
print(json.dumps({"listening": found, "token": os.environ["RAY_AUTH_TOKEN"]}), flush=True)
sys.stdin.read()
"""
REQUESTS = (  # harmless ones, of each of Ray's services
    "NodeInfoGcsService/CheckAlive",
    "NodeManagerService/GetNodeStats",
    "ObjectManagerService/Pull",
    "CoreWorkerService/GetCoreWorkerStats",
)
OK, UNIMPLEMENTED, UNAUTHENTICATED = (
    "0",
    "12",
    "16",
)  # of gRPC; the second where another service listens


class Session(NamedTuple):
    """A Ray of our own that is running."""

    listening: list[tuple[str, str, int]]  # process, address, port
    token: str


@pytest.fixture(scope="module")
def session():
    environment = {**os.environ, "RAY_raylet_start_wait_time_s": "180", "PYTHONPATH": str(ROOT)}
    environment.pop("RAY_AUTH_TOKEN", None)
    environment["RAY_AUTH_MODE"] = "disabled"  # as somebody may have set it for a cluster without
    command = [sys.executable, "-c", SESSION]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as driver:
        assert driver.stdout is not None
        yield Session(**json.loads(driver.stdout.readline()))


def test_nothing_listens_beyond_this_machine(session: Session):
    names = " ".join(name for name, *_ in session.listening)
    assert all(part in names for part in ("gcs_server", "raylet", "ray::IDLE")), names
    beyond = [
        place for place in session.listening if place[1].removeprefix("::ffff:") != "127.0.0.1"
    ]
    assert not beyond


def test_every_port_of_ray_refuses_a_request_without_the_token(session: Session):
    refused = 0
    for name, _, port in session.listening:
        answers = {path: answer(port, path) for path in REQUESTS}
        if set(answers.values()) == {None}:  # no gRPC: the agent
            assert status(port) == 401, name
            continue
        assert set(answers.values()) <= {UNIMPLEMENTED, UNAUTHENTICATED}, (name, answers)
        assert UNAUTHENTICATED in answers.values(), (name, answers)
        assert {answer(port, path, "0" * 64) for path in REQUESTS} <= {
            UNIMPLEMENTED,
            UNAUTHENTICATED,
        }, name
        refused += 1
    assert refused >= 5


def test_the_token_opens_them(session: Session):
    """Or the test before would pass where nothing answers."""
    head = next(port for name, _, port in session.listening if name == "gcs_server")
    assert answer(head, REQUESTS[0], session.token) == OK


def answer(port: int, path: str, token: str | None = None) -> str | None:
    """The gRPC status of an empty request; None when something else than gRPC answers."""
    fields = {
        ":method": "POST", ":scheme": "http", ":path": f"/ray.rpc.{path}", ":authority": "127.0.0.1",
        "content-type": "application/grpc", "te": "trailers",
    }  # fmt: skip
    if token is not None:
        fields["authorization"] = f"Bearer {token}"
    block = b"".join(b"\0" + _text(name) + _text(value) for name, value in fields.items())
    request = _frame(4, 0, 0, b"") + _frame(1, 4, 1, block) + _frame(0, 1, 1, bytes(5))
    with socket.create_connection(("127.0.0.1", port), 60) as line:
        line.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + request)
        received, found = b"", None
        while found is None and (more := line.recv(4096)):
            received += more
            found = re.search(rb"\x0bgrpc-status(?:\x01(\d)|\x02(\d\d))", received)
    return (found[1] or found[2]).decode() if found else None


def status(port: int) -> int:
    """The HTTP status of a plain request."""
    with socket.create_connection(("127.0.0.1", port), 60) as line:
        line.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        return int(line.recv(4096).split()[1])


def _text(value: str) -> bytes:
    return bytes([len(value)]) + value.encode()


def _frame(kind: int, flags: int, stream: int, content: bytes) -> bytes:
    return (
        len(content).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + content
    )
