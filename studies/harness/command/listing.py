"""The command `python -m studies reports`, which lists the reports of an output folder."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from studies.harness.command.catalogue import OUT, STUDIES, artefacts
from studies.harness.command.reports import EARLIER, number_of_results
from studies.harness.command.screen import plain, shortest, terminal
from studies.harness.design.ending import COMPLETE
from studies.harness.design.options import SELECTING, default_root
from studies.harness.kinds import records

PLACES = f"reports/*/*/{records.RECORD}", f"tune-recipe/*/{records.RECORD}"
FLAGS = {
    name: "--set" if name == "settings" else f"--{name.replace('_', '-')}"
    for name in SELECTING
    if name != "extra"
}
"""The flag of each option in a record."""


@click.command(
    "reports",
    help="List the reports of an output folder: study, workload, selection, number of results of "
    "the planned ones, page, and the command that writes the report again.",
    params=[OUT],
)
def _reports(root: Path) -> int:
    """Print the reports, sorted by study, workload and selection."""
    console = terminal()
    folders = sorted(path.parent for place in PLACES for path in root.glob(place))
    entries = {folder: records.read(folder) for folder in folders}
    blocks = [_block(*entry, root) for entry in entries.items() if "report" in entry[1]]
    nothing = f"no reports in {root}; run a study first, or name a folder with --out"
    plain("\n\n".join(blocks) or nothing, console)
    return COMPLETE


def _block(folder: Path, record: Mapping[str, Any], root: Path) -> str:
    """Return the lines about a report."""
    name, workload = record.get("study", folder.parent.name), record.get("workload", folder.name)
    number, planned = number_of_results(record), record.get("planned", 0)
    results = f"{number}/{planned}" if planned else str(number)
    earlier = re.search(rf"\+{EARLIER}[0-9a-f]+\Z", folder.name)
    parts = [f"{name} on {workload}", record.get("selection", ""), "earlier" if earlier else ""]
    lines = [f"{', '.join(filter(None, parts))}: {results} results"]
    lines.append(f"  {shortest(folder / 'report.html')}")
    if "options" not in record:
        lines.append(
            "  An earlier version of this project wrote the report; run the study with "
            "--report-only to write it again."
        )
    elif not earlier:
        lines.append(f"  {_command(record, root)}")
    return "\n".join(lines)


def _command(record: Mapping[str, Any], root: Path) -> str:
    """Return the command that writes a report again without training."""
    options, words = record["options"], _program(record)
    out = root.parent if options["smoke"] else root  # a smoke run appends the folder `smoke`
    for plugin in record["plugins"]:
        words += ["--plugin", shortest(Path(plugin))]
    for name, flag in FLAGS.items():
        for value in _values(options.get(name)):
            words += [flag, value]
    for name, value in options.get("extra", {}).items():
        words += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    words += ["--smoke"] if options["smoke"] else []
    words += [] if out == default_root() else ["--out", shortest(out)]
    return shlex.join(["python", *words, "--report-only"])


def _program(record: Mapping[str, Any]) -> list[str]:
    """Return the words of the command that name the study and, if necessary, the workload."""
    name, workload = record["study"], record["workload"]
    if name == "tune-recipe":
        return ["-m", "studies", name, workload]
    study = artefacts().get(name)
    words = [shortest(STUDIES / f"{name}.py") if study else record["file"] or f"{name}.py"]
    default = record["options"]["smoke"] or (study is not None and study.workload == workload)
    return words if default else [*words, "--workload", workload]


def _values(value: Any) -> list[str]:
    """Return the values of an option, one for each time that the command repeats it."""
    if isinstance(value, Mapping):
        return [f"{name}={_joined(item)}" for name, item in value.items()]
    return [] if value is None else [_joined(value)]


def _joined(value: Any) -> str:
    return ",".join(map(_joined, value)) if isinstance(value, list) else str(value)


COMMANDS = (_reports,)
