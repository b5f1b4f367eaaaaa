"""The worker of Ray Tune: an actor that trains one trial after another.

This is the only file of the package that imports Ray. Tune decides where and when a trial runs; the
complete state of the trial is in its folder. There are no Tune checkpoints: a worker that replaces
a lost worker opens the folder and resumes. A failed trial is not an error for Tune: the worker
writes the terminal status to the folder.

To save memory and start-up time, a worker imports `ray.tune` (130 MB, one second) only for
`train_team`, and `torch._dynamo` (150 MB, one second) only for compiled models.
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
from trainables.plugins import PluginError
from trainables.store import StoreError, TrialStore
from trainables.train import Epochs, epochs

# Ray Train's files of trials with several workers, in the output folder, because all nodes must be
# able to read them. They are not read after the training.
TEAMS = ".teams"
# The key in a result for an error of the data, the folder or the node; it makes the driver stop.
PROBLEM = "problem"
PAUSES = (5, 15, 40)  # seconds before each new attempt after the folder's files caused an OSError
REPORT_SECONDS = 1.0  # between two results of a trial whose results do not affect scheduling
LEAVE_SECONDS = 15.0  # for the current epoch to finish after a SIGTERM


class UnusableNodeError(StoreError):
    """This node cannot train the driver's trials: its code or its output folder differs."""


class TrialTrainable:
    """An actor that trains the trial `config["key"]` in the output folder `config["root"]`.

    It has the methods of `tune.Trainable` that Tune calls. A step is one epoch or, if
    `config["report_every"]` is set, as many epochs as take that number of seconds; only the result
    of the last epoch is then reported.

    Args:
        config: The trial's key and the settings that all trials share.
        storage: Unused; Tune passes it.
    """

    def __init__(self, config: dict[str, Any], storage: None = None):
        # The number of threads changes the bits of the results, and concurrent trials would
        # compete for the cores.
        torch.set_num_threads(1)
        prevent_dynamo_import()
        self.config = config
        self._leaving, self._pauses = False, list(PAUSES)
        signal.signal(signal.SIGTERM, self._handle_sigterm)
        self._open(config)

    def get_auto_filled_metrics(self, debug_metrics_only: bool = False) -> dict[str, Any]:
        """Return an empty dictionary; Tune calls this before the first result."""
        return {}

    def train(self) -> dict[str, Any]:
        """Train one step and return its result; `done` is True if the trial has a terminal status.

        An error of the data, the folder or the plugin also ends the trial. It is reported in the result,
        because Tune would retry for ever if it were raised.
        """
        try:
            metrics = self._step()
        except (DataError, StoreError, PluginError) as problem:
            return {"done": True, PROBLEM: str(problem)}
        except OSError as error:
            if not self._pauses:
                place = error.filename or self._store.folder
                return {"done": True, PROBLEM: f"{place}: {error.strerror or error}"}
            # A full disk or an unavailable file server may be a temporary condition.
            time.sleep(self._pauses.pop(0))
            self._open(self.config)
            return {}
        self._pauses = list(PAUSES)
        done = self._store.status() is not None
        if self._leaving and not done:
            with suppress(StopIteration):
                self._epochs.send(True)
            os._exit(1)  # Tune treats this as a lost worker, and the trial resumes on another node
        return {**metrics, "done": done}

    def _step(self) -> dict[str, Any]:
        """Train, and return the metrics of the last epoch, or {} if the trial has ended already."""
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
        gc.freeze()  # modules and datasets stay in memory between trials: skip them from now on
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
        device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            self._store, self._epochs = _begin(config, device)
        except UnusableNodeError as problem:
            self._epochs = _raise_at_first_step(problem)

    def _handle_sigterm(self, number: int, frame: Any) -> None:
        """Commit the current epoch if it ends within `LEAVE_SECONDS`, then exit.

        A worker receives SIGTERM when its machine is reclaimed.
        """
        self._leaving = True
        signal.signal(signal.SIGALRM, self._abandon_epoch)
        signal.setitimer(signal.ITIMER_REAL, LEAVE_SECONDS)

    def _abandon_epoch(self, number: int, frame: Any) -> None:
        try:
            self._store.leave("SIGTERM")
        finally:
            os._exit(1)


def prevent_dynamo_import() -> None:
    """Stop torch's optimizers from importing `torch._dynamo`; their results do not change.

    They import it to exclude their methods from compiled graphs. This project does not compile
    optimizers, so they can call the plain functions, as `torch._dynamo.disable` would. Versions of
    torch without the attributes used here are not changed.
    """
    for name in ("add_param_group", "load_state_dict", "state_dict", "zero_grad"):
        plain = getattr(getattr(Optimizer, name), "__wrapped__", None)
        if plain is not None:
            # torch/_compile.py caches the disabled function in this attribute at the first call.
            vars(plain).setdefault("__dynamo_disable", plain)
    for optimizer in (SGD, Adam):  # AdamW inherits Adam's step
        plain = getattr(optimizer.step, "__wrapped__", None)
        # The first optimizer that a process creates sets `hooked`; `step` is then left unchanged.
        if plain is not None and not hasattr(optimizer.step, "hooked"):
            optimizer.step = torch.no_grad()(plain)


def return_none(_: None) -> None:
    """Return None in place of an object of Tune; see `studies.harness.cluster.tuning`."""


def train_team(config: dict[str, Any]) -> None:
    """Train a trial with several workers; Tune calls this function, which starts Ray Train."""
    from ray import train, tune
    from ray.train.torch import TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    store = TrialStore.open(Path(config["root"]), config["key"])
    if store.status() is not None:  # the previous worker was lost after it had written the status
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
        # If rank 0 wrote a status, the other ranks failed only because rank 0 had ended.
        if store.status() is not None:
            return tune.report({"done": True})
        # Only a subclass of the error has this attribute.
        failures = getattr(error, "worker_failures", {}).values()
        expected = (OSError, StoreError, PluginError)
        problems = [str(failure) for failure in failures if isinstance(failure, expected)]
        if not problems:
            raise
        tune.report({PROBLEM: problems[0]})


def _train_share(config: dict[str, Any]) -> None:
    """Train in one of the processes of a team."""
    from ray import train
    from ray.train.torch import get_device

    torch.set_num_threads(1)
    for metrics in _begin(config, str(get_device()))[1]:
        train.report(metrics)


def _begin(config: dict[str, Any], device: str) -> tuple[TrialStore, Epochs]:
    """Open a trial's folder, and return its store and its generator of epochs.

    Raises:
        UnusableNodeError: This node cannot train the trial. The driver inspects the nodes before
            the study starts, but not those that join later.
    """
    os.environ["PRECOND_DATA"] = config["data_dir"]
    host = platform.node()
    if config["fingerprint"] and (differences := difference(config["fingerprint"])):
        raise UnusableNodeError(
            f"node {host} does not run the same versions as the driver: {differences}"
        )
    try:
        nodes = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        store = TrialStore.open(Path(config["root"]), config["key"], config["generation"], nodes)
    except StoreError as error:
        raise UnusableNodeError(f"node {host}: {error}") from error
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


def _raise_at_first_step(problem: UnusableNodeError) -> Epochs:
    """Return a generator that raises the error when the first epoch is requested."""
    raise problem
    yield {}  # makes this function a generator
