"""Synthetic studies and trial folders for the tests of the harness.

`TrialStore` writes the folders; no trial is trained.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from studies.harness.design.arms import Arm, Trial, grid
from studies.harness.design.claims import Better, NotWorse
from studies.harness.design.options import Options
from studies.harness.design.result import Report
from studies.harness.evidence.analysis import Evidence, analyse
from studies.harness.kinds.study.figures import LevelFigure
from studies.harness.kinds.study.plan import StudyPlan
from studies.harness.kinds.study.study import Study
from trainables.config import TrialConfig
from trainables.cost import files as cost_files
from trainables.store import COMPLETED, TrialStore
from trainables.workloads import workload

PROVENANCE = {
    "host": "here",
    "pid": 1,
    "torch": "2.15.0",
    "device": "cpu",
    "git_sha": "abc1234",
    "git_dirty": False,
}
RANKS = (5, 10, 20)
ARMS = [
    Arm(optimizer="sgd"),
    Arm(optimizer="foof"),
    *grid("nysact-g", rank=RANKS),
    *grid("nysact-s", rank=RANKS),
]
STUDY = Study(
    workload="digits/cnn",
    name="ablation_test",
    title="Rank of NysAct",
    paper="NysAct",
    table="Figure 7",
    claims=[
        Better("nysact-s rank=*", than="sgd"),
        NotWorse("nysact-g rank=20", than="nysact-g rank=5"),
    ],
    arms=ARMS,
    figure=LevelFigure(factor="rank", panels=("nysact-g", "nysact-s"), references=("sgd", "foof")),
)


def planned(
    seeds: int = 3,
    epochs: int = 2,
    arms: Sequence[Arm] = ARMS,
    workload: str = "digits/cnn",
) -> list[Trial]:
    """Return a trial of each arm for each seed. The configurations are not those of a recipe."""
    return [
        Trial(arm, _config(arm, seed, epochs, workload)) for seed in range(seeds) for arm in arms
    ]


def _config(arm: Arm, seed: int, epochs: int, workload: str) -> TrialConfig:
    return TrialConfig(
        workload=workload,
        optimizer=arm.optimizer,
        hyperparameters={"lr": 0.1, **arm.overrides},
        batch_size=64,
        epochs=epochs,
        schedule="cosine",
        seed=seed,
        numerics={"loop": 1},
    )


def accuracy(trial: Trial, epoch: int) -> float:
    """Return the accuracy that is written; it rises with the rank, the seed and the epoch."""
    base = {"sgd": 0.90, "foof": 0.95, "nysact-g": 0.92, "nysact-s": 0.93}[trial.arm.optimizer]
    level = trial.arm.overrides.get("rank", 0)
    return base + 0.001 * level + 0.002 * trial.config.seed**1.5 - 0.1 / (epoch + 1)


def plan(root: Path, trials: Sequence[Trial], study: Study = STUDY) -> StudyPlan:
    """Return the plan of a command with these trials and this output folder."""
    workload = trials[0].config.workload
    return StudyPlan(artefact=study, workload=workload, options=Options(out=root), trials=trials)


def evidence(root: Path, trials: Sequence[Trial], study: Study = STUDY) -> Evidence:
    """Return the evidence of a study's report, without the comparison with the paper."""
    figure = plan(root, trials, study).figure
    return analyse(trials, root, figure.metric, figure.references, study.claims)


def report(root: Path, trials: Sequence[Trial], study: Study = STUDY) -> Report:
    """Write the study's report below `root`."""
    return study.report(plan(root, trials, study))


def draw(root: Path, trials: Sequence[Trial], study: Study = STUDY) -> list[Path]:
    """Draw the study's figures and return their paths."""
    planned = plan(root, trials, study)
    return [*planned.figure.extend(planned, evidence(root, trials, study)).drawn]


def write_trial(
    root: Path, trial: Trial, epochs: int | None = None, status: str | None = COMPLETED, **details
) -> TrialStore:
    """Write the folder of a trial with committed epochs and a status.

    A second call for an unfinished trial continues after the committed epochs, as a worker does.

    Args:
        root: The output folder.
        trial: The trial.
        epochs: Total number of committed epochs; by default all epochs of the trial.
        status: The trial's status; None leaves the trial unfinished.
        **details: Additional values of `status.json`.
    """
    store = TrialStore(root, trial.config)
    store.create()
    store.begin(PROVENANCE)
    for epoch in range(len(store.epochs()), trial.config.epochs if epochs is None else epochs):
        store.record(epoch, metrics(trial, epoch))
    if status is None:
        store._append_pending()  # append the epochs as a commit does, but write no checkpoint
    else:
        store.finish(status, **details)
    return store


def metrics(trial: Trial, epoch: int) -> dict[str, float]:
    """Return all metrics of one epoch.

    The headline metric of the workload is the accuracy or, if smaller values are better, 1 minus
    the accuracy.
    """
    headline, value = workload(trial.config.workload).task.headline, accuracy(trial, epoch)
    value = value if headline.higher_is_better else 1 - value
    return {
        "train/loss": 1.0 / (epoch + 1),
        f"train/{headline.name}": value,
        "test/loss": 1.2 / (epoch + 1),
        f"test/{headline.name}": value,
        "time/train_s": 0.5,
        "time/eval_s": 0.1,
        "mem/peak_mb": 100.0,
    }


def write_cost_result(
    folder: Path,
    config: TrialConfig,
    step: float = 0.1,
    ratio: float = 1.0,
    width: float = 0.1,
    peak: int = 110,
) -> Path:
    """Write a result of the cost benchmark for a trial's configuration and return its path.

    The evaluation takes 1 ms per example, and SGD's peak memory is 100 bytes.

    Args:
        folder: The folder of the hardware.
        config: The trial's configuration.
        step: Seconds per step.
        ratio: The seconds per step relative to SGD.
        width: Half the width of the intervals, as a fraction of the median.
        peak: Peak memory in bytes.
    """

    def interval(median: float) -> dict[str, float]:
        return {"median": median, "low": median * (1 - width), "high": median * (1 + width)}

    shares = {
        name: {"median": share}
        for name, share in {"apply": 0.01, "statistics": 0.02, "refresh": 0.001}.items()
    }
    memory = {"state_bytes": {"algorithm": 2**20, "gradient_buffer": 2**19, "rule": 2**18}}
    configuration = cost_files.configuration(
        config.workload,
        config.optimizer,
        config.hyperparameters,
        config.batch_size,
        resolution=config.settings.get("resolution"),
    )
    content = {
        "configuration": configuration,
        "conditions": {"hardware": folder.name.upper(), "threads": 2},
        "step_seconds": interval(step),
        "evaluation_seconds_per_example": 0.001,
        "against": {"sgd": {"ratio": interval(ratio), "shares": shares}},
        "memory": {**memory, "peak_bytes": peak},
        "sgd_memory": {**memory, "peak_bytes": 100},
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / cost_files.result_name(config)
    path.write_text(json.dumps(content))
    return path
