"""Ray on this machine alone, for one command: nothing of it can be reached from another, nor without the run's token.

Whoever reaches a port of Ray runs code as our user.
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray
from ray._private import ray_constants
from ray.exceptions import RayError

from trainables.store import StoreError

LOOPBACK = "127.0.0.1"


def start(slots: int) -> None:
    """Start Ray here, with a CPU slot for each process that may run at once.

    Raises:
        StoreError: It did not come up; one line.
    """
    # Without it Ray makes one for all runs, in a file that everybody on this machine may read. The first of a process
    # stays: Ray reads it once.
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    os.environ.pop("RAY_AUTH_MODE", None)  # of some other cluster; a new one has token authentication by default
    try:
        with _loopback_allowed():
            ray.init(
                "local",
                num_cpus=slots,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                _node_ip_address=LOOPBACK,
            )
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        why = str(error).partition("\n")[0].rstrip(".")
        raise StoreError(f"Ray did not start here: {why}") from error


@contextmanager
def _loopback_allowed() -> Iterator[None]:
    """Ray takes the loopback address where it expects no further nodes, as on macOS; elsewhere it replaces it."""
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
