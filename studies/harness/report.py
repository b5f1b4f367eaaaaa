"""A study's tables: `report.md`, `trials.csv`, the terminal's. Equal folders give equal bytes: no dates, no paths."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich import box
from rich.table import Table

from studies.harness import protocol
from studies.harness.ledger import PROVENANCE
from studies.harness.statistics import SECONDS, UNFINISHED, completed, group
from studies.harness.study import Study, Trial
from trainables.files import write_atomically

SECONDS_LABEL = "train s per epoch (co-located, descriptive)"


def write(study: Study, trials: Sequence[Trial], frame: pd.DataFrame, folder: Path) -> list[Path]:
    """Write `report.md` and `trials.csv` (one row per trial, full precision) and return their paths.

    Args:
        study: The study.
        trials: Its planned trials.
        frame: `ledger.frame(trials, ...)`.
        folder: Where to write; `figures.draw` puts the figure that the report shows into the same folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    contents = {"report.md": _markdown(study, trials, frame), "trials.csv": frame.to_csv(index=False)}
    for name, content in contents.items():
        write_atomically(folder / name, content.encode())
    return [folder / name for name in contents]


def to_json(study: Study, frame: pd.DataFrame) -> str:
    """The report's table as one line of JSON: the study, and a record for each arm."""
    records = group(frame, study.figure.metric).to_json(orient="records")
    return json.dumps({"study": study.name, "arms": json.loads(records or "[]")})


def console_table(study: Study, frame: pd.DataFrame) -> Table:
    """The report's table for a terminal of 80 columns."""
    caption = f"last-epoch {_words(study)} over n seeds, 95% Student t interval; {SECONDS_LABEL}"
    table = Table(title=study.title, caption=caption, box=box.SIMPLE_HEAD, width=80, collapse_padding=True)
    table.add_column("arm", no_wrap=True)
    for name in ("n", "mean %", "sd", "95% t-interval"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("s/epoch", justify="right", style="dim", no_wrap=True)
    arms = group(frame, study.figure.metric).to_dict("records")
    noted = any(map(_notes, arms))
    if noted:
        table.add_column("not completed", style="yellow")
    for arm in arms:
        table.add_row(*_cells(arm), *([_notes(arm)] if noted else []))
    return table


def _markdown(study: Study, trials: Sequence[Trial], frame: pd.DataFrame) -> str:
    facts = {"Artefact": study.artefact, "Claim": study.claim, "Falsifier": study.falsifier}
    paragraphs = [f"# {study.title}", *(f"**{name}.** {text}" for name, text in facts.items())]
    paragraphs += protocol.paragraphs(trials)
    if len(completed(frame, study.figure.metric)):  # otherwise nothing is drawn
        factor = study.figure.factor
        paragraphs.append(f"![{_words(study)} over {factor}]({factor}.png)")
    paragraphs += [_table(study, frame), _caption(study, frame), _provenance(frame)]
    return "\n\n".join(paragraphs) + "\n"


def _table(study: Study, frame: pd.DataFrame) -> str:
    arms = group(frame, study.figure.metric).to_dict("records")
    header = ["arm", "n", "mean %", "sd", "95% t-interval", SECONDS_LABEL]
    rows = [_cells(arm) for arm in arms]
    if any(map(_notes, arms)):
        header, rows = [*header, "not completed"], [[*_cells(arm), _notes(arm)] for arm in arms]
    rule = ["---", *["---:"] * 5, "---"][: len(header)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [header, rule, *rows])


def _cells(arm: Mapping[Any, Any]) -> list[str]:
    """arm, n, mean, sd, interval (percent, two decimals) and seconds; a dash where there is nothing to say."""
    interval = "-" if math.isnan(arm["ci_lo"]) else f"[{_percent(arm['ci_lo'])}, {_percent(arm['ci_hi'])}]"
    seconds = "-" if math.isnan(arm[SECONDS]) else f"{arm[SECONDS]:.2f}"
    return [arm["arm"], str(arm["n"]), _percent(arm["mean"]), _percent(arm["sd"]), interval, seconds]


def _percent(fraction: float) -> str:
    return "-" if math.isnan(fraction) else f"{100 * fraction:.2f}"


def _notes(arm: Mapping[Any, Any]) -> str:
    """What became of the planned trials that are not in the mean: `1 of 5 diverged`."""
    return ", ".join(f"{arm[status]} of {arm['planned']} {status}" for status in UNFINISHED if arm[status])


def _words(study: Study) -> str:
    return study.figure.metric.replace("/", " ")


def _caption(study: Study, frame: pd.DataFrame) -> str:
    sizes = list(group(frame, study.figure.metric)["n"])
    n = f"n = {sizes[0]}" if min(sizes) == max(sizes) else f"n between {min(sizes)} and {max(sizes)}"
    return (
        f"*Last-epoch {_words(study)} in percent: mean and sample standard deviation over seeds ({n} completed per "
        "arm; other trials are counted, never averaged), with the 95% Student t interval of the mean. Seconds are the "
        "last epoch's, measured beside other trials on the same machine: not comparable between arms.*"
    )


def _provenance(frame: pd.DataFrame) -> str:
    parts = []
    for name in PROVENANCE:
        counts = frame[name].dropna().value_counts().sort_index()
        values = [f"{value} ({count} trials)" if len(counts) > 1 else str(value) for value, count in counts.items()]
        parts.append(f"{name} {'**mixed**: ' if len(counts) > 1 else ''}{', '.join(values) or 'unknown'}")
    return "Provenance: " + "; ".join(parts) + "."
