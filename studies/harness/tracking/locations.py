"""The paths of artifacts in an output folder's database. MLflow stores them as absolute paths.

After the folder was moved, renamed or copied, they name a folder that does not exist or that
belongs to the original. `repair` replaces them; it does not import mlflow.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

from studies.harness.design.options import default_uri
from studies.harness.design.uris import sqlite_path

FOLDER = "mlartifacts"
CREATED_BY = "study"  # the tag of the experiments and runs that this project creates
EXPERIMENTS = f"""
SELECT experiment_id, artifact_location FROM experiments
WHERE artifact_location != ? AND artifact_location LIKE 'file:///%/{FOLDER}' AND (
  EXISTS (SELECT 1 FROM experiment_tags
          WHERE key = '{CREATED_BY}' AND experiment_id = experiments.experiment_id)
  OR EXISTS (SELECT 1 FROM tags JOIN runs USING (run_uuid)
             WHERE key = '{CREATED_BY}' AND experiment_id = experiments.experiment_id))
"""
RUNS = "SELECT run_uuid FROM runs WHERE experiment_id = ?"
REPAIR_EXPERIMENT = "UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?"
REPAIR_RUNS = f"""
UPDATE runs SET artifact_uri = ? || '/' || run_uuid || '/artifacts'
WHERE experiment_id = ? AND artifact_uri LIKE 'file:///%/{FOLDER}/' || run_uuid || '/artifacts'
"""


def location(root: Path) -> str:
    """Return the URI of the artifacts of an output folder's own database."""
    return (root.resolve() / FOLDER).as_uri()


def stale(database: sqlite3.Connection, root: Path) -> list[int]:
    """Return the experiments of this project whose artifacts have moved with the output folder.

    An experiment has moved if the artifacts of one of its runs are in `root`, or if its old folder
    does not exist. Any other experiment was sent here by a study with another output folder.
    """
    folder, moved = root / FOLDER, []
    for experiment, old in database.execute(EXPERIMENTS, (location(root),)).fetchall():
        runs = database.execute(RUNS, (experiment,))
        here = any((folder / run).is_dir() for (run,) in runs)
        if here or not Path(unquote(urlsplit(old).path)).is_dir():
            moved.append(experiment)
    return moved


def repair(root: Path, uri: str) -> None:
    """Correct the paths of moved artifacts, if `uri` is the output folder's own database.

    Raises:
        sqlite3.Error: The database cannot be read or written.
    """
    path = sqlite_path(uri)
    if uri != default_uri(root) or path is None or not path.exists():
        return
    with closing(sqlite3.connect(path, timeout=5)) as database, database:
        for experiment in stale(database, root):
            database.execute(REPAIR_RUNS, (location(root), experiment))
            database.execute(REPAIR_EXPERIMENT, (location(root), experiment))
