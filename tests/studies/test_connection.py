"""The connection to a running cluster, without a cluster."""

from __future__ import annotations

import os
import signal

import pytest
import ray

from studies.harness.cluster import connection
from studies.harness.command.problems import terminable
from studies.harness.design.ending import Stopped
from studies.harness.design.options import Options


def test_sigterm_while_a_cluster_is_joined_stops_the_command_after_that(
    monkeypatch: pytest.MonkeyPatch,
):
    """An interrupted `ray.init` would leave handlers that abort the command with code 134."""
    joined = []

    def init(**settings: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        joined.append(settings["address"])

    monkeypatch.setattr(connection, "_probe", lambda host, port: None)
    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(Stopped), terminable():
        connection.connect("10.0.0.1:6379", Options())
    assert joined == ["10.0.0.1:6379"]
