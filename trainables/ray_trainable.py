"""The Ray Tune trainable: one reused actor trains trial after trial. The only file of this package that imports Ray.

Tune decides where and when; the trial folder holds everything else. So there are no Tune checkpoints: a worker that
replaces a lost one opens the folder and goes on. A terminal outcome is never raised, it is in the folder.
"""

from __future__ import annotations

import gc
import os
import platform
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune

from trainables.data import DataError
from trainables.fingerprint import difference
from trainables.store import StoreError, TrialStore
from trainables.train import Epochs, epochs

TEAMS = ".teams"  # in the output folder: Ray Train's notes, which all nodes must see; nothing reads them afterwards
PROBLEM = "problem"  # of a result: what is wrong with the data, the folder or the node; the driver then stops
PAUSES = (5, 15, 40)  # seconds before a trial is taken up again whose files could not be read or written
REPORT_SECONDS = 1.0  # between two results of a trial in a grid, where nobody decides by them: each is a round trip
LEAVE_SECONDS = 15.0  # that an epoch has to end, once the machine is to go


class ForeignNode(StoreError):
    """This node is not fit for the driver's trials: it has other code, or another output folder at that path."""


class TrialTrainable(tune.Trainable):
    """Trains the trial `config["key"]` of the output folder `config["root"]`.

    A step is an epoch, or as many as take `config["report_every"]` seconds: then Tune hears of the last of them only.
    """

    def setup(self, config: dict[str, Any]) -> None:
        """Open the trial; called in a new actor."""
        # One CPU slot, one thread: two give other bits, and trials side by side would fight for the cores.
        torch.set_num_threads(1)
        self._leaving, self._pauses = False, list(PAUSES)
        signal.signal(signal.SIGTERM, self._hurry)
        self._open(config)

    def step(self) -> dict[str, Any]:
        """Train; the last epoch, or a terminal outcome, ends the trial.

        What is wrong with the data or the folder ends it, too, and is reported: raised, Tune would try again for ever.
        """
        try:
            metrics = self._train()
        except (DataError, StoreError) as problem:
            return {"done": True, PROBLEM: str(problem)}
        except OSError as error:
            if not self._pauses:
                return {"done": True, PROBLEM: f"{error.filename or self._store.folder}: {error.strerror or error}"}
            time.sleep(self._pauses.pop(0))  # a full disk may have room again, a file server be back
            self._open(self.config)
            return {}
        self._pauses = list(PAUSES)
        done = self._store.status() is not None
        if self._leaving and not done:
            with suppress(StopIteration):
                self._epochs.send(True)
            os._exit(1)  # a lost worker, to Tune: it goes on elsewhere
        return {**metrics, "done": done}

    def _train(self) -> dict[str, Any]:
        """The metrics of the last epoch that was trained; none when there was nothing left to train."""
        last: dict[str, Any] = {}
        until = time.monotonic() + self._report_every
        for metrics in self._epochs:
            last = metrics
            if self._leaving or time.monotonic() >= until:
                break
        return last

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take up another trial in this actor."""
        self.cleanup()
        self._open(new_config)
        return True

    def cleanup(self) -> None:
        """Let go of the trial."""
        self._epochs.close()
        gc.collect()
        gc.freeze()  # what is left (modules, data) outlives trials: later collections need not look through it
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _open(self, config: dict[str, Any]) -> None:
        self._report_every = config.get("report_every", 0.0)
        try:
            self._store, self._epochs = _begin(config, "cuda" if torch.cuda.is_available() else "cpu")
        except ForeignNode as problem:
            self._epochs = _refused(problem)

    def _hurry(self, number: int, frame: Any) -> None:
        """SIGTERM: the machine is to go. An epoch that ends in time is committed; a longer one is given up."""
        self._leaving = True
        signal.signal(signal.SIGALRM, self._give_up)
        signal.setitimer(signal.ITIMER_REAL, LEAVE_SECONDS)

    def _give_up(self, number: int, frame: Any) -> None:
        try:
            self._store.leave("SIGTERM")
        finally:
            os._exit(1)


def train_team(config: dict[str, Any]) -> None:
    """The same for a trial with several workers: a function that Tune runs, and Ray Train's processes under it."""
    from ray import train
    from ray.train.torch import TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    store = TrialStore.open(Path(config["root"]), config["key"])
    if store.status() is not None:  # the worker before was lost after it had written that
        return tune.report({"done": True})
    needs = {"CPU": 1, "GPU": config["gpus"]} if config["gpus"] else {"CPU": 1}
    trainer = TorchTrainer(
        _train_share,
        train_loop_config=config,
        scaling_config=train.ScalingConfig(
            num_workers=store.config.workers, use_gpu=bool(config["gpus"]), resources_per_worker=needs
        ),
        run_config=train.RunConfig(
            name=f"team-{tune.get_context().get_trial_id()}",
            storage_path=str(Path(config["root"], TEAMS).absolute()),
            callbacks=[TuneReportCallback()],
        ),
    )
    try:
        trainer.fit()
    except train.TrainingFailedError as error:
        if store.status() is not None:  # rank 0 wrote why; the others only missed it
            return tune.report({"done": True})
        failures = getattr(error, "worker_failures", {}).values()  # its subclass for workers has them
        problems = [str(failure) for failure in failures if isinstance(failure, OSError | StoreError)]
        if not problems:
            raise
        tune.report({PROBLEM: problems[0]})


def _train_share(config: dict[str, Any]) -> None:
    """One of the processes."""
    from ray import train
    from ray.train.torch import get_device

    torch.set_num_threads(1)
    for metrics in _begin(config, str(get_device()))[1]:
        train.report(metrics)


def _begin(config: dict[str, Any], device: str) -> tuple[TrialStore, Epochs]:
    """Open a trial's folder and its training.

    Raises:
        ForeignNode: This node cannot; a node that joins later has not been looked at by the driver.
    """
    os.environ["PRECOND_DATA"] = config["data_dir"]
    if config["fingerprint"] and (found := difference(config["fingerprint"])):
        raise ForeignNode(f"node {platform.node()} runs something else than the driver: {found}")
    try:
        nodes = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        store = TrialStore.open(Path(config["root"]), config["key"], config["generation"], nodes)
    except StoreError as error:
        raise ForeignNode(f"node {platform.node()}: {error}") from error
    running = epochs(
        store.config,
        store,
        device=device,
        commit_every=config["commit_every"],
        diagnostics=config["diagnostics"],
        provenance={
            **config["provenance"],
            "ray": ray.__version__,
            "node": ray.get_runtime_context().get_node_id(),
        },
    )
    return store, running


def _refused(problem: ForeignNode) -> Epochs:
    """A training that only says why there is none."""
    raise problem
    yield {}
