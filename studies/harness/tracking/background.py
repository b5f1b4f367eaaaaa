"""MLflow beside the training: a thread that sends what the output folder contains, and does not delay the trials."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from studies.harness.design.options import Options
from studies.harness.tracking.view import MARK, View

if TYPE_CHECKING:
    from studies.harness.report.result import Report

INTERVAL_S, PATIENCE_S = 5.0, 30.0  # between two updates; for the update under way when a command ends
QUERY = "SELECT 1 FROM tags JOIN runs USING (run_uuid) WHERE key = ? AND value = ? AND lifecycle_stage = 'active'"


class Tracking:
    """MLflow beside the execution of plans: a thread sends what there is, and `finish` sends the rest.

    Neither imports mlflow if the digests in `inputs` are those of the last command that sent everything.

    Args:
        views: A view for each plan; None for a plan without one.
        options: The command line.
        console: Where the first failure is printed; training continues, and the next update is tried.
        inputs: A digest of what each view is made from; None if it is not known or will change.

    Attributes:
        uri: MLflow's address; None without tracking.
        shown_uri: The same as the user wrote it.
        error: The last failure of the thread.
    """

    def __init__(
        self, views: Sequence[View | None], options: Options, console: Console, inputs: Sequence[str | None] = ()
    ):
        self.uri, local = options.uri, f"sqlite:///{options.root / 'mlflow.db'}"
        self.shown_uri = (options.tracking_uri or local) if self.uri else ""
        self.error: Exception | None = None
        self._views, self._console = views if self.uri else (), console
        self._stopped, self._lock = threading.Event(), threading.Lock()
        outdated = [view for _, view, _ in self._outdated(inputs)]
        self._thread = threading.Thread(target=self._loop, args=[outdated], name="tracking", daemon=True)
        if outdated:
            self._thread.start()

    def finish(self, reports: Sequence[Report | None], inputs: Sequence[str | None] = ()) -> None:
        """Send the rest and the reports; a server that fails costs one line, not the report.

        Args:
            reports: A report for each plan; None for a plan without one.
            inputs: The digests as they are now, for the next command.
        """
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(PATIENCE_S)
        try:
            for number, view, mark in self._outdated(inputs):
                self._send(view, reports[number], mark if reports[number] else "")
        except Exception as error:
            self._warn("all results are in the folders", error)

    def _outdated(self, inputs: Sequence[str | None]) -> list[tuple[int, View, str]]:
        """Return the views for which MLflow may lack something, each with its number and its mark."""
        views = [(number, view) for number, view in enumerate(self._views) if view]
        marks = [f"{view.name}: {inputs[number]}" if inputs and inputs[number] else "" for number, view in views]
        return [(*view, mark) for view, mark in zip(views, marks, strict=True) if not up_to_date(self.uri, mark)]

    def _loop(self, views: Sequence[View]) -> None:
        while not self._stopped.is_set():
            start = time.thread_time()
            try:
                from studies.harness.tracking import client  # noqa: F401  (the main thread need not wait for mlflow)

                for view in views:
                    self._send(view)
            except Exception as error:
                if self.error is None:
                    self._warn("training continues", error)
                self.error = error
            # The trials need the cores: at most a tenth of one is used here.
            self._stopped.wait(max(INTERVAL_S, 9 * (time.thread_time() - start)))

    def _send(self, view: View, report: Report | None = None, mark: str = "") -> None:
        with self._lock:  # two threads could both create the run of a new trial
            view.send(self.uri or "", report, mark)

    def _warn(self, consequence: str, error: Exception) -> None:
        reason = str(error).strip().partition("\n")[0]
        line = f"tracking failed, {consequence}: {type(error).__name__}: {reason}"
        self._console.print(line, style="yellow", markup=False, soft_wrap=True)


def up_to_date(uri: str | None, mark: str) -> bool:
    """Return True if a local database has a run with this mark, False if that is not known; import no mlflow."""
    if not (mark and uri and uri.startswith("sqlite:///")):
        return False
    path = Path(uri.removeprefix("sqlite:///")).absolute()
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", timeout=1, uri=True)) as database:
            return database.execute(QUERY, (MARK, mark)).fetchone() is not None
    except sqlite3.Error:  # there is no database, or it is locked or not MLflow's
        return False
