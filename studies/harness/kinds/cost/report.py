"""The report of a cost study on one hardware, with a comparison with the published costs."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from precond.registry import name_error
from studies.harness.design.arms import Arm, Trial
from studies.harness.design.facts import Facts
from studies.harness.design.result import Report
from studies.harness.evidence import costs as step_costs
from studies.harness.evidence.claims import decide
from studies.harness.evidence.costs import Cost
from studies.harness.evidence.metrics import number
from studies.harness.kinds.cost.cost import CostStudy
from studies.harness.kinds.cost.plan import CostPlan
from studies.harness.published.papers import Cell, cells_of
from studies.harness.published.results import against
from studies.harness.published.verdicts import Measured, configuration, flat
from studies.harness.report import claims, document, protocol, sections
from studies.harness.report import costs as commands
from studies.harness.report.document import Block, Heading, Picture, Table, Text
from trainables.cost import files as cost_files
from trainables.cost.intervals import Median
from trainables.workloads import resolve

MIB = 2**20
TIME = "time_relative_to_sgd"  # the metric of the claims
BLOCKS = (
    "In the decisions on the claims, a block of steps takes the place of a seed: a value is the time "
    "of a step relative to SGD in the same block. All blocks of an optimizer are measured in one "
    "process, so the decisions do not include differences between processes or machines. A file "
    "that was written before files contained their blocks cannot decide a claim; measure it again."
)


def frame(results: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return a row for each result: ratios of times, shares of a step of SGD, memory."""
    return pd.DataFrame([_row(result) for result in results])


