"""A search's report: the winners under fresh seeds, what the budget bought, the recipe. Equal folders, equal bytes.

Results are the fresh trials' alone. What a configuration scored while it was searched for stands apart, and beside it how
much of the winner's score was luck.
"""

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
from rich.table import Table as ConsoleTable

from studies.harness import document, ledger, protocol, report, search_figures, sections
from studies.harness.budgets import Shrinkage, best_of_k, overtakes, shrinkage
from studies.harness.contrasts import bold, contrasts
from studies.harness.document import Block, Heading, Picture, Table, Text
from studies.harness.estimate import duration
from studies.harness.proposals import IN_FLIGHT, STOPPED, Outcome
from studies.harness.proposer import Proposer
from studies.harness.search import METRIC, TRAIN_FRACTION, SearchPlan
from studies.harness.statistics import UNFINISHED, completed, group
from studies.harness.study import Trial
from studies.harness.wording import unit
from trainables.files import write_atomically
from trainables.store import COMPLETED
from trainables.workloads import stated_recipe

SHOW = unit(METRIC)
EXCHANGEABLE = ("random", "qmc")


@dataclass(frozen=True)
class Found:
    """What the folders have of a search on one workload.

    Attributes:
        plan: The search.
        proposers: Of its optimizers.
        fresh: The winners' trials, of those that are known.
        root: The output folder.
    """

    plan: SearchPlan
    proposers: Sequence[Proposer]
    fresh: Sequence[Trial]
    root: Path

    @cached_property
    def outcomes(self) -> dict[str, list[Outcome]]:
        """What became of each optimizer's proposals."""
        return {proposer.optimizer: proposer.outcomes() for proposer in self.proposers}

    @cached_property
    def winners(self) -> dict[str, Outcome]:
        """Of the optimizers whose search has ended with a score."""
        found = {proposer.optimizer: proposer.winner() for proposer in self.proposers}
        return {name: winner for name, winner in found.items() if winner is not None}

    @cached_property
    def frame(self) -> pd.DataFrame:
        """The fresh trials, an arm for each optimizer."""
        frame = ledger.frame(self.fresh, self.root)
        return frame.assign(arm=frame["optimizer"])

    @cached_property
    def curves(self) -> dict[str, pd.DataFrame]:
        """The best of k of each optimizer that has proposals with an end."""
        scores = {
            name: [one.score for one in found if one.status != IN_FLIGHT] for name, found in self.outcomes.items()
        }
        return {name: best_of_k(values) for name, values in scores.items() if not all(map(math.isnan, values))}

    def shrinkage(self, optimizer: str) -> Shrinkage | None:
        """Of a winner; None without one."""
        winner = self.winners.get(optimizer)
        if winner is None:
            return None
        values = completed(self.frame.loc[self.frame["optimizer"] == optimizer], METRIC)
        return shrinkage(winner.score, list(values))


