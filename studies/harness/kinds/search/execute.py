"""The execution of a search: propose and train up to the budget, then train the winners under fresh seeds."""

from __future__ import annotations

from collections.abc import Sequence

from studies.harness.design.ending import STOPS, Stopped
from studies.harness.kinds.artefact import Driver
from studies.harness.kinds.search.plan import SearchState
from studies.harness.kinds.search.tuning import SearchPlan


def execute(plans: Sequence[SearchPlan], driver: Driver) -> None:
    """Tune and train, one plan after another; raises `Stopped` if something is left."""
    from studies.harness.cluster import search as tuning
    from studies.harness.cluster.progress import StudyProgress

    options, generation = driver.options, driver.generation
    for state in map(SearchState, plans):
        expected = state.expected()
        if not expected:
            continue
        for proposer in state.proposers:
            proposer.begin(options.retry)
        epochs = sum(trial.config.epochs for trial in expected)
        with StudyProgress([], driver.console, unnamed=len(expected), epochs=epochs) as progress:
            ended = tuning.train(
                state.proposers, state.begin, options, generation, progress, driver.on_lost
            )
        if ended in STOPS and any(any(state.to_go(proposer)) for proposer in state.proposers):
            raise Stopped(*STOPS[ended])
