"""The report of a search: the fresh trials of the winners, the effect of the budget, the recipe.

Only the fresh trials are results. The tuning scores are in a separate section, which also shows how
much worse the fresh trials are on average (the shrinkage). Equal output folders give
byte-identical reports.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pandas as pd

from precond.counts import counted
from studies.harness.design.arms import spelled
from studies.harness.design.result import Listing, Report
from studies.harness.evidence import arms, ledger
from studies.harness.evidence.analysis import Evidence
from studies.harness.evidence.metrics import duration, metric_name, unit, words
from studies.harness.evidence.status import UNFINISHED
from studies.harness.kinds.search.plan import SearchState, examples, known
from studies.harness.kinds.search.results import (
    SearchResults,
    ledger_rows,
    proposals_table,
    recipe,
    to_json,
)
from studies.harness.kinds.search.tuning import SearchPlan
from studies.harness.report import arms as arms_table
from studies.harness.report import claims, coverage, document, notes, protocol
from studies.harness.report.document import Block, Heading, Picture, Table, Text
from studies.harness.report.figures.curves import draw_best_of_k
from studies.harness.statistics.budgets import Lead, overtakes
from trainables.store import FAILED

EXCHANGEABLE = ("random", "qmc")
NO_WINNER = (
    "There is no winner yet, because no optimizer has finished its tuning with at least one score"
)


def report(plan: SearchPlan) -> Report:
    """Write the report, and return its content as plain values."""
    results = read(plan)
    frame = ledger.frame(known(plan), plan.root)
    winners, listing = pd.DataFrame(), Listing(title=NO_WINNER)
    if results.fresh:
        winners = arms.group(ledger.frame(results.fresh, plan.root), plan.metric)
        listing = arms_table.listing(results.evidence, plan.artefact.title)
    return Report(
        files=write(results, plan.folder),
        claims=claims.records(results.decisions),
        listing=listing,
        record=to_json(results),
        metrics=arms.metrics(frame, winners),
        failed=FAILED in set(frame["status"]),
    )


def evidence(plan: SearchPlan) -> Evidence | None:
    """Return the analysis of the fresh trials with the decisions, or None without a winner."""
    results = read(plan)
    return replace(results.evidence, claims=results.decisions) if results.fresh else None


def read(plan: SearchPlan) -> SearchResults:
    """Return the results of a search."""
    state = SearchState(plan)
    return SearchResults(plan, state.proposers, state.all_fresh(), plan.root)


def write(results: SearchResults, folder: Path) -> list[Path]:
    """Write the report, the figure and the journal of `optuna-dashboard`; return the files.

    The files are `report.md`, `.html` and `.tex`; `claims.csv`, `trials.csv` (the fresh trials of
    the winners), `proposals.csv` (all configurations), `best_of_k.csv` and `differences.csv` (each pair of
    optimizers); and `recipe.py`, whose content can be pasted into a recipe.
    """
    from studies.harness.kinds.search.sampling import write_journal

    search = results.plan.artefact
    drawn = draw_best_of_k(results.curves, results.plan.score, folder)
    curves = [curve.assign(optimizer=name) for name, curve in results.curves.items()]
    files = {
        **claims.files(results.decisions),
        "trials.csv": results.frame.to_csv(index=False),
        "proposals.csv": proposals_table(results).to_csv(index=False),
        "best_of_k.csv": (pd.concat(curves) if curves else pd.DataFrame()).to_csv(index=False),
        "differences.csv": results.evidence.pairs.to_csv(index=False) if results.fresh else "",
        "recipe.py": recipe(results),
    }
    blocks = _blocks(results, [path.stem for path in drawn if path.suffix == ".svg"])
    workload = results.plan.workload
    studies = {
        f"{search.name} {workload} {name}": (results.plan.spaces[name], outcomes)
        for name, outcomes in results.outcomes.items()
    }
    search_folder = results.root / "searches" / search.name / workload.replace("/", "-")
    # A selection must not replace the journal of the whole search.
    selection = f"+{results.plan.selection}" if results.plan.selection else ""
    journal = search_folder / f"optuna{selection}.journal"
    write_journal(journal, studies, results.plan.higher)
    return [*document.write(folder, search.title, blocks, drawn, files), journal]


def _blocks(results: SearchResults, pictures: Sequence[str]) -> list[Block]:
    search, best = results.plan.artefact, f"best validation {metric_name(results.plan.score)}"
    lines = tuple(
        f"`{line.strip()}`" for line in recipe(results).splitlines() if line.startswith("    ")
    )
    return [
        *claims.section(results.decisions, search.undecidable, results.plan.metric),
        *protocol.facts(search),
        *([protocol.section(search, results.fresh)] if results.fresh else []),
        Heading("Results"),
        *_results(results),
        Heading("Tuning"),
        _search(results),
        Text(_search_note(results), note=True),
        *(Picture(name, f"{best} of k configurations") for name in pictures),
        *_budgets(results),
        *coverage.section(examples(results.plan), on_terminal=True),
        Heading("Recipe"),
        Text("For `trainables/recipes` (also in `recipe.py`):", items=lines),
        protocol.provenance(results.frame),
    ]


def _results(results: SearchResults) -> list[Block]:
    if not results.fresh:
        return [Text(f"{NO_WINNER}.")]
    rows, metric = results.evidence.arms.to_dict("records"), words(results.plan.metric)
    cells, show = [], unit(results.plan.metric)
    for row in rows:
        missing = ", ".join(
            f"{row[status]} of {row['planned']} {status}" for status in UNFINISHED if row[status]
        )
        scores = [
            show.show(row["mean"]),
            show.show(row["sd"]),
            show.interval(row["ci_lo"], row["ci_hi"]),
        ]
        cells.append([row["arm"], str(row["n"]), *scores, missing or "-"])
    table = Table(
        name=results.plan.artefact.name,
        header=["optimizer", "n", show.mean, "sd", "95% interval", "not completed"],
        rows=cells,
        text=(0, 5),
        bold={(i, 2) for i, row in enumerate(rows) if row["bold"]},
        caption=f"{results.plan.artefact.title}: last-epoch {metric} of each winner.",
    )
    percent = ", in percent," if show.percent else ""
    note = (
        f"Last-epoch {metric}{percent} of each optimizer's winner, trained on the whole "
        "training set with seeds that the tuning did not use: the mean over n seeds with its 95% "
        "interval."
    )
    sentences = [note, notes.bold(results.evidence), notes.power(results.evidence)]
    return [table, Text(" ".join(filter(None, sentences)), note=True)]


def _search(results: SearchResults) -> Table:
    show = unit(results.plan.score)
    header = [
        "optimizer",
        "tuned: value of the winner (space)",
        "budget",
        "failed",
        "stopped",
        "to go",
        f"tuning score{' %' if show.percent else ''}",
    ]
    rows = []
    for row in ledger_rows(results):
        space = results.plan.spaces[row["optimizer"]]
        shrinkage = results.shrinkage(row["optimizer"])
        tuned = [
            f"{name} {spelled(row['parameters'].get(name, '-'))} ({domain})"
            for name, domain in space.items()
        ]
        counts = [str(row[name]) for name in ("budget", "failed", "stopped", "in flight")]
        difference, interval = show.show(math.nan, signed=True), "-"
        if shrinkage is not None:
            difference = show.show(shrinkage.shrinkage, signed=True)
            interval = show.interval(shrinkage.ci_lo, shrinkage.ci_hi, signed=True)
        cells = [row["optimizer"], ", ".join(tuned), *counts, show.show(row["score"])]
        rows.append([*cells, difference, interval, duration(row["seconds"])])
    return Table(
        name=f"{results.plan.artefact.name}-search",
        header=[*header, "shrinkage", "95% t-interval", "time"],
        rows=rows,
        text=(0, 1),
        muted=(6,),
        caption=f"{results.plan.artefact.title}: the tuning. Tuning scores are not results.",
    )


def _search_note(results: SearchResults) -> str:
    search, score = results.plan.artefact, metric_name(results.plan.score)
    mean, sides = f"the mean {words(results.plan.metric)} of the fresh trials", ("low", "lowest")
    difference = f"{mean} minus the tuning score"
    if results.plan.higher:
        sides, difference = ("high", "highest"), f"tuning score minus {mean}"
    percent = ", in percentage points" if unit(results.plan.score).percent else ""
    sentences = [
        f"Each optimizer has a budget of {counted(search.budget, 'configuration')} ({search.sampler}), which "
        "includes failed and diverged ones. The recipe's values are the first configuration.",
        f"Tuning score: last-epoch {score} on the held-out tenth of the training set, with seed "
        f"{search.tuning_seed}. Of equal scores, the one with the lower loss wins. The score of a "
        f"winner is too {sides[0]} on average, because it is the {sides[1]} of many; it is not a "
        "result.",
        f"Shrinkage: {difference}{percent}. Its 95% t-interval is computed from the fresh seeds "
        "alone. The shrinkage also contains the effects of the different evaluation data and of the "
        "larger training set.",
        f"Time: the sum of the {_devices(results)}-seconds that the workers spent on training and "
        "evaluating all configurations. The time depends on the machine and on the number of "
        "concurrent trials.",
        "A search that was killed resumes with its stored proposals. With `--max-concurrent 1`, "
        "the proposals are bitwise identical to those of an uninterrupted search.",
    ]
    if search.asha:
        sentences.append(
            "ASHA stopped configurations with poor scores early. After a restart, it does not know "
            "the scores of earlier trials."
        )
    return " ".join(sentences)


def _devices(results: SearchResults) -> str:
    names = results.frame["device"].dropna()
    return "/".join(sorted({"CPU" if name == "cpu" else "GPU" for name in names})) or "CPU"


def _budgets(results: SearchResults) -> list[Block]:
    """Return the section on the best-of-k curves and their crossings."""
    search, items = results.plan.artefact, []
    better = "higher" if results.plan.higher else "lower"
    pairs = list(combinations([name for name in results.scores if name in results.winners], 2))
    for name, other in (order for pair in pairs for order in (pair, pair[::-1])):
        scores = results.scores[name], results.scores[other]
        if lead := overtakes(*scores, results.plan.higher, tests=len(pairs)):
            items.append(
                f"`{name}` has a {better} expected best than `{other}` {_budget(lead.k)}; "
                f"{_certainty(lead)}."
            )
    text = (
        f"A curve is the expected best validation {metric_name(results.plan.score)} of k "
        "configurations that are drawn without replacement from those of the search. The band "
        "contains 90% of the draws. Both are computed exactly, from order statistics. Failed and "
        "stopped configurations have no score and rank below all others. `none` in `best_of_k.csv` "
        "is the share of draws in which no configuration has a score. A lead is significant if "
        f"permutation tests (5% level, corrected over {counted(len(pairs), 'pair')} of optimizers) "
        "show it at this k and at every larger k; otherwise it is not certain."
    )
    if search.sampler not in EXCHANGEABLE or search.asha:
        sampler = f"{search.sampler}{' with ASHA' if search.asha else ''}"
        text += (
            f" The configurations of {sampler} are not exchangeable, because later configurations "
            "depend on earlier scores. A curve therefore describes these configurations only, and "
            "a significant lead does not show that another search would have it. To "
            "estimate the result of a search with a smaller budget, use `--sampler random`."
        )
    return [Heading("Best of k"), Text(text, items=tuple(items))]


def _budget(k: int) -> str:
    return "at every k" if k == 1 else f"from k = {k} on"


def _certainty(lead: Lead) -> str:
    if lead.certain is None:
        return "this is not certain, because the lead is not significant at the largest k"
    return f"the lead is significant {_budget(lead.certain)}"
