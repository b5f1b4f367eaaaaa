"""A study's report in its formats, and the terminal's table. Equal folders give equal bytes: no dates, no paths."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich import box
from rich.table import Table as ConsoleTable

from studies.harness.evidence.contrasts import bold, contrasts
from studies.harness.evidence.ledger import PROVENANCE
from studies.harness.evidence.statistics import BEST, SECONDS, UNFINISHED, group
from studies.harness.kinds.study.study import Study, Trial
from studies.harness.kinds.target.report import Added
from studies.harness.report import differences, document, protocol, sections
from studies.harness.report.document import Block, Heading, Picture, Table, Text, Written
from studies.harness.report.wording import few, unit

SECONDS_LABEL = "s/epoch (co-located)"
HOLM = "paired by seed, Holm over all pairs at 5%"
NOTHING = Added()


def write(
    study: Study,
    trials: Sequence[Trial],
    frame: pd.DataFrame,
    folder: Path,
    drawn: Sequence[Path] = (),
    *,
    added: Added = NOTHING,
) -> Written:
    """Write the report; returns its files and findings.

    `report.md`, `report.html` (one file, figures inside), `report.tex` (the tables), and at full precision
    `trials.csv`, `arms.csv`, `differences.csv` (every pair of arms), and `published.csv` where the paper has numbers.

    Args:
        study: The study.
        trials: Its planned trials.
        frame: `ledger.frame(trials, ...)`.
        folder: Where to write.
        drawn: What `figures` has drawn into the same folder; the report shows those that are there as .svg.
        added: What this kind of study has beyond that.
    """
    pictures = [path.stem for path in drawn if path.suffix == ".svg"]
    published, comparisons = sections.published(study, trials, frame, added.measured)
    blocks = [
        *_blocks(study, trials, frame, pictures),
        *added.blocks,
        *published,
        Text(provenance(frame), note=True),
    ]
    files = {
        "trials.csv": frame.to_csv(index=False),
        "arms.csv": _arms(study, frame).to_csv(index=False),
        "differences.csv": contrasts(frame, study.figure.metric).to_csv(index=False),
        **added.files,
    }
    if comparisons:
        files["published.csv"] = sections.comparison_table(comparisons).to_csv(index=False)
    return document.write(folder, study.title, blocks, drawn, files)


def to_json(study: Study, frame: pd.DataFrame) -> str:
    """The report's table as one line of JSON: the study, and a record for each arm."""
    return json.dumps({"study": study.name, "arms": json.loads(_arms(study, frame).to_json(orient="records") or "[]")})


