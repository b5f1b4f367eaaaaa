"""The command `python -m studies reports`, which lists the reports of an output folder."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from studies.harness.command.catalogue import OUT, STUDIES, artefacts
from studies.harness.command.earlier import EARLIER
from studies.harness.command.screen import plain, shortest, terminal
from studies.harness.design.arms import spelled
from studies.harness.design.ending import COMPLETE
from studies.harness.design.options import SELECTING, default_root
from studies.harness.kinds import records
from studies.harness.kinds.tuning.tuning import RecipeTuning

TUNING = RecipeTuning()
PLACES = f"reports/*/*/{records.RECORD}", f"{TUNING.name}/*/{records.RECORD}"
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
    blocks = [_block(*entry, root) for entry in entries(root).items() if "report" in entry[1]]
    nothing = f"no reports in {root}; run a study first, or name a folder with --out"
    plain("\n\n".join(blocks) or nothing, console)
    return COMPLETE


def entries(root: Path) -> dict[Path, dict[str, Any]]:
    """Return the records of the reports in an output folder, by the folder of the report."""
    folders = sorted(path.parent for place in PLACES for path in root.glob(place))
    return {folder: records.read(folder) for folder in folders}


def _block(folder: Path, record: Mapping[str, Any], root: Path) -> str:
    """Return the lines about a report."""
    name, workload = record.get("study", folder.parent.name), record.get("workload", folder.name)
    number, planned = records.number_of_results(record), record.get("planned", 0)
    number -= sum(not (root / path).exists() for path in record.get("results", []))  # deleted since
    results = f"{number}/{planned}" if planned else str(number)
    earlier = re.search(rf"\+{EARLIER}[0-9a-f]+\Z", folder.name)
    parts = [f"{name} on {workload}", record.get("selection", ""), "earlier" if earlier else ""]
    lines = [
        f"{', '.join(filter(None, parts))}: {results} {'result' if results == '1' else 'results'}"
    ]
    lines.append(f"  {shortest(folder / 'report.html')}")
    if "options" not in record:
        lines.append(
            "  An earlier version of this project wrote the report; run the study with "
            "--report-only to write it again."
        )
    elif not earlier:
        lines.append(f"  {command(record, root)}")
    return "\n".join(lines)


def command(record: Mapping[str, Any], root: Path) -> str:
    """Return the command that writes a report again without training."""
    options, words = record["options"], _program(record)
    out = root.parent if options["smoke"] else root  # a smoke run appends the folder `smoke`
    for plugin in record["plugins"]:
        words += ["--plugin", shortest(Path(plugin))]
    for name, flag in FLAGS.items():
        for value in _values(options.get(name)):
            words += [flag, value]
    words += _seeds(options.get("seeds"))
    for name, value in options.get("extra", {}).items():
        words += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    words += ["--smoke"] if options["smoke"] else []
    words += [] if out == default_root() else ["--out", shortest(out)]
    return shlex.join(["python", *words, "--report-only"])


def _program(record: Mapping[str, Any]) -> list[str]:
    """Return the words of the command that name the study and, if necessary, the workload."""
    name, workload = record["study"], record["workload"]
    known = {**artefacts(), TUNING.name: TUNING}
    study = known.get(name)
    # Earlier versions stored no program.
    if program := record.get("program") or (study.program(workload) if study else ()):
        return [*program]
    if study:
        words, default = [shortest(STUDIES / f"{name}.py")], study.workload
    elif path := record.get("path"):
        words, default = ["-m", "studies", "run", shortest(Path(path))], record["default_workload"]
    else:
        file = record["file"]
        words = [shortest(Path(file)) if file else f"{name}.py"]
        default = record.get("default_workload")
    known_workload = record["options"]["smoke"] or default == workload
    return words if known_workload else [*words, "--workload", workload]


def _seeds(seeds: list[int] | None) -> list[str]:
    """Return the option that selects seeds; a number if they are 0 ... n - 1."""
    if seeds is None:
        return []
    numbers = ",".join(map(str, seeds)) + ("," if len(seeds) == 1 else "")
    return ["--seeds", str(len(seeds)) if seeds == [*range(len(seeds))] else numbers]


def _values(value: Any) -> list[str]:
    """Return the values of an option, one for each time that the command repeats it."""
    if isinstance(value, Mapping):
        return [f"{name}={_joined(item)}" for name, item in value.items()]
    return [] if value is None else [_joined(value)]


def _joined(value: Any) -> str:
    """Return levels with commas between them; a level that is a tuple has slashes."""
    return (
        ",".join(str(spelled(level)) for level in value) if isinstance(value, list) else str(value)
    )


COMMANDS = (_reports,)
