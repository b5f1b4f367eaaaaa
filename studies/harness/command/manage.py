"""The group `python -m studies`: commands over all artefacts, and those of `trials` and `tracking`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.table import Column, Table

from precond.hyperparameters import HyperparameterError
from studies.harness.command import archive, files, listing, merge, tracking, trials
from studies.harness.command.catalogue import OUT, artefacts, markdown
from studies.harness.command.cli import EXIT_CODES, SETTINGS
from studies.harness.command.estimating import COMMAND as ESTIMATE
from studies.harness.command.flags import FLAGS
from studies.harness.command.judge import COMMAND as JUDGE
from studies.harness.command.screen import redirected, refuse, terminal
from studies.harness.command.slurm import COMMAND as SLURM
from studies.harness.command.tune import COMMAND as TUNE_RECIPE
from studies.harness.design.ending import COMPLETE
from studies.harness.kinds.artefact import Artefact

GROUP = click.Group(
    "studies",
    context_settings=SETTINGS,
    help="List, run and inspect the studies. To run a single study, use its file: python "
    "studies/NAME.py --help",
)
TRANSFER = (*merge.COMMANDS, *archive.COMMANDS)
COMMANDS = (*listing.COMMANDS, *trials.COMMANDS, *TRANSFER, *tracking.COMMANDS)
for _command in (TUNE_RECIPE, JUDGE, SLURM, ESTIMATE, *COMMANDS):
    GROUP.add_command(_command)


@GROUP.command(
    "list",
    help="List all studies. Print what each reproduces, and how many of its trials are done.",
    params=[
        OUT,
        click.Option(
            ["--markdown", "as_markdown"],
            is_flag=True,
            help="Print the studies as the table of README.md.",
        ),
    ],
)
def _list(root: Path, as_markdown: bool) -> int:
    if as_markdown:
        print(markdown())
        return COMPLETE
    columns = Column("study", no_wrap=True), "reproduces", "workload", "done"
    table = Table(*columns, box=None, padding=(0, 2, 0, 0))
    for artefact in artefacts().values():
        table.add_row(artefact.name, artefact.citation, artefact.workload, _state(artefact, root))
    terminal().print(table)
    return COMPLETE


def _state(artefact: Artefact, root: Path) -> str:
    """Return the state of an artefact; `invalid` if its command would be refused."""
    try:
        return artefact.state(root)
    except HyperparameterError:
        return "invalid"


@GROUP.command(
    "run",
    help="Run several studies: names, and paths of your own study files. A trial that several of them "
    "need is trained once. Optimizers and workloads that a file registers need no --plugin.",
    epilog=EXIT_CODES,
    params=[click.Argument(["names"], nargs=-1, required=True, metavar="STUDY|FILE..."), *FLAGS],
)
def _run(names: tuple[str, ...], **raw: Any) -> int:
    from studies.harness.command.options import parse
    from studies.harness.command.run import run_command

    with redirected(raw["as_json"]):
        chosen = files.find_artefacts(names)
    options, errors = parse({**raw, "plugin": (*raw["plugin"], *chosen.plugins)})
    if chosen.errors:  # unknown names in other options may be those of the unusable files
        return refuse([*chosen.errors, *([] if options.unresolved else errors)])
    return run_command(chosen.artefacts, options, errors)


@GROUP.command(
    "check-cluster",
    help="Check a cluster file before `ray up` or `kubectl apply`. Report misspelt keys, unsafe "
    "settings and values left from the example.",
    params=[click.Argument(["file"], type=Path)],
)
def _check_cluster(file: Path) -> int:
    from studies.harness.cluster import check

    if errors := check.check(file):
        return refuse(errors)
    print(f"{file}: no errors. To start the cluster: {check.start_command(file)}")
    return COMPLETE
