"""The report of a probe. Equal output folders give byte-identical reports."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

import pandas as pd

from studies.harness.design.arms import Trial
from studies.harness.design.result import Report
from studies.harness.evidence.claims import decide
from studies.harness.evidence.ledger import PROVENANCE
from studies.harness.evidence.metrics import words
from studies.harness.evidence.status import NOT_RUN
from studies.harness.kinds.probe import folder
from studies.harness.kinds.probe.folder import Result
from studies.harness.kinds.probe.plan import ProbePlan
from studies.harness.kinds.probe.probe import Probe
from studies.harness.report import claims, document, protocol
from studies.harness.report.document import Block, Heading, Picture, Text
from trainables.store import COMPLETED, DIVERGED
from trainables.workloads import workload


def report(plan: ProbePlan) -> Report:
    """Write `report.md`, `.html` and `.tex`, `claims.csv`, `numbers.csv` and the figure."""
    probe, measurement = plan.artefact, plan.artefact.measurement
    code = measurement.code
    results = _results(plan)
    complete = _complete(results)
    plan.folder.mkdir(parents=True, exist_ok=True)
    table = numbers(plan)
    diverged = [result.seed for result in results if result.status["status"] == DIVERGED]
    values = code.values(measurement, table, diverged) if complete else pd.DataFrame()
    decisions = decide(probe.claims_on(plan.workload), values, code.METRIC)
    drawn = code.draw(complete, plan.folder) if complete else []
    pictures = [path.stem for path in drawn if path.suffix == ".svg"]
    blocks = [
        *claims.section(decisions, probe.undecidable, code.METRIC),
        *_blocks(probe, plan.trials, results, table, pictures),
    ]
    rows = json.loads(table.to_json(orient="records") or "[]")
    records = claims.records(decisions)
    tables = {**claims.files(decisions), "numbers.csv": table.to_csv(index=False)}
    return Report(
        files=document.write(plan.folder, probe.title, blocks, drawn, tables),
        claims=records,
        findings=document.findings(blocks),
        record=json.dumps({"probe": probe.name, "claims": records, "numbers": rows}),
        metrics=code.metrics(table) if complete else {},
    )


def numbers(plan: ProbePlan) -> pd.DataFrame:
    """Return the measured numbers of the completed networks."""
    measurement, complete = plan.artefact.measurement, _complete(_results(plan))
    return measurement.code.numbers(measurement, complete) if complete else pd.DataFrame()


def _results(plan: ProbePlan) -> list[Result]:
    """Return the results of the plan's networks, in the order of the plan."""
    by_seed = folder.results(plan.artefact, plan.trials, plan.root)
    return [by_seed[trial.config.seed] for trial in plan.trials if trial.config.seed in by_seed]


def _complete(results: Sequence[Result]) -> list[Result]:
    return [result for result in results if result.status["status"] == COMPLETED]


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
