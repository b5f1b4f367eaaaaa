"""Connect to a running Ray cluster."""

from __future__ import annotations

import logging
import os
import socket

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray
from ray._private.services import canonicalize_bootstrap_address_or_die

from studies.harness.cluster import environment
from studies.harness.cluster.stopping import defer_signals
from studies.harness.design.options import Options
from trainables.store import StoreError

CONNECT_SECONDS = 10.0
HTTP2_PREFACE, EMPTY_SETTINGS = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\0\0\0\4\0\0\0\0\0"


def connect(address: str, options: Options) -> None:
    """Connect to a running cluster as a driver.

    Args:
        address: `auto` or host:port.
        options: The command line, which says whether to send the environment to the nodes.

    Raises:
        StoreError: No cluster answers within 10 s; the message is one line.
    """
    try:
        # `auto` means the cluster that this machine belongs to.
        server = canonicalize_bootstrap_address_or_die("auto") if address == "auto" else address
        host, _, port = server.rpartition(":")
        _probe(host, int(port))
    except OSError as error:
        why = error.strerror or str(error).partition(". ")[0]
        raise StoreError(
            f"no Ray cluster answers at {address} ({why}): start the cluster, or correct the address"
        ) from error
    try:
        # Ray would install handlers of SIGTERM that abort the command.
        with defer_signals(), environment.sent(options) as sent:
            ray.init(
                address=server, log_to_driver=False, logging_level=logging.ERROR, runtime_env=sent
            )
    except (ConnectionError, RuntimeError, ValueError) as error:
        why = str(error).strip().partition("\n")[0]
        hint = "; if the cluster requires a token, set RAY_AUTH_MODE=token"
        hint = "" if os.environ.get("RAY_AUTH_MODE") else hint
        raise StoreError(f"no Ray cluster answers at {address}: {why}{hint}") from error


def _probe(host: str, port: int) -> None:
    """Raise `OSError` unless a gRPC server answers in time; Ray would wait for over a minute."""
    with socket.create_connection((host, port), CONNECT_SECONDS) as line:
        # With TLS the server waits for a handshake, which Ray does later.
        if os.environ.get("RAY_USE_TLS", "0") not in ("0", ""):
            return
        line.settimeout(CONNECT_SECONDS)
        line.sendall(HTTP2_PREFACE + EMPTY_SETTINGS)
        answer = line.recv(len(EMPTY_SETTINGS))
        if answer[3:4] != EMPTY_SETTINGS[3:4]:
            raise ConnectionError("not a Ray server")
