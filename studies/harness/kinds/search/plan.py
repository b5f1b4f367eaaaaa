"""The state of a search on one workload, and its missing work."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from precond.counts import counted
from studies.harness.design.arms import Trial
from studies.harness.design.options import Options
from studies.harness.evidence import coverage, status
from studies.harness.kinds.artefact import Work
from studies.harness.kinds.records import Stored, stored_plans
from studies.harness.kinds.search.proposals import STOPPED, DifferentSearch
from studies.harness.kinds.search.proposer import Proposer
from studies.harness.kinds.search.search import Search
from studies.harness.kinds.search.tuning import SearchPlan, plans
from studies.harness.kinds.study.execute import prepare
from studies.harness.tracking.view import View
from studies.harness.tracking.views import TrialsView
from trainables.recipes.tables import RECIPES
from trainables.store import StoreError


class SearchState:
    """The proposers of a search and the trials of the winners, according to the output folder.

    Raises:
        StoreError: The output folder contains a different search of this name.
    """

    def __init__(self, plan: SearchPlan):
        self.plan, self._root, self._retry = plan, plan.root, plan.options.retry
        self.proposers = [Proposer(plan, optimizer, plan.root) for optimizer in plan.spaces]

    def fresh(self, proposer: Proposer) -> list[Trial]:
        """Return the fresh trials of the winner; none before the proposer has finished."""
        winner = proposer.winner()
        if winner is None:
            return []
        return self.plan.fresh(proposer.optimizer, winner.proposal.parameters)

    def all_fresh(self) -> list[Trial]:
        """Return the fresh trials of all winners."""
        return [trial for proposer in self.proposers for trial in self.fresh(proposer)]

    def missing(self, proposer: Proposer) -> list[Trial]:
        """Return the missing fresh trials of the winner."""
        return status.missing(self.fresh(proposer), self._root, self._retry)

    def to_go(self, proposer: Proposer) -> tuple[int, int]:
        """Return the numbers of missing configurations and missing fresh trials.

        Configurations whose trial has a status in `--retry` count as missing.
        """
        retried = sum(outcome.status in self._retry for outcome in proposer.outcomes())
        configurations = proposer.left() + retried
        if not configurations:
            return 0, len(self.missing(proposer))
        return configurations, len(self.plan.seeds)

    def expected(self) -> list[Trial]:
        """Return the missing trials, to estimate their duration.

        Trials whose configuration is not known yet are replaced by trials with the recipe's values.
        """
        trials: list[Trial] = []
        for proposer in self.proposers:
            configurations, fresh = self.to_go(proposer)
            trials += [self.plan.tuning(proposer.optimizer)] * configurations
            if configurations:
                trials += self.plan.fresh(proposer.optimizer)[:fresh]
            else:
                trials += self.missing(proposer)[:fresh]
        return trials

    def stopped(self) -> list[str]:
        """Return the keys of the trials that ASHA stopped."""
        outcomes = [outcome for proposer in self.proposers for outcome in proposer.outcomes()]
        return [outcome.proposal.trial_key for outcome in outcomes if outcome.status == STOPPED]

    def begin(self, proposer: Proposer) -> list[Trial]:
        """Create the folders of a winner's missing fresh trials and return the trials.

        `cluster.search` calls this after the proposer has finished.
        """
        missing = self.missing(proposer)
        prepare(missing, self._root)
        return missing


def known(plan: SearchPlan) -> list[Trial]:
    """Return the trials whose configuration is known, except those that ASHA stopped."""
    state = SearchState(plan)
    tuning = [trial for proposer in state.proposers for trial in proposer.trials(stopped=False)]
    return tuning + state.all_fresh()


def missing(plan: SearchPlan) -> Work:
    """Return the missing configurations and fresh trials; none with `--report-only`."""
    state, search = SearchState(plan), plan.artefact
    expected = [] if plan.options.report_only else state.expected()
    asha = ", ASHA" if search.asha else ""
    width = max(len(proposer.optimizer) for proposer in state.proposers)
    lines, records = [], []
    for proposer in state.proposers:
        configurations, fresh = state.to_go(proposer)
        domains = plan.spaces[proposer.optimizer]
        space = ", ".join(f"{name} {domain}" for name, domain in domains.items())
        to_go = (
            f"{counted(configurations, 'configuration')} and {counted(fresh, 'fresh trial')} to go"
        )
        lines.append(f"  {proposer.optimizer:{width}}  {to_go}  ({space})")
        records.append(
            {
                "search": search.name,
                "workload": plan.workload,
                "optimizer": proposer.optimizer,
                "configurations": search.budget,
                "configurations to go": configurations,
                "fresh to go": fresh,
            }
        )
    optimizers, trials = counted(len(state.proposers), "optimizer"), examples(plan)
    summary = (
        f"{counted(search.budget, 'configuration')} for each of {optimizers} "
        f"({search.sampler}{asha}), then each winner under {counted(len(plan.seeds), 'fresh seed')}"
    )
    summary = "\n".join([summary, *lines, *coverage.warnings(trials)])
    return Work(
        count=len(expected),
        summary=summary,
        details=coverage.lines(trials),
        records=records,
        trials=expected,
        on_ray=True,
    )


def examples(plan: SearchPlan) -> list[Trial]:
    """Return a trial of each optimizer with the recipe's values."""
    return [plan.tuning(optimizer) for optimizer in plan.spaces]


