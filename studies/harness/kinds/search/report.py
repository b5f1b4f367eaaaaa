"""The report of a search: the fresh trials of the winners, the effect of the budget, the recipe.

Only the fresh trials are results. The tuning scores are in a separate section, which also shows how
much lower the accuracy of the fresh trials is (the shrinkage). Equal output folders give
byte-identical reports.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from studies.harness.design.result import Listing, Report
from studies.harness.evidence import arms, ledger
from studies.harness.evidence.metrics import duration, unit
from studies.harness.evidence.status import UNFINISHED
from studies.harness.kinds.search.plan import SearchState, known
from studies.harness.kinds.search.results import (
    SearchResults,
    ledger_rows,
    proposals_table,
    recipe,
    to_json,
)
from studies.harness.kinds.search.search import METRIC
from studies.harness.kinds.search.tuning import SearchPlan
from studies.harness.report import arms as arms_table
from studies.harness.report import document, protocol
from studies.harness.report.document import Block, Heading, Picture, Table, Text
from studies.harness.report.figures.curves import draw_best_of_k
from studies.harness.statistics.budgets import overtakes
from trainables.store import FAILED

SHOW = unit(METRIC)
EXCHANGEABLE = ("random", "qmc")
NO_WINNER = (
    "There is no winner yet, because no optimizer has finished its tuning with at least one score"
)


def report(plan: SearchPlan) -> Report:
    """Write the report, and return its content as plain values."""
    state = SearchState(plan)
    results = SearchResults(plan, state.proposers, state.all_fresh(), plan.root)
    frame = ledger.frame(known(plan), plan.root)
    winners, listing = pd.DataFrame(), Listing(title=NO_WINNER)
    if results.fresh:
        winners = arms.group(ledger.frame(results.fresh, plan.root), METRIC)
        listing = arms_table.listing(results.evidence, plan.artefact.title)
    return Report(
        files=write(results, plan.folder),
        listing=listing,
        record=to_json(results),
        metrics=arms.metrics(frame, winners),
        failed=FAILED in set(frame["status"]),
    )


def write(results: SearchResults, folder: Path) -> list[Path]:
    """Write the report, the figure and the journal of `optuna-dashboard`; return the files.

    The files are `report.md`, `.html` and `.tex`; `trials.csv` (the fresh trials of the winners),
    `proposals.csv` (all configurations), `best_of_k.csv` and `differences.csv` (each pair of
    optimizers); and `recipe.py`, whose content can be pasted into a recipe.
    """
    from studies.harness.kinds.search.sampling import write_journal

    search = results.plan.artefact
    drawn = draw_best_of_k(results.curves, folder)
    curves = [curve.assign(optimizer=name) for name, curve in results.curves.items()]
    files = {
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
    journal = search_folder / "optuna.journal"
    write_journal(journal, studies)
    return [*document.write(folder, search.title, blocks, drawn, files), journal]


def _blocks(results: SearchResults, pictures: Sequence[str]) -> list[Block]:
    search = results.plan.artefact
    lines = tuple(
        f"`{line.strip()}`" for line in recipe(results).splitlines() if line.startswith("    ")
    )
    return [
        *protocol.facts(search),
        *(protocol.paragraphs(search, results.fresh) if results.fresh else []),
        Heading("Results"),
        *_results(results),
        Heading("Tuning"),
        _search(results),
        Text(_search_note(results), note=True),
        *(Picture(name, "best validation accuracy of k configurations") for name in pictures),
        *_budgets(results),
        Heading("Recipe"),
        Text("For `trainables/recipes` (also in `recipe.py`):", items=lines),
        protocol.provenance(results.frame),
    ]


def _results(results: SearchResults) -> list[Block]:
    if not results.fresh:
        return [Text(f"{NO_WINNER}.")]
    rows = results.evidence.arms.to_dict("records")
    cells = []
    for row in rows:
        missing = ", ".join(
            f"{row[status]} of {row['planned']} {status}" for status in UNFINISHED if row[status]
        )
        scores = [
            SHOW.show(row["mean"]),
            SHOW.show(row["sd"]),
            SHOW.interval(row["ci_lo"], row["ci_hi"]),
        ]
        cells.append([row["arm"], str(row["n"]), *scores, missing or "-"])
    table = Table(
        name=results.plan.artefact.name,
        header=["optimizer", "n", SHOW.mean, "sd", "95% t-interval", "not completed"],
        rows=cells,
        text=(0, 5),
        bold={(i, 2) for i, row in enumerate(rows) if row["bold"]},
        caption=f"{results.plan.artefact.title}: last-epoch test accuracy of each winner.",
    )
    bold = (
        "Bold: significantly better than at least one optimizer and not significantly worse than "
        "any (paired t-tests by seed, Holm-corrected over all pairs, 5% level). "
    )
    note = (
        "Last-epoch test accuracy, in percent, of each optimizer's winner, trained on the whole "
        "training set with seeds that the tuning did not use: the mean over n seeds with its 95% "
        f"t-interval. {bold if results.evidence.references.tests else ''}"
        f"{arms_table.power(results.evidence)}"
    )
    return [table, Text(note.strip(), note=True)]


def _search(results: SearchResults) -> Table:
    header = [
        "optimizer",
        "tuned: value of the winner (space)",
        "budget",
        "failed",
        "stopped",
        "to go",
        "tuning score %",
    ]
    rows = []
    for row in ledger_rows(results):
        space = results.plan.spaces[row["optimizer"]]
        shrinkage = results.shrinkage(row["optimizer"])
        tuned = [
            f"{name} {row['parameters'].get(name, '-')} ({domain})"
            for name, domain in space.items()
        ]
        counts = [str(row[name]) for name in ("budget", "failed", "stopped", "in flight")]
        difference, interval = SHOW.show(math.nan, signed=True), "-"
        if shrinkage is not None:
            difference = SHOW.show(shrinkage.shrinkage, signed=True)
            interval = SHOW.interval(shrinkage.ci_lo, shrinkage.ci_hi, signed=True)
        cells = [row["optimizer"], ", ".join(tuned), *counts, SHOW.show(row["score"])]
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
    search = results.plan.artefact
    sentences = [
        f"Each optimizer has a budget of {search.budget} configurations ({search.sampler}), which "
        "includes failed and diverged ones. The recipe's values are the first configuration.",
        "Tuning score: last-epoch accuracy on the held-out tenth of the training set, with seed "
        f"{search.tuning_seed}. Of equal scores, the one with the lower loss wins. The score of a "
        "winner is too high on average, because it is the highest of many; it is not a result.",
        "Shrinkage: tuning score minus the mean test accuracy of the fresh trials, in percentage "
        "points. Its 95% t-interval is computed from the fresh seeds alone. The shrinkage also "
        "contains the effects of the different evaluation data and of the larger training set.",
        f"Time: the sum of the {_devices(results)}-seconds that the workers spent on training and "
        "evaluating all configurations. The time depends on the machine and on the number of "
        "concurrent trials.",
        "A search that was killed resumes with its stored proposals. With `--max-concurrent 1`, "
        "the proposals are bitwise identical to those of an uninterrupted search.",
    ]
    if search.asha:
        sentences.append(
            "ASHA stopped configurations with low scores early. After a restart, it does not know "
            "the scores of earlier trials."
        )
    return " ".join(sentences)


def _devices(results: SearchResults) -> str:
    names = results.frame["device"].dropna()
    return "/".join(sorted({"CPU" if name == "cpu" else "GPU" for name in names})) or "CPU"


def _budgets(results: SearchResults) -> list[Block]:
    """Return the section on the best-of-k curves and their crossings."""
    search, items = results.plan.artefact, []
    names = [name for name in results.curves if name in results.winners]
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            for name, other in ((first, second), (second, first)):
                if k := overtakes(results.curves[name], results.curves[other]):
                    budgets = "at every k" if k == 1 else f"from k = {k} on"
                    items.append(f"`{name}` has a higher expected best than `{other}` {budgets}.")
    text = (
        "A curve is the expected best validation accuracy of k configurations that are drawn "
        "without replacement from those of the search. The band contains 90% of the draws. Both "
        "are computed exactly, from order statistics. Failed and stopped configurations have no "
        "score and rank below all others. `none` in `best_of_k.csv` is the share of draws in which "
        "no configuration has a score."
    )
    if search.sampler not in EXCHANGEABLE or search.asha:
        sampler = f"{search.sampler}{' with ASHA' if search.asha else ''}"
        text += (
            f" The configurations of {sampler} are not exchangeable, because later configurations "
            "depend on earlier scores. A curve therefore describes these configurations only. To "
            "estimate the result of a search with a smaller budget, use `--sampler random`."
        )
    return [Heading("Best of k"), Text(text, items=tuple(items))]
