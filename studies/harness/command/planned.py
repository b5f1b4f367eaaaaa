"""Plan a study that another machine will run: its options and missing work, without a cluster."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from studies.harness.design.options import Options

if TYPE_CHECKING:
    from studies.harness.kinds.artefact import Artefact, Work

ADDRESS = "127.0.0.1:1"  # stands for the address of the cluster; this machine may have no GPU
CHOSEN = ("address", "dry_run", "report_only", "as_json")
"""Options that the command itself sets."""


def plan_elsewhere(
    artefact: Artefact, plugins: Sequence[str], flags: Sequence[str]
) -> tuple[Options, Sequence[Work], list[str]]:
    """Return the options and the missing work of a study, and a line for each error.

    Args:
        artefact: The study.
        plugins: Files that its command imports, in addition to those in the flags.
        flags: The words after `--` on the command line.
    """
    from studies.harness.command.cli import command
    from studies.harness.command.options import parse
    from studies.harness.command.run import plan_all

    raw = command(artefact).make_context(artefact.name, list(flags)).params
    errors = []
    for name in CHOSEN:
        if raw.get(name):
            flag = f"--{name.removeprefix('as_').replace('_', '-')}"
            errors.append(f"{flag}: not available after --; omit the option")
    # A plan of a dry run has the records of the missing trials.
    raw |= {"dry_run": True, "plugin": (*raw["plugin"], *plugins)}
    if "address" not in artefact.REFUSED:
        raw["address"] = ADDRESS
    options, invalid = parse(raw, artefact.FLAGS)
    _, work, problems = plan_all([artefact], options)
    return options, work, [*errors, *invalid, *problems]
