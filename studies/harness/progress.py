"""Live progress: a bar where there is a terminal, a plain line every 10 s where there is none."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

from studies.harness.study import Trial

LINE_SECONDS = 10.0


class StudyProgress:
    """Counts epochs and trials as workers report them, and estimates the time left from the epochs.

    Args:
        trials: Those to be trained.
        console: Where to print.
    """

    def __init__(self, trials: Sequence[Trial], console: Console):
        self.console = console
        self._trials = {trial.config.trial_key: trial for trial in trials}
        self._total = sum(trial.config.epochs for trial in trials)
        self._epochs: dict[str, int] = {}
        self._first: tuple[float, int] | None = None  # when, and at how many epochs, the rate begins
        self._done = self._bad = 0
        self._printed = time.monotonic()
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(None), MofNCompleteColumn(),
                   TextColumn("{task.fields[left]}"))  # fmt: skip
        self._bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._bar.add_task("training", total=len(trials), left="")

    def __enter__(self) -> StudyProgress:
        self._bar.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.stop()

    def epoch(self, key: str, epoch: int, accuracy: float) -> None:
        """A trial has finished an epoch."""
        self._epochs[key] = epoch + 1
        now, seen = time.monotonic(), sum(self._epochs.values())
        self._first = self._first or (now, seen)
        label = self._trials[key].arm.label
        self._show(f"{label} s{self._trials[key].config.seed} epoch {epoch + 1}: {accuracy:.2%}")

    def lost(self, key: str) -> None:
        """A trial's worker is lost."""
        trial = self._trials[key]
        label = f"{trial.arm.label} s{trial.config.seed}"
        self.console.print(f"{label}: its worker is lost, another goes on from the last commit", highlight=False)

    def finished(self, key: str, status: str, reason: str) -> None:
        """A trial has ended; what went wrong is said at once."""
        self._done += 1
        self._epochs[key] = self._trials[key].config.epochs
        if status != "completed":
            self._bad += 1
            trial = self._trials[key]
            self.console.print(f"{trial.arm.label} s{trial.config.seed} {status}: {reason} (trials/{key[:16]}/log.txt)")
        self._show("")

    def _left(self) -> str:
        """Estimated time left: epochs to go at the rate since the first one."""
        if self._first is None:
            return ""
        elapsed, seen = time.monotonic() - self._first[0], sum(self._epochs.values()) - self._first[1]
        if seen < 1:
            return ""
        seconds = round(elapsed / seen * (self._total - sum(self._epochs.values())))
        return f"{seconds // 60}:{seconds % 60:02d} left"

    def _show(self, last: str) -> None:
        left = self._left()
        self._bar.update(self._task, completed=self._done, left=left)
        if not self.console.is_terminal and time.monotonic() - self._printed >= LINE_SECONDS:
            self._printed = time.monotonic()
            bad = f", {self._bad} not completed" if self._bad else ""
            self.console.print(f"{self._done}/{len(self._trials)} trials done{bad}, {left or 'starting'}; {last}")