def write(found: Found, folder: Path) -> list[Path]:
    """Write the report, the journal of `optuna-dashboard` and the figure; returns the files.

    `report.md`, `.html` and `.tex`; `trials.csv` (the winners under fresh seeds), `proposals.csv` (every configuration),
    `best_of_k.csv`, `differences.csv` (every pair of optimizers); `recipe.py`, to be pasted into `trainables/recipes`.
    """
    from studies.harness.sampling import write_journal

    search = found.plan.search
    drawn = search_figures.draw(found.curves, folder)
    pictures = {path.stem: path.read_bytes() for path in drawn if path.suffix == ".svg"}
    blocks = _blocks(found, list(pictures))
    contents = {
        "report.md": document.markdown(search.title, blocks),
        "report.html": document.page(search.title, blocks, pictures),
        "report.tex": document.latex(search.title, blocks),
        "trials.csv": found.frame.to_csv(index=False),
        "proposals.csv": _proposals(found).to_csv(index=False),
        "best_of_k.csv": _curves(found).to_csv(index=False),
        "differences.csv": contrasts(found.frame, METRIC).to_csv(index=False) if found.fresh else "",
        "recipe.py": recipe(found),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        write_atomically(folder / name, content.encode())
    journal = found.root / "searches" / search.name / found.plan.workload.replace("/", "-") / "optuna.journal"
    spaces = {name: (found.plan.spaces[name], outcomes) for name, outcomes in found.outcomes.items()}
    write_journal(journal, {f"{search.name} {found.plan.workload} {name}": part for name, part in spaces.items()})
    return [*(folder / name for name in contents), *drawn, journal]


def recipe(found: Found) -> str:
    """The winners as a recipe has them: for `optimizers={...}` in `trainables/recipes`."""
    search, plan = found.plan.search, found.plan
    lines = [
        f"# {plan.workload}, tuned by studies/{search.name}.py: the best of {search.budget} configurations each "
        f"({search.sampler}, seed {search.tuning_seed}),",
        f"# by the accuracy on {1 - TRAIN_FRACTION:.0%} of the training set that was held out.",
        "optimizers = {",
    ]
    stated = stated_recipe(plan.workload)
    for name, winner in found.winners.items():
        values = {**stated.hyperparameters(name), **plan.fresh(name)[0].arm.overrides, **winner.proposal.parameters}
        lines.append(f'    "{name}": {json.dumps(values)},'.replace("true", "True").replace("false", "False"))
    return "\n".join([*lines, "}"]) + "\n"


def console_table(found: Found) -> ConsoleTable:
    """The winners' table for a terminal of 80 columns."""
    if not found.fresh:
        return ConsoleTable(title="No search has ended yet: there is no winner to train", width=80)
    return report.console_table(found.plan.search.as_study, found.frame)


def to_json(found: Found) -> str:
    """One line of JSON: the search, and a record for each optimizer."""
    records = []
    for row in _ledger(found):
        shrunk = found.shrinkage(row["optimizer"])
        fresh = {} if shrunk is None else {"fresh": vars(shrunk.fresh), "shrinkage": shrunk.shrinkage}
        records.append({**row, **fresh})
    document_ = {"search": found.plan.search.name, "workload": found.plan.workload, "optimizers": _finite(records)}
    return json.dumps(document_)


def _finite(value: Any) -> Any:
    """Without nan, which is no JSON."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# ---------------------------------------------------------------------- the blocks


def _blocks(found: Found, pictures: Sequence[str]) -> list[Block]:
    search = found.plan.search
    facts = {"Artefact": search.citation, "Claim": search.claim, "Falsifier": search.falsifier}
    fresh = protocol.paragraphs(search, found.fresh) if found.fresh else []
    return [
        *(Text(text, label=name) for name, text in facts.items()),
        *fresh,
        Heading("Results"),
        *_results(found),
        Heading("The search"),
        _search(found),
        Text(_search_note(found), note=True),
        *(Picture(name, "the best validation accuracy of k configurations") for name in pictures),
        *_budgets(found),
        Heading("The recipe"),
        Text("For `trainables/recipes`, also in `recipe.py`:", items=tuple(_recipe_lines(found))),
        Text(report.provenance(found.frame), note=True),
    ]


def _results(found: Found) -> list[Block]:
    if not found.fresh:
        return [Text("No search has ended yet: there is no winner to train.")]
    best, rows = bold(found.frame, METRIC), group(found.frame, METRIC).to_dict("records")
    cells = []
    for row in rows:
        missing = ", ".join(f"{row[status]} of {row['planned']} {status}" for status in UNFINISHED if row[status])
        interval = SHOW.interval(row["ci_lo"], row["ci_hi"])
        cells.append(
            [row["arm"], str(row["n"]), SHOW.show(row["mean"]), SHOW.show(row["sd"]), interval, missing or "-"]
        )
    table = Table(
        name=found.plan.search.name,
        header=["optimizer", "n", SHOW.mean, "sd", "95% t-interval", "not completed"],
        rows=cells,
        text=(0, 5),
        bold={(i, 2) for i, row in enumerate(rows) if row["arm"] in best},
        caption=f"{found.plan.search.title}: last-epoch test accuracy of each winner under fresh seeds.",
    )
    note = (
        "Last-epoch test accuracy in percent of each search's winner, trained on the whole training set under seeds that "
        "the search did not use: mean over n seeds with its 95% Student t interval. Bold: beats another and is beaten by "
        f"none, paired by seed, Holm over all pairs at 5%. {sections.power(found.frame, METRIC)}"
    )
    return [table, Text(note.strip(), note=True)]


def _ledger(found: Found) -> list[dict[str, Any]]:
    """What each optimizer's search took and found."""
    rows = []
    for proposer in found.proposers:
        outcomes, winner = found.outcomes[proposer.optimizer], found.winners.get(proposer.optimizer)
        counts = Counter(one.status for one in outcomes)
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
                "seconds": sum(one.seconds for one in outcomes),
            }
        )
    return rows


