"""An MLflow server that does not respond: training continues, and a later sync sends all results."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from mlflow import MlflowClient

from studies.ablation_rank import STUDY
from studies.harness.design.arms import Trial
from studies.harness.design.options import Options, default_uri
from studies.harness.kinds.study.plan import plan
from studies.harness.tracking.ui import ENVIRONMENT
from tests.faults.drivers import PATIENCE, Driver
from trainables.files import read_lines
from trainables.store import TrialStore

LARGEST_EPOCH_RATIO = 1.05  # seconds of an epoch, relative to those without tracking
# At its end, a command tries to send the remaining results, which takes additional time.
MOST_ADDED_SECONDS = 40.0
SEEDS, EPOCHS = 6, 8


def server(n: int, rng: random.Random, folder: Path) -> Iterator[list[str]]:
    """Compare a study without tracking with studies whose tracking does not respond, n times.

    No server listens at the address, the server does not answer, or the database is locked. The
    median seconds of an epoch over all trials are compared. On a busy machine, this median also
    varies without a fault.
    """
    kinds: dict[str, Callable[[Path], AbstractContextManager[str]]] = {
        "dead": _dead,
        "hung": _hung,
        "locked": _locked,
    }
    for number in range(n):
        epoch, total = _run(folder / f"{number}-none", "none")
        for kind, tracking in kinds.items():
            root = folder / f"{number}-{kind}"
            root.mkdir()
            with tracking(root) as uri:
                tracked_epoch, tracked_total = _run(root, uri)
            violations = []
            if tracked_epoch > LARGEST_EPOCH_RATIO * epoch:
                violations.append(f"epochs of {tracked_epoch:.3f} s, not {epoch:.3f} s")
            if tracked_total > total + MOST_ADDED_SECONDS:
                violations.append(f"{tracked_total:.0f} s in total, not {total:.0f} s")
            yield [f"{kind}: {line}" for line in violations + _sync(root)]


def mlflow_differences(root: Path, trials: list[Trial], uri: str) -> list[str]:
    """Return the differences between MLflow and the trial folders (I5)."""
    client, violations = MlflowClient(tracking_uri=uri), []
    experiment = client.get_experiment_by_name(STUDY.name)
    runs: list[Any] = []
    if experiment:
        runs += client.search_runs([experiment.experiment_id], "tags.kind = 'trial'")
    by_key: dict[str, list[Any]] = {}
    for run in runs:
        by_key.setdefault(run.data.tags["trial_key"], []).append(run)
    for trial in trials:
        key = trial.config.trial_key
        trial_runs = by_key.pop(key, [])
        statuses = [run.info.status for run in trial_runs]
        if statuses != ["FINISHED"]:
            violations.append(f"I5: {key[:16]} has the runs {statuses}")
            continue
        lines = read_lines(TrialStore(root, trial.config).folder / "epochs.jsonl")
        for name in lines[0]["metrics"]:
            history = client.get_metric_history(trial_runs[0].info.run_id, name)
            points = [(point.step, point.value) for point in history]
            if points != [(line["epoch"], line["metrics"][name]) for line in lines]:
                violations.append(f"I5: {key[:16]} has the values {points} of {name}")
    return violations + [f"I5: a run of {key[:16]}, which was not planned" for key in by_key]


def _run(root: Path, uri: str) -> tuple[float, float]:
    """Run a study; return the median training seconds of an epoch and the command's seconds."""
    root.mkdir(exist_ok=True)
    start = time.monotonic()
    driver = Driver(root, "--seeds", str(SEEDS), "--epochs", str(EPOCHS), "--tracking-uri", uri)
    try:
        code = driver.wait(PATIENCE)
        if code != 0:
            raise RuntimeError(f"exit code {code}: {driver.output()}")
    finally:
        driver.destroy()
    seconds = [
        line["metrics"]["time/train_s"]
        for path in root.glob("trials/*/epochs.jsonl")
        for line in read_lines(path)
    ]
    return statistics.median(seconds), time.monotonic() - start


def _sync(root: Path) -> list[str]:
    """Send all results to a database, twice, and return the differences from the trial folders."""
    arms: dict[str, Any] = {"only": {}, "levels": {}, "settings": {}, "optimizers": ["sgd"]}
    planned = plan(STUDY, Options(**arms, out=root, seeds=list(range(SEEDS)), epochs=EPOCHS))
    uri = default_uri(root)
    for _ in range(2):
        STUDY.tracking(planned).send(uri)
    return mlflow_differences(root, list(planned.trials), uri)


class Server:
    """A local MLflow server in its own process group, with a database in a study's folder."""

    def __init__(self, root: Path):
        self._root, self._port = root, _free_port()
        self.uri = f"http://127.0.0.1:{self._port}"
        self.database = f"sqlite:///{root / 'server.db'}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server if it is not running, without waiting until it responds."""
        if self._process is None:
            flags = f"-m mlflow server --host 127.0.0.1 --port {self._port} --workers 1"
            command = [sys.executable, *flags.split(), "--backend-store-uri", self.database]
            command += ["--artifacts-destination", str(self._root / "artifacts")]
            with open(self._root / "server.log", "ab") as log:
                self._process = subprocess.Popen(
                    command,
                    env={**os.environ, **ENVIRONMENT},
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )

    def wait(self) -> None:
        """Wait until the server responds."""
        deadline = time.monotonic() + PATIENCE
        while True:
            with contextlib.suppress(OSError), urlopen(f"{self.uri}/health", timeout=5):
                return
            if time.monotonic() > deadline:
                log = (self._root / "server.log").read_text()
                raise RuntimeError(f"the MLflow server did not respond for {PATIENCE} s: {log}")
            time.sleep(0.2)

    def kill(self) -> None:
        """Kill the server and its child processes, if it is running."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def _dead(root: Path) -> Iterator[str]:
    """Yield an address at which no server listens."""
    yield f"http://127.0.0.1:{_free_port()}"


@contextlib.contextmanager
def _hung(root: Path) -> Iterator[str]:
    """Yield the address of a server that accepts connections, but does not respond."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(100)
        yield f"http://127.0.0.1:{silent.getsockname()[1]}"


@contextlib.contextmanager
def _locked(root: Path) -> Iterator[str]:
    """Yield the address of a database that another connection has locked."""
    uri = default_uri(root)
    MlflowClient(tracking_uri=uri).search_experiments()  # creates the tables
    with contextlib.closing(sqlite3.connect(root / "mlflow.db")) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        yield uri
