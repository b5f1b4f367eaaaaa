"""The report of a probe. Equal output folders give byte-identical reports."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

import pandas as pd

from studies.harness.design.arms import Trial
from studies.harness.design.result import Report
from studies.harness.evidence.ledger import PROVENANCE
from studies.harness.evidence.status import NOT_RUN
from studies.harness.kinds.probe import folder
from studies.harness.kinds.probe.folder import Result
from studies.harness.kinds.probe.plan import ProbePlan
from studies.harness.kinds.probe.probe import Probe
from studies.harness.report import document, protocol
from studies.harness.report.document import Block, Heading, Picture, Text
from trainables.store import COMPLETED
from trainables.train import score


def report(plan: ProbePlan) -> Report:
    """Write `report.md`, `report.html`, `report.tex`, `numbers.csv` and the figure."""
    probe, measurement = plan.artefact, plan.artefact.measurement
    known = folder.results(probe, plan.trials, plan.root)
    results = [known[trial.config.seed] for trial in plan.trials if trial.config.seed in known]
    complete = [network for network in results if network.status["status"] == COMPLETED]
    plan.folder.mkdir(parents=True, exist_ok=True)
    numbers = measurement.code.numbers(measurement, complete) if complete else pd.DataFrame()
    drawn = measurement.code.draw(complete, plan.folder) if complete else []
    pictures = [path.stem for path in drawn if path.suffix == ".svg"]
    blocks = _blocks(probe, plan.trials, results, numbers, pictures)
    rows = json.loads(numbers.to_json(orient="records") or "[]")
    return Report(
        files=document.write(
            plan.folder, probe.title, blocks, drawn, {"numbers.csv": numbers.to_csv(index=False)}
        ),
        findings=document.findings(blocks),
        record=json.dumps({"probe": probe.name, "numbers": rows}),
        metrics=measurement.code.metrics(numbers) if complete else {},
    )


def _blocks(
    probe: Probe,
    trials: Sequence[Trial],
    results: Sequence[Result],
    numbers: pd.DataFrame,
    pictures: Sequence[str],
) -> list[Block]:
    measured = (
        []
        if numbers.empty
        else [Heading("Numbers"), *probe.measurement.code.blocks(probe.measurement, numbers)]
    )
    return [
        *protocol.facts(probe),
        *protocol.paragraphs(probe, trials),
        Text(_networks(trials, results), label="Networks"),
        *(Picture(name, f"{probe.title} ({probe.citation})") for name in pictures),
        *measured,
        Text(_provenance(results), note=True),
    ]


def _networks(trials: Sequence[Trial], results: Sequence[Result]) -> str:
    """Return `3 of 3 completed; test accuracy after the last epoch 98.50%, 98.33%, 98.67%.`"""
    statuses = Counter(str(result.status["status"]) for result in results)
    statuses[NOT_RUN] = len(trials) - len(results)
    counts = ", ".join(
        f"{count} of {len(trials)} {status}" for status, count in statuses.items() if count
    )
    scores = [
        f"{score(r.status['metrics']):.2%}" for r in results if r.status["status"] == COMPLETED
    ]
    reasons = [f"seed {r.seed}: {r.status['reason']}" for r in results if "reason" in r.status]
    after = f"; test accuracy after the last epoch {', '.join(scores)}" if scores else ""
    return ". ".join([f"{counts}{after}", *reasons]) + "."


def _provenance(results: Sequence[Result]) -> str:
    values = {
        name: dict.fromkeys(str(network.status.get(name)) for network in results)
        for name in PROVENANCE
    }
    parts = [f"{name} {', '.join(texts) or 'unknown'}" for name, texts in values.items()]
    return "Provenance: " + "; ".join(parts) + "."
