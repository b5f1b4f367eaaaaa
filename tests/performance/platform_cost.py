"""The platform's own cost, from the folders of a finished study: overhead per trial, and wall time against ideal.

    python tests/performance/platform_cost.py OUT [--slots N] [--started EPOCH_SECONDS]

Overhead per trial at steady state: between the end of a trial and the first work of the next on the same slot, that is
the trial's share of its worker's time (from `attempts.jsonl`, when it was opened, to `status.json`) less the seconds
that its loop trained and evaluated, plus the gap before it; of the median trial after the first on each slot.
Wall against ideal: from the first attempt (or `--started`, the command's start, which adds the start-up) to the last
status, over the sum of all trials' training and evaluation seconds divided by the slots.

Only trials that ran once, in one piece, are counted; others are named. Slots are found as the most trials open at once.
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
    """A trial's time: opened, ended (seconds since 1970), and what its loop used of it."""

    name: str
    opened: float
    ended: float
    worked: float


def spans(root: Path) -> tuple[list[Span], list[str]]:
    """The trials of an output folder by when they were opened, and the names of those that cannot be used."""
    found, left_out = [], []
    for folder in trial_folders(root):
        attempts, epochs, status = (
            read_lines(folder / "attempts.jsonl"),
            read_lines(folder / "epochs.jsonl"),
            None,
        )
        status = read_status(folder)
        if len(attempts) != 1 or not epochs or status is None:
            left_out.append(folder.name)
            continue
        worked = sum(e["metrics"]["time/train_s"] + e["metrics"]["time/eval_s"] for e in epochs)
        found.append(Span(folder.name, attempts[0]["time"], status["time"], worked))
    return sorted(found, key=lambda span: span.opened), left_out


def slots_of(trials: list[Span]) -> int:
    """The most trials that were open at once."""
    events = sorted([(t.opened, 1) for t in trials] + [(t.ended, -1) for t in trials])
    most = now = 0
    for _, change in events:
        now += change
        most = max(most, now)
    return most


def overheads(trials: list[Span], slots: int) -> list[float]:
    """Seconds beside the loop of each trial after the first on its slot: the wait for it, and inside it."""
    free: list[float] = []  # when each slot became free
    found = []
    for trial in trials:
        earlier = [end for end in free if end <= trial.opened]
        if len(free) < slots and not earlier:
            free.append(trial.ended)  # the first on its slot: start-up, not steady state
            continue
        before = max(earlier, default=trial.opened)
        if before in free:
            free.remove(before)
        free.append(trial.ended)
        found.append(trial.ended - before - trial.worked)
    return found


def main(arguments: list[str] | None = None) -> int:
    """Print both figures; 2 when there is nothing to measure."""
    parser = argparse.ArgumentParser(description="The platform's own cost.")
    parser.add_argument(
        "out", type=Path, metavar="OUT", help="the output folder of a finished study"
    )
    parser.add_argument("--slots", type=int, help="trials at once [default: the most that were]")
    parser.add_argument(
        "--started", type=float, help="when the command started, in seconds since 1970"
    )
    options = parser.parse_args(arguments)
    trials, left_out = spans(options.out)
    slots = options.slots or slots_of(trials)
    found = overheads(trials, slots) if trials else []
    if not found:
        print(
            f"error: {options.out}: fewer finished trials than slots, run a study with more",
            file=sys.stderr,
        )
        return 2
    ideal = sum(trial.worked for trial in trials) / slots
    first, last = trials[0].opened, max(trial.ended for trial in trials)
    print(
        f"{len(trials)} trials on {slots} slots; {len(left_out)} left out: {', '.join(left_out) or 'none'}"
    )
    print(
        f"overhead per trial at steady state: median {statistics.median(found):.3f} s, largest {max(found):.3f} s"
    )
    print(
        f"wall {last - first:.1f} s from the first attempt, ideal {ideal:.1f} s: {(last - first) / ideal:.3f} times"
    )
    if options.started is not None:
        print(f"start-up {first - options.started:.1f} s; in all {last - options.started:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
