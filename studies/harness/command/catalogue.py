"""The artefacts of all study files, and the options of the commands that need no artefact."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from studies.harness.command.options import variable_problems
from studies.harness.design.options import default_root, usable
from studies.harness.kinds import ORDER
from studies.harness.kinds.artefact import Artefact


def _folder(value: str | Path) -> Path:
    if not usable(str(value)):
        raise click.BadParameter("must be a folder")
    return Path(value)


def _default_folder() -> Path:
    if problems := variable_problems(["PRECOND_OUT"]):
        raise click.UsageError(problems[0])
    return default_root()


OUT = click.Option(
    ["--out", "root"],
    type=_folder,
    metavar="FOLDER",
    default=_default_folder,
    help="Output folder (OUT).  [default: $PRECOND_OUT or outputs]",
)
URI = click.Option(
    ["--tracking-uri"], metavar="URI", help="MLflow server or database.  [default: OUT/mlflow.db]"
)
STUDIES = Path(__file__).parents[2]  # the folder of the study files


def artefacts() -> dict[str, Artefact]:
    """Return the artefacts of all study files by name, in the order of their kinds."""
    literals = []
    for module in pkgutil.iter_modules([str(STUDIES)]):
        if not module.ispkg and not module.name.startswith("_"):
            values = vars(importlib.import_module(f"studies.{module.name}")).values()
            literals += [value for value in values if isinstance(value, Artefact)]
    order = {kind: number for number, kind in enumerate(ORDER)}
    literals.sort(key=lambda artefact: order.get(artefact.KIND, len(order)))
    return {artefact.name: artefact for artefact in literals}


def trial_keys(artefact: Artefact, plans: Iterable[Any]) -> frozenset[str]:
    """Return the keys of all trials that belong to plans of an artefact."""
    views = [artefact.tracking(plan) for plan in plans]
    return frozenset[str]().union(*(view.trial_keys for view in views if view))


def markdown() -> str:
    """Return the README's table of all artefacts and what they reproduce."""
    rows = [("study", "title", "reproduces", "workload (workloads of the paper)"), ("---",) * 4]
    for artefact in artefacts().values():
        paper = ", ".join(artefact.published)
        workloads = f"{artefact.workload} ({paper})" if paper else artefact.workload
        rows.append((f"`{artefact.name}`", artefact.title, artefact.citation, workloads))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
