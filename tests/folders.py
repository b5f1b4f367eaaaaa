"""Synthetic studies and trial folders for the tests of the harness: written by `TrialStore`, never trained."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from studies.harness.design.arms import Arm, Trial, grid
from studies.harness.design.options import Options
from studies.harness.design.result import Report
from studies.harness.evidence.analysis import Evidence, analyse
from studies.harness.kinds.study.figures import LevelFigure
from studies.harness.kinds.study.plan import StudyPlan
from studies.harness.kinds.study.study import Study
from trainables.config import TrialConfig
from trainables.cost import files as cost_files
from trainables.store import COMPLETED, TrialStore

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
    name="ablation_test",
    title="Rank of NysAct",
    paper="NysAct",
    table="Figure 7",
    claim="Accuracy rises with the rank.",
    falsifier="Accuracy does not rise.",
    arms=ARMS,
    figure=LevelFigure(factor="rank", panels=("nysact-g", "nysact-s"), references=("sgd", "foof")),
)


def planned(seeds: int = 3, epochs: int = 2, arms: Sequence[Arm] = ARMS) -> list[Trial]:
    """The study's trials, resolved without any workload."""
    return [Trial(arm, _config(arm, seed, epochs)) for seed in range(seeds) for arm in arms]


def _config(arm: Arm, seed: int, epochs: int) -> TrialConfig:
    return TrialConfig(
        workload="digits/cnn",
        optimizer=arm.optimizer,
        hyperparameters={"lr": 0.1, **arm.overrides},
        batch_size=64,
        epochs=epochs,
        schedule="cosine",
        seed=seed,
        numerics={"loop": 1},
    )


def accuracy(trial: Trial, epoch: int) -> float:
    """The accuracy that `run` writes: a known function of the trial and the epoch, different everywhere."""
    base = {"sgd": 0.90, "foof": 0.95, "nysact-g": 0.92, "nysact-s": 0.93}[trial.arm.optimizer]
    level = trial.arm.overrides.get("rank", 0)
    return base + 0.001 * level + 0.002 * trial.config.seed**1.5 - 0.1 / (epoch + 1)


def plan(root: Path, trials: Sequence[Trial], study: Study = STUDY) -> StudyPlan:
    """Return the plan of a command that names these trials and this output folder."""
    workload = trials[0].config.workload
    return StudyPlan(artefact=study, workload=workload, options=Options(out=root), trials=trials)


def evidence(root: Path, trials: Sequence[Trial], study: Study = STUDY) -> Evidence:
    """Return the evidence that a study's report prints, without the comparison with its paper."""
    return analyse(trials, root, study.figure.metric, study.figure.references)


def report(root: Path, trials: Sequence[Trial], study: Study = STUDY) -> Report:
    """Write the study's report below `root`."""
    return study.report(plan(root, trials, study))


def draw(root: Path, trials: Sequence[Trial], study: Study = STUDY) -> list[Path]:
    """Draw the study's figure alone."""
    return [*study.figure.extend(plan(root, trials, study), evidence(root, trials, study)).drawn]


def run(
    root: Path, trial: Trial, epochs: int | None = None, status: str | None = COMPLETED, **details
) -> TrialStore:
    """Commit a trial's epochs up to `epochs` (its own number when None) and end it with `status`, unless that is None.

    Called again for a trial in flight it goes on from the committed epochs, as a resumed worker does.
    """
    store = TrialStore(root, trial.config)
    store.create()
    store.begin(PROVENANCE)
    for epoch in range(len(store.epochs()), trial.config.epochs if epochs is None else epochs):
        store.record(epoch, metrics(trial, epoch))
    if status is None:
        store._append_pending()  # commit's lines without its checkpoint, which nothing here reads
    else:
        store.finish(status, **details)
    return store


def metrics(trial: Trial, epoch: int) -> dict[str, float]:
    """All metrics of one epoch."""
    return {
        "train/loss": 1.0 / (epoch + 1),
        "train/accuracy": accuracy(trial, epoch),
        "test/loss": 1.2 / (epoch + 1),
        "test/accuracy": accuracy(trial, epoch),
        "time/train_s": 0.5,
        "time/eval_s": 0.1,
        "mem/peak_mb": 100.0,
    }


def timed(
    folder: Path,
    config: TrialConfig,
    step: float = 0.1,
    ratio: float = 1.0,
    width: float = 0.1,
    peak: int = 110,
) -> Path:
    """A file of the cost benchmark for a trial's configuration: the intervals are `width` x the medians, to each side.

    Evaluating takes 1 ms an example, SGD's peak memory is 100 bytes.
    """

    def around(middle: float) -> dict[str, float]:
        return {"median": middle, "low": middle * (1 - width), "high": middle * (1 + width)}

    shares = {
        name: {"median": share}
        for name, share in {"apply": 0.01, "statistics": 0.02, "refresh": 0.001}.items()
    }
    memory = {"state_bytes": {"algorithm": 2**20, "gradient_buffer": 2**19, "rule": 2**18}}
    given = (config.workload, config.optimizer, config.hyperparameters, config.batch_size)
    content = {
        "configuration": cost_files.configuration(
            *given, resolution=config.settings.get("resolution")
        ),
        "conditions": {"hardware": folder.name.upper(), "threads": 2},
        "step_seconds": around(step),
        "evaluation_seconds_per_example": 0.001,
        "against": {"sgd": {"ratio": around(ratio), "shares": shares}},
        "memory": {**memory, "peak_bytes": peak},
        "sgd_memory": {**memory, "peak_bytes": 100},
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / cost_files.result_name(config)
    path.write_text(json.dumps(content))
    return path
