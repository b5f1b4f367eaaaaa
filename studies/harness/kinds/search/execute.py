"""The execution of a search: train the budget of configurations, then the winners."""

from __future__ import annotations

from collections.abc import Sequence

from studies.harness.design.ending import STOPS, Stopped
from studies.harness.kinds.artefact import Driver
from studies.harness.kinds.search.plan import SearchState
from studies.harness.kinds.search.tuning import SearchPlan


def execute(plans: Sequence[SearchPlan], driver: Driver) -> None:
    """Execute the plans one after another.

    Raises:
        Stopped: The training ended early, and configurations or trials are still missing.
    """
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
            ending = tuning.train(
                state.proposers, state.begin, options, generation, progress, driver.on_lost
            )
        if ending in STOPS and any(any(state.to_go(proposer)) for proposer in state.proposers):
            raise Stopped(*STOPS[ending])
