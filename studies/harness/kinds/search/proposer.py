"""The part of a search that tunes one optimizer."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from studies.harness.design.arms import Trial
from studies.harness.kinds.search.proposals import (
    Outcome,
    Proposal,
    Proposals,
    best,
    outcome,
    proposals_path,
)
from studies.harness.kinds.search.tuning import SearchPlan
from trainables.config import digest
from trainables.store import TrialStore


class Proposer:
    """The source of the tuning trials of an optimizer.

    It returns the stored proposals without an outcome first, and then makes new proposals. The
    budget limits the number of proposals, including those whose trials fail.

    Args:
        plan: The search.
        optimizer: The optimizer to tune.
        root: The output folder. Creating a proposer only reads it.

    Raises:
        StoreError: The output folder contains a different search of this name.
    """

    def __init__(self, plan: SearchPlan, optimizer: str, root: Path):
        self.plan, self.optimizer, self.root = plan, optimizer, root
        path = proposals_path(root, plan.artefact.name, plan.workload, optimizer)
        self._proposals = Proposals(path, settings(plan, optimizer))
        self._submitted: set[str] = set()
        self._done: dict[int, Outcome] = {}
        self._trials: dict[int, Trial] = {}

    @property
    def budget(self) -> int:
        """The number of configurations to propose, including those whose trials fail."""
        return self.plan.artefact.budget

    @property
    def asha(self) -> bool:
        """True if ASHA stops trials with poor scores early."""
        return self.plan.artefact.asha

    @property
    def score(self) -> str:
        """The metric that scores a configuration, such as `val/accuracy`."""
        return self.plan.score

    def outcomes(self) -> list[Outcome]:
        """Return the outcome of each proposal within the budget, in the order of their numbers."""
        outcomes = []
        for proposal in self._proposals.all[: self.budget]:
            current = self._done.get(proposal.number)
            current = current or outcome(proposal, self.root, self.score)
            if current.done:
                self._done[proposal.number] = current
            outcomes.append(current)
        return outcomes

    def left(self) -> int:
        """Return the number of configurations without a final outcome, or not proposed yet."""
        return self.budget - sum(outcome.done for outcome in self.outcomes())

    def trials(self, stopped: bool = True) -> list[Trial]:
        """Return the trials of the proposals, without the stopped ones if `stopped` is False.

        If there is no proposal yet, return the first trial, which has the recipe's values.
        """
        trials = [
            self._trial(proposal)
            for proposal in self._proposals.all[: self.budget]
            if stopped or proposal.stopped is None
        ]
        return trials or [self.plan.tuning(self.optimizer, self.plan.start(self.optimizer))]

    def winner(self) -> Outcome | None:
        """Return the best outcome; None if a configuration is not done yet or none has a score."""
        return None if self.left() else best(self.outcomes(), self.plan.higher)

    def begin(self, retry: Collection[str] = ()) -> None:
        """Prepare for a new driver, which has not submitted any trial yet.

        Trials with a status in `retry` are reopened.
        """
        self._submitted.clear()
        for previous in self.outcomes():
            if previous.status in retry:
                TrialStore(self.root, self._trial(previous.proposal).config).reopen()
                self._done.pop(previous.proposal.number)

    def next(self) -> Trial | None:
        """Return the next trial, or None if all trials are submitted.

        The proposal and the trial folder are written before the trial is returned.

        Raises:
            OSError: The folder cannot be written.
            StoreError: The folder belongs to another trial.
        """
        for stored in self.outcomes():
            if not stored.done and stored.proposal.trial_key not in self._submitted:
                return self._submit(stored.proposal)
        while (number := len(self._proposals.all)) < self.budget:
            proposal = self._propose()
            # An equal configuration may already be submitted or have an outcome.
            duplicate = proposal.trial_key in self._submitted
            if not duplicate and not self.outcomes()[number].done:
                return self._submit(proposal)
        return None

    def stop(self, key: str, epoch: int, values: Mapping[int, float], seconds: float) -> None:
        """Write that ASHA stopped a trial after an epoch, counted from 0."""
        for proposal in self._proposals.all:
            if proposal.trial_key == key and proposal.stopped is None:
                self._proposals.stop(proposal.number, epoch, values, seconds)

    def _propose(self) -> Proposal:
        from studies.harness.kinds.search import sampling

        search = self.plan.artefact
        start, space = self.plan.start(self.optimizer), self.plan.spaces[self.optimizer]
        identity = [search.name, self.plan.workload, self.optimizer, search.tuning_seed]
        seed = int(digest(identity)[:8], 16)
        parameters, attributes = sampling.propose(
            search.sampler, space, start, self.outcomes(), seed, self.plan.higher
        )
        key = self.plan.tuning(self.optimizer, parameters).config.trial_key
        return self._proposals.append(parameters, key, attributes)

    def _submit(self, proposal: Proposal) -> Trial:
        trial = self._trial(proposal)
        TrialStore(self.root, trial.config).create()
        self._submitted.add(proposal.trial_key)
        return trial

    def _trial(self, proposal: Proposal) -> Trial:
        if proposal.number not in self._trials:
            self._trials[proposal.number] = self.plan.tuning(self.optimizer, proposal.parameters)
        return self._trials[proposal.number]


def settings(plan: SearchPlan, optimizer: str) -> dict[str, Any]:
    """Return the identity of the search of an optimizer.

    The budget is not part of the identity, so that a larger budget extends a finished search.
    """
    space = {
        name: {**asdict(domain), "kind": type(domain).__name__}
        for name, domain in plan.spaces[optimizer].items()
    }
    trial = plan.tuning(optimizer).config.to_dict()
    return {
        "sampler": plan.artefact.sampler,
        "asha": plan.artefact.asha,
        "space": space,
        "trial": trial,
    }
