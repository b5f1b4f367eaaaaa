"""A probe's report: the figure, the numbers, and which networks were watched. Equal folders give equal bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from studies.harness.evidence.ledger import NOT_RUN, PROVENANCE
from studies.harness.kinds.probe.probe import Probe, Result
from studies.harness.kinds.study.study import Trial
from studies.harness.report import document, protocol
from studies.harness.report.document import Block, Heading, Picture, Text
from trainables.store import COMPLETED
from trainables.train import score


def write(
    probe: Probe, trials: Sequence[Trial], results: Mapping[int, Result], folder: Path
) -> tuple[list[Path], list[str], pd.DataFrame]:
    """Write `report.md`, `report.html`, `report.tex`, `numbers.csv` and the figure.

    Args:
        probe: As the command line has set it.
        trials: A network each.
        results: What there is, by seed.
        folder: Where to write.

    Returns:
        The files, what was found, a sentence each, and the numbers; empty where no network has been trained to the end.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wanted = [results[trial.config.seed] for trial in trials if trial.config.seed in results]
    complete = [result for result in wanted if result.status["status"] == COMPLETED]
    numbers = probe.measurement.numbers(complete) if complete else pd.DataFrame()
    drawn = probe.measurement.draw(complete, folder) if complete else []
    blocks = _blocks(probe, trials, wanted, numbers, [path.stem for path in drawn if path.suffix == ".svg"])
    files = {"numbers.csv": numbers.to_csv(index=False)}
    paths, findings = document.write(folder, probe.title, blocks, drawn, files)
    return [*paths, *drawn], findings, numbers


def _blocks(
    probe: Probe, trials: Sequence[Trial], results: Sequence[Result], numbers: pd.DataFrame, pictures: Sequence[str]
) -> list[Block]:
    facts = {"Artefact": probe.citation, "Claim": probe.claim, "Falsifier": probe.falsifier}
    measured = [] if numbers.empty else [Heading("Numbers"), *probe.measurement.blocks(numbers)]
    return [
        *(Text(text, label=name) for name, text in facts.items()),
        *protocol.paragraphs(probe, trials),
        Text(_networks(trials, results), label="Networks"),
        *(Picture(name, f"{probe.title} ({probe.citation})") for name in pictures),
        *measured,
        Text(_provenance(results), note=True),
    ]


def _networks(trials: Sequence[Trial], results: Sequence[Result]) -> str:
    """`3 of 3 completed; accuracy of the last epoch 98.50, 98.33 and 98.67 %.`"""
    statuses = Counter(str(result.status["status"]) for result in results)
    statuses[NOT_RUN] = len(trials) - len(results)
    counts = ", ".join(f"{count} of {len(trials)} {status}" for status, count in statuses.items() if count)
    scores = [f"{score(r.status['metrics']):.2%}" for r in results if r.status["status"] == COMPLETED]
    reasons = [f"seed {r.seed}: {r.status['reason']}" for r in results if "reason" in r.status]
    after = f"; test accuracy after the last epoch {', '.join(scores)}" if scores else ""
    return ". ".join([f"{counts}{after}", *reasons]) + "."


def _provenance(results: Sequence[Result]) -> str:
    found = {name: dict.fromkeys(str(result.status.get(name)) for result in results) for name in PROVENANCE}
    parts = [f"{name} {', '.join(values) or 'unknown'}" for name, values in found.items()]
    return "Provenance: " + "; ".join(parts) + "."
