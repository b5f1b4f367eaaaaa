"""The configurations that a search has proposed for one optimizer, in the order of their numbers.

    outputs/searches/<study>/<workload>/<optimizer>/proposals.jsonl
        first line     what the search is: its sampler, space and everything that its trials share
        proposal       number, parameters, trial_key, and what the sampler wants to find again
        stopped        number, stopped_at (epoch), values (scores by epoch), seconds: where ASHA ended one

A proposal is on the disk before its trial is submitted; its score is in the trial's folder and nowhere else. So a
search that was killed goes on with the same proposals, and one that has come to its budget proposes nothing.
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

STOPPED = "stopped"  # by ASHA; no status of the trial, which nobody finishes
IN_FLIGHT = "in flight"


@dataclass(frozen=True)
class Proposal:
    """One configuration.

    Attributes:
        number: From 0.
        parameters: The tuned hyperparameters.
        trial_key: Of the trial that scores it.
        attributes: The sampler's, of this trial and of the whole study.
        stopped: Its `stopped` line, if ASHA ended it.
    """

    number: int
    parameters: Mapping[str, Any]
    trial_key: str
    attributes: Mapping[str, Any] = field(default_factory=dict)
    stopped: Mapping[str, Any] | None = None


class Outcome(NamedTuple):
    """What became of a proposal.

    Attributes:
        proposal: Which.
        status: The trial's, `stopped` or `in flight`.
        score: Accuracy on what was held out, after the last epoch; nan unless completed.
        loss: The loss there.
        values: Scores by epoch, of a stopped one.
        seconds: Of training and evaluation.
    """

    proposal: Proposal
    status: str
    score: float
    loss: float
    values: Mapping[int, float]
    seconds: float

    @property
    def done(self) -> bool:
        """Whether nothing more will come of it."""
        return self.status != IN_FLIGHT


class Proposals:
    """The file of one optimizer; nothing is written before the first `append`.

    Args:
        path: The file.
        settings: What the search is.

    Raises:
        StoreError: The file is of another search, or damaged.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]):
        self.path, self._settings = path, json.loads(json.dumps(settings))  # a tuple is a list, as in the file
        lines = read_lines(path)
        if lines and (different := _different(lines[0]["search"], self._settings)):
            raise StoreError(f"{path.parent} was begun with {different}: name another --out, or move it away")
        self._begun = bool(lines)
        self.all: list[Proposal] = []
        stops = {line["number"]: line for line in lines[1:] if "stopped_at" in line}
        for line in (line for line in lines[1:] if "parameters" in line):
            self.all.append(Proposal(**line, stopped=stops.get(line["number"])))

    def append(self, parameters: Mapping[str, Any], trial_key: str, attributes: Mapping[str, Any]) -> Proposal:
        """Note a proposal, durably, and return it."""
        proposal = Proposal(len(self.all), parameters, trial_key, attributes)
        line = {name: getattr(proposal, name) for name in ("number", "parameters", "trial_key", "attributes")}
        self._write(line)
        self.all.append(proposal)
        return proposal

    def stop(self, number: int, epoch: int, values: Mapping[int, float], seconds: float) -> None:
        """Note that ASHA has ended a proposal after an epoch (from 0)."""
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
    """Where an optimizer's proposals are."""
    return root / "searches" / study / workload.replace("/", "-") / optimizer / "proposals.jsonl"


def stopped_keys(root: Path) -> set[str]:
    """The trials of an output folder that a search gave up: they have no status, and nobody goes on with them."""
    found = set()
    for path in (root / "searches").glob("*/*/*/proposals.jsonl"):
        lines = read_lines(path)
        ended = {line["number"] for line in lines if "stopped_at" in line}
        found |= {line["trial_key"] for line in lines if "trial_key" in line and line["number"] in ended}
    return found


def outcome(proposal: Proposal, root: Path) -> Outcome:
    """What the trial's folder says about a proposal; ASHA's end comes first."""
    if (stop := proposal.stopped) is not None:
        values = {int(epoch): value for epoch, value in stop["values"].items()}
        return Outcome(proposal, STOPPED, math.nan, math.nan, values, stop["seconds"])
    folder = trial_folder(root, proposal.trial_key)
    status = (read_status(folder) or {"status": IN_FLIGHT})["status"]
    lines = read_lines(folder / "epochs.jsonl")
    seconds = sum(line["metrics"]["time/train_s"] + line["metrics"]["time/eval_s"] for line in lines)
    last = lines[-1]["metrics"] if lines and status == COMPLETED else {}
    return Outcome(proposal, status, last.get(SCORE, math.nan), last.get("val/loss", math.nan), {}, seconds)


def best(outcomes: list[Outcome]) -> Outcome | None:
    """The highest score; of equal ones the lower loss, then the earlier proposal. None where none completed."""
    scored = [one for one in outcomes if not math.isnan(one.score)]
    return min(scored, key=lambda one: (-one.score, one.loss, one.proposal.number), default=None)


def _different(begun: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """`sampler = tpe, not random`: every setting in which two searches differ."""
    old, new = _flat(begun), _flat(now)
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    return ", ".join(f"{name} = {old.get(name, 'nothing')}, not {new.get(name, 'nothing')}" for name in names)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return flat
