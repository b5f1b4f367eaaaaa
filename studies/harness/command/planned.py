"""Plan a study that other machines will run: its options and missing work, without a cluster."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from precond.counts import counted
from precond.hyperparameters import HyperparameterError
from studies.harness.command import files

if TYPE_CHECKING:
    from studies.harness.design.options import Options
    from studies.harness.kinds.artefact import Artefact, Work

ADDRESS = "127.0.0.1:1"  # stands for the address of the cluster; this machine may have no GPU
CHOSEN = ("address", "dry_run", "report_only", "as_json")
"""Options that the command itself sets."""


class Elsewhere(NamedTuple):
    """A study that other machines will run.

    Attributes:
        artefact: The study.
        options: Its options.
        work: Its missing work.
        errors: A line for each error in the options.
    """

    artefact: Artefact
    options: Options
    work: Sequence[Work]
    errors: list[str]


def plan_elsewhere(study: str, flags: Sequence[str]) -> Elsewhere:
    """Return a study with its options and its missing work.

    Args:
        study: The name of a study, or the path of its file.
        flags: The words after `--` on the command line.

    Raises:
        HyperparameterError: There is no such study, or the file defines several.
    """
    from studies.harness.command.cli import command
    from studies.harness.command.options import parse
    from studies.harness.command.run import plan_all

    named = files.find_artefacts([study])
    if named.errors or len(named.artefacts) != 1:
        many = f"{study}: has {counted(len(named.artefacts), 'study', 'studies')}; must have one"
        raise HyperparameterError("\n".join(named.errors or [many]))
    [artefact] = named.artefacts
    raw = command(artefact).make_context(artefact.name, list(flags)).params
    errors = []
    for name in CHOSEN:
        if raw.get(name):
            flag = f"--{name.removeprefix('as_').replace('_', '-')}"
            errors.append(f"{flag}: not available after --; omit the option")
    # A plan of a dry run has the records of the missing trials.
    raw |= {"dry_run": True, "plugin": (*raw["plugin"], *named.plugins)}
    if "address" not in artefact.REFUSED:
        raw["address"] = ADDRESS
    options, invalid = parse(raw, artefact.FLAGS)
    _, work, problems = plan_all([artefact], options)
    return Elsewhere(artefact, options, work, [*errors, *invalid, *problems])
