"""A search's report: the winners under fresh seeds, what the budget bought, the recipe. Equal folders, equal bytes.

Results are the fresh trials' alone. What a configuration scored while it was searched for stands apart, and beside it
how much of the winner's score was luck.
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


def report(plan: SearchPlan) -> Report:
    """Write the report, and return what it says."""
    state = SearchState(plan)
    results = SearchResults(plan, state.proposers, state.all_fresh(), plan.root)
    frame = ledger.frame(known(plan), plan.root)
    winners = (
        arms.group(ledger.frame(results.fresh, plan.root), METRIC)
        if results.fresh
        else pd.DataFrame()
    )
    nothing = Listing(title="No search has ended yet: there is no winner to train")
    return Report(
        files=write(results, plan.folder),
        listing=arms_table.listing(results.evidence, plan.artefact.title)
        if results.fresh
        else nothing,
        record=to_json(results),
        metrics=arms.metrics(frame, winners),
        failed=FAILED in set(frame["status"]),
    )


def write(results: SearchResults, folder: Path) -> list[Path]:
    """Write the report, the journal of `optuna-dashboard` and the figure; return the files.

    `report.md`, `.html` and `.tex`; `trials.csv` (the winners under fresh seeds), `proposals.csv` (all configurations),
    `best_of_k.csv`, `differences.csv` (every pair of optimizers); `recipe.py`, to be pasted into `trainables/recipes`.
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
    journal = (
        results.root
        / "searches"
        / search.name
        / results.plan.workload.replace("/", "-")
        / "optuna.journal"
    )
    spaces = {
        name: (results.plan.spaces[name], outcomes) for name, outcomes in results.outcomes.items()
    }
    write_journal(
        journal,
        {f"{search.name} {results.plan.workload} {name}": entry for name, entry in spaces.items()},
    )
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
        Heading("The search"),
        _search(results),
        Text(_search_note(results), note=True),
        *(Picture(name, "the best validation accuracy of k configurations") for name in pictures),
        *_budgets(results),
        Heading("The recipe"),
        Text("For `trainables/recipes`, also in `recipe.py`:", items=lines),
        protocol.provenance(results.frame),
    ]


def _results(results: SearchResults) -> list[Block]:
    if not results.fresh:
        return [Text("No search has ended yet: there is no winner to train.")]
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
        caption=f"{results.plan.artefact.title}: last-epoch test accuracy of each winner under fresh seeds.",
    )
    note = (
        "Last-epoch test accuracy in percent of each search's winner, trained on the whole training set under seeds "
        "that the search did not use: mean over n seeds with its 95% Student t interval. Bold: beats another and is "
        f"beaten by none, paired by seed, Holm over all pairs at 5%. {arms_table.power(results.evidence)}"
    )
    return [table, Text(note.strip(), note=True)]


def _search(results: SearchResults) -> Table:
    header = [
        "optimizer",
        "tuned: the winner's (space)",
        "budget",
        "failed",
        "stopped",
        "to go",
        "tuning score %",
    ]
    rows = []
    for row in ledger_rows(results):
        space, shrunk = results.plan.spaces[row["optimizer"]], results.shrinkage(row["optimizer"])
        tuned = [
            f"{name} {row['parameters'].get(name, '-')} ({domain})"
            for name, domain in space.items()
        ]
        counts = [str(row[name]) for name in ("budget", "failed", "stopped", "in flight")]
        gone = math.nan if shrunk is None else shrunk.shrinkage
        interval = "-" if shrunk is None else SHOW.interval(shrunk.ci_lo, shrunk.ci_hi, signed=True)
        cells = [row["optimizer"], ", ".join(tuned), *counts, SHOW.show(row["score"])]
        rows.append([*cells, SHOW.show(gone, signed=True), interval, duration(row["seconds"])])
    return Table(
        name=f"{results.plan.artefact.name}-search",
        header=[*header, "shrinkage", "95%", "trained for"],
        rows=rows,
        text=(0, 1),
        muted=(6,),
        caption=f"{results.plan.artefact.title}: the search; a tuning score is no result.",
    )


def _search_note(results: SearchResults) -> str:
    search = results.plan.artefact
    sentences = [
        f"{search.budget} configurations for each optimizer ({search.sampler}), the recipe's own values first; failed "
        "and diverged ones count.",
        "Tuning score: last-epoch accuracy on the tenth of the training set that was held out, seed "
        f"{search.tuning_seed}; of equal ones the lower loss won. It was chosen for being high, so it is no result.",
        "Shrinkage: tuning score - mean test accuracy of the fresh trials, in points, with the 95% t-interval that the "
        "fresh seeds' spread gives; another data set and more data to train on are in it, too.",
        f"Trained for: {_devices(results)}-seconds of the workers, training and evaluation of all configurations "
        "added; trials ran side by side, so it says nothing of other machines.",
        "A driver that was killed goes on with its proposals; with one trial at a time (`--max-concurrent 1`) they are "
        "bitwise those of a driver that was not.",
    ]
    if search.asha:
        sentences.append(
            "ASHA stopped what fell behind; its rungs start empty when a driver starts anew."
        )
    return " ".join(sentences)


def _devices(results: SearchResults) -> str:
    devices = {"CPU" if name == "cpu" else "GPU" for name in results.frame["device"].dropna()} or {
        "CPU"
    }
    return "/".join(sorted(devices))


def _budgets(results: SearchResults) -> list[Block]:
    """Return the section on the best of k: the crossings of the curves, and the limits of what they show."""
    search, names, items = (
        results.plan.artefact,
        [name for name in results.curves if name in results.winners],
        [],
    )
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            for name, other in ((first, second), (second, first)):
                if k := overtakes(results.curves[name], results.curves[other]):
                    items.append(
                        f"`{name}` is ahead of `{other}` "
                        + ("at every k" if k == 1 else f"from k = {k} on")
                    )
    words = (
        "The expected best validation accuracy of k of the configurations, drawn without replacement, with the band "
        "that holds 90% of the draws: exact, by order statistics. Failed and stopped configurations have no score and "
        "lose to all others; `none` in `best_of_k.csv` is the share of draws that have only such."
    )
    if search.sampler not in EXCHANGEABLE or search.asha:
        how = f"{search.sampler}{' with ASHA' if search.asha else ''}"
        words += (
            f" The configurations of {how} are not exchangeable, later ones being chosen by earlier ones: a curve "
            "shows what these were worth, not what a smaller budget would have found (`--sampler random` does)."
        )
    return [Heading("Best of k"), Text(words, items=tuple(items))]
