"""A search on one workload with what it has to do: its optimizers' proposers, and their winners' trials."""

from __future__ import annotations

from pathlib import Path

from studies.harness.design.arms import Trial
from studies.harness.design.options import Options
from studies.harness.evidence import status
from studies.harness.kinds.artefact import Work
from studies.harness.kinds.search.proposals import STOPPED
from studies.harness.kinds.search.proposer import Proposer
from studies.harness.kinds.search.search import METRIC, Search
from studies.harness.kinds.search.tuning import SearchPlan, plans
from studies.harness.kinds.study.execute import prepare
from studies.harness.tracking.view import View
from studies.harness.tracking.views import TrialsView
from trainables.store import StoreError, trial_folders


class SearchState:
    """The proposers of a search's optimizers on one workload, and their winners' trials, as the folders have them.

    Raises:
        StoreError: The output folder has another search of this name.
    """

    def __init__(self, plan: SearchPlan):
        self.plan, self._root, self._retry = plan, plan.root, plan.options.retry
        self.proposers = [Proposer(plan, optimizer, plan.root) for optimizer in plan.spaces]

    def fresh(self, proposer: Proposer) -> list[Trial]:
        """Return a winner's trials; none while its search is unfinished."""
        winner = proposer.winner()
        return (
            []
            if winner is None
            else self.plan.fresh(proposer.optimizer, winner.proposal.parameters)
        )

    def all_fresh(self) -> list[Trial]:
        """Return the trials of all winners."""
        return [trial for proposer in self.proposers for trial in self.fresh(proposer)]

    def missing(self, proposer: Proposer) -> list[Trial]:
        """Return a winner's trials that are still to be trained."""
        return status.missing(self.fresh(proposer), self._root, self._retry)

    def to_go(self, proposer: Proposer) -> tuple[int, int]:
        """Return how many configurations and fresh trials are left; those in `--retry` count as left."""
        left = proposer.left() + sum(
            outcome.status in self._retry for outcome in proposer.outcomes()
        )
        if not left:
            return 0, len(self.missing(proposer))
        return left, len(self.plan.seeds)

    def expected(self) -> list[Trial]:
        """Return stand-ins for what is left, to be priced: the recipe's configuration."""
        trials: list[Trial] = []
        for proposer in self.proposers:
            left, fresh = self.to_go(proposer)
            trials += [self.plan.tuning(proposer.optimizer)] * left
            trials += (self.missing(proposer) if not left else self.plan.fresh(proposer.optimizer))[
                :fresh
            ]
        return trials

    def stopped(self) -> list[str]:
        """Return the keys of the trials that ASHA has given up."""
        outcomes = [outcome for proposer in self.proposers for outcome in proposer.outcomes()]
        return [outcome.proposal.trial_key for outcome in outcomes if outcome.status == STOPPED]

    def begin(self, proposer: Proposer) -> list[Trial]:
        """Make the folders of a winner's missing trials, and return them; called when its search has ended."""
        missing = self.missing(proposer)
        prepare(missing, self._root)
        return missing


def known(plan: SearchPlan) -> list[Trial]:
    """Return all trials that a search has named so far; its proposals' files grow while it runs."""
    state = SearchState(plan)
    return [
        trial for proposer in state.proposers for trial in proposer.trials(stopped=False)
    ] + state.all_fresh()


def missing(plan: SearchPlan) -> Work:
    """Return the configurations and the winners' trials to go; none with `--report-only`."""
    state, search = SearchState(plan), plan.artefact
    expected = [] if plan.options.report_only else state.expected()
    asha = ", ASHA" if search.asha else ""
    width = max(len(proposer.optimizer) for proposer in state.proposers)
    lines, records = [], []
    for proposer in state.proposers:
        left, fresh = state.to_go(proposer)
        space = ", ".join(
            f"{name} {domain}" for name, domain in plan.spaces[proposer.optimizer].items()
        )
        to_go = f"{left} configurations and {fresh} fresh trials to go"
        lines.append(f"  {proposer.optimizer:{width}}  {to_go}  ({space})")
        counts = {
            "configurations": search.budget,
            "configurations to go": left,
            "fresh to go": fresh,
        }
        records.append(
            {
                "search": search.name,
                "workload": plan.workload,
                "optimizer": proposer.optimizer,
                **counts,
            }
        )
    summary = (
        f"{search.budget} configurations for each of {len(state.proposers)} optimizers ({search.sampler}{asha}), "
        f"then each winner under {len(plan.seeds)} fresh seeds"
    )
    summary = "\n".join([summary, *lines])
    return Work(count=len(expected), summary=summary, records=records, trials=expected, on_ray=True)


def stored(search: Search, root: Path) -> list[SearchPlan]:
    """Return the search's plan if an output folder holds any of its trials."""
    names = {folder.name for folder in trial_folders(root)}
    candidates = plans(search, Options(out=root))
    return [
        plan
        for plan in candidates
        if any(trial.config.trial_key[:16] in names for trial in known(plan))
    ]


def state(search: Search, root: Path) -> str:
    """Return how many configurations have an outcome in an output folder, or why that is not known."""
    try:
        proposers = [
            proposer
            for plan in plans(search, Options(out=root))
            for proposer in SearchState(plan).proposers
        ]
    except StoreError:
        return "another search"
    total = search.budget * len(proposers)
    return f"{total - sum(proposer.left() for proposer in proposers)}/{total}"


def view(plan: SearchPlan) -> View:
    """Return the MLflow runs of all trials that the search has named."""
    facts = {"facts": plan.artefact, "workload": plan.workload, "options": plan.options}
    return TrialsView(
        **facts,
        metric=METRIC,
        trials=lambda: known(plan),
        stopped=lambda: SearchState(plan).stopped(),
    )
