"""The part of a search that tunes one optimizer: which trial is next, according to the output folder."""

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
    """Propose trials: first those without an outcome, then new ones up to the budget; failed trials count.

    Args:
        plan: The search.
        optimizer: The optimizer to tune.
        root: The output folder; nothing is written there before the first `next`.

    Raises:
        StoreError: The output folder has another search of this name.
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
        """Number of configurations, failed ones included."""
        return self.plan.artefact.budget

    @property
    def asha(self) -> bool:
        """True if trials that fall behind are stopped."""
        return self.plan.artefact.asha

    def outcomes(self) -> list[Outcome]:
        """Return the outcome of every proposal within the budget, by number."""
        outcomes = []
        for proposal in self._proposals.all[: self.budget]:
            known = self._done.get(proposal.number) or outcome(proposal, self.root)
            if known.done:
                self._done[proposal.number] = known
            outcomes.append(known)
        return outcomes

    def left(self) -> int:
        """Return how many configurations have no outcome yet, including those not proposed yet."""
        return self.budget - sum(outcome.done for outcome in self.outcomes())

    def trials(self, stopped: bool = True) -> list[Trial]:
        """Return the proposals' trials, with or without those that ASHA stopped.

        Before the first proposal it is the trial of the recipe's values, which will be the first.
        """
        proposals = [
            entry
            for entry in self._proposals.all[: self.budget]
            if stopped or entry.stopped is None
        ]
        return [self._trial(proposal) for proposal in proposals] or [
            self.plan.tuning(self.optimizer, self.plan.start(self.optimizer))
        ]

    def winner(self) -> Outcome | None:
        """Return the configuration to train under fresh seeds; None while any has no outcome, or if all failed."""
        return None if self.left() else best(self.outcomes())

    def begin(self, retry: Collection[str] = ()) -> None:
        """Prepare a new driver: submit again what has no outcome, or one that is in `retry`."""
        self._submitted.clear()
        for known in self.outcomes():
            if known.status in retry:
                TrialStore(self.root, self._trial(known.proposal).config).reopen()
                self._done.pop(known.proposal.number)

    def next(self) -> Trial | None:
        """Write the proposal and the folder of the next trial, and return it; None once all are submitted.

        Raises:
            OSError: The folder cannot be written.
            StoreError: The folder belongs to another trial.
        """
        for known in self.outcomes():
            if not known.done and known.proposal.trial_key not in self._submitted:
                return self._submit(known.proposal)
        while (number := len(self._proposals.all)) < self.budget:
            proposal = self._propose()
            again = (
                proposal.trial_key in self._submitted
            )  # equal to a proposal that is being trained
            if not again and not self.outcomes()[number].done:
                return self._submit(proposal)
        return None

    def stop(self, key: str, epoch: int, values: Mapping[int, float], seconds: float) -> None:
        """Write that a trial is stopped after an epoch (counted from 0)."""
        for proposal in self._proposals.all:
            if proposal.trial_key == key and proposal.stopped is None:
                self._proposals.stop(proposal.number, epoch, values, seconds)

    def _propose(self) -> Proposal:
        from studies.harness.kinds.search import sampling

        search = self.plan.artefact
        start, space = self.plan.start(self.optimizer), self.plan.spaces[self.optimizer]
        seed = int(
            digest([search.name, self.plan.workload, self.optimizer, search.tuning_seed])[:8], 16
        )
        parameters, attributes = sampling.propose(
            search.sampler, space, start, self.outcomes(), seed
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
    """Return what identifies a search of an optimizer; the budget is not part of it and may grow."""
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
