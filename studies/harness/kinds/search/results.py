"""The results of a search, read from the output folder, and the files that contain them."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from precond.counts import counted
from studies.harness.design.arms import Arm, Trial, as_level, spelled
from studies.harness.evidence import ledger
from studies.harness.evidence.analysis import Evidence, analyse_tables
from studies.harness.evidence.arms import completed
from studies.harness.evidence.claims import Decision, decide
from studies.harness.evidence.metrics import metric_name, step
from studies.harness.kinds.search.proposals import IN_FLIGHT, STOPPED, Outcome
from studies.harness.kinds.search.proposer import Proposer
from studies.harness.kinds.search.search import TRAIN_FRACTION
from studies.harness.kinds.search.tuning import SearchPlan
from studies.harness.report import claims
from studies.harness.statistics.budgets import Shrinkage, best_of_k, shrinkage
from trainables.store import COMPLETED
from trainables.workloads import find_recipe


@dataclass(frozen=True)
class SearchResults:
    """The results of a search on one workload.

    Attributes:
        plan: The search.
        proposers: The proposer of each optimizer.
        fresh: The fresh trials of the winners that are known so far.
        root: The output folder.
    """

    plan: SearchPlan
    proposers: Sequence[Proposer]
    fresh: Sequence[Trial]
    root: Path

    @cached_property
    def outcomes(self) -> dict[str, list[Outcome]]:
        """The outcomes of each optimizer's proposals."""
        return {proposer.optimizer: proposer.outcomes() for proposer in self.proposers}

    @cached_property
    def winners(self) -> dict[str, Outcome]:
        """The winners of the optimizers whose tuning has finished with at least one score."""
        winners = {proposer.optimizer: proposer.winner() for proposer in self.proposers}
        return {name: winner for name, winner in winners.items() if winner is not None}

    @cached_property
    def frame(self) -> pd.DataFrame:
        """The table of the fresh trials, with an arm for each optimizer."""
        frame = ledger.frame(self.fresh, self.root)
        return frame.assign(arm=frame["optimizer"])

    @cached_property
    def evidence(self) -> Evidence:
        """The statistics of the fresh trials. There must be at least one fresh trial."""
        trials = [Trial(Arm(optimizer=arm.optimizer), config) for arm, config in self.fresh]
        return analyse_tables(trials, self.frame, pd.DataFrame(), self.plan.metric)

    @cached_property
    def decisions(self) -> list[Decision]:
        """The decisions on the claims, from the fresh trials of the winners."""
        plan = self.plan
        values = self.evidence.by_seed if self.fresh else pd.DataFrame(dtype=float)
        # The column of an optimizer without a winner contains nan.
        values = values.reindex(columns=[*plan.spaces])
        tested = plan.artefact.claims_on(plan.workload)
        return decide(tested, values, plan.metric, step(plan.metric, plan.workload))

    @cached_property
    def scores(self) -> dict[str, list[float]]:
        """The score of each configuration (nan if it failed) of the optimizers with a score."""
        scores = {
            name: [outcome.score for outcome in outcomes if outcome.status != IN_FLIGHT]
            for name, outcomes in self.outcomes.items()
        }
        return {name: values for name, values in scores.items() if not all(map(math.isnan, values))}

    @cached_property
    def curves(self) -> dict[str, pd.DataFrame]:
        """The best-of-k curve of each optimizer with at least one score."""
        return {name: best_of_k(values, self.plan.higher) for name, values in self.scores.items()}

    def shrinkage(self, optimizer: str) -> Shrinkage | None:
        """Return the shrinkage of the winner of an optimizer, or None without a winner."""
        winner = self.winners.get(optimizer)
        if winner is None:
            return None
        trials = self.frame.loc[self.frame["optimizer"] == optimizer]
        values = completed(trials, self.plan.metric)
        return shrinkage(winner.score, list(values), self.plan.higher)


def ledger_rows(results: SearchResults) -> list[dict[str, Any]]:
    """Return a row for each optimizer: budget, number of trials by status, winner and time."""
    rows = []
    for proposer in results.proposers:
        outcomes = results.outcomes[proposer.optimizer]
        winner = results.winners.get(proposer.optimizer)
        counts = Counter(outcome.status for outcome in outcomes)
        rows.append(
            {
                "optimizer": proposer.optimizer,
                "budget": proposer.budget,
                "completed": counts[COMPLETED],
                "stopped": counts[STOPPED],
                "in flight": proposer.left(),
                "failed": counts.total() - counts[COMPLETED] - counts[STOPPED] - counts[IN_FLIGHT],
                "winner": None if winner is None else winner.proposal.number,
                "parameters": {} if winner is None else dict(winner.proposal.parameters),
                "score": math.nan if winner is None else winner.score,
                "seconds": sum(outcome.seconds for outcome in outcomes),
            }
        )
    return rows


def recipe(results: SearchResults) -> str:
    """Return the winners as `optimizers = {...}`, as in a recipe in `trainables/recipes`."""
    search, plan = results.plan.artefact, results.plan
    held_out = f"the held-out {1 - TRAIN_FRACTION:.0%} of the training set"
    lines = [
        f"# {plan.workload}, tuned by studies/{search.name}.py ({search.sampler}, seed "
        f"{search.tuning_seed}): for each optimizer, the best of {counted(search.budget, 'configuration')}",
        f"# by the {metric_name(plan.score)} on {held_out}.",
        "optimizers = {",
    ]
    base = find_recipe(plan.workload)
    for name, winner in results.winners.items():
        values = {
            **base.hyperparameters(name),
            **plan.fresh(name)[0].arm.overrides,
            **winner.proposal.parameters,
        }
        values = {key: as_level(value) for key, value in values.items()}
        lines.append(f'    "{name}": {values},'.replace("'", '"'))
    return "\n".join([*lines, "}"]) + "\n"


def to_json(results: SearchResults) -> str:
    """Return one line of JSON: the search, and a record for each claim and for each optimizer."""
    records = []
    for row in ledger_rows(results):
        record = dict(row)
        if (shrinkage := results.shrinkage(row["optimizer"])) is not None:
            record |= {"fresh": vars(shrinkage.fresh), "shrinkage": shrinkage.shrinkage}
        records.append(record)
    plan = results.plan
    identity = {"search": plan.artefact.name, "workload": plan.workload, "score": plan.score}
    decisions = claims.records(results.decisions)
    return json.dumps({**identity, "claims": decisions, "optimizers": claims.plain(records)})


def proposals_table(results: SearchResults) -> pd.DataFrame:
    """Return a row for each configuration: parameters, status, score and seconds."""
    names = list(dict.fromkeys(name for space in results.plan.spaces.values() for name in space))
    rows = []
    for optimizer, outcomes in results.outcomes.items():
        for outcome in outcomes:
            proposal = outcome.proposal
            rows.append(
                {
                    "optimizer": optimizer,
                    "number": proposal.number,
                    **{name: spelled(proposal.parameters.get(name)) for name in names},
                    "status": outcome.status,
                    "stopped_at": proposal.stopped and proposal.stopped["stopped_at"],
                    results.plan.score: outcome.score,
                    "val/loss": outcome.loss,
                    "seconds": outcome.seconds,
                    "trial_key": proposal.trial_key,
                }
            )
    return pd.DataFrame(rows)
