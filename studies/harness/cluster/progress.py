"""Progress of the training: a bar and the running trials, or a line every 10 s.

The bar is shown on a terminal and in a notebook.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from studies.harness.cluster.notebook import CellDisplay
from studies.harness.design.arms import Trial
from trainables.store import COMPLETED
from trainables.train import headline

LINE_SECONDS = 10.0
LINES = 4  # largest number of running trials in the display; a cluster may run hundreds
WIDTH = 80


class StudyProgress:
    """Counts the epochs and trials that workers report, and estimates the remaining time.

    Args:
        trials: The trials to train.
        console: The console to print to.
        unnamed: The number of trials that are not known yet; `add` provides them later.
        epochs: The total number of epochs of these trials.
    """

    def __init__(
        self, trials: Sequence[Trial], console: Console, unnamed: int = 0, epochs: int = 0
    ):
        self.console = console
        self._trials = {trial.config.trial_key: trial for trial in trials}
        self._unnamed = unnamed
        self._total = sum(trial.config.epochs for trial in trials) + epochs
        self._epochs: dict[str, int] = {}
        self._running: dict[str, str] = {}  # a line for each running trial, the latest last
        self._first: tuple[float, int] | None = None  # time and epochs at the first report
        self._done = 0
        self._unsuccessful = Counter[tuple[str, str]]()  # by status and reason
        self._printed = time.monotonic()
        self._live = Live(
            console=console, transient=True, refresh_per_second=4, get_renderable=self._render
        )
        self._cell = CellDisplay(self._render, WIDTH)

    def __enter__(self) -> StudyProgress:
        if self.console.is_terminal:
            self._live.start()
        elif self.console.is_jupyter:
            self._cell.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()
        self._cell.stop()
        for (status, reason), number in self._unsuccessful.items():
            if number > 1:
                self._print(f"{number} trials {status}: {reason}")

    def add(self, trial: Trial) -> None:
        """Provide a trial that was counted as unnamed."""
        if trial.config.trial_key not in self._trials:
            self._trials[trial.config.trial_key] = trial
            self._unnamed = max(0, self._unnamed - 1)

    def epoch(self, key: str, epoch: int, metrics: Mapping[str, float]) -> None:
        """Record an epoch of a trial and its metrics."""
        self._epochs[key] = epoch + 1
        self._first = self._first or (time.monotonic(), sum(self._epochs.values()))
        self._running.pop(key, None)
        config = self._trials[key].config
        count, result = f"{epoch + 1}/{config.epochs}", headline(config, metrics)
        self._running[key] = f"{self._name(key)}: epoch {count}, {result}"
        self._line()

    def lost(self, key: str) -> None:
        """Print that a trial's worker was lost."""
        message = "the worker was lost; another worker resumes the trial from its last checkpoint"
        self.console.print(f"{self._name(key)}: {message}", highlight=False)

    def finished(self, key: str, status: str = COMPLETED, reason: str = "") -> None:
        """Count a trial that has ended, and print its error if no other trial had the same."""
        self._done += 1
        self._epochs[key] = self._trials[key].config.epochs
        self._running.pop(key, None)
        if status != COMPLETED:
            self._unsuccessful[status, reason] += 1
            if self._unsuccessful[status, reason] == 1:
                self._print(f"{self._name(key)} {status}: {reason} (trials/{key[:16]}/log.txt)")
        self._line()

    def _name(self, key: str) -> str:
        trial = self._trials[key]
        return f"{trial.arm.label} seed {trial.config.seed}"

    def _print(self, line: str) -> None:
        """Print a line above the live display, without parsing it as markup."""
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _counts(self) -> str:
        trials = f"{self._done}/{len(self._trials) + self._unnamed} trials"
        if self._unsuccessful:
            trials += f", {self._unsuccessful.total()} failed or diverged"
        state = self._remaining() if self._epochs else "starting"
        return f"{trials}, {state}" if state else trials

    def _remaining(self) -> str:
        """Return the remaining time at the rate since the first report, or "" if it is unknown."""
        if self._first is None:
            return ""
        start, epochs_before = self._first
        epochs = sum(self._epochs.values())
        if epochs == epochs_before:
            return ""
        rate = (time.monotonic() - start) / (epochs - epochs_before)
        seconds = round(rate * (self._total - epochs))
        return f"{seconds // 60}:{seconds % 60:02d} left"

    def _render(self) -> Group:
        """Return the display: counts, a bar of the epochs, and a line for each running trial."""
        bar = ProgressBar(total=self._total, completed=sum(self._epochs.values()), width=30)
        head = Table.grid(padding=(0, 1))
        head.add_row(self._counts(), bar)
        running = list(self._running.values())[-LINES:]
        lines = [Text(f"  {line}", no_wrap=True, overflow="ellipsis") for line in running]
        return Group(head, *lines)

    def _line(self) -> None:
        """Update the display in a notebook; print a line every 10 s if there is no display."""
        if self.console.is_jupyter:
            self._cell.update()
            return
        if self.console.is_terminal or time.monotonic() - self._printed < LINE_SECONDS:
            return
        self._printed = time.monotonic()
        running = "; ".join(list(self._running.values())[: -LINES - 1 : -1])
        line = f"{self._counts()}; {running}" if running else self._counts()
        self._print(line if len(line) <= WIDTH else f"{line[: WIDTH - 3]}...")
