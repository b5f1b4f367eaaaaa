"""The commands of the benchmark that measure a cost study, and the files of their results."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from precond.counts import counted
from precond.hyperparameters import HyperparameterError
from studies.harness.design.options import Options
from studies.harness.kinds.artefact import Plan, Work
from studies.harness.kinds.cost.cost import CostStudy
from studies.harness.kinds.planning import workloads
from studies.harness.kinds.records import Stored
from studies.harness.kinds.selection import selection_name
from studies.harness.tracking.view import View
from studies.harness.tracking.views import ReportView
from trainables.config import digest
from trainables.cost.__main__ import errors as benchmark_errors
from trainables.cost.files import result_name, results_folder
from trainables.workloads import resolve

SMOKE_OPTIMIZERS, SMOKE_SETTINGS = ["sgd", "nysact-s"], {"batch_size": 16, "blocks": 6}
Command = tuple[str, ...]  # a module and its arguments


@dataclass(frozen=True, kw_only=True)
class CostPlan(Plan):
    """A cost study on one workload.

    Attributes:
        optimizers: The optimizers to time.
        settings: The options of the benchmark, such as `threads`.
    """

    artefact: CostStudy
    optimizers: Sequence[str]
    settings: Mapping[str, Any]

    @property
    def measured_on(self) -> Path:
        """The folder of the results on this hardware."""
        device = torch.device(self.settings["device"])
        return results_folder(self.root, device, self.settings["threads"])

    @property
    def folder(self) -> Path:
        """The folder of the report on this hardware."""
        name = self.measured_on.name
        name = f"{name}+{self.selection}" if self.selection else name
        return self.root / "reports" / self.artefact.name / name

    @property
    def selecting(self) -> dict[str, Any]:
        """The options that decide the results of the report: the batch size and the hardware."""
        names = ("batch_size", "threads", "device")
        extra = {name: str(self.settings[name]) for name in names}
        return {"extra": extra}

    @property
    def planned(self) -> int:
        """The number of planned results, which is unknown: every command measures again."""
        return 0

    @property
    def files(self) -> dict[Path, dict[str, Any]]:
        """The results for the workload and batch size on this hardware, by file."""
        paths = sorted(self.measured_on.glob("*-*.json"))
        results = {path: json.loads(path.read_text()) for path in paths}
        conditions = {"workload": self.workload, "batch_size": int(self.settings["batch_size"])}
        return {
            path: result
            for path, result in results.items()
            if conditions.items() <= result["configuration"].items()
        }

    @property
    def results(self) -> list[dict[str, Any]]:
        """The results for the workload and batch size on this hardware, the fastest first."""
        results = self.files.values()
        return sorted(results, key=lambda result: result["against"]["sgd"]["ratio"]["median"])

    @property
    def commands(self) -> list[Command]:
        """The commands that measure all optimizers, the as-released variants, and Table 1."""
        flags = [
            f"--{name.replace('_', '-')}={value}"
            for name, value in self.settings.items()
            if value is not None
        ]
        flags += [
            f"--set={name}={json.dumps(value)}" for name, value in self.options.settings.items()
        ]
        out = f"--out={self.root}"
        optimizers = f"--optimizers={','.join(self.optimizers)}"
        first = ("trainables.cost", self.workload, optimizers, *flags, out)
        commands: list[Command] = [first]
        if names := _with_conventions(self.workload, self.optimizers):
            # `first` contains --optimizers already. The benchmark uses the last of the two.
            commands.append((*first, "--as-released", f"--optimizers={','.join(names)}"))
        if not self.options.smoke:
            hardware = [f"--{name}={self.settings[name]}" for name in ("threads", "device")]
            commands.append(("trainables.cost.scaling", *hardware, out))
        return commands


def plans(study: CostStudy, options: Options) -> list[CostPlan]:
    """Return the plans of a cost study (see `Artefact.plan`)."""
    settings = _settings(study, options)
    default = SMOKE_OPTIMIZERS if options.smoke else list(study.optimizers)
    optimizers = options.optimizers or default
    planned, errors = [], []
    for workload in workloads(study, options):
        plan = CostPlan(
            artefact=study,
            workload=workload,
            options=options,
            optimizers=optimizers,
            settings=settings,
            selection=_selection(study, workload, settings["batch_size"], options),
        )
        errors += benchmark_errors(plan.commands[0][1:])
        if not errors and options.report_only and not plan.results:
            errors.append(
                f"{plan.measured_on} contains no costs of {workload}: "
                "remove --report-only to measure them"
            )
        planned.append(plan)
    if errors:
        raise HyperparameterError("\n".join(dict.fromkeys(errors)))
    return planned


def _settings(study: CostStudy, options: Options) -> dict[str, Any]:
    """Return the options of the benchmark.

    Raises:
        HyperparameterError: The device is invalid.
    """
    device = options.extra.get("device") or ("cuda" if torch.cuda.is_available() else "cpu")
    settings = {
        "batch_size": study.batch_size,
        "blocks": 20,
        "threads": 2,
        "reference": None,
        "device": device,
    }
    settings |= {
        name: value
        for name, value in options.extra.items()
        if name in settings and value is not None
    }
    if not re.fullmatch("cpu|cuda(:[0-9]+)?", device):
        raise HyperparameterError(f"--device = {device}: must be cpu, cuda or cuda:N")
    return {**settings, **SMOKE_SETTINGS} if options.smoke else settings


def _selection(study: CostStudy, workload: str, batch_size: int, options: Options) -> str:
    """Return the name of a selection if the workload or the batch size are not those of the study.

    A report shows all results of its workload and batch size, so that no other option selects.
    """
    whole, changed = workloads(study, Options(smoke=options.smoke))[0], {}
    if workload != whole:
        changed["workload"] = workload.replace("/", "-")
    if batch_size != (SMOKE_SETTINGS["batch_size"] if options.smoke else study.batch_size):
        changed["batch_size"] = batch_size
    return selection_name({"extra": changed}) if changed else ""


def missing(plan: CostPlan) -> Work:
    """Return the benchmarks to run; none with `--report-only`."""
    commands = [] if plan.options.report_only else plan.commands
    settings = plan.settings
    summary = (
        f"{counted(len(plan.optimizers), 'optimizer')} relative to SGD, batch size {settings['batch_size']}, "
        f"{counted(settings['blocks'], 'block')} for each, on {settings['device']}: "
        f"{counted(len(plan.results), 'finished result')}, {counted(len(commands), 'benchmark')} to run"
    )
    details = [f"  python -m {' '.join(command)}" for command in commands]
    records = [{"command": command} for command in commands]
    return Work(count=len(commands), summary=summary, details=details, records=records)


def view(plan: CostPlan) -> View:
    """Return the description of the MLflow run of the report.

    The hardware, the workload and the batch size identify the run.
    """
    params = {name: value for name, value in plan.settings.items() if value is not None}
    key = digest(
        [plan.artefact.name, plan.measured_on.name, plan.workload, plan.settings["batch_size"]]
    )
    return ReportView(
        facts=plan.artefact,
        workload=plan.workload,
        key=key,
        kind="cost",
        params=params,
        options=plan.options,
        selection=plan.selection,
    )


def _with_conventions(workload: str, optimizers: Sequence[str]) -> list[str]:
    """Return the optimizers whose as-released and corrected variants are timed separately.

    The two variants of any other optimizer are the same configuration.
    """
    try:
        variants = [
            (name, [resolve(workload, name, as_released=released) for released in (False, True)])
            for name in optimizers
        ]
    except HyperparameterError:  # the benchmark reports the error
        return []
    return [name for name, configs in variants if len(set(map(result_name, configs))) > 1]


def stored(study: CostStudy, root: Path) -> Stored:
    """Return no plans: only the command of a cost study sends its results to MLflow, not `sync`."""
    return Stored()


def state(study: CostStudy, root: Path) -> str:
    """Return the number of results in an output folder."""
    return str(len(list(root.glob("cost/*/*-*.json"))))
