"""Read a trial folder as a run, with the values that trackers show."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from studies.harness.design.configurations import configuration_of
from studies.harness.evidence.ledger import RESERVED
from studies.harness.evidence.status import LOST, reason
from trainables.config import TrialConfig
from trainables.files import read_lines
from trainables.store import read_config, read_status

LONGEST = 120  # characters of a name in a path


@dataclass(frozen=True)
class Run:
    """A trial that a worker has started.

    Attributes:
        key: The trial's key, 64 hexadecimal digits.
        group_key: The key of the configuration without the seed, 64 hexadecimal digits.
        name: The configuration in words, such as `nysact-s rank=20`, without the seed.
        workload: The workload.
        seed: The seed.
        studies: The names of the studies and searches whose reports contain the trial.
        parameters: The optimizer, the seed, and all hyperparameters and settings by name.
        status: The terminal status, `in flight`, or `stopped` if a search has stopped the trial.
        reason: The reason for the trial's end; empty if there is none.
        host: The machine on which the trial was last trained; empty if it is unknown.
        started_s: Unix time of the first attempt.
        ended_s: Unix time of the end, or None.
        epochs: The committed epochs, as in `epochs.jsonl`: `epoch`, `time` and `metrics`.
    """

    key: str
    group_key: str
    name: str
    workload: str
    seed: int
    studies: Sequence[str]
    parameters: Mapping[str, Any]
    status: str
    reason: str
    host: str
    started_s: float
    ended_s: float | None
    epochs: Sequence[Mapping[str, Any]]

    @property
    def digest(self) -> str:
        """The SHA-256 of all values except the name, which may depend on other trials."""
        values = {name: value for name, value in asdict(self).items() if name != "name"}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()

    @property
    def failed(self) -> bool:
        """True if the trial has ended without a result."""
        return self.status in LOST

    @property
    def facts(self) -> dict[str, str]:
        """The status, the studies and the keys, for formats that have no place for them."""
        facts = {"status": self.status, "reason": self.reason, "studies": ", ".join(self.studies)}
        return {**facts, "trial_key": self.key, "group_key": self.group_key}


def read(folder: Path, name: str, studies: Sequence[str], unfinished: str) -> Run | None:
    """Return a trial folder as a run; None if no worker has started the trial.

    Args:
        folder: The folder of the trial.
        name: The configuration in words, without the seed.
        studies: The studies and searches whose reports contain the trial.
        unfinished: The status of a trial without a terminal status.

    Raises:
        StoreError: The folder is damaged, or a newer version wrote it.
    """
    document = read_config(folder)
    config = document["config"]
    # Read the status before the epochs, so that a completed trial has all of its epochs.
    status = read_status(folder) or {}
    attempts, epochs = read_lines(folder / "attempts.jsonl"), read_lines(folder / "epochs.jsonl")
    if not attempts:
        return None
    settings = configuration_of(config, (*RESERVED, "studies"))
    return Run(
        key=document["key"],
        group_key=TrialConfig.from_dict(config).group_key,
        name=name,
        workload=config["workload"],
        seed=config["seed"],
        studies=sorted(studies),
        parameters={"optimizer": config["optimizer"], "seed": config["seed"], **settings},
        status=status.get("status", unfinished),
        reason=reason(status) or "",
        host=attempts[-1].get("host", ""),
        started_s=attempts[0]["time"],
        ended_s=status.get("time"),
        epochs=epochs,
    )


def path_name(*parts: object) -> str:
    """Return words as the name of a file or folder, of letters, digits and `._=+,-`."""
    text = re.sub(r"[^\w.=+,-]+", "-", " ".join(map(str, parts)), flags=re.ASCII)
    return text[:LONGEST].strip("-.")
