"""The execution of a probe: train the networks without a result, measure them, and store the results."""

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
from trainables.train import Diverged, Trainer, score

Epochs = Iterator[dict[str, float]]  # trains an epoch when the next is requested


def execute(plans: Sequence[ProbePlan], driver: Driver) -> None:
    """Train and measure the missing networks one after another.

    Raises:
        StoreError: Out of memory; the earlier results are kept.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    todo = [(plan, trial) for plan in plans for trial in plan.artefact.missing(plan).trials]
    with StudyProgress([trial for _, trial in todo], driver.console) as progress:
        for plan, trial in todo:
            key = trial.config.trial_key

            def report(epoch: int, metrics: Mapping[str, float], key: str = key) -> None:
                progress.epoch(key, epoch, score(metrics))

            try:
                result = measure(plan.artefact, trial.config, plan.root, device, report)
            except torch.OutOfMemoryError as problem:
                raise StoreError(
                    f"out of memory: {str(problem).partition(chr(10))[0]}"
                ) from problem
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
    """Train and measure one network, and store the result; `report` receives each epoch and its metrics."""
    start, metrics = time.time(), {}
    trainer = Trainer(config, device)

    def epochs() -> Epochs:
        for epoch in range(config.epochs):
            metrics.update(trainer.run_epoch(epoch))
            report(epoch, metrics)
            yield dict(metrics)

    try:
        arrays, ended = (
            probe.measurement.code.measure(probe.measurement, trainer, epochs()),
            {"status": COMPLETED},
        )
    except Diverged as error:
        arrays, ended = {}, {"status": DIVERGED, "reason": str(error), **error.details}
    software = {"torch": torch.__version__, "device": device_name(device), **provenance()}
    status = {
        **ended,
        "time": time.time(),
        "seconds": time.time() - start,
        "metrics": metrics,
        **software,
    }
    return folder.write(probe, config, root, status, arrays)
