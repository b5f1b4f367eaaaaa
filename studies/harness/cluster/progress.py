"""Live progress: a bar and the running trials on a terminal; elsewhere a plain line every 10 s."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from studies.harness.design.arms import Trial
from trainables.store import COMPLETED

LINE_SECONDS = 10.0
LINES = 4  # running trials shown: on a cluster more trials run than a terminal has lines
WIDTH = 80


class StudyProgress:
    """Counts epochs and trials as workers report them, and estimates the time left from the epochs.

    Args:
        trials: The trials to be trained.
        console: Where to print.
        more: The number of trials that `add` will name later.
        epochs: The sum of their epochs.
    """

    def __init__(self, trials: Sequence[Trial], console: Console, more: int = 0, epochs: int = 0):
        self.console = console
        self._trials = {trial.config.trial_key: trial for trial in trials}
        self._more, self._total = more, sum(trial.config.epochs for trial in trials) + epochs
        self._epochs: dict[str, int] = {}
        self._running: dict[
            str, str
        ] = {}  # a line for each trial that has reported, the latest last
        self._first: tuple[float, int] | None = (
            None  # time and number of epochs at which the rate begins
        )
        self._done = 0
        self._bad = Counter[tuple[str, str]]()  # by status and reason
        self._printed = time.monotonic()
        self._live = Live(
            console=console, transient=True, refresh_per_second=4, get_renderable=self._render
        )

    def __enter__(self) -> StudyProgress:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()
        for (status, reason), count in self._bad.items():
            if count > 1:
                self._say(f"{count} trials {status}: {reason}")

    def add(self, trial: Trial) -> None:
        """Name one of the trials that were expected."""
        if trial.config.trial_key not in self._trials:
            self._trials[trial.config.trial_key] = trial
            self._more = max(0, self._more - 1)

    def epoch(self, key: str, epoch: int, accuracy: float) -> None:
        """Show an epoch of a trial."""
        self._epochs[key] = epoch + 1
        self._first = self._first or (time.monotonic(), sum(self._epochs.values()))
        self._running.pop(key, None)
        self._running[key] = (
            f"{self._name(key)} {epoch + 1}/{self._trials[key].config.epochs} {accuracy:.2%}"
        )
        self._line()

    def lost(self, key: str) -> None:
        """Print that a trial's worker is lost."""
        message = "its worker is lost, another goes on from the last commit"
        self.console.print(f"{self._name(key)}: {message}", highlight=False)

    def finished(self, key: str, status: str = COMPLETED, reason: str = "") -> None:
        """Count a trial that has ended; print its error, or only count it if it was printed for another trial."""
        self._done += 1
        self._epochs[key] = self._trials[key].config.epochs
        self._running.pop(key, None)
        if status != COMPLETED:
            self._bad[status, reason] += 1
            if self._bad[status, reason] == 1:
                self._say(f"{self._name(key)} {status}: {reason} (trials/{key[:16]}/log.txt)")
        self._line()

    def _name(self, key: str) -> str:
        trial = self._trials[key]
        return f"{trial.arm.label} s{trial.config.seed}"

    def _say(self, line: str) -> None:
        """Print a line that stays. It may contain what rich would read as markup."""
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _counts(self) -> str:
        bad = f", {self._bad.total()} not completed" if self._bad else ""
        return f"{self._done}/{len(self._trials) + self._more} trials{bad}, {self._left() or 'starting'}"

    def _left(self) -> str:
        """Return the estimated time left: the remaining epochs at the rate since the first one."""
        if self._first is None:
            return ""
        elapsed, seen = (
            time.monotonic() - self._first[0],
            sum(self._epochs.values()) - self._first[1],
        )
        if seen < 1:
            return ""
        seconds = round(elapsed / seen * (self._total - sum(self._epochs.values())))
        return f"{seconds // 60}:{seconds % 60:02d} left"

    def _render(self) -> Group:
        """Return what a terminal shows: the counts and a bar of the epochs, then a line for each running trial."""
        head = Table.grid(padding=(0, 1))
        head.add_row(
            self._counts(),
            ProgressBar(total=self._total, completed=sum(self._epochs.values()), width=30),
        )
        running = list(self._running.values())[-LINES:]
        return Group(
            head, *(Text(f"  {line}", no_wrap=True, overflow="ellipsis") for line in running)
        )

    def _line(self) -> None:
        """Without a terminal, print a line every 10 s."""
        if self.console.is_terminal or time.monotonic() - self._printed < LINE_SECONDS:
            return
        self._printed = time.monotonic()
        running = "; ".join(list(self._running.values())[: -LINES - 1 : -1])
        line = f"{self._counts()}; {running}" if running else self._counts()
        self._say(line if len(line) <= WIDTH else f"{line[: WIDTH - 3]}...")
