"""Weights & Biases offline runs, which `wandb sync` sends later. Nothing is sent here."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from studies.harness.export.format import Format
from studies.harness.export.runs import Run
from trainables.files import remove

PROJECT = "precond"


class WandbOffline(Format):
    """A folder with a transaction log, as `WANDB_MODE=offline` writes it.

    The ID of a run is the beginning of the trial's key. `wandb sync` of a replaced folder therefore
    does not create a second run.
    """

    LIBRARY = "wandb"
    EXTRA = "wandb"
    COMMAND = "wandb sync {folder}/offline-run-*"

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Set the variables of wandb, and end its service process afterwards."""
        with tempfile.TemporaryDirectory() as folder, _environment(folder):
            import wandb

            try:
                yield
            finally:
                wandb.teardown()

    def place(self, run: Run) -> str:
        """Return a name of the form that wandb uses, with the time when the trial started."""
        start = time.strftime("%Y%m%d_%H%M%S", time.gmtime(run.started_s))
        return f"offline-run-{start}-{run.key[:16]}"

    def write(self, run: Run, folder: Path) -> None:
        """Write the configuration, the metrics of each epoch, and the status as summary."""
        import wandb

        root = folder.with_name(f"{folder.name}.wandb")
        root.mkdir()
        settings = wandb.Settings(
            mode="offline",
            root_dir=str(root),
            silent=True,
            console="off",
            symlink=False,
            save_code=False,
            disable_code=True,
            disable_git=True,
            x_disable_stats=True,
            x_disable_meta=True,
            x_disable_machine_info=True,
            x_save_requirements=False,
            host=run.host,
            run_id=run.key[:16],
            run_name=f"{run.name} seed {run.seed}",
            project=PROJECT,
            run_group=f"{run.name} {run.group_key[:8]}",
            run_job_type=run.workload,
            run_tags=tuple(run.studies),
        )
        log = wandb.init(settings=settings, config=dict(run.parameters))
        for line in run.epochs:
            log.log({**line["metrics"], "_timestamp": line["time"]}, step=line["epoch"])
        log.summary.update(run.facts)
        log.finish(exit_code=int(run.failed))
        [written] = (root / "wandb").glob("offline-run-*")
        written.rename(folder)
        remove(root)


@contextmanager
def _environment(folder: str) -> Iterator[None]:
    """Keep wandb from sending errors, and from using the settings and folders of the user."""
    before = dict(os.environ)
    places = [f"WANDB_{name}_DIR" for name in ("CONFIG", "CACHE", "DATA", "ARTIFACT")]
    for name in before:
        if name.startswith("WANDB_"):
            del os.environ[name]
    os.environ.update(dict.fromkeys((*places, "TMPDIR"), folder))
    os.environ.update(WANDB_ERROR_REPORTING="false", WANDB_SILENT="true")  # read on import
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


FORMAT = WandbOffline()
