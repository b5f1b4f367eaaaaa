"""The command `python -m studies slurm`, which writes and submits the jobs of a study on Slurm."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from studies.harness.command import slurm_scripts, slurm_submit
from studies.harness.command.catalogue import STUDIES, artefacts
from studies.harness.command.planned import plan_elsewhere
from studies.harness.command.screen import refuse
from studies.harness.command.slurm_scripts import MARK, STOP_SECONDS, Job
from studies.harness.design.options import Options

if TYPE_CHECKING:
    from studies.harness.kinds.artefact import Artefact, Work

HELP = """Write an sbatch script that runs a study on Slurm until it is complete, and submit it with
--submit. Options after -- are those of the study.

On several nodes, the job starts a Ray cluster. Two minutes before the time limit it stops the study,
which writes checkpoints, and goes back to the queue. With --array, the trials are divided among the
tasks of a job array, without Ray, and a second job writes the report.
"""

LOCAL = tuple(map(Path, ("/tmp", "/var/tmp", "/dev/shm")))
"""Folders that the nodes of a cluster do not share."""
NOT_SHARED = "must be a folder that all nodes share, but each node has another folder there"


def _slurm(study: str, flags: tuple[str, ...], **raw: Any) -> int:
    from studies.harness.command.problems import guarded

    return guarded(lambda: _prepare(study, flags, raw))


def _prepare(study: str, flags: Sequence[str], raw: dict[str, Any]) -> int:
    """Check the command, write the scripts, and submit them; return the exit code."""
    artefact, options, work, errors = plan_elsewhere(study, flags)
    errors += _problems(artefact, raw, options)
    if raw["array"]:
        errors += _array_problems(artefact, work, raw)
    if errors:
        return refuse(errors)
    for line in _warnings(options, raw):
        print(f"warning: {line}", file=sys.stderr)
    program = STUDIES / f"{artefact.name}.py"
    command = ["python", str(program if artefact.name in artefacts() else Path(study).resolve())]
    return slurm_submit.write(
        _scripts(artefact, work, options, [*command, *flags], raw), raw["submit"]
    )


# ---------------------------------------------------------------------- checks


def _problems(artefact: Artefact, raw: dict[str, Any], options: Options) -> Iterator[str]:
    """Yield a line for each error in the requests of a job."""
    if raw["nodes"] > 1 and "address" in artefact.REFUSED:
        reason = artefact.REFUSED["address"]
        yield f"--nodes = {raw['nodes']}: must be 1 for {artefact.name}, {reason}"
    least = STOP_SECONDS + 2 * options.commit_every
    seconds = _seconds(raw["time"])
    if seconds is None:
        yield f"--time = {raw['time']}: must have the form HH:MM:SS or DAYS-HH:MM:SS"
    elif seconds < least:
        yield (
            f"--time = {raw['time']}: must be at least {least:g} s, which are {STOP_SECONDS} s to "
            f"stop and two commit intervals of {options.commit_every:g} s (--commit-every)"
        )
    for name in ("partition", "account"):
        if raw[name] is not None and not re.fullmatch(r"[\w.,+-]+", raw[name]):
            yield f"--{name} = {raw[name]}: must be a name"
    if raw["submit"] and not shutil.which("sbatch"):
        yield "--submit: sbatch is not installed here; run the command on a login node of Slurm"
    if raw["submit"] and _is_local(options.root):
        yield f"--out = {options.root.resolve()}: {NOT_SHARED}"
    limit = _most_gpus(raw["partition"])
    if raw["gpus_per_node"] and limit is not None and raw["gpus_per_node"] > limit:
        place = f"partition {raw['partition']}" if raw["partition"] else "the cluster"
        yield (
            f"--gpus-per-node = {raw['gpus_per_node']}: must be at most {limit}, the number of GPUs "
            f"of the largest node of {place}"
        )
    script = raw["script"]
    if script is not None and script.exists() and MARK not in script.read_text(errors="replace"):
        yield f"--script = {script}: exists, and this command did not write it; name another file"


def _seconds(text: str) -> int | None:
    """Return a time limit in seconds, or None for an invalid text."""
    match = re.fullmatch(r"(?:(\d{1,4})-)?(\d{1,4}):([0-5]\d):([0-5]\d)", text)
    if match is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def _most_gpus(partition: str | None) -> int | None:
    """Return the number of GPUs of the largest node, or None if Slurm cannot be asked."""
    if not shutil.which("sinfo"):
        return None
    command = ["sinfo", "--noheader", "--format=%G"]
    command += [] if partition is None else [f"--partition={partition}"]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode != 0 or not process.stdout.strip():
        return None
    return max(_gpus(line) for line in process.stdout.splitlines())


def _gpus(resources: str) -> int:
    """Return the number of GPUs in a node's resources, such as `gpu:a100:4(S:0-1),gpu:t4:1`."""
    return sum(int(n) for n in re.findall(r"\bgpu(?::[^:,()]+)?:(\d+)\b", resources))


