"""The text of the sbatch scripts of `python -m studies slurm`."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

STOP_SECONDS = 120  # between SIGTERM and the time limit; a driver ends within about a minute
MARK = "# Written by `python -m studies slurm`."

# The exit code is in a file, because that of `ray symmetric-run` may be another one: 0 if Ray does not
# start, and 1 if its own connection to Ray breaks at the end.
# Slurm sends SIGTERM to this shell only. Ray's processes must not receive it before the driver has
# ended, so the shell forwards it to the driver.
_FUNCTIONS = r"""
# A folder for the process id and the exit code of the program that this job runs.
export RUN=$(mktemp -d)
PROGRAM='"$@" & echo $! > "$RUN/pid"; wait $!; echo $? > "$RUN/code"'

# Stop the program; it commits its results. If it has not started yet, stop what starts it.
stop() {
  if [ -s "$RUN/pid" ]; then
    kill -TERM "$(cat "$RUN/pid")"
  else
    echo 143 > "$RUN/code"
    kill -TERM "$STEP"
  fi
}
trap stop TERM

# Print a digest of the results in the output folder, which shows whether a run added any.
results() {
  (cd "$OUT" && find . \( -name epochs.jsonl -o -name status.json -o -path './cost/*' \
    -o -path './probes/*' \) -printf '%p %s\n' | sort | cksum)
}
BEFORE=$(results)
"""

_RAY = r"""
# A random token and a port of this job, so that other jobs cannot use its Ray cluster.
HEAD=$(hostname -I | cut -d' ' -f1):$((20000 + SLURM_JOB_ID % 10000))
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
export RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=300
export RAY_gcs_rpc_server_reconnect_timeout_s=10  # the other nodes end soon after the first
# The log of the job contains the output of the program; that of Ray has its own file.
export LOG=$(readlink /proc/$$/fd/1)
PROGRAM="exec >> \"\$LOG\" 2>&1; $PROGRAM"
"""

# A signal interrupts `wait`, so repeat it until the program has ended. `scontrol requeue` would
# also revive a cancelled job, whose state is COMPLETING.
_END = r"""STEP=$!
while kill -0 "$STEP" 2> /dev/null; do wait "$STEP"; done
code=$(cat "$RUN/code" 2> /dev/null || echo 4)  # there is no code if the program did not start
rm -r "$RUN"

# 3 and 143 mean stopped, but not complete. Do not requeue a job that was cancelled, or whose
# second or later run added no result: it would repeat without end.
state=$(squeue --noheader --jobs "$SLURM_JOB_ID" --format %T)
if [[ $code == 3 || $code == 143 ]] && [[ $state == RUNNING ]]; then
  if (( ${SLURM_RESTART_COUNT:-0} > 0 )) && [[ $(results) == "$BEFORE" ]]; then
    echo "stopped before the end (exit code $code), and this run committed no epoch: the job ends;" \
      "submit it with a longer --time"
  else
    echo "stopped before the end (exit code $code): back to the queue"
    scontrol requeue "$SLURM_JOB_ID"
  fi