def _search(found: Found) -> Table:
    header = ["optimizer", "tuned: the winner's (space)", "budget", "failed", "stopped", "to go", "tuning score %"]
    rows = []
    for row in _ledger(found):
        space, shrunk = found.plan.spaces[row["optimizer"]], found.shrinkage(row["optimizer"])
        tuned = [f"{name} {row['parameters'].get(name, '-')} ({domain})" for name, domain in space.items()]
        counts = [str(row[name]) for name in ("budget", "failed", "stopped", "in flight")]
        gone = math.nan if shrunk is None else shrunk.shrinkage
        interval = "-" if shrunk is None else SHOW.interval(shrunk.ci_lo, shrunk.ci_hi, signed=True)
        cells = [row["optimizer"], ", ".join(tuned), *counts, SHOW.show(row["score"])]
        rows.append([*cells, SHOW.show(gone, signed=True), interval, duration(row["seconds"])])
    return Table(
        name=f"{found.plan.search.name}-search",
        header=[*header, "shrinkage", "95%", "trained for"],
        rows=rows,
        text=(0, 1),
        muted=(6,),
        caption=f"{found.plan.search.title}: the search; a tuning score is no result.",
    )


def _search_note(found: Found) -> str:
    search = found.plan.search
    sentences = [
        f"{search.budget} configurations for each optimizer ({search.sampler}), the recipe's own values first; failed and "
        "diverged ones count.",
        f"Tuning score: last-epoch accuracy on the tenth of the training set that was held out, seed {search.tuning_seed}; "
        "of equal ones the lower loss won. It was chosen for being high, so it is no result.",
        "Shrinkage: tuning score - mean test accuracy of the fresh trials, in points, with the 95% t-interval that the "
        "fresh seeds' spread gives; another data set and more data to train on are in it, too.",
        "Trained for: training and evaluation, all configurations of the search added, trials side by side on one "
        f"machine: {_devices(found)}-seconds, not comparable between machines.",
        "A driver that was killed goes on with its proposals; with one trial at a time they are bitwise those of a driver "
        "that was not.",
    ]
    if search.asha:
        sentences.append("ASHA stopped what fell behind; its rungs start empty when a driver starts anew.")
    return " ".join(sentences)


def _devices(found: Found) -> str:
    devices = {"CPU" if name == "cpu" else "GPU" for name in found.frame["device"].dropna()} or {"CPU"}
    return "/".join(sorted(devices))


def _budgets(found: Found) -> list[Block]:
    """What the curve of the best of k says in words, and how far to trust it."""
    search, names, items = found.plan.search, list(found.curves), []
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            for one, other in ((first, second), (second, first)):
                if k := overtakes(found.curves[one], found.curves[other]):
                    items.append(f"`{one}` is ahead of `{other}` " + ("at every k" if k == 1 else f"from k = {k} on"))
    words = (
        "The expected best validation accuracy of k of the configurations, drawn without replacement, with the band that "
        "holds 90% of the draws: exact, by order statistics. Failed and stopped configurations have no score."
    )
    if search.sampler not in EXCHANGEABLE or search.asha:
        how = f"{search.sampler}{' with ASHA' if search.asha else ''}"
        words += (
            f" The configurations of {how} are not exchangeable, later ones being chosen by earlier ones: a curve shows "
            "what these were worth, not what a smaller budget would have found (`--sampler random` does)."
        )
    return [Heading("Best of k"), Text(words, items=tuple(items))]


def _recipe_lines(found: Found) -> list[str]:
    return [f"`{line.strip()}`" for line in recipe(found).splitlines() if line.startswith("    ")]


# ---------------------------------------------------------------------- the files


def _proposals(found: Found) -> pd.DataFrame:
    names = list(dict.fromkeys(name for space in found.plan.spaces.values() for name in space))
    rows = []
    for optimizer, outcomes in found.outcomes.items():
        for one in outcomes:
            stopped = None if one.proposal.stopped is None else one.proposal.stopped["stopped_at"]
            values = {name: one.proposal.parameters.get(name) for name in names}
            facts = {"status": one.status, "stopped_at": stopped, "val/accuracy": one.score, "val/loss": one.loss}
            identity = {"seconds": one.seconds, "trial_key": one.proposal.trial_key}
            rows.append({"optimizer": optimizer, "number": one.proposal.number, **values, **facts, **identity})
    return pd.DataFrame(rows)


def _curves(found: Found) -> pd.DataFrame:
    parts = [curve.assign(optimizer=name) for name, curve in found.curves.items()]
    return pd.concat(parts) if parts else pd.DataFrame()
