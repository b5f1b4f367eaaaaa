"""The front of the cost benchmark: run it in a process of its own, and make a table and a figure of its files."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import click
import pandas as pd
import torch

from studies.harness import ledger
from studies.harness.cli import SETTINGS, invoke
from studies.harness.run import COMPLETE, refuse
from studies.harness.study import Artefact
from trainables.cost_files import results_folder
from trainables.files import write_atomically

MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class CostStudy(Artefact):
    """A comparison of costs, as `Study` is one of results.

    Attributes:
        workload: Model and image size; the images are synthetic.
        batch_size: Examples per step.
        optimizers: Registered names.
    """

    workload: str
    batch_size: int
    optimizers: tuple[str, ...]


SMOKE = {"workload": "digits/cnn", "optimizers": "sgd,nysact-s", "batch_size": 16, "blocks": 6}
PASSED_ON = ("optimizers", "batch_size", "blocks", "threads", "device", "reference")

FLAGS = [
    click.Option(["--smoke"], is_flag=True, help="Digits, two optimizers and six blocks, in OUT/smoke."),
    click.Option(["--report-only"], is_flag=True, help="Measure nothing; report what is there."),
    click.Option(["--workload"], metavar="NAME", help="Model and image size, instead of the study's own."),
    click.Option(["--optimizers"], metavar="NAME,...", help="Instead of the study's."),
    click.Option(["--batch-size"], type=int, help="Instead of the study's."),
    click.Option(["--set", "settings"], metavar="NAME=VALUE", multiple=True, help="For every optimizer that has it."),
    click.Option(["--blocks"], type=int, default=20, show_default=True, help="Interleaved blocks for each optimizer."),
    click.Option(["--threads"], type=int, default=2, show_default=True, help="Of torch on the CPU."),
    click.Option(["--device"], default="cuda" if torch.cuda.is_available() else "cpu", show_default=True),
    click.Option(["--reference"], metavar="PATH", help="A checkout of hseung88/nysact, timed in the same way."),
    click.Option(["--out"], metavar="DIR", help="Output folder.  [default: $PRECOND_OUT or outputs]"),
]  # fmt: skip


def main(study: CostStudy) -> NoReturn:
    """Run the study's command line and exit with its code."""

    def execute(**raw: Any) -> int:
        return run(study, raw)

    help_text = f"{study.title} ({study.citation}).\n\nClaim: {study.claim}"
    sys.exit(invoke(click.Command(study.name, SETTINGS, execute, [*FLAGS], help_text)))


def run(study: CostStudy, raw: Mapping[str, Any]) -> int:
    """Measure unless only the report is wanted; returns the exit code of what failed, or 0."""
    own = {"workload": study.workload, "optimizers": ",".join(study.optimizers), "batch_size": study.batch_size}
    chosen = {**own, **(SMOKE if raw["smoke"] else {})}
    chosen = {**raw, **{key: value for key, value in chosen.items() if raw["smoke"] or raw[key] is None}}
    root = Path(raw["out"]) if raw["out"] else ledger.default_root()
    root = root / "smoke" if raw["smoke"] else root
    if not raw["report_only"]:
        flags = [f"--{key.replace('_', '-')}={chosen[key]}" for key in PASSED_ON if chosen[key] is not None] + [
            f"--set={setting}" for setting in raw["settings"]
        ]
        if code := _measure("trainables.cost", chosen["workload"], *flags, f"--out={root}"):
            return code
        if not raw["smoke"] and (code := _measure("trainables.scaling", *_shared(chosen), f"--out={root}")):
            return code
    folder = results_folder(root, torch.device(chosen["device"]), chosen["threads"])
    results = read(folder, chosen["workload"], int(chosen["batch_size"]))
    if not results:
        return refuse([f"{folder}: no costs of {chosen['workload']} there; leave --report-only out to measure them"])
    paths = write(study, results, _scaling(folder), root / "reports" / study.name / folder.name)
    print("\n".join(map(str, paths)))
    return COMPLETE


def _shared(chosen: Mapping[str, Any]) -> list[str]:
    return [f"--threads={chosen['threads']}", f"--device={chosen['device']}"]


def _measure(module: str, *arguments: str) -> int:
    """Run a benchmark in its own process, where nothing but torch is loaded."""
    return subprocess.run([sys.executable, "-m", module, *arguments], check=False).returncode


