"""The front of the cost benchmark: run it in a process of its own, and report what its files say (`cost_report`)."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import click
import torch

from precond import HyperparameterError
from studies.harness.command import screen
from studies.harness.command.cli import SETTINGS, leave
from studies.harness.command.run import COMPLETE, refuse
from studies.harness.evidence import ledger
from studies.harness.kinds.cost import report as cost_report
from studies.harness.kinds.cost.report import CostStudy
from trainables.cost.files import result_name, results_folder
from trainables.workloads import resolve

__all__ = ["CostStudy", "main"]

SMOKE = {"workload": "digits/cnn", "optimizers": "sgd,nysact-s", "batch_size": 16, "blocks": 6}
PASSED_ON = ("optimizers", "batch_size", "blocks", "threads", "device", "reference")

FLAGS = [
    click.Option(["--smoke"], is_flag=True, help="Digits, two optimizers and six blocks, in OUT/smoke."),
    click.Option(["--report-only"], is_flag=True, help="Measure nothing; report what is there."),
    click.Option(["--workload"], metavar="NAME", help="Model and image size, instead of the study's own."),
    click.Option(["--optimizers"], metavar="NAME,...", help="Instead of the study's; each also as its faithful arm."),
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
    leave(click.Command(study.name, SETTINGS, execute, [*FLAGS], help_text))


def run(study: CostStudy, raw: Mapping[str, Any]) -> int:
    """Measure unless only the report is wanted; returns the exit code of what failed, or 0."""
    own = {"workload": study.workload, "optimizers": ",".join(study.optimizers), "batch_size": study.batch_size}
    chosen = {**own, **(SMOKE if raw["smoke"] else {})}
    chosen = {**raw, **{key: value for key, value in chosen.items() if raw["smoke"] or raw[key] is None}}
    root = Path(raw["out"]) if raw["out"] else ledger.default_root()
    root = root / "smoke" if raw["smoke"] else root
    if not raw["report_only"] and (code := _measure_all(chosen, root)):
        return code
    folder = results_folder(root, torch.device(chosen["device"]), chosen["threads"])
    results = cost_report.read(folder, chosen["workload"], int(chosen["batch_size"]))
    if not results:
        return refuse([f"{folder}: no costs of {chosen['workload']} there; leave --report-only out to measure them"])
    paths, found = cost_report.write(study, results, folder, root / "reports" / study.name / folder.name)
    screen.say(found, paths, screen.terminal())
    return COMPLETE


def _measure_all(chosen: Mapping[str, Any], root: Path) -> int:
    """Both arms of every optimizer and, unless it is a smoke run, Table 1; the exit code of what failed, or 0."""
    flags = [f"--{key.replace('_', '-')}={chosen[key]}" for key in PASSED_ON if chosen[key] is not None]
    flags += [f"--set={setting}" for setting in chosen["settings"]]
    commands = [("trainables.cost", chosen["workload"], *flags, f"--out={root}")]
    if names := _with_conventions(chosen["workload"], chosen["optimizers"].split(",")):
        commands.append((*commands[0], "--faithful", f"--optimizers={','.join(names)}"))  # the last one counts
    if not chosen["smoke"]:
        shared = (f"--threads={chosen['threads']}", f"--device={chosen['device']}", f"--out={root}")
        commands.append(("trainables.cost.scaling", *shared))
    return next((code for command in commands if (code := _measure(*command))), 0)


def _with_conventions(workload: str, optimizers: list[str]) -> list[str]:
    """The optimizers whose faithful arm costs something else than the consistent one; none of what is unknown."""
    try:
        arms = [(name, [resolve(workload, name, faithful=arm) for arm in (False, True)]) for name in optimizers]
    except HyperparameterError:  # the benchmark says what is wrong
        return []
    return [name for name, configs in arms if len(set(map(result_name, configs))) > 1]


def _measure(module: str, *arguments: str) -> int:
    """Run a benchmark in its own process, where nothing but torch is loaded."""
    return subprocess.run([sys.executable, "-m", module, *arguments], check=False).returncode
