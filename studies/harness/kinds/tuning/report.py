"""The ledger of a tuning, the winners, and the values for the recipe.

The files contain no dates, hosts or paths, so equal output folders give byte-identical files.
"""

from __future__ import annotations

import math

from precond.counts import counted
from studies.harness.design.result import Listing, Report
from studies.harness.evidence import ledger as tables
from studies.harness.evidence.metrics import show
from studies.harness.evidence.status import FAILED, IN_FLIGHT, NOT_RUN
from studies.harness.kinds.tuning.plan import TuningPlan
from studies.harness.kinds.tuning.tuning import MERGED
from studies.harness.report import document, protocol
from studies.harness.report.document import Block, Heading, Table, Text
from studies.harness.report.tuning import settings
from trainables.recipes import Recipe
from trainables.recipes.tuning import (
    TRAIN_FRACTION,
    Ledger,
    Row,
    committed_ledger,
    configurations,
)
from trainables.store import COMPLETED
from trainables.workloads import find_recipe

HEADER = ["optimizer", "best", "mean", "second", "mean", "at an edge"]
TEXT = (0, 1, 3, 5)


def report(plan: TuningPlan) -> Report:
    """Write the ledgers, `recipe.py` and the report, and return the content of the report.

    `ledger.csv` contains the optimizers of this tuning; `MERGED` describes the other ledger.
    """
    ledger, committed = read(plan), committed_ledger(plan.workload)
    rows = [_winner(ledger, optimizer) for optimizer in ledger.optimizers]
    caption = (
        f"Means of {ledger.metric} over {counted(len(plan.artefact.seeds), 'seed')}. At an edge: "
        "hyperparameters whose value in the best configuration is the smallest or largest tried."
    )
    files = {
        "ledger.csv": ledger.to_csv(),
        MERGED: (ledger if committed is None else committed.updated(ledger)).to_csv(),
        "recipe.py": literal(ledger, find_recipe(plan.workload)),
    }
    table = Table("tuning", HEADER, rows, text=TEXT, caption=caption)
    blocks: list[Block] = [
        Text(_procedure(plan)),
        protocol.section(plan.artefact, plan.trials),
        Heading("Winners"),
        table,
        Text(caption, note=True),
        Text("", items=tuple(_warnings(ledger)), finding=True),
    ]
    title = f"{plan.artefact.title} of {plan.workload}"
    return Report(
        files=document.write(plan.folder, title, blocks, [], files),
        findings=_warnings(ledger),
        listing=Listing(title=title, header=HEADER, rows=rows, text=TEXT, caption=caption),
        failed=FAILED in {row.status for row in ledger.rows},
    )


def read(plan: TuningPlan) -> Ledger:
    """Return the ledger of a plan, from its trial folders."""
    known = {name: configurations(name, plan.artefact.budget) for name in plan.optimizers}
    rows = []
    measured = tables.frame(plan.trials, plan.root).to_dict("records")
    for (arm, config), values in zip(plan.trials, measured, strict=True):
        number, status = known[arm.optimizer].index(dict(arm.overrides)), values["status"]
        score = values.get(plan.metric, math.nan) if status == COMPLETED else math.nan
        rows.append(Row(arm.optimizer, number, arm.overrides, config.seed, status, score))
    return Ledger(plan.metric, rows)


def literal(ledger: Ledger, recipe: Recipe) -> str:
    """Return the winners as `optimizers={...},`, as in a recipe in `trainables/recipes`.

    Optimizers whose tuning is not complete, or that have no winner, are omitted.
    """
    lines = []
    for name in ledger.optimizers:
        winner = ledger.winner(name)
        if winner is not None and not _unfinished(ledger, name):
            values = {**recipe.hyperparameters(name), **winner.values}
            lines.append(f'    "{name}": {values},'.replace("'", '"'))
    return "\n".join(["optimizers={", *lines, "},"]) + "\n"


def _winner(ledger: Ledger, optimizer: str) -> list[str]:
    """Return the row of an optimizer in the table of winners."""
    cells = []
    for candidate in [*ledger.ranking(optimizer), None][:2]:
        if candidate is None or math.isnan(candidate.mean):
            cells += ["-", "-"]
        else:
            cells += [settings(candidate.values), show(ledger.metric, candidate.mean)]
    edges = ", ".join(ledger.edges(optimizer)) or "no"
    return [optimizer, *cells, edges if ledger.winner(optimizer) else "-"]


def _unfinished(ledger: Ledger, optimizer: str) -> int:
    """Return the number of trials that have not ended."""
    rows = [row for row in ledger.rows if row.optimizer == optimizer]
    return sum(row.status in (IN_FLIGHT, NOT_RUN) for row in rows)


def _warnings(ledger: Ledger) -> list[str]:
    """Return a sentence for each optimizer whose winner is missing, provisional or at an edge."""
    lines = []
    for name in ledger.optimizers:
        winner, edges = ledger.winner(name), ledger.edges(name)
        if unfinished := _unfinished(ledger, name):
            to_go = counted(unfinished, "trial")
            lines.append(f"{name}: {to_go} to go, so there is no final winner yet.")
        elif winner is None:
            lines.append(f"{name}: no configuration has completed with all seeds.")
        elif edges:
            names = " and ".join(f"{edge}={winner.values[edge]:g}" for edge in edges)
            lines.append(
                f"{name}: the winner has the smallest or largest value tried ({names}); a value "
                "beyond it may be better."
            )
    return lines


def _procedure(plan: TuningPlan) -> str:
    seeds = ", ".join(map(str, plan.artefact.seeds))
    return (
        f"Each optimizer has {counted(plan.artefact.budget, 'configuration')}, trained with the "
        f"seeds {seeds} on {TRAIN_FRACTION:.0%} of the training set. The other examples are held "
        f"out. The winner is the configuration with the best mean of {plan.metric}, measured on the "
        "held-out examples after the last epoch. A configuration with a trial that did not "
        "complete ranks below all others."
    )