def read(folder: Path, workload: str, batch_size: int) -> list[dict[str, Any]]:
    """The results for a workload on some hardware, the cheapest first."""
    results = [json.loads(path.read_text()) for path in sorted(folder.glob("*-*.json"))]
    wanted = {"workload": workload, "batch_size": batch_size}
    results = [one for one in results if wanted.items() <= one["configuration"].items()]
    return sorted(results, key=lambda one: one["against"]["sgd"]["ratio"]["median"])


def _scaling(folder: Path) -> dict[str, Any] | None:
    path = folder / "scaling.json"
    return json.loads(path.read_text()) if path.exists() else None


def frame(results: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """A row for each result: ratios with their intervals, shares of a step of SGD, memory."""
    return pd.DataFrame([_row(result) for result in results])


def _row(result: Mapping[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {"optimizer": result["configuration"]["optimizer"]}
    for base, race in result["against"].items():
        row |= {
            f"time / {base}" + (f" {end}" if end else ""): race["ratio"][end or "median"] for end in ("", "low", "high")
        }
    row |= {f"{part} / sgd": share["median"] for part, share in result["against"]["sgd"]["shares"].items()}
    memory, sgd = result["memory"], result["sgd_memory"]
    row["peak memory / sgd"] = memory["peak_bytes"] / sgd["peak_bytes"]
    row["algorithm state MiB"] = memory["state_bytes"]["algorithm"] / MIB
    row["gradient buffer MiB"] = memory["state_bytes"]["gradient_buffer"] / MIB
    row["momentum MiB"] = memory["state_bytes"]["rule"] / MIB
    return row | {"seconds per step": result["step_seconds"]["median"]}


def write(
    study: CostStudy, results: Sequence[Mapping[str, Any]], scaling: Mapping[str, Any] | None, folder: Path
) -> list[Path]:
    """Write `cost.csv`, `report.md` and, where it was measured, the figure of Table 1; returns the paths."""
    from studies.harness import figures

    folder.mkdir(parents=True, exist_ok=True)
    table = frame(results)
    drawn = figures.draw_scaling(scaling, folder) if scaling is not None else []
    contents = {"cost.csv": table.to_csv(index=False), "report.md": _markdown(study, results, table, scaling)}
    for name, content in contents.items():
        write_atomically(folder / name, content.encode())
    return [*(folder / name for name in contents), *drawn]


def _markdown(
    study: CostStudy,
    results: Sequence[Mapping[str, Any]],
    table: pd.DataFrame,
    scaling: Mapping[str, Any] | None,
) -> str:
    first = results[0]
    held = {**{k: first["configuration"][k] for k in ("workload", "batch_size")}, **_common(results)}
    paragraphs = [
        f"# {study.title}",
        f"**Artefact.** {study.citation}",
        f"**Claim.** {study.claim}",
        f"**Falsifier.** {study.falsifier}",
        "**Held fixed.** " + ", ".join(f"{key}: {value}" for key, value in held.items()),
        _rows(
            ["optimizer", *COLUMNS], [[_cell(row, name) for name in ("optimizer", *COLUMNS)] for row in _records(table)]
        ),
        "*Ratios of times are medians over interleaved blocks with their 95% interval; the shares are fractions of a "
        "step of SGD. Peak memory is that of a process of its own.*",
    ]
    if scaling is not None:
        lines = [
            [name, axis, f"{sweep['exponent']:.2f}", f"{sweep['closed_form_exponent']:.2f}"]
            for axis in ("p", "r")
            for name, sweep in scaling[axis].items()
        ]
        paragraphs += [
            "## Table 1, measured",
            _rows(["part", "over", "exponent", "closed form"], lines),
            "![cost against p and r](scaling.png)",
        ]
    return "\n\n".join(paragraphs) + "\n"


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


def _cell(row: Mapping[Any, Any], name: str) -> str:
    return COLUMNS[name](row) if name in COLUMNS else str(row[name])


def _ratio(row: Mapping[Any, Any], name: str) -> str:
    if row.get(name) is None or math.isnan(row[name]):
        return "-"
    return f"{row[name]:.3f} [{row[name + ' low']:.3f}, {row[name + ' high']:.3f}]"


def _share(row: Mapping[Any, Any], name: str) -> str:
    return "-" if row.get(name) is None or math.isnan(row[name]) else f"{row[name]:+.1%}"


def _records(table: pd.DataFrame) -> list[dict[Any, Any]]:
    return table.to_dict("records")


def _common(results: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The conditions of all results; several values where they differ."""
    names = results[0]["conditions"]
    return {name: " / ".join(dict.fromkeys(str(one["conditions"].get(name)) for one in results)) for name in names}


def _rows(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [header, rule, *rows])
