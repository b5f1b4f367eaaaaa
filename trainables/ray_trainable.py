"""The worker of Ray Tune: an actor that trains one trial after another. The only file of this package that imports Ray.

Tune decides where and when; the trial folder holds everything else. There are no Tune checkpoints: a worker that
replaces a lost worker opens the folder and resumes. A terminal outcome is never raised; it is in the folder.

A worker imports neither `ray.tune` (130 MB and one second; only `train_team` needs it) nor, unless a model is
compiled, `torch._dynamo` (150 MB and one second).
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
from torch.optim import SGD, Adam, Optimizer

from trainables.data import DataError
from trainables.fingerprint import difference
from trainables.store import StoreError, TrialStore
from trainables.train import Epochs, epochs

TEAMS = ".teams"  # in the output folder: Ray Train's files, which all nodes must see; nothing reads them afterwards
PROBLEM = (
    "problem"  # in a result: the error of the data, the folder or the node; the driver then stops
)
PAUSES = (5, 15, 40)  # seconds before a trial is reopened whose files could not be read or written
REPORT_SECONDS = 1.0  # between two results of a trial in a grid, where nothing is decided by them
LEAVE_SECONDS = 15.0  # the time for the current epoch to finish after a SIGTERM


class ForeignNode(StoreError):
    """This node cannot train the driver's trials: its code or its output folder differs."""


class TrialTrainable:
    """An actor with the methods of `tune.Trainable` that Tune calls; it trains `config["key"]` in `config["root"]`.

    A step is an epoch, or as many as take `config["report_every"]` seconds: then Tune gets the last result only.

    Args:
        config: The trial's key and the settings that all trials share.
        storage: Unused; Tune passes it.
    """

    def __init__(self, config: dict[str, Any], storage: None = None):
        # One thread for each CPU slot: two threads give other bits, and trials side by side would share the cores.
        torch.set_num_threads(1)
        keep_dynamo_out()
        self.config = config
        self._leaving, self._pauses = False, list(PAUSES)
        signal.signal(signal.SIGTERM, self._hurry)
        self._open(config)

    def get_auto_filled_metrics(self, debug_metrics_only: bool = False) -> dict[str, Any]:
        """Return what Tune wants to know before the first result: nothing."""
        return {}

    def train(self) -> dict[str, Any]:
        """Train; the last epoch, or a terminal outcome, ends the trial.

        An error of the data or the folder also ends it and is reported: if it were raised, Tune would retry for ever.
        """
        try:
            metrics = self._step()
        except (DataError, StoreError) as problem:
            return {"done": True, PROBLEM: str(problem)}
        except OSError as error:
            if not self._pauses:
                return {
                    "done": True,
                    PROBLEM: f"{error.filename or self._store.folder}: {error.strerror or error}",
                }
            time.sleep(
                self._pauses.pop(0)
            )  # a full disk may have room again, a file server may be back
            self._open(self.config)
            return {}
        self._pauses = list(PAUSES)
        done = self._store.status() is not None
        if self._leaving and not done:
            with suppress(StopIteration):
                self._epochs.send(True)
            os._exit(1)  # to Tune a lost worker: the trial resumes elsewhere
        return {**metrics, "done": done}

    def _step(self) -> dict[str, Any]:
        """Return the metrics of the last epoch trained; nothing if the trial had ended before."""
        last: dict[str, Any] = {}
        until = time.monotonic() + self._report_every
        for metrics in self._epochs:
            last = metrics
            if self._leaving or time.monotonic() >= until:
                break
        return last

    def reset(self, new_config: dict[str, Any], storage: None = None) -> bool:
        """Train another trial in this actor."""
        self.stop()
        gc.collect()
        gc.freeze()  # modules and data outlive trials: later collections skip them
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.config = new_config
        self._open(new_config)
        return True

    def stop(self) -> None:
        """End the training of the current trial."""
        self._epochs.close()

    def _open(self, config: dict[str, Any]) -> None:
        self._report_every = config.get("report_every", 0.0)
        try:
            self._store, self._epochs = _begin(
                config, "cuda" if torch.cuda.is_available() else "cpu"
            )
        except ForeignNode as problem:
            self._epochs = _refused(problem)

    def _hurry(self, number: int, frame: Any) -> None:
        """Handle SIGTERM, by which a machine is reclaimed: commit the epoch if it ends in time, or give it up."""
        self._leaving = True
        signal.signal(signal.SIGALRM, self._give_up)
        signal.setitimer(signal.ITIMER_REAL, LEAVE_SECONDS)

    def _give_up(self, number: int, frame: Any) -> None:
        try:
            self._store.leave("SIGTERM")
        finally:
            os._exit(1)


def keep_dynamo_out() -> None:
    """Stop torch's optimizers from importing `torch._dynamo` in this process; their numbers stay the same.

    They import it to exclude themselves from compiled graphs. Nothing here compiles an optimizer, so they run the plain
    functions, as with `torch._dynamo.disable`. In a torch without these attributes nothing changes.
    """
    for name in ("add_param_group", "load_state_dict", "state_dict", "zero_grad"):
        plain = getattr(getattr(Optimizer, name), "__wrapped__", None)
        if plain is not None:
            vars(plain).setdefault(
                "__dynamo_disable", plain
            )  # what torch/_compile.py caches on the first call
    for optimizer in (SGD, Adam):  # AdamW inherits Adam's step
        plain = getattr(optimizer.step, "__wrapped__", None)
        if plain is not None and not hasattr(
            optimizer.step, "hooked"
        ):  # by the first optimizer of this process
            optimizer.step = torch.no_grad()(plain)


def nothing(_: None) -> None:
    """Return None in place of an object of Tune's; see `studies.harness.cluster.tuning`."""


def train_team(config: dict[str, Any]) -> None:
    """Train a trial with several workers: Tune runs this function, which starts Ray Train's processes."""
    from ray import train, tune
    from ray.train.torch import TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    store = TrialStore.open(Path(config["root"]), config["key"])
    if store.status() is not None:  # the previous worker was lost after it had written it
        return tune.report({"done": True})
    needs = {"CPU": 1, "GPU": config["gpus"]} if config["gpus"] else {"CPU": 1}
    trainer = TorchTrainer(
        _train_share,
        train_loop_config=config,
        scaling_config=train.ScalingConfig(
            num_workers=store.config.workers,
            use_gpu=bool(config["gpus"]),
            resources_per_worker=needs,
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
        if (
            store.status() is not None
        ):  # rank 0 wrote the reason; the other ranks lost contact to it
            return tune.report({"done": True})
        failures = getattr(error, "worker_failures", {}).values()  # a subclass has them
        problems = [
            str(failure) for failure in failures if isinstance(failure, OSError | StoreError)
        ]
        if not problems:
            raise
        tune.report({PROBLEM: problems[0]})


def _train_share(config: dict[str, Any]) -> None:
    """Train as one of the processes of a team."""
    from ray import train
    from ray.train.torch import get_device

    torch.set_num_threads(1)
    for metrics in _begin(config, str(get_device()))[1]:
        train.report(metrics)


def _begin(config: dict[str, Any], device: str) -> tuple[TrialStore, Epochs]:
    """Open a trial's folder and its training.

    Raises:
        ForeignNode: This node cannot train it. The driver has not inspected nodes that joined later.
    """
    os.environ["PRECOND_DATA"] = config["data_dir"]
    if config["fingerprint"] and (other := difference(config["fingerprint"])):
        raise ForeignNode(f"node {platform.node()} runs something else than the driver: {other}")
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
    """Return a training that raises the node's error at its first step."""
    raise problem
    yield {}
