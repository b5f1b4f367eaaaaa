"""Ray on this machine alone, for one command: unreachable from other machines and without the run's token.

Whoever reaches a port of Ray can run code as the user.
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

from trainables.store import StoreError

LOOPBACK = "127.0.0.1"
WORKER = Path(__file__).with_name("worker.py")


def start(slots: int) -> None:
    """Start Ray here, with a CPU slot for each process that may run at once.

    Raises:
        StoreError: Ray did not start; the message is one line.
    """
    # Without this Ray creates a token for all runs, in a file that every user of this machine may read. The first token
    # of a process stays, because Ray reads it once.
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    os.environ.pop(
        "RAY_AUTH_MODE", None
    )  # for some other cluster; a new one has token authentication by default
    try:
        with _minimal():
            quiet: Any = {
                "include_dashboard": False,
                "log_to_driver": False,
                "logging_level": logging.ERROR,
            }
            ray.init("local", num_cpus=slots, _node_ip_address=LOOPBACK, **quiet)
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        why = str(error).partition("\n")[0].rstrip(".")
        raise StoreError(f"Ray did not start here: {why}") from error


@contextmanager
def _minimal() -> Iterator[None]:
    """Make `ray.init` keep the loopback address, and start only the processes that one machine needs.

    Its workers run `worker.py`. Ray keeps the address where it expects no further nodes, as on macOS. The autoscaler's
    monitor, the log monitor and the dashboard's server take 80 MB each, and `ray.init` waits a second for the last one;
    `ray start` has options for the first two, `ray.init` has none.
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
