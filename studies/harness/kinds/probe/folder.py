"""The folder of the result of one network. Its name is the start of the key of the result.

    outputs/probes/<first 16 hex digits of the key>/
        config.json    schema, full key, measurement with its parameters, configuration of the trial
        arrays.npz     the measured arrays; absent if the training diverged
        status.json    completed | diverged; the seconds, the metrics of the last epoch, the device,
                       the versions of the software, and the SHA-256 of arrays.npz, because numpy
                       does not detect every flipped bit

Reports are made from these files, without training. A folder is written under a temporary name and
renamed when it is complete. There are no checkpoints: after a probe was killed, the next command
trains the unfinished network from the start.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from studies.harness.design.arms import Trial
from studies.harness.kinds.probe.probe import Probe
from trainables.config import TrialConfig, digest
from trainables.files import StoreError, sync, sync_directory
from trainables.store import COMPLETED

SCHEMA = 1
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Result:
    """The result of a network: its seed, the content of `status.json`, and the arrays.

    The arrays are empty if the training diverged.
    """

    seed: int
    status: Mapping[str, Any]
    arrays: Arrays


def results(probe: Probe, trials: Sequence[Trial], root: Path) -> dict[int, Result]:
    """Return the existing results by seed.

    Raises:
        StoreError: See `read`.
    """
    by_seed = {trial.config.seed: read(probe, trial.config, root) for trial in trials}
    return {seed: result for seed, result in by_seed.items() if result is not None}


def status_file(probe: Probe, config: TrialConfig, root: Path) -> Path:
    """Return the path of a network's `status.json`, which exists if the network has a result."""
    return probe_folder(root, key(probe, config)) / "status.json"


def measured_seeds(root: Path) -> set[int]:
    """Return the seeds of all networks in an output folder; damaged folders are omitted."""
    seeds = set()
    for path in (root / "probes").glob("*/config.json"):
        with suppress(OSError, ValueError, KeyError, TypeError):
            seeds.add(int(json.loads(path.read_bytes())["config"]["seed"]))
    return seeds


def key(probe: Probe, config: TrialConfig) -> str:
    """Return the key of the result of a network: 64 hexadecimal digits."""
    return digest({**description(probe), "trial": config.trial_key})


def description(probe: Probe) -> dict[str, Any]:
    """Return the description of the measurement. The key and `config.json` contain it."""
    kind = type(probe.measurement)
    return {
        "measurement": kind.__name__,
        "numerics": kind.NUMERICS,
        "parameters": asdict(probe.measurement),
    }


def read(probe: Probe, config: TrialConfig, root: Path) -> Result | None:
    """Return the result of a network, or None if it has no result.

    Raises:
        StoreError: The folder is damaged, belongs to another result, or was written by a newer
            version.
    """
    folder = probe_folder(root, key(probe, config))
    if not folder.exists():
        return None
    try:
        document = json.loads((folder / "config.json").read_bytes())
        status = json.loads((folder / "status.json").read_bytes())
        completed = status["status"] == COMPLETED
        arrays = _load(folder / "arrays.npz", status["sha256"]) if completed else {}
    except (OSError, ValueError, KeyError) as error:
        raise StoreError(
            f"{folder} is damaged ({type(error).__name__}): remove it and run again"
        ) from error
    if document["schema"] > SCHEMA:
        raise StoreError(
            f"{folder} has schema {document['schema']}, this version reads up to {SCHEMA}: "
            "update this package"
        )
    if document["key"] != key(probe, config):
        raise StoreError(
            f"{folder} contains another result whose key has the same first 16 digits: move it away"
        )
    return Result(config.seed, status, arrays)


def probe_folder(root: Path, key: str) -> Path:
    """Return the folder of the result with a key."""
    return root / "probes" / key[:16]


def write(
    probe: Probe, config: TrialConfig, root: Path, status: Mapping[str, Any], arrays: Arrays
) -> Result:
    """Write the folder of a result atomically, and return the result."""
    folder = probe_folder(root, key(probe, config))
    temporary = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # left by a process that was killed
    temporary.mkdir(parents=True)
    stored = io.BytesIO()
    np.savez_compressed(stored, allow_pickle=False, **arrays)
    status = {**status, "sha256": hashlib.sha256(stored.getvalue()).hexdigest()}
    document = {
        "schema": SCHEMA,
        "key": key(probe, config),
        **description(probe),
        "config": config.to_dict(),
    }
    documents = {"config.json": document, "status.json": status}
    files = {name: json.dumps(content, indent=1).encode() for name, content in documents.items()}
    if arrays:
        files["arrays.npz"] = stored.getvalue()
    for name, content in files.items():
        with open(temporary / name, "wb") as file:
            file.write(content)
            sync(file)
    sync_directory(temporary)
    temporary.rename(folder)
    sync_directory(folder.parent)
    return Result(config.seed, status, arrays)


def _load(path: Path, sha256: str) -> Arrays:
    """Return the arrays of a file.

    Raises:
        ValueError: The checksum differs.
    """
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ValueError("the checksum of the arrays differs")
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:  # unpickling runs code
        return {name: stored[name] for name in stored.files}
