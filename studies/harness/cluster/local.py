"""Start Ray for one command, on this machine only.

Whoever reaches a port of Ray can run code as the user. Ray therefore listens on the loopback
address only, and every request requires the token of this run.
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray
from ray._private import parameter, ray_constants, services
from ray.exceptions import RayError

from studies.harness.cluster.sockets import socket_problem
from trainables.store import StoreError

LOOPBACK = "127.0.0.1"
WORKER = Path(__file__).with_name("worker.py")


def start(slots: int) -> None:
    """Start Ray with a CPU slot for each concurrent process.

    Raises:
        StoreError: Ray did not start, or this process uses Ray already; the message is one line.
    """
    if ray.is_initialized():
        raise StoreError("this Python process uses Ray already: call ray.shutdown() first")
    if problem := socket_problem():
        raise StoreError(problem)
    # Without a token in the environment, Ray creates one for all runs, in a file that every user of
    # this machine may read. Ray reads the token once per process, so an existing token stays.
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    # The variable may be set for another cluster. A new Ray requires the token by default.
    os.environ.pop("RAY_AUTH_MODE", None)
    try:
        with _minimal():
            quiet: Any = {
                "include_dashboard": False,
                "log_to_driver": False,
                "logging_level": logging.ERROR,
            }
            ray.init("local", num_cpus=slots, _node_ip_address=LOOPBACK, **quiet)
    except (OSError, RuntimeError, ValueError, RayError) as error:
        why = str(error).partition("\n")[0].rstrip(".")
        raise StoreError(f"Ray did not start on this machine: {why}") from error


@contextmanager
def _minimal() -> Iterator[None]:
    """Make `ray.init` keep the loopback address and start only what one machine needs.

    Ray keeps the address if clusters are disabled, which is the default on macOS. The autoscaler's
    monitor, the log monitor and the dashboard's server take 80 MB each, and `ray.init` waits a
    second for the dashboard. `ray start` has options to disable the monitors, but `ray.init` has
    none. Workers run `worker.py`.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER, parameter.RayParams, services.start_api_server
    ray_constants.ENABLE_RAY_CLUSTER = False
    settings: Any = {"no_monitor": True, "include_log_monitor": False, "worker_path": str(WORKER)}
    parameter.RayParams = partial(parameter.RayParams, **settings)
    services.start_api_server = lambda *_, **__: ("", None)
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER, parameter.RayParams, services.start_api_server = before