def reported(plan: SearchPlan) -> SearchPlan:
    """Return a plan with the fresh seeds with which all winners were trained."""
    state = SearchState(plan)
    winners = {trial.config.group_key: trial for trial in state.all_fresh()}.values()
    trained = status.trained_seeds(plan.root).get(plan.workload, set()) if winners else set()
    common = {
        seed
        for seed in trained
        if all(
            status.has_begun(Trial(arm, config.with_seed(seed)), plan.root)
            for arm, config in winners
        )
    }
    return replace(plan, seeds=sorted({*plan.seeds, *common}))


def results(plan: SearchPlan) -> list[str]:
    """Return the trials that have ended."""
    return status.status_files(known(plan), plan.root)


def stored(search: Search, root: Path) -> Stored:
    """Return the plans of the stored reports, and of other searches with the default options.

    A workload without a description of its report has a search if the output folder contains one
    of its trials.
    """
    described = stored_plans(search, root)
    workloads = {plan.workload for plan in described.plans}
    others = [
        name
        for name in dict.fromkeys([search.workload, *search.published, *RECIPES])
        if name not in workloads
        if (root / "searches" / search.name / name.replace("/", "-")).is_dir()
    ]
    for name in others:
        [plan] = plans(search, Options(out=root, workload=name))
        if any(status.has_begun(trial, root) for trial in known(plan)):
            described.plans.append(reported(plan))
    return described


def state(search: Search, root: Path) -> str:
    """Return the numbers of finished and planned configurations as `20/50`.

    The numbers are unknown if the output folder contains a search of this name with other settings,
    or a file that this version cannot read.
    """
    try:
        proposers = [
            proposer
            for plan in plans(search, Options(out=root))
            for proposer in SearchState(plan).proposers
        ]
    except DifferentSearch:
        return "unknown: OUT has a search with other settings"
    except StoreError:
        return "unknown: OUT has an unreadable file"
    total = search.budget * len(proposers)
    return f"{total - sum(proposer.left() for proposer in proposers)}/{total}"


def view(plan: SearchPlan) -> View:
    """Return the description of the MLflow runs of the known trials, winners and the search."""
    return TrialsView(
        facts=plan.artefact,
        workload=plan.workload,
        options=plan.options,
        selection=plan.selection,
        metric=plan.metric,
        trials=lambda: known(reported(plan)),
        stopped=lambda: SearchState(plan).stopped(),
    )
