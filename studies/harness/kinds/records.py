"""The file `.report.json` beside each report. It describes the plan of the report.

The module `command/reports.py` adds the report itself and the digest of its inputs. Files of
earlier versions contain only these two, and no description of the plan.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from precond.hyperparameters import HyperparameterError
from studies.harness.design.arms import as_level
from studies.harness.design.facts import Facts
from studies.harness.design.options import SELECTING, Options
from studies.harness.evidence.status import COMPLETED, LOST
from trainables.store import StoreError

RECORD = ".report.json"


def read(folder: Path) -> dict[str, Any]:
    """Return the content of a report folder's `.report.json`; empty if it is absent or damaged."""
    try:
        record = json.loads((folder / RECORD).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(record, dict):
        return {}
    results = record.get("results", [])
    is_valid = isinstance(results, list) and all(isinstance(path, str) for path in results)
    return record if is_valid else {}


def number_of_results(record: Mapping[str, Any]) -> int:
    """Return the number of results of a stored report; 0 if it is unknown.

    The records of earlier versions contain it only in the metrics of a study.
    """
    if "results" in record:
        return len(record["results"])
    metrics = record.get("report", {}).get("metrics", {})
    return int(sum(metrics.get(f"trials/{name}", 0) for name in (COMPLETED, *LOST)))


def description(plan: Any, results: Sequence[str]) -> dict[str, Any]:
    """Return the description of a plan for `.report.json`.

    Args:
        plan: The plan (`kinds.artefact.Plan`).
        results: The results of the plan (`Artefact.results`).
    """
    options = plan.options
    return {
        "study": plan.artefact.name,
        "workload": plan.workload,
        "selection": plan.selection,
        "options": {"smoke": options.smoke, "seeds": options.seeds, **plan.selecting},
        "plugins": [str(path.absolute()) for path in options.plugins],
        "program": list(plan.artefact.program(plan.workload)),
        "default_workload": plan.artefact.workload,
        "file": _file(plan.artefact),
        "path": _path(plan.artefact),
        "planned": plan.planned,
        "results": sorted(results),
    }


def _file(artefact: Facts) -> str:
    """Return the path of the running file if it defines the artefact; otherwise an empty text."""
    main = sys.modules["__main__"]
    defined = _defines(list(vars(main).values()), artefact.name)
    return str(getattr(main, "__file__", "")) if defined else ""


def _path(artefact: Facts) -> str:
    """Return the path of the file that `python -m studies run FILE` has imported for the artefact.

    It is empty for an artefact of the running file or of the project.
    """
    plugins = sys.modules.get("trainables.plugins")  # imports torch, which no report may need
    for module in plugins.imported() if plugins else ():
        if _defines(list(vars(module).values()), artefact.name):
            return str(module.__file__)
    return ""


def _defines(values: Sequence[Any], name: str) -> bool:
    return any(isinstance(value, Facts) and value.name == name for value in values)


@dataclass(frozen=True)
class Stored:
    """The plans of an artefact with results in an output folder.

    Attributes:
        plans: The plans.
        problems: A line for each stored report whose plan fails.
    """

    plans: list[Any] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def stored_plans(artefact: Any, root: Path) -> Stored:
    """Return the plans of an artefact's stored reports.

    Plans without results, and reports that an edited study file describes otherwise, are omitted.
    No plugin is loaded, because an output folder must not execute code. A plan therefore fails if
    it needs a plugin that this process has not loaded.

    Args:
        artefact: The artefact (`kinds.artefact.Artefact`).
        root: The output folder.
    """
    stored = Stored()
    for path in sorted((root / "reports" / artefact.name).glob(f"*/{RECORD}")):
        record = read(path.parent)
        if "options" not in record:
            continue
        try:
            stored.plans.extend(
                [
                    reported
                    for plan in _plans(artefact, record, root)
                    if plan.folder == path.parent
                    if artefact.results(reported := artefact.reported(plan))
                ]
            )
        except (HyperparameterError, StoreError) as error:
            stored.problems.append(_problem(record, str(error)))
        except (TypeError, ValueError, KeyError, AttributeError):
            stored.problems.append(f"{path}: damaged; repeat the command that wrote the report")
    return stored


def _plans(artefact: Any, record: Mapping[str, Any], root: Path) -> Sequence[Any]:
    from trainables.workloads import unknown_workload

    if error := unknown_workload(record["workload"]):
        raise HyperparameterError(error)
    return artefact.plan(options_of(record, root))


def options_of(record: Mapping[str, Any], root: Path) -> Options:
    """Return the options with which a command makes the plan of a report.

    Args:
        record: The content of `.report.json`.
        root: The output folder.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: The record is damaged.
    """
    stored = record["options"]
    values = {name: stored[name] for name in ("seeds", *SELECTING) if name in stored}
    for name in ("only", "levels"):
        levels = values.get(name, {}).items()
        values[name] = {factor: list(map(as_level, items)) for factor, items in levels}
    values["settings"] = {k: as_level(v) for k, v in values.get("settings", {}).items()}
    smoke = bool(stored["smoke"])
    out = root.parent if smoke else root  # `Options.root` appends the folder of smoke runs
    return Options(out=out, workload=record["workload"], smoke=smoke, **values)


def _problem(record: Mapping[str, Any], error: str) -> str:
    parts = [f"{record['study']} on {record['workload']}", record["selection"]]
    plugins = " ".join(record.get("plugins", []))
    advice = f" It needs the plugin {plugins}." if plugins else ""
    return (
        f"{', '.join(filter(None, parts))}: {error.partition(chr(10))[0]}.{advice} Repeat the "
        "command that wrote the report, with --report-only"
    )
