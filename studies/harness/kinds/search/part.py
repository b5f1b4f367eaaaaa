"""A search on one workload with what it has to do: its optimizers' proposers, and their winners' trials."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import overload

from precond import HyperparameterError
from studies.harness.command.options import Options
from studies.harness.evidence import ledger
from studies.harness.kinds.search.plan import plans
from studies.harness.kinds.search.proposals import STOPPED
from studies.harness.kinds.search.proposer import Proposer
from studies.harness.kinds.search.search import Search, SearchPlan
from studies.harness.kinds.study.study import Trial
from trainables.store import StoreError, TrialStore


class Part:
    """A search on one workload: its optimizers' proposers, and their winners' trials.

    Raises:
        StoreError: The output folder has another search of this name.
    """

    def __init__(self, plan: SearchPlan, options: Options):
        self.plan, self._root, self._retry = plan, options.root, options.retry
        self.proposers = [Proposer(plan, optimizer, options.root) for optimizer in plan.spaces]

    def fresh(self, proposer: Proposer) -> list[Trial]:
        """A winner's trials; none while the search goes on."""
        winner = proposer.winner()
        return [] if winner is None else self.plan.fresh(proposer.optimizer, winner.proposal.parameters)

    def missing(self, proposer: Proposer) -> list[Trial]:
        """Of these, those still to be trained."""
        return ledger.missing(self.fresh(proposer), self._root, self._retry)

    def to_go(self, proposer: Proposer) -> tuple[int, int]:
        """Configurations and fresh trials that are left; those in `--retry` are not yet."""
        outcomes = proposer.outcomes()
        again = sum(one.status in self._retry for one in outcomes)
        left = proposer.left() + again
        if not left:
            return 0, len(self.missing(proposer))
        return left, len(self.plan.seeds)

    def expected(self) -> list[Trial]:
        """Stand-ins for what is left, to be priced: the recipe's configuration."""
        found: list[Trial] = []
        for proposer in self.proposers:
            left, fresh = self.to_go(proposer)
            found += [self.plan.tuning(proposer.optimizer)] * left
            found += (self.missing(proposer) if not left else self.plan.fresh(proposer.optimizer))[:fresh]
        return found

    def stopped(self) -> list[str]:
        """Keys of the trials that ASHA has given up."""
        outcomes = [one for proposer in self.proposers for one in proposer.outcomes()]
        return [one.proposal.trial_key for one in outcomes if one.status == STOPPED]

    def begin(self, proposer: Proposer) -> list[Trial]:
        """Make the folders of a winner's missing trials; called when its search has ended."""
        missing = self.missing(proposer)
        for trial in missing:
            store = TrialStore(self._root, trial.config)
            store.create()
            store.reopen()
        return missing


class Known(Sequence[Trial]):
    """All trials that a search has named so far, now: MLflow's thread reads it while they grow."""

    def __init__(self, part: Part):
        self._part = part

    def _now(self) -> list[Trial]:
        proposed = [trial for proposer in self._part.proposers for trial in proposer.trials(stopped=False)]
        return proposed + [trial for proposer in self._part.proposers for trial in self._part.fresh(proposer)]

    def __len__(self) -> int:
        return len(self._now())

    def __iter__(self) -> Iterator[Trial]:
        return iter(self._now())

    @overload
    def __getitem__(self, index: int) -> Trial: ...
    @overload
    def __getitem__(self, index: slice) -> list[Trial]: ...
    def __getitem__(self, index: int | slice) -> Trial | list[Trial]:
        """A trial, or some of them."""
        return self._now()[index]


def checked(search: Search, options: Options) -> tuple[list[Part], list[str]]:
    """What a command wants of a search, and a line for each thing that is wrong with it."""
    try:
        return [Part(plan, options) for plan in plans(search, options)], []
    except (HyperparameterError, StoreError) as error:
        return [], str(error).splitlines()


def parts(search: Search, root: Path | None = None) -> list[Part]:
    """A search as it is without a command line, in an output folder.

    Raises:
        StoreError: The folder has another search of this name.
    """
    options = Options(only={}, levels={}, settings={}, out=root)
    return [Part(plan, options) for plan in plans(search, options)]


def state(search: Search, root: Path | None = None) -> str:
    """How many of its configurations a search has proposed in an output folder, or why that is not known."""
    try:
        proposers = [proposer for part in parts(search, root) for proposer in part.proposers]
    except StoreError:
        return "another search"
    left = sum(proposer.left() for proposer in proposers)
    total = search.budget * len(proposers)
    return f"{total - left}/{total}"
