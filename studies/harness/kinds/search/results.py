"""The results of a search, read from the output folder, and the files they are written as."""

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

from studies.harness.design.arms import Arm, Trial
from studies.harness.evidence import ledger
from studies.harness.evidence.analysis import Evidence, analyse_tables
from studies.harness.evidence.arms import completed
from studies.harness.kinds.search.proposals import IN_FLIGHT, STOPPED, Outcome
from studies.harness.kinds.search.proposer import Proposer
from studies.harness.kinds.search.search import METRIC, TRAIN_FRACTION
from studies.harness.kinds.search.tuning import SearchPlan
from studies.harness.statistics.budgets import Shrinkage, best_of_k, shrinkage
from trainables.store import COMPLETED
from trainables.workloads import find_recipe


@dataclass(frozen=True)
class SearchResults:
    """The results of a search on one workload; `fresh` are the known trials of the winners."""

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
        """The winners of those optimizers whose search has ended with a score."""
        winners = {proposer.optimizer: proposer.winner() for proposer in self.proposers}
        return {name: winner for name, winner in winners.items() if winner is not None}

    @cached_property
    def frame(self) -> pd.DataFrame:
        """The fresh trials, an arm for each optimizer."""
        frame = ledger.frame(self.fresh, self.root)
        return frame.assign(arm=frame["optimizer"])

    @cached_property
    def evidence(self) -> Evidence:
        """The statistics of the fresh trials; there must be some."""
        trials = [Trial(Arm(optimizer=arm.optimizer), config) for arm, config in self.fresh]
        return analyse_tables(trials, self.frame, pd.DataFrame(), METRIC)

    @cached_property
    def curves(self) -> dict[str, pd.DataFrame]:
        """The best of k of each optimizer that has proposals with an end."""
        outcomes = self.outcomes.items()
        scores = {
            name: [part.score for part in parts if part.status != IN_FLIGHT]
            for name, parts in outcomes
        }
        return {
            name: best_of_k(values)
            for name, values in scores.items()
            if not all(map(math.isnan, values))
        }

    def shrinkage(self, optimizer: str) -> Shrinkage | None:
        """Return the shrinkage of an optimizer's winner, or None if it has none."""
        winner = self.winners.get(optimizer)
        if winner is None:
            return None
        values = completed(self.frame.loc[self.frame["optimizer"] == optimizer], METRIC)
        return shrinkage(winner.score, list(values))


def ledger_rows(results: SearchResults) -> list[dict[str, Any]]:
    """Return for each optimizer what its search used and returned."""
    rows = []
    for proposer in results.proposers:
        outcomes, winner = (
            results.outcomes[proposer.optimizer],
            results.winners.get(proposer.optimizer),
        )
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
    """Return the winners as `optimizers = {...}`, to be pasted into a recipe in `trainables/recipes`."""
    search, plan = results.plan.artefact, results.plan
    lines = [
        f"# {plan.workload}, tuned by studies/{search.name}.py: the best of {search.budget} configurations each "
        f"({search.sampler}, seed {search.tuning_seed}),",
        f"# by the accuracy on {1 - TRAIN_FRACTION:.0%} of the training set that was held out.",
        "optimizers = {",
    ]
    stated = find_recipe(plan.workload)
    for name, winner in results.winners.items():
        values = {
            **stated.hyperparameters(name),
            **plan.fresh(name)[0].arm.overrides,
            **winner.proposal.parameters,
        }
        lines.append(f'    "{name}": {values},'.replace("'", '"'))
    return "\n".join([*lines, "}"]) + "\n"


def to_json(results: SearchResults) -> str:
    """Return one line of JSON: the search, and a record for each optimizer."""
    records = []
    for row in ledger_rows(results):
        shrunk = results.shrinkage(row["optimizer"])
        fresh = (
            {} if shrunk is None else {"fresh": vars(shrunk.fresh), "shrinkage": shrunk.shrinkage}
        )
        records.append({**row, **fresh})
    identity = {"search": results.plan.artefact.name, "workload": results.plan.workload}
    return json.dumps({**identity, "optimizers": _finite(records)})


def _finite(value: Any) -> Any:
    """Replace nan by None, because JSON has no nan."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def proposals_table(results: SearchResults) -> pd.DataFrame:
    """Return a row for each configuration: parameters, status, score and seconds."""
    names = list(dict.fromkeys(name for space in results.plan.spaces.values() for name in space))
    rows = []
    for optimizer, outcomes in results.outcomes.items():
        for outcome in outcomes:
            stopped = (
                None if outcome.proposal.stopped is None else outcome.proposal.stopped["stopped_at"]
            )
            values = {name: outcome.proposal.parameters.get(name) for name in names}
            scores = {"val/accuracy": outcome.score, "val/loss": outcome.loss}
            facts = {"status": outcome.status, "stopped_at": stopped, **scores}
            identity = {"seconds": outcome.seconds, "trial_key": outcome.proposal.trial_key}
            rows.append(
                {
                    "optimizer": optimizer,
                    "number": outcome.proposal.number,
                    **values,
                    **facts,
                    **identity,
                }
            )
    return pd.DataFrame(rows)
