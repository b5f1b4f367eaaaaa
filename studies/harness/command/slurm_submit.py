"""Write the scripts of `python -m studies slurm`, and submit them to the queue."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from studies.harness.command.screen import refuse
from studies.harness.design.ending import COMPLETE


class RefusedError(Exception):
    """A job that cannot be submitted; the message is one line."""


def write(scripts: dict[Path, str], submit: bool) -> int:
    """Write the files and submit them, or print the command that does it; return the exit code.

    The jobs need the folder of the log files and the file of the trials as soon as they start, so
    the files are written first, and removed again if the queue refuses the jobs.
    """
    jobs = [path for path in scripts if path.suffix != ".jsonl"]
    created = [folder for path in scripts for folder in _absent_parents(path)]
    for path, text in scripts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for path in scripts:
        print(path)
    if not submit:
        print(f"To submit: {_submission([shlex.quote(str(path)) for path in jobs])}")
        return COMPLETE
    try:
        numbers = _submit(jobs)
    except RefusedError as error:
        for path in scripts:
            path.unlink()
        for folder in created:
            with suppress(OSError):
                folder.rmdir()
        return refuse([str(error)])
    print(f"submitted: job {', '.join(numbers)}. To stop: scancel {' '.join(numbers)}")
    return COMPLETE


def _absent_parents(path: Path) -> Iterator[Path]:
    """Yield the folders above a file that do not exist, the deepest first."""
    return (folder for folder in path.parents if not folder.exists())


def _submission(jobs: Sequence[str]) -> str:
    """Return the shell command that submits the scripts."""
    if len(jobs) == 1:
        return f"sbatch {jobs[0]}"
    return f"sbatch --dependency=afterany:$(sbatch --parsable {jobs[0]}) {jobs[1]}"


def _submit(jobs: Sequence[Path]) -> list[str]:
    """Submit scripts, each to start after the one before it; return the numbers of the jobs.

    Raises:
        RefusedError: The queue refuses a script. No job of these scripts remains.
    """
    numbers: list[str] = []
    for path in jobs:
        command = ["sbatch", "--parsable"]
        command += [f"--dependency=afterany:{numbers[-1]}"] if numbers else []
        process = subprocess.run([*command, str(path)], capture_output=True, text=True, check=False)
        if process.returncode != 0:
            if numbers:
                subprocess.run(["scancel", *numbers], check=False)
            reason = process.stderr.strip().replace("\n", "; ") or f"exit code {process.returncode}"
            raise RefusedError(f"Slurm refuses the job, and nothing was submitted: {reason}")
        numbers.append(process.stdout.strip().partition(";")[0])
    return numbers
