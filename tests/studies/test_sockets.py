"""Ray's ports on one machine: they have the loopback address, and requests require a token."""

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
ray.get(ray.remote(lambda: None).remote())  # starts a worker
processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
sockets = [(process.name(), *connection.laddr)
           for process in processes for connection in process.net_connections("inet")
           if connection.status == psutil.CONN_LISTEN or not connection.raddr]
print(json.dumps({"listening": sockets, "token": os.environ["RAY_AUTH_TOKEN"]}), flush=True)
sys.stdin.read()
"""
REQUESTS = (  # a harmless request to each of Ray's services
    "NodeInfoGcsService/CheckAlive",
    "NodeManagerService/GetNodeStats",
    "ObjectManagerService/Pull",
    "CoreWorkerService/GetCoreWorkerStats",
)
# Status codes of gRPC. A port answers UNIMPLEMENTED to a request for another service.
OK, UNIMPLEMENTED, UNAUTHENTICATED = "0", "12", "16"


class Session(NamedTuple):
    """The sockets and the token of a Ray instance that the fixture has started."""

    listening: list[tuple[str, str, int]]  # process, address, port
    token: str


@pytest.fixture(scope="module")
def session():
    environment = {**os.environ, "RAY_raylet_start_wait_time_s": "180", "PYTHONPATH": str(ROOT)}
    environment.pop("RAY_AUTH_TOKEN", None)
    environment["RAY_AUTH_MODE"] = "disabled"  # as a user may have set it for another cluster
    command = [sys.executable, "-c", SESSION]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as driver:
        assert driver.stdout is not None
        yield Session(**json.loads(driver.stdout.readline()))


def test_ray_listens_on_the_loopback_address_only(session: Session):
    names = " ".join(name for name, *_ in session.listening)
    assert all(part in names for part in ("gcs_server", "raylet", "ray::IDLE")), names
    addresses = {address.removeprefix("::ffff:") for _, address, _ in session.listening}
    assert addresses == {"127.0.0.1"}


def test_every_port_of_ray_refuses_a_request_without_the_token(session: Session):
    refused = 0
    for name, _, port in session.listening:
        answers = {path: grpc_status(port, path) for path in REQUESTS}
        if set(answers.values()) == {None}:  # the agent, which does not use gRPC
            assert http_status(port) == 401, name
            continue
        assert set(answers.values()) <= {UNIMPLEMENTED, UNAUTHENTICATED}, (name, answers)
        assert UNAUTHENTICATED in answers.values(), (name, answers)
        answers = {grpc_status(port, path, "0" * 64) for path in REQUESTS}
        assert answers <= {UNIMPLEMENTED, UNAUTHENTICATED}, name
        refused += 1
    assert refused >= 5


def test_request_with_the_token_succeeds(session: Session):
    """The previous test would also pass if Ray refused requests with the token."""
    head = next(port for name, _, port in session.listening if name == "gcs_server")
    assert grpc_status(head, REQUESTS[0], session.token) == OK


def grpc_status(port: int, path: str, token: str | None = None) -> str | None:
    """Return the gRPC status of an empty request, or None if the answer is not gRPC."""
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": f"/ray.rpc.{path}",
        ":authority": "127.0.0.1",
        "content-type": "application/grpc",
        "te": "trailers",
    }
    if token is not None:
        fields["authorization"] = f"Bearer {token}"
    block = b"".join(b"\0" + _text(name) + _text(value) for name, value in fields.items())
    request = _frame(4, 0, 0, b"") + _frame(1, 4, 1, block) + _frame(0, 1, 1, bytes(5))
    with socket.create_connection(("127.0.0.1", port), 60) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + request)
        received, match = b"", None
        while match is None and (part := connection.recv(4096)):
            received += part
            match = re.search(rb"\x0bgrpc-status(?:\x01(\d)|\x02(\d\d))", received)
    return (match[1] or match[2]).decode() if match else None


def http_status(port: int) -> int:
    """Return the HTTP status of a plain request."""
    with socket.create_connection(("127.0.0.1", port), 60) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        return int(connection.recv(4096).split()[1])


def _text(value: str) -> bytes:
    return bytes([len(value)]) + value.encode()


def _frame(kind: int, flags: int, stream: int, content: bytes) -> bytes:
    length = len(content).to_bytes(3, "big")
    return length + bytes([kind, flags]) + stream.to_bytes(4, "big") + content
