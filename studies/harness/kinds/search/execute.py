"""The execution of a search: propose and train up to the budget, then train the winners under fresh seeds."""

from __future__ import annotations

from collections.abc import Sequence

from studies.harness.design.ending import STOPS, Stopped
from studies.harness.kinds.artefact import Driver
from studies.harness.kinds.search.plan import Part
from studies.harness.kinds.search.tuning import SearchPlan


def execute(plans: Sequence[SearchPlan], driver: Driver) -> None:
    """Tune and train, one plan after another; raises `Stopped` if something is left."""
    from studies.harness.cluster import search as tuning
    from studies.harness.cluster.progress import StudyProgress

    options, generation = driver.options, driver.generation
    for part in map(Part, plans):
        expected = part.expected()
        if not expected:
            continue
        for proposer in part.proposers:
            proposer.begin(options.retry)
        epochs = sum(trial.config.epochs for trial in expected)
        with StudyProgress([], driver.console, more=len(expected), epochs=epochs) as progress:
            ended = tuning.train(part.proposers, part.begin, options, generation, progress, driver.on_lost)
        if ended in STOPS and any(any(part.to_go(proposer)) for proposer in part.proposers):
            raise Stopped(*STOPS[ended])