def console_table(study: Study, frame: pd.DataFrame) -> ConsoleTable:
    """The report's table for a terminal of 80 columns."""
    show, arms = unit(study.figure.metric), _arms(study, frame).to_dict("records")
    caption = (
        f"last-epoch {_words(study)} over n seeds, 95% Student t interval; bold: beaten by none (Holm); "
        "best: the best epoch on test, no result"
    )
    table = ConsoleTable(title=study.title, caption=caption, box=box.SIMPLE_HEAD, width=80, collapse_padding=True)
    table.add_column("arm")
    for name in ("n", show.mean, "sd", "95% t-interval"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("best", justify="right", style="dim", no_wrap=True)
    noted = any(map(_notes, arms))
    if noted:
        table.add_column("not completed", style="yellow")
    for arm in arms:
        name, n, mean, sd, interval, *_ = _cells(study, arm)
        mean = f"[bold]{mean}[/]" if arm["bold"] else mean
        # rich would read the interval's bracket as a style
        cells = [name, n, mean, sd, interval.replace("[", "\\["), show.show(arm[BEST])]
        table.add_row(*cells, *([_notes(arm)] if noted else []))
    return table


def _arms(study: Study, frame: pd.DataFrame) -> pd.DataFrame:
    """`statistics.group` with the column `bold`."""
    table, best = group(frame, study.figure.metric), bold(frame, study.figure.metric)
    return table.assign(bold=[arm in best for arm in table["arm"]])


def _blocks(study: Study, trials: Sequence[Trial], frame: pd.DataFrame, pictures: Sequence[str]) -> list[Block]:
    metric = study.figure.metric
    facts = {"Artefact": study.citation, "Claim": study.claim, "Falsifier": study.falsifier}
    return [
        *(Text(text, label=name) for name, text in facts.items()),
        *protocol.paragraphs(study, trials),
        *(Picture(name, f"{_words(study)}: {name.replace('_', ' ')}") for name in pictures),
        Heading("Results"),
        _table(study, frame),
        Text(_caption(study, frame), note=True),
        *_unbeaten(study, frame),
        *differences.differences(study, trials, frame),
        *sections.levels(frame, metric),
        *sections.stability(study, frame),
    ]


def _unbeaten(study: Study, frame: pd.DataFrame) -> list[Block]:
    """Which arms are bold, in words; nothing where arms with lost trials, which never are, beat the others."""
    arms = _arms(study, frame)
    if max(arms["n"]) < 2:
        return [Text("Fewer than two completed seeds: no arm can be told from another.", found=True)]
    if names := list(arms.loc[arms["bold"], "arm"]):
        return [Text(f"Better than some arm and worse than none: {few(names)} ({HOLM}).", found=True)]
    if set(frame["status"]) & set(sections.LOST):
        return []
    return [Text(f"No arm is told from another ({HOLM}).", found=True)]


def _table(study: Study, frame: pd.DataFrame) -> Table:
    arms = _arms(study, frame).to_dict("records")
    header = ["arm", "n", unit(study.figure.metric).mean, "sd", "95% t-interval", "best epoch on test", SECONDS_LABEL]
    rows = [_cells(study, arm) for arm in arms]
    if any(map(_notes, arms)):
        header, rows = [*header, "not completed"], [[*_cells(study, arm), _notes(arm)] for arm in arms]
    return Table(
        name=study.name,
        header=header,
        rows=rows,
        text=(0, 7),
        muted=(5, 6),
        bold={(i, 2) for i, arm in enumerate(arms) if arm["bold"]},
        caption=f"{study.title}: last-epoch {_words(study)}, mean over n seeds with its 95% t-interval.",
    )


def _cells(study: Study, arm: Mapping[Any, Any]) -> list[str]:
    """arm, n, mean, sd, interval, best epoch with its optimism, seconds; a dash where there is nothing to say."""
    show = unit(study.figure.metric)
    interval = show.interval(arm["ci_lo"], arm["ci_hi"])
    optimism = arm[BEST] - arm["mean"]
    best = "-" if math.isnan(optimism) else f"{show.show(arm[BEST])} ({show.show(optimism, signed=True)})"
    seconds = "-" if math.isnan(arm[SECONDS]) else f"{arm[SECONDS]:.2f}"
    return [arm["arm"], str(arm["n"]), show.show(arm["mean"]), show.show(arm["sd"]), interval, best, seconds]


def _notes(arm: Mapping[Any, Any]) -> str:
    """What became of the planned trials that are not in the mean: `1 of 5 diverged`."""
    return ", ".join(f"{arm[status]} of {arm['planned']} {status}" for status in UNFINISHED if arm[status])


def _words(study: Study) -> str:
    return study.figure.metric.replace("/", " ")


def _caption(study: Study, frame: pd.DataFrame) -> str:
    sizes = list(group(frame, study.figure.metric)["n"])
    n = f"n = {sizes[0]}" if min(sizes) == max(sizes) else f"n between {min(sizes)} and {max(sizes)}"
    percent = " in percent" if "accuracy" in study.figure.metric else ""
    sentences = [
        f"Last-epoch {_words(study)}{percent}: mean and sample standard deviation over seeds ({n} completed per arm; "
        "other trials are counted, never averaged), with the 95% Student t interval of the mean.",
        sections.power(frame, study.figure.metric),
        "Bold: beats another arm and is beaten by none, paired by seed, Holm over all pairs at 5%; an arm with "
        "diverged trials never is.",
        "Best epoch on test: the best test value of each run, and its optimism over the last epoch; chosen on the test "
        "set, so no result.",
        "Seconds are the last epoch's, measured beside other trials on the same machine: not comparable between arms.",
    ]
    return " ".join(filter(None, sentences))


def provenance(frame: pd.DataFrame) -> str:
    """With what the trials of a `frame` were trained, and where that is mixed."""
    parts = []
    for name in PROVENANCE:
        counts = frame[name].dropna().value_counts().sort_index()
        values = [f"{value} ({count} trials)" if len(counts) > 1 else str(value) for value, count in counts.items()]
        parts.append(f"{name} {'mixed: ' if len(counts) > 1 else ''}{', '.join(values) or 'unknown'}")
    return "Provenance: " + "; ".join(parts) + "."
