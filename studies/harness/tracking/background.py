"""Send results to MLflow during the training, in a thread that does not delay the trials."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Collection, Sequence
from contextlib import closing
from pathlib import Path

from rich.console import Console

from studies.harness.design.options import Options, default_uri
from studies.harness.design.result import Report
from studies.harness.design.uris import sqlite_path
from studies.harness.tracking.locations import stale
from studies.harness.tracking.view import MARK, Sent, View

INTERVAL_S = 5.0  # shortest time between two updates
PATIENCE_S = 30.0  # how long the end of a command waits for the update that is in progress
QUERY = """
SELECT 1 FROM tags JOIN runs USING (run_uuid)
WHERE key = ? AND value = ? AND lifecycle_stage = 'active'
"""


class Tracking:
    """A daemon thread that sends views while trials run; `finish` sends the rest.

    After a failure, the thread tries again at the next update.

    Args:
        views: The views to send.
        options: The command line.
        console: The console that prints the first failure.

    Attributes:
        error: The last failure of the thread.
    """

    def __init__(self, views: Sequence[View], options: Options, console: Console):
        self.error: Exception | None = None
        self._views, self._uri, self._console = views, options.uri or "", console
        self._stopped, self._lock = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._loop, name="tracking", daemon=True)
        self._thread.start()

    def finish(self, reports: Sequence[Report], inputs: Sequence[str]) -> None:
        """Send the remaining results and the reports; if the server fails, print one line.

        Args:
            reports: A report for each view.
            inputs: For each view, the digest of its inputs for `up_to_date`; empty if it is
                unknown.
        """
        self._stopped.set()
        self._thread.join(PATIENCE_S)
        try:
            for view, report, mark in zip(self._views, reports, inputs, strict=True):
                with self._lock:
                    self._report(view.send(self._uri, report, mark))
        except Exception as error:
            self._warn("all results are in the output folder", error)

    def _loop(self) -> None:
        while not self._stopped.is_set():
            start = time.thread_time()
            try:
                # Import mlflow before the lock, so that the main thread need not wait for it.
                from studies.harness.tracking import client  # noqa: F401

                for view in self._views:
                    if not self._stopped.is_set():
                        with self._lock:  # otherwise two threads could create the same run
                            self._report(view.send(self._uri))
            except Exception as error:
                if self.error is None:
                    self._warn("training continues", error)
                self.error = error
            # Use at most a tenth of a CPU core, because the trials need the cores.
            self._stopped.wait(max(INTERVAL_S, 9 * (time.thread_time() - start)))

    def _report(self, sent: Sent) -> None:
        if sent.restored:
            self._print(sent.restored)

    def _warn(self, consequence: str, error: Exception) -> None:
        reason = str(error).strip().partition("\n")[0]
        self._print(f"MLflow tracking failed; {consequence}: {type(error).__name__}: {reason}")

    def _print(self, line: str) -> None:
        self._console.print(line, style="yellow", markup=False, soft_wrap=True)


def up_to_date(uri: str, inputs: Collection[str], root: Path | None = None) -> bool:
    """Return True if a local database has a run with each of these digests. Does not import mlflow.

    Also return False if this is unknown: a digest is empty, or the URI does not name a readable
    database. Return False, too, if the database has moved with its output folder `root`, so that
    the next update corrects the paths of the artifacts.
    """
    path = sqlite_path(uri)
    if not inputs:
        return True
    if path is None or "" in inputs:
        return False
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", timeout=1, uri=True)) as database:
            if root is not None and uri == default_uri(root) and stale(database, root):
                return False
            return all(database.execute(QUERY, (MARK, mark)).fetchone() for mark in inputs)
    except sqlite3.Error:
        return False
