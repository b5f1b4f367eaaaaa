"""Tracking that does not answer: training must not notice, and a later sync must complete it."""

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

SLOWER, LONGER = (
    1.05,
    40.0,
)  # of the epochs' seconds; seconds of the whole command, which tries to send the rest
SEEDS, EPOCHS = 6, 8


def server(n: int, rng: random.Random, folder: Path) -> Iterator[list[str]]:
    """G8: n times each: nobody listens, nobody answers, the database is locked; against no tracking at all.

    Epochs are compared by their median over all trials. On a busy machine that moves by itself.
    """
    kinds: dict[str, Callable[[Path], AbstractContextManager[str]]] = {
        "dead": _dead,
        "hung": _hung,
        "locked": _locked,
    }
    for number in range(n):
        plain, wall = _run(folder / f"{number}-none", "none")
        for kind, place in kinds.items():
            root = folder / f"{number}-{kind}"
            root.mkdir()
            with place(root) as uri:
                seconds, longer = _run(root, uri)
            wrong = (
                [f"epochs of {seconds:.3f} s, not {plain:.3f}"] if seconds > SLOWER * plain else []
            )
            wrong += [f"{longer:.0f} s in all, not {wall:.0f}"] if longer > wall + LONGER else []
            yield [f"{kind}: {line}" for line in wrong + _complete_later(root)]


def views(root: Path, trials: list[Trial], uri: str) -> list[str]:
    """Where MLflow does not have what the folders have, once each (I5)."""
    client, wrong = MlflowClient(tracking_uri=uri), []
    experiment = client.get_experiment_by_name(STUDY.name)
    runs = (
        client.search_runs([experiment.experiment_id], "tags.kind = 'trial'") if experiment else []
    )
    by_key: dict[str, list[Any]] = {}
    for run in runs:
        by_key.setdefault(run.data.tags["trial_key"], []).append(run)
    for trial in trials:
        key, found = trial.config.trial_key, by_key.pop(trial.config.trial_key, [])
        if [run.info.status for run in found] != ["FINISHED"]:
            wrong.append(f"I5: {key[:16]} has the runs {[run.info.status for run in found]}")
            continue
        lines = read_lines(TrialStore(root, trial.config).folder / "epochs.jsonl")
        for name in lines[0]["metrics"]:
            points = client.get_metric_history(found[0].info.run_id, name)
            if [(p.step, p.value) for p in points] != [
                (line["epoch"], line["metrics"][name]) for line in lines
            ]:
                wrong.append(f"I5: {key[:16]} has {name} as {[(p.step, p.value) for p in points]}")
    return wrong + [f"I5: a run of {key[:16]}, which was not planned" for key in by_key]


def _run(root: Path, uri: str) -> tuple[float, float]:
    """The median epoch's training seconds, and those of the whole command."""
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


def _complete_later(root: Path) -> list[str]:
    """Send everything to a database, twice; what is wrong with what it has then."""
    chosen: dict[str, Any] = {"only": {}, "levels": {}, "settings": {}, "optimizers": ["sgd"]}
    planned = plan(STUDY, Options(**chosen, out=root, seeds=list(range(SEEDS)), epochs=EPOCHS))
    uri = default_uri(root)
    for _ in range(2):
        STUDY.tracking(planned).send(uri)
    return views(root, list(planned.trials), uri)


class Server:
    """An MLflow server on this machine, in a session of its own, with a database in a study's folder."""

    def __init__(self, root: Path):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.uri, self.database = (
            f"http://127.0.0.1:{self._port}",
            f"sqlite:///{root / 'server.db'}",
        )
        self._root = root
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it unless it runs; it answers some seconds later."""
        if self._process is None:
            command = [
                sys.executable,
                "-m",
                "mlflow",
                "server",
                "--host",
                "127.0.0.1",
                "--port",
                str(self._port),
            ]
            places = [
                "--backend-store-uri",
                self.database,
                "--artifacts-destination",
                str(self._root / "artifacts"),
            ]
            with open(self._root / "server.log", "ab") as log:
                self._process = subprocess.Popen(
                    [*command, "--workers", "1", *places],
                    env={**os.environ, **ENVIRONMENT},
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )

    def wait(self) -> None:
        """Until it answers."""
        deadline = time.monotonic() + PATIENCE
        while True:
            with contextlib.suppress(OSError), urlopen(f"{self.uri}/health", timeout=5):
                return
            if time.monotonic() > deadline:
                raise RuntimeError(
                    f"no answer for {PATIENCE} s: {(self._root / 'server.log').read_text()}"
                )
            time.sleep(0.2)

    def kill(self) -> None:
        """End it and its own children with SIGKILL, if it runs."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@contextlib.contextmanager
def _dead(root: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def _hung(root: Path) -> Iterator[str]:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(100)
        yield f"http://127.0.0.1:{silent.getsockname()[1]}"


@contextlib.contextmanager
def _locked(root: Path) -> Iterator[str]:
    uri = default_uri(root)
    MlflowClient(tracking_uri=uri).search_experiments()  # makes the tables
    with contextlib.closing(sqlite3.connect(root / "mlflow.db")) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        yield uri