def _array_problems(artefact: Artefact, work: Sequence[Work], raw: dict[str, Any]) -> Iterator[str]:
    """Yield a line for each reason why a study cannot be divided among the tasks of an array."""
    if raw["nodes"] > 1:
        yield f"--nodes = {raw['nodes']}: must be 1 with --array, whose tasks run on one node each"
    records = [record for part in work for record in part.records]
    if any("key" not in record for record in records) or any(
        part.count != len(part.records) for part in work
    ):
        reason = "only the trials of a study are known before it starts"
        yield f"--array: not available for {artefact.name}, a {artefact.KIND}: {reason}"
    elif work and not records:
        yield "--array: no trial is missing; write the report with --report-only"
    elif raw["array"] > len(records) > 0:
        yield f"--array = {raw['array']}: must be at most {len(records)}, the number of trials"


def _is_local(folder: Path) -> bool:
    return any(folder.resolve().is_relative_to(local.resolve()) for local in LOCAL)


def _warnings(options: Options, raw: dict[str, Any]) -> Iterator[str]:
    if _is_local(options.root):
        yield f"{options.root.resolve()}: {NOT_SHARED}"
    if raw["gpus_per_node"] and not raw["array"] and options.gpus_per_trial == 0:
        yield "the trials use no GPU; add --gpus-per-trial auto to the options after --"


# ---------------------------------------------------------------------- scripts


def _scripts(
    artefact: Artefact,
    work: Sequence[Work],
    options: Options,
    command: Sequence[str],
    raw: dict[str, Any],
) -> dict[Path, str]:
    """Return the files to write: the job, the job of the report, and the trials of an array."""
    folder = options.root.resolve() / "slurm"
    script = (raw["script"] or folder / f"{artefact.name}.sbatch").absolute()
    out = options.root.parent if options.smoke else options.root
    variables = {"PRECOND_OUT": out.resolve(), "PRECOND_DATA": options.data_dir.resolve()}
    job = Job(
        study=artefact.name,
        time=raw["time"],
        nodes=raw["nodes"],
        gpus=raw["gpus_per_node"],
        cpus=raw["cpus_per_node"],
        partition=raw["partition"],
        account=raw["account"],
        folder=folder,
        directory=Path.cwd(),
        programs=Path(sys.executable).parent,
        variables=tuple((name, str(value)) for name, value in variables.items()),
    )
    if not raw["array"]:
        return {script: slurm_scripts.study_script(job, command)}
    trials = script.with_suffix(".jsonl")
    lines = dict.fromkeys(json.dumps(record) for part in work for record in part.records)
    train = ["python", "-m", "trainables", *_training_flags(options)]
    return {
        script: slurm_scripts.array_script(job, raw["array"], trials, train),
        script.with_name(f"{script.stem}-report.sbatch"): slurm_scripts.report_script(
            replace(job, gpus=None), [*command, "--report-only"]
        ),
        trials: "".join(f"{line}\n" for line in lines),
    }


def _training_flags(options: Options) -> Iterator[str]:
    """Yield the options of `python -m trainables` that correspond to those of a study."""
    yield from ("--out", str(options.root.resolve()), "--data-dir", str(options.data_dir.resolve()))
    yield from ("--commit-every", f"{options.commit_every:g}")
    for path in options.plugins:
        yield from ("--plugin", str(path.resolve()))
    for name in ("download", "verify_data", "diagnostics"):
        if getattr(options, name):
            yield f"--{name.replace('_', '-')}"


_AT_LEAST_ONE = click.IntRange(min=1)
COMMAND = click.Command(
    "slurm",
    callback=_slurm,
    params=[
        click.Argument(["study"], metavar="STUDY|FILE"),
        click.Argument(["flags"], nargs=-1, type=click.UNPROCESSED, metavar="[-- OPTIONS]"),
        click.Option(["--nodes"], type=_AT_LEAST_ONE, default=1, metavar="N", show_default=True,
                     help="Nodes of the job. Several nodes are not shared with other jobs."),
        click.Option(["--gpus-per-node"], type=_AT_LEAST_ONE, metavar="N",
                     help="GPUs of each node.  [default: none]"),
        click.Option(["--cpus-per-node"], type=_AT_LEAST_ONE, metavar="N",
                     help="CPUs of each node.  [default: all of several nodes, or the partition's "
                     "default]"),
        click.Option(["--time"], required=True, metavar="HH:MM:SS",
                     help="Time limit, after which the job goes back to the queue."),
        click.Option(["--partition"], metavar="NAME", help="Partition of the cluster."),
        click.Option(["--account"], metavar="NAME", help="Account that pays for the job."),
        click.Option(["--array"], type=_AT_LEAST_ONE, metavar="N",
                     help="Divide the missing trials among N tasks of a job array."),
        click.Option(["--script"], type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
                     help="File of the script.  [default: OUT/slurm/STUDY.sbatch]"),
        click.Option(["--submit"], is_flag=True, help="Submit the script."),
    ],
    help=HELP,
    no_args_is_help=True,
)  # fmt: skip
