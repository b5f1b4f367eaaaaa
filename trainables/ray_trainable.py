"""The Ray Tune trainable: one reused actor trains trial after trial. The only file of this package that imports Ray.

Tune decides where and when; the trial folder holds everything else. So there are no Tune checkpoints: a worker that
replaces a lost one opens the folder and goes on. A terminal outcome is never raised, it is in the folder.
"""

from __future__ import annotations

import gc
import os
import platform
import signal
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
DATA_PROBLEM = "data_problem"  # of a result: what was wrong with the data, or with the node; the driver then stops
LEAVE_SECONDS = 15.0  # that an epoch has to end, once the machine is to go


class ForeignNode(RuntimeError):
    """This node is not fit for the driver's trials: it has other code, or another output folder at that path."""


STOPPING = (DataError, ForeignNode)  # the other trials would meet the same: the driver ends, and no trial is to blame


class TrialTrainable(tune.Trainable):
    """Trains the trial `config["key"]` of the output folder `config["root"]`, an epoch a step."""

    def setup(self, config: dict[str, Any]) -> None:
        """Open the trial; called in a new actor."""
        # One CPU slot, one thread: two give other bits, and trials side by side would fight for the cores.
        torch.set_num_threads(1)
        self._leaving = False
        signal.signal(signal.SIGTERM, self._hurry)
        self._open(config)

    def step(self) -> dict[str, Any]:
        """Train one epoch; the last one, or a terminal outcome, ends the trial."""
        try:
            metrics: dict[str, Any] = next(self._epochs)
        except StopIteration:
            return {"done": True}
        except STOPPING as problem:  # raised, Tune would try again for ever
            return {"done": True, DATA_PROBLEM: str(problem)}
        done = self._store.status() is not None
        if self._leaving and not done:
            with suppress(StopIteration):
                self._epochs.send(True)
            os._exit(1)  # a lost worker, to Tune: it goes on elsewhere
        return {**metrics, "done": done}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take up another trial in this actor."""
        self.cleanup()
        self._open(new_config)
        return True

    def cleanup(self) -> None:
        """Let go of the trial."""
        self._epochs.close()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _open(self, config: dict[str, Any]) -> None:
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
        problems = [str(failure) for failure in failures if isinstance(failure, STOPPING)]
        if not problems:
            raise
        tune.report({DATA_PROBLEM: problems[0]})


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
