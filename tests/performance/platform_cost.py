"""Compute the platform's overhead per trial and its wall time from the folders of a finished study.

    python tests/performance/platform_cost.py OUT [--slots N] [--started EPOCH_SECONDS]

A slot runs one trial at a time. By default, the number of slots is the largest number of trials
that were open at the same time. A trial is open from the time in `attempts.jsonl` to the time in
`status.json`.

The overhead of a trial is the time from the end of the previous trial on the slot to the end of the
trial, minus the seconds of training and evaluation. The first trial on each slot is not counted,
because its overhead includes the start-up.

The wall time is the time from the first attempt to the last status. The ideal time is the sum of
the training and evaluation seconds of all trials, divided by the number of slots. If `--started`
gives the start time of the command, the start-up time is also printed.

Trials without a status or epochs and trials with several attempts are not counted; their names are
printed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

from trainables.files import read_lines
from trainables.store import read_status, trial_folders


@dataclass(frozen=True)
class Span:
    """The times of a trial.

    Attributes:
        name: Name of the trial folder.
        opened: Time of the attempt, in seconds since 1970.
        ended: Time of the status, in seconds since 1970.
        worked: Seconds of training and evaluation.
    """

    name: str
    opened: float
    ended: float
    worked: float


def spans(root: Path) -> tuple[list[Span], list[str]]:
    """Return the times of an output folder's trials, and the names of the trials not counted.

    The times are sorted by opening time. A trial is not counted if it has no status, no epochs or
    several attempts.
    """
    trials, excluded = [], []
    for folder in trial_folders(root):
        attempts, epochs = (
            read_lines(folder / "attempts.jsonl"),
            read_lines(folder / "epochs.jsonl"),
        )
        status = read_status(folder)
        if len(attempts) != 1 or not epochs or status is None:
            excluded.append(folder.name)
            continue
        worked = sum(e["metrics"]["time/train_s"] + e["metrics"]["time/eval_s"] for e in epochs)
        trials.append(Span(folder.name, attempts[0]["time"], status["time"], worked))
    return sorted(trials, key=lambda span: span.opened), excluded


def count_slots(trials: list[Span]) -> int:
    """Return the largest number of trials that were open at the same time."""
    events = sorted([(t.opened, 1) for t in trials] + [(t.ended, -1) for t in trials])
    largest = current = 0
    for _, change in events:
        current += change
        largest = max(largest, current)
    return largest


def overheads(trials: list[Span], slots: int) -> list[float]:
    """Return the overhead in seconds of each trial after the first on its slot."""
    free: list[float] = []  # the time at which each slot became free
    seconds = []
    for trial in trials:
        earlier = [end for end in free if end <= trial.opened]
        if len(free) < slots and not earlier:
            free.append(trial.ended)  # the first trial on its slot
            continue
        previous_end = max(earlier, default=trial.opened)
        if previous_end in free:
            free.remove(previous_end)
        free.append(trial.ended)
        seconds.append(trial.ended - previous_end - trial.worked)
    return seconds


def main(arguments: list[str] | None = None) -> int:
    """Print the overhead and the wall time; return 2 if there are too few trials."""
    parser = argparse.ArgumentParser(
        description="Compute the platform's overhead from the folders of a finished study."
    )
    parser.add_argument(
        "out", type=Path, metavar="OUT", help="the output folder of a finished study"
    )
    parser.add_argument(
        "--slots", type=int, help="concurrent trials [default: the largest number observed]"
    )
    parser.add_argument(
        "--started", type=float, help="start time of the command, in seconds since 1970"
    )
    options = parser.parse_args(arguments)
    trials, excluded = spans(options.out)
    slots = options.slots or count_slots(trials)
    seconds = overheads(trials, slots) if trials else []
    if not seconds:
        problem = "a slot needs at least two finished trials; run a study with more trials"
        print(f"error: {options.out}: {problem}", file=sys.stderr)
        return 2
    ideal = sum(trial.worked for trial in trials) / slots
    first, last = trials[0].opened, max(trial.ended for trial in trials)
    wall, names = last - first, ", ".join(excluded) or "none"
    print(f"{len(trials)} trials on {slots} slots; {len(excluded)} trials not counted: {names}")
    print(
        f"overhead per trial: median {statistics.median(seconds):.3f} s, "
        f"largest {max(seconds):.3f} s"
    )
    print(
        f"wall time from the first attempt: {wall:.1f} s, ideal {ideal:.1f} s, "
        f"ratio {wall / ideal:.3f}"
    )
    if options.started is not None:
        print(f"start-up {first - options.started:.1f} s; total {last - options.started:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
