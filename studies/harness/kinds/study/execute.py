"""The execution of studies: Ray trains each missing trial once."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from studies.harness.design.arms import Trial
from studies.harness.design.ending import STOPS, Stopped
from studies.harness.evidence import status
from studies.harness.kinds.artefact import Driver
from studies.harness.kinds.study.plan import StudyPlan
from trainables.store import TrialStore, trial_folder


def execute(plans: Sequence[StudyPlan], driver: Driver) -> None:
    """Train the missing trials of the plans.

    Raises:
        Stopped: The training ended early, and trials are still missing.
    """
    from studies.harness.cluster import execute as ray
    from studies.harness.cluster.progress import StudyProgress

    options, root = driver.options, driver.options.root
    missing = [trial for plan in plans for trial in plan.artefact.missing(plan).trials]
    todo = list({trial.config.trial_key: trial for trial in missing}.values())
    with StudyProgress(todo, driver.console) as progress:
        folders = partial(prepare, todo, root, options.rerun)
        ending = ray.train(todo, options, driver.generation, progress, driver.on_lost, folders)
    if ending in STOPS and status.missing(todo, root):
        raise Stopped(*STOPS[ending])


def prepare(trials: Sequence[Trial], root: Path, rerun: tuple[str, ...] = ()) -> None:
    """Create the folders of trials before their training.

    The folder of a trial whose key starts with an entry of `rerun` is deleted first.
    """
    for trial in trials:
        store = TrialStore(root, trial.config)
        if trial.config.trial_key.startswith(rerun):
            shutil.rmtree(trial_folder(root, trial.config.trial_key), ignore_errors=True)
        store.create()
        store.reopen()
