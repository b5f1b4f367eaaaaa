"""The configurations that a search has proposed for an optimizer, in the order of their numbers.

    outputs/searches/<study>/<workload>/<optimizer>/proposals.jsonl
        first line     what the search is: its sampler, space and everything that its trials share
        proposal       number, parameters, trial_key, and the attributes that the sampler stores
        stopped        number, stopped_at (epoch), values (scores by epoch), seconds: where ASHA stopped it

A proposal is on disk before its trial is submitted; its score is only in the trial's folder. So a search that was
killed resumes with the same proposals, and a search that has used its budget proposes nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from studies.harness.kinds.search.search import SCORE
from trainables.files import StoreError, append_lines, read_lines, repair_tail
from trainables.store import COMPLETED, read_status, trial_folder

STOPPED = "stopped"  # by ASHA; the trial itself has no status, and is not resumed
IN_FLIGHT = "in flight"


@dataclass(frozen=True)
class Proposal:
    """A configuration.

    Attributes:
        number: From 0.
        parameters: The tuned hyperparameters.
        trial_key: Key of the trial that scores it.
        attributes: What the sampler stores for this trial and for the study.
        stopped: Its `stopped` line, if ASHA stopped it.
    """

    number: int
    parameters: Mapping[str, Any]
    trial_key: str
    attributes: Mapping[str, Any] = field(default_factory=dict)
    stopped: Mapping[str, Any] | None = None


class Outcome(NamedTuple):
    """The outcome of a proposal.

    Attributes:
        proposal: The configuration.
        status: The trial's, `stopped` or `in flight`.
        score: Accuracy on the held-out images after the last epoch; nan unless completed.
        loss: The loss on the same images.
        values: Scores by epoch if it was stopped, otherwise empty.
        seconds: Time of training and evaluation.
    """

    proposal: Proposal
    status: str
    score: float
    loss: float
    values: Mapping[int, float]
    seconds: float

    @property
    def done(self) -> bool:
        """True if the outcome is final."""
        return self.status != IN_FLIGHT


class Proposals:
    """The file of an optimizer; nothing is written before the first `append`.

    Args:
        path: The file.
        settings: What identifies the search: sampler, spaces, and the settings that its trials share.

    Raises:
        StoreError: The file belongs to another search, or is damaged.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]):
        self.path, self._settings = (
            path,
            json.loads(json.dumps(settings)),
        )  # a tuple is a list, as in the file
        lines = read_lines(path)
        if lines and (different := _different(lines[0]["search"], self._settings)):
            raise StoreError(
                f"{path.parent} was begun with {different}: name another --out, or move it away"
            )
        self._begun = bool(lines)
        self.all: list[Proposal] = []
        stops = {line["number"]: line for line in lines[1:] if "stopped_at" in line}
        for line in (line for line in lines[1:] if "parameters" in line):
            self.all.append(Proposal(**line, stopped=stops.get(line["number"])))

    def append(
        self, parameters: Mapping[str, Any], trial_key: str, attributes: Mapping[str, Any]
    ) -> Proposal:
        """Write a proposal durably, and return it."""
        proposal = Proposal(len(self.all), parameters, trial_key, attributes)
        line = {
            name: getattr(proposal, name)
            for name in ("number", "parameters", "trial_key", "attributes")
        }
        self._write(line)
        self.all.append(proposal)
        return proposal

    def stop(self, number: int, epoch: int, values: Mapping[int, float], seconds: float) -> None:
        """Write that ASHA has stopped a proposal after an epoch (counted from 0)."""
        scores = {str(at): value for at, value in sorted(values.items())}
        line = {"number": number, "stopped_at": epoch, "values": scores, "seconds": seconds}
        self._write(line)
        old = self.all[number]
        self.all[number] = Proposal(old.number, old.parameters, old.trial_key, old.attributes, line)

    def _write(self, line: dict[str, Any]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        repair_tail(self.path)
        append_lines(self.path, [line] if self._begun else [{"search": self._settings}, line])
        self._begun = True


def proposals_path(root: Path, study: str, workload: str, optimizer: str) -> Path:
    """Return the path of an optimizer's proposals."""
    return root / "searches" / study / workload.replace("/", "-") / optimizer / "proposals.jsonl"


def stopped_keys(root: Path) -> set[str]:
    """Return the keys of the trials of an output folder that ASHA stopped; they have no status and are not resumed."""
    keys = set()
    for path in (root / "searches").glob("*/*/*/proposals.jsonl"):
        lines = read_lines(path)
        ended = {line["number"] for line in lines if "stopped_at" in line}
        keys |= {
            line["trial_key"] for line in lines if "trial_key" in line and line["number"] in ended
        }
    return keys


def outcome(proposal: Proposal, root: Path) -> Outcome:
    """Read a proposal's outcome from its trial's folder, unless ASHA stopped it."""
    if (stop := proposal.stopped) is not None:
        values = {int(epoch): value for epoch, value in stop["values"].items()}
        return Outcome(proposal, STOPPED, math.nan, math.nan, values, stop["seconds"])
    folder = trial_folder(root, proposal.trial_key)
    status = (read_status(folder) or {"status": IN_FLIGHT})["status"]
    lines = read_lines(folder / "epochs.jsonl")
    seconds = sum(
        line["metrics"]["time/train_s"] + line["metrics"]["time/eval_s"] for line in lines
    )
    last = lines[-1]["metrics"] if lines and status == COMPLETED else {}
    return Outcome(
        proposal, status, last.get(SCORE, math.nan), last.get("val/loss", math.nan), {}, seconds
    )


def best(outcomes: list[Outcome]) -> Outcome | None:
    """Return the outcome with the highest score, then the lower loss, then the lower number; None if none completed."""
    scored = [outcome for outcome in outcomes if not math.isnan(outcome.score)]
    return min(
        scored,
        key=lambda outcome: (-outcome.score, outcome.loss, outcome.proposal.number),
        default=None,
    )


def _different(begun: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return every setting in which two searches differ, as `sampler = tpe, not random`."""
    old, new = _flat(begun), _flat(now)
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    return ", ".join(
        f"{name} = {old.get(name, 'nothing')}, not {new.get(name, 'nothing')}" for name in names
    )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= (
            _flat(value, f"{prefix}{name}.")
            if isinstance(value, Mapping)
            else {prefix + name: value}
        )
    return flat