def _row(result: Mapping[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {"optimizer": label(result["configuration"])}
    for base, comparison in result["against"].items():
        row |= {
            f"time / {base}" + (f" {end}" if end else ""): comparison["ratio"][end or "median"]
            for end in ("", "low", "high")
        }
    row |= {
        f"{part} / sgd": share["median"]
        for part, share in result["against"]["sgd"]["shares"].items()
    }
    memory, sgd = result["memory"], result["sgd_memory"]
    row["peak memory / sgd"] = memory["peak_bytes"] / sgd["peak_bytes"]
    row["algorithm state MiB"] = memory["state_bytes"]["algorithm"] / MIB
    row["gradient buffer MiB"] = memory["state_bytes"]["gradient_buffer"] / MIB
    row["momentum MiB"] = memory["state_bytes"]["rule"] / MIB
    return row | {"seconds per step": result["step_seconds"]["median"]}


def label(configuration: Mapping[str, Any]) -> str:
    """Return the optimizer and its settings as text, such as `kfac as-released damping=1.0`.

    The text has the variant that is nearest to the configuration, and the hyperparameters in which
    the configuration differs from this variant.
    """
    name, workload = configuration["optimizer"], configuration["workload"]
    if name_error(name):  # the code released with the paper
        return name
    measured, differing = configuration["hyperparameters"], {}
    for variant, as_released in ((name, False), (f"{name} as-released", True)):
        config = resolve(workload, name, as_released=as_released)
        arm = cost_files.configuration(workload, name, config.hyperparameters, config.batch_size)
        values = arm["hyperparameters"]
        differing[variant] = [
            f"{key}={value}" for key, value in measured.items() if values.get(key) != value
        ]
    variant = min(differing, key=lambda variant: len(differing[variant]))
    return " ".join([variant, *differing[variant]])


def report(plan: CostPlan) -> Report:
    """Write the report, its CSV files and the figure of Table 1, if Table 1 was measured."""
    from studies.harness.report.figures.theory import draw_scaling

    study, results = plan.artefact, plan.results
    path = plan.measured_on / "scaling.json"
    scaling = json.loads(path.read_text()) if path.exists() else None
    drawn = draw_scaling(scaling, plan.folder) if scaling is not None else []
    cells = cost_cells(study)
    published = against(study, measured(cells, plan.measured_on), {plan.workload})
    missing = commands.missing(_unmeasured(cells, plan.measured_on))
    decisions = decide(study.claims_on(plan.workload), ratios(results), TIME)
    blocks = [
        *claims.section(decisions, study.undecidable, TIME),
        Text(BLOCKS, note=True),
        *_blocks(study, results, scaling),
        *sections.coverage_line(published),
        *sections.published(published),
        *missing,
    ]
    rows, records = frame(results), claims.records(decisions)
    files = {**claims.files(decisions), "cost.csv": rows.to_csv(index=False)}
    files |= sections.published_files(published)
    identity = {"cost": study.name, "workload": plan.workload}
    return Report(
        files=document.write(plan.folder, study.title, blocks, drawn, files),
        claims=records,
        findings=document.findings(blocks),
        record=json.dumps({**identity, "claims": records, "results": results}),
        metrics={
            f"time / sgd/{row['optimizer']}": float(row["time / sgd"])
            for row in rows.to_dict("records")
        },
    )


def ratios(results: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return the values that claims compare: a row for each block, a column for each label.

    A value is the time of a step relative to SGD in the same block. A result that an earlier version
    measured does not contain its blocks, and its column contains nan.
    """
    blocks = {
        label(result["configuration"]): pd.Series(
            result["against"]["sgd"].get("ratios", []), dtype=float
        )
        for result in results
    }
    return pd.DataFrame(blocks)


COSTS: dict[str, Callable[[Cost], Median]] = {
    "time/ratio": lambda cost: cost.ratio,
    "time/epoch": lambda cost: cost.epoch,
    "mem/ratio": lambda cost: Median(cost.memory, cost.memory, cost.memory),
    "mem/peak": lambda cost: Median(cost.peak, cost.peak, cost.peak),
}


def cost_cells(study: Facts) -> list[Cell]:
    """Return the published costs in the tables of a study."""
    return [cell for cell in cells_of(study) if cell.metric in COSTS]


def measured(cells: Iterable[Cell], folder: Path) -> list[Measured]:
    """Return the measured costs to compare with published costs.

    A measured configuration must match the published one exactly. On a CPU, the measured memory is that of
    the whole process, so it is not compared with published numbers.

    Args:
        cells: The published costs.
        folder: The folder of the results on one hardware.
    """
    results = []
    for cell in cells:
        config = configuration(cell)
        cost = step_costs.find(config, folder)
        if cost is None or (cell.metric.startswith("mem/") and not cost.device_memory):
            continue
        results.append(
            Measured(
                label=Arm(optimizer=cell.optimizer, as_released=cell.as_released).label,
                optimizer=cell.optimizer,
                settings={**flat(config.to_dict()), "hardware": cost.hardware},
                metric=cell.metric,
                values={},
                median=COSTS[cell.metric](cost),
            )
        )
    return results


def _unmeasured(cells: Iterable[Cell], folder: Path) -> list[Trial]:
    """Return a trial for each published cost whose configuration has no result in the folder."""
    arms = [
        Trial(Arm(optimizer=cell.optimizer, as_released=cell.as_released), configuration(cell))
        for cell in cells
    ]
    return [trial for trial in arms if step_costs.find(trial.config, folder) is None]


def _blocks(
    study: CostStudy, results: Sequence[Mapping[str, Any]], scaling: Mapping[str, Any] | None
) -> list[Block]:
    first = results[0]["configuration"]
    fixed = {"workload": first["workload"], "batch_size": first["batch_size"], **_common(results)}
    words = ", ".join(f"{key}: {value}" for key, value in fixed.items())
    conditions = Text(words, label="Fixed settings")
    records = frame(results).to_dict("records")
    table = Table(
        name=study.name,
        header=["optimizer", *COLUMNS],
        rows=[
            [str(row["optimizer"]), *(show(row) for show in COLUMNS.values())] for row in records
        ],
        caption=f"{study.title}: {first['workload']}, batch size {first['batch_size']}.",
    )
    note = (
        "Ratios of times are medians over blocks, in which the steps of both optimizers alternate, "
        "with 95% intervals. Apply, statistics and refresh: additional time, as a fraction of the "
        "time of a step of SGD. Each peak memory is measured in a separate process. As-released: "
        "with the conventions of the paper's released code."
    )
    ratios = ", ".join(f"{row['optimizer']} {row['time / sgd']:.2f}" for row in records)
    verdict = Text(f"Time of a step relative to SGD: {ratios}.", finding=True)
    blocks = [*protocol.facts(study), conditions, verdict, table, Text(note, note=True)]
    return blocks if scaling is None else [*blocks, *_table_1(scaling)]


def _table_1(scaling: Mapping[str, Any]) -> list[Block]:
    """Return the section on Table 1: measured exponents, and the exponents of the cost formulas."""
    rows = [
        [name, axis, f"{sweep['exponent']:.2f}", f"{sweep['closed_form_exponent']:.2f}"]
        for axis in ("p", "r")
        for name, sweep in scaling[axis].items()
    ]
    header = ["part", "over", "exponent", "closed form"]
    table = Table(
        name="scaling",
        header=header,
        rows=rows,
        text=(0, 1),
        caption=(
            "Exponents with which the cost of each part grows over p or r: measured, and in the "
            "closed form of the cost."
        ),
    )
    return [
        Heading("Measured exponents of Table 1"),
        table,
        Picture("scaling", "the cost over p and over r"),
    ]


COLUMNS: dict[str, Callable[[Mapping[Any, Any]], str]] = {
    "time / sgd": lambda row: _ratio(row, "time / sgd"),
    "time / adam": lambda row: _ratio(row, "time / adam"),
    "apply": lambda row: _share(row, "apply / sgd"),
    "statistics": lambda row: _share(row, "statistics / sgd"),
    "refresh": lambda row: _share(row, "refresh / sgd"),
    "peak memory / sgd": lambda row: f"{row['peak memory / sgd']:.3f}",
    "state MiB": lambda row: f"{row['algorithm state MiB']:.2f}",
    "buffer MiB": lambda row: f"{row['gradient buffer MiB']:.2f}",
    "ms per step": lambda row: f"{1e3 * row['seconds per step']:.1f}",
}


def _ratio(row: Mapping[Any, Any], name: str) -> str:
    if row.get(name) is None or math.isnan(row[name]):
        return "-"
    return f"{row[name]:.3f} [{row[name + ' low']:.3f}, {row[name + ' high']:.3f}]"


def _share(row: Mapping[Any, Any], name: str) -> str:
    return number(math.nan if row.get(name) is None else row[name], "+.1%")


def _common(results: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the conditions of the results by name. If results differ, all values are listed."""
    names = results[0]["conditions"]
    return {
        name: " / ".join(dict.fromkeys(str(result["conditions"].get(name)) for result in results))
        for name in names
    }
