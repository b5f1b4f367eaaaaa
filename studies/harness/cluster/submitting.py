"""Submit trials to Ray Tune one by one, whenever one more trial can run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ray
from ray.tune.search import Searcher

from studies.harness.cluster.tuning import NotPickled
from studies.harness.design.arms import Trial
from studies.harness.design.options import Options


class Submitter(NotPickled, Searcher):
    """Submits trials to Tune whenever a slot is free.

    Args:
        next_trial: Returns the next trial, or None if there is none now.
        finished: Called after `next_trial` has returned None; returns True if no trial will follow.
        limit: Returns the number of trials that can run at the same time.
        on_submit: Called with each submitted trial.
    """

    def __init__(
        self,
        next_trial: Callable[[], Trial | None],
        finished: Callable[[], bool],
        limit: Callable[[], int],
        on_submit: Callable[[Trial], object],
    ):
        super().__init__()
        self._next, self._finished = next_trial, finished
        self._limit, self._on_submit = limit, on_submit
        self._live: set[str] = set()

    def suggest(self, trial_id: str) -> Any:
        """Return the next trial's key, None if Tune must wait, or `FINISHED`."""
        # Do not propose in advance: a waiting proposal would not use the results that arrive
        # meanwhile.
        if len(self._live) >= self._limit():
            return None
        trial = self._next()
        if trial is None:
            return Searcher.FINISHED if self._finished() else None
        self._live.add(trial_id)
        self._on_submit(trial)
        return {"key": trial.config.trial_key}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Free a slot. The result is in the trial's folder."""
        self._live.discard(trial_id)

    def set_search_properties(
        self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any
    ) -> bool:
        """Accept Tune's space, which has only the shared settings."""
        return True

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Save nothing, because the trials are on the disk."""


def room(options: Options) -> int:
    """Return the number of trials that can run at the same time now, the running ones included.

    On a cluster, add one trial, so that the autoscaler starts a node if it can.
    """
    resources, processes = ray.cluster_resources(), options.workers_per_trial
    fitting = int(resources.get("CPU", 0)) // processes
    if options.gpus_per_trial:
        fitting = min(fitting, int(resources.get("GPU", 0) / (options.gpus_per_trial * processes)))
    fitting = max(1, fitting + (options.address is not None))
    return min(options.max_concurrent or fitting, fitting)
