"""The execution of a probe: train and measure the missing networks, and store the results."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch

from studies.harness.cluster.progress import StudyProgress
from studies.harness.kinds.artefact import Driver
from studies.harness.kinds.probe import folder
from studies.harness.kinds.probe.plan import ProbePlan
from studies.harness.kinds.probe.probe import Probe
from trainables.config import TrialConfig
from trainables.fingerprint import provenance
from trainables.measure import device_name
from trainables.store import COMPLETED, DIVERGED, StoreError
from trainables.train import Diverged, Trainer

Epochs = Iterator[dict[str, float]]  # each `next` trains an epoch and returns its metrics


def execute(plans: Sequence[ProbePlan], driver: Driver) -> None:
    """Train and measure the missing networks one after another.

    Raises:
        StoreError: The device is out of memory. The results of the earlier networks are kept.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    todo = [(plan, trial) for plan in plans for trial in plan.artefact.missing(plan).trials]
    with StudyProgress([trial for _, trial in todo], driver.console) as progress:
        for plan, trial in todo:
            key = trial.config.trial_key

            def report(epoch: int, metrics: Mapping[str, float], key: str = key) -> None:
                progress.epoch(key, epoch, metrics)

            try:
                result = measure(plan.artefact, trial.config, plan.root, device, report)
            except torch.OutOfMemoryError as error:
                first_line = str(error).partition("\n")[0]
                raise StoreError(f"out of memory: {first_line}") from error
            progress.finished(key, COMPLETED, "")
            if result.status["status"] == DIVERGED:
                line = f"seed {trial.config.seed} diverged: {result.status['reason']}"
                driver.console.print(line, highlight=False)


def measure(
    probe: Probe,
    config: TrialConfig,
    root: Path,
    device: torch.device,
    report: Callable[[int, Mapping[str, float]], object] = lambda epoch, metrics: None,
) -> folder.Result:
    """Train and measure one network, and store the result.

    `report` is called after each epoch with its number and its metrics.
    """
    start, metrics = time.time(), {}
    trainer = Trainer(config, device)

    def epochs() -> Epochs:
        for epoch in range(config.epochs):
            metrics.update(trainer.run_epoch(epoch))
            report(epoch, metrics)
            yield dict(metrics)

    try:
        arrays = probe.measurement.code.measure(probe.measurement, trainer, epochs())
        ending = {"status": COMPLETED}
    except Diverged as error:
        arrays, ending = {}, {"status": DIVERGED, "reason": str(error), **error.details}
    software = {"torch": torch.__version__, "device": device_name(device), **provenance()}
    status = {
        **ending,
        "time": time.time(),
        "seconds": time.time() - start,
        "metrics": metrics,
        **software,
    }
    return folder.write(probe, config, root, status, arrays)
