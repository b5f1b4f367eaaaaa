"""MLflow beside the training: a thread that sends what the folders have, and cannot hold the trials up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from studies.harness.command.options import Options
from studies.harness.kinds.study.plan import Plan


class BackgroundSync:
    """A daemon thread that syncs while trials run; training never notices when it fails.

    Args:
        view: What to call, such as `partial(sync, study, trials, root)`.
        on_error: Gets one line, once, when a call fails; later calls are tried all the same.
        interval_s: Seconds between calls; more when a call is much work.
    """

    def __init__(self, view: Callable[[], object], on_error: Callable[[str], object], interval_s: float = 5.0):
        self.error: Exception | None = None
        self._view, self._on_error, self._interval_s = view, on_error, interval_s
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="tracking", daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float = 30.0) -> None:
        """End the thread, waiting at most `timeout_s` for a call under way; then sync once more for the rest."""
        self._stopped.set()
        self._thread.join(timeout_s)

    def _loop(self) -> None:
        while not self._stopped.is_set():
            start = time.thread_time()
            try:
                self._view()
            except Exception as error:
                if self.error is None:
                    first_line = str(error).strip().partition("\n")[0]
                    self._on_error(f"tracking failed, training goes on: {type(error).__name__}: {first_line}")
                self.error = error
            # The trials have the cores: at most a tenth of one goes into this.
            self._stopped.wait(max(self._interval_s, 9 * (time.thread_time() - start)))


class Tracking:
    """MLflow beside the training: a thread that sends what the folders have, and one last time at the end."""

    def __init__(self, plans: Sequence[Plan], options: Options, console: Console):
        given, root = options.tracking_uri, options.root
        self.uri, self.shown_uri, self._thread, self._console = None, "", None, console
        if given == "none":
            return
        from studies.harness.tracking import sync as tracking

        self.uri = given or tracking.default_uri(root)
        self.shown_uri = given or f"sqlite:///{root / 'mlflow.db'}"
        self._syncs = [
            partial(tracking.sync, each.study, each.trials, root, self.uri, smoke=options.smoke) for each in plans
        ]
        self._thread = BackgroundSync(self._all, self._warn)

    def finish(self, artifacts: Sequence[Sequence[Path]]) -> None:
        """Send the rest and the reports; a server that fails costs a line, not the report."""
        if self._thread is None:
            return
        self._thread.stop()
        try:
            for sync, paths in zip(self._syncs, artifacts, strict=True):
                sync(artifacts=paths)
        except Exception as error:
            self._warn(f"tracking failed, all results are in the folders: {type(error).__name__}: {error}")

    def _all(self) -> None:
        for sync in self._syncs:
            sync()

    def _warn(self, message: str) -> None:
        self._console.print(message.partition("\n")[0], style="yellow", markup=False, soft_wrap=True)
