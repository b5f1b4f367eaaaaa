"""The report of a probe. Equal output folders give byte-identical reports."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

import pandas as pd

from studies.harness.design.arms import Trial
from studies.harness.design.result import Report
from studies.harness.evidence.ledger import PROVENANCE
from studies.harness.evidence.metrics import words
from studies.harness.evidence.status import NOT_RUN
from studies.harness.kinds.probe import folder
from studies.harness.kinds.probe.folder import Result
from studies.harness.kinds.probe.plan import ProbePlan
from studies.harness.kinds.probe.probe import Probe
from studies.harness.report import document, protocol
from studies.harness.report.document import Block, Heading, Picture, Text
from trainables.store import COMPLETED
from trainables.workloads import workload


def report(plan: ProbePlan) -> Report:
    """Write `report.md`, `report.html`, `report.tex`, `numbers.csv` and the figure."""
    probe, measurement = plan.artefact, plan.artefact.measurement
    by_seed = folder.results(probe, plan.trials, plan.root)
    results = [by_seed[trial.config.seed] for trial in plan.trials if trial.config.seed in by_seed]
    complete = [result for result in results if result.status["status"] == COMPLETED]
    plan.folder.mkdir(parents=True, exist_ok=True)
    numbers = measurement.code.numbers(measurement, complete) if complete else pd.DataFrame()
    drawn = measurement.code.draw(complete, plan.folder) if complete else []
    pictures = [path.stem for path in drawn if path.suffix == ".svg"]
    blocks = _blocks(probe, plan.trials, results, numbers, pictures)
    rows = json.loads(numbers.to_json(orient="records") or "[]")
    tables = {"numbers.csv": numbers.to_csv(index=False)}
    return Report(
        files=document.write(plan.folder, probe.title, blocks, drawn, tables),
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
    measured: list[Block] = []
    if not numbers.empty:
        blocks = probe.measurement.code.blocks(probe.measurement, numbers)
        measured = [Heading("Numbers"), *blocks]
    return [
        *protocol.facts(probe),
        protocol.section(probe, trials),
        Text(_networks(trials, results), label="Networks"),
        *(Picture(name, f"{probe.title} ({probe.citation})") for name in pictures),
        *measured,
        Text(_provenance(results), note=True),
    ]


def _networks(trials: Sequence[Trial], results: Sequence[Result]) -> str:
    """Return `3 of 3 completed; test accuracy after the last epoch: 98.50%, 98.33%, 98.67%.`"""
    metric = workload(trials[0].config.workload).task.headline
    statuses = Counter(str(result.status["status"]) for result in results)
    statuses[NOT_RUN] = len(trials) - len(results)
    counts = ", ".join(
        f"{count} of {len(trials)} {status}" for status, count in statuses.items() if count
    )
    completed = [result for result in results if result.status["status"] == COMPLETED]
    name = f"test/{metric.name}"
    scores = ", ".join(metric.show(result.status["metrics"][name]) for result in completed)
    reasons = [f"seed {r.seed}: {r.status['reason']}" for r in results if "reason" in r.status]
    ends = f"; {words(name)} after the last epoch: {scores}" if scores else ""
    return ". ".join([f"{counts}{ends}", *reasons]) + "."


def _provenance(results: Sequence[Result]) -> str:
    values = {
        name: dict.fromkeys(str(result.status.get(name)) for result in results)
        for name in PROVENANCE
    }
    parts = [f"{name} {', '.join(texts) or 'unknown'}" for name, texts in values.items()]
    return "Provenance: " + "; ".join(parts) + "."