fi
exit "$code"
"""


@dataclass(frozen=True, kw_only=True)
class Job:
    """The requests of a job.

    Attributes:
        study: The name of the study.
        time: The time limit, as in sbatch.
        nodes: The number of nodes.
        gpus: GPUs of each node, or None to request none.
        cpus: CPUs of each node, or None for the default of the partition.
        partition: The partition, or None for the default.
        account: The account, or None for the default.
        folder: The folder of the log files.
        directory: The folder in which the program runs.
        programs: The folder of `python` and `ray`.
        variables: Environment variables.
    """

    study: str
    time: str
    nodes: int = 1
    gpus: int | None = None
    cpus: int | None = None
    partition: str | None = None
    account: str | None = None
    folder: Path
    directory: Path
    programs: Path
    variables: tuple[tuple[str, str], ...] = ()


def study_script(job: Job, command: Sequence[str]) -> str:
    """Return the script that runs a study until it is complete.

    Args:
        job: The requests.
        command: The command of the study, without `--address`.
    """
    lines = [*_head(job, f"Run {job.study} until it is complete."), _functions(job)]
    if job.nodes == 1:  # the driver starts Ray itself, so that several jobs can share a node
        return "\n".join([*lines, _start(command), _END])
    program = _cluster(job) + _start(command, '--address "$HEAD"')
    return "\n".join([*lines, _RAY.lstrip("\n"), program, _END])


def array_script(job: Job, tasks: int, trials: Path, command: Sequence[str]) -> str:
    """Return the script of a job array that trains shares of trials without Ray.

    Args:
        job: The requests of each task.
        tasks: The number of tasks.
        trials: The file with a line of JSON for each trial.
        command: The command that trains the trials of a file, without the file.
    """
    purpose = f"Train the trials of {job.study} in {tasks} tasks."
    share = (
        "# The share of this task: every line whose number modulo the number of tasks is its own.\n"
        f"awk -v tasks={tasks} 'NR % tasks == ENVIRON[\"SLURM_ARRAY_TASK_ID\"]' "
        f'{_word(trials)} > "$RUN/share.jsonl"\n'
    )
    head = _head(job, purpose, f"--array=0-{tasks - 1}")
    return "\n".join([*head, _functions(job), share, _start(command, '"$RUN/share.jsonl"'), _END])


def report_script(job: Job, command: Sequence[str]) -> str:
    """Return the script of the job that writes the report after a job array.

    Args:
        job: The requests of a task of the array. The report needs no GPU.
        command: The command that writes the report.
    """
    return "\n".join([*_head(job, f"Write the report of {job.study}."), "", _words(command), ""])


def _head(job: Job, purpose: str, *options: str) -> Iterator[str]:
    """Yield the lines up to the variables of the environment."""
    log = "%x-%A_%a.log" if options else "%x-%j.log"
    requests = {
        "job-name": job.study,
        "nodes": job.nodes,
        "ntasks-per-node": 1,
        "cpus-per-task": job.cpus,
        "gpus-per-node": job.gpus,
        "time": job.time,
        "partition": job.partition,
        "account": job.account,
        "chdir": job.directory,
        "output": job.folder / log,
    }
    yield from ("#!/bin/bash", f"# {purpose}", MARK)
    for name, value in requests.items():
        if value is not None:
            yield f"#SBATCH --{name}={_word(value)}"
    if job.nodes > 1:
        yield "# The nodes are not shared, because `ray symmetric-run` ends every Ray process on them."
        yield "#SBATCH --exclusive"
        yield "#SBATCH --mem=0"
    yield "#SBATCH --open-mode=append"
    yield "#SBATCH --requeue"
    yield f"#SBATCH --signal=B:TERM@{STOP_SECONDS}"
    yield from (f"#SBATCH {option}" for option in options)
    yield ""
    yield f"export PATH={_word(job.programs)}:$PATH"
    yield from (f"export {name}={_word(value)}" for name, value in job.variables)
    yield "unset RAY_ADDRESS"


def _functions(job: Job) -> str:
    return f"OUT={_word(job.folder.parent)}\n{_FUNCTIONS}"


def _cluster(job: Job) -> str:
    """Return the command that starts Ray on all nodes and a program on the first."""
    task = "" if job.cpus is None else f" --cpus-per-task={job.cpus}"
    cpus = "" if job.cpus is None else f" --num-cpus={job.cpus}"
    gpus = "" if job.gpus is None else f" --num-gpus={job.gpus}"
    lines = [
        f"srun --ntasks-per-node=1 --cpu-bind=none{task} --open-mode=append",
        f"--output={_word(job.folder / '%x-%j-ray.log')}",
        f'ray symmetric-run --address "$HEAD" --min-nodes {job.nodes}{cpus}{gpus} --',
        "",
    ]
    return " \\\n  ".join(lines)


def _start(command: Sequence[str], *expressions: str) -> str:
    """Return the command that starts the program in the background.

    Args:
        command: The words of the program's command.
        expressions: More words, which the shell expands.
    """
    words = " ".join([_words(command), *expressions])
    return f'bash -c "$PROGRAM" program \\\n  {words} &'


def _words(command: Sequence[str]) -> str:
    return shlex.join(command)


def _word(value: object) -> str:
    return shlex.quote(str(value))
