"""The file with the configurations that a search has proposed for an optimizer.

    outputs/searches/<study>/<workload>/<optimizer>/proposals.jsonl
        first line     the identity of the search: sampler, ASHA, space, and the settings that its
                       trials share
        proposal       number, parameters, trial_key, and the attributes that the sampler stores
        stopped        number, stopped_at (epoch), values (scores by epoch), seconds; written when
                       ASHA stops the trial of a proposal

A proposal is written before its trial is submitted, so a search that was killed resumes with the
same proposals. The score of a proposal is stored only in the trial folder.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from trainables.files import StoreError, append_lines, read_lines, repair_tail
from trainables.store import COMPLETED, read_status, trial_folder

STOPPED = "stopped"  # by ASHA: the trial folder gets no status, and the trial is not resumed
IN_FLIGHT = "in flight"


@dataclass(frozen=True)
class Proposal:
    """A configuration that a search has proposed.

    Attributes:
        number: The number of the proposal, from 0.
        parameters: The tuned hyperparameters.
        trial_key: The key of the trial that scores the configuration.
        attributes: The attributes that the sampler stores for the trial and for the Optuna study.
        stopped: The `stopped` line of the file, if ASHA stopped the trial.
    """

    number: int
    parameters: Mapping[str, Any]
    trial_key: str
    attributes: Mapping[str, Any] = field(default_factory=dict)
    stopped: Mapping[str, Any] | None = None


class DifferentSearch(StoreError):
    """An output folder contains a search of the same name with other settings."""


class Outcome(NamedTuple):
    """The outcome of a proposal.

    Attributes:
        proposal: The proposal.
        status: The status of the trial if it has ended, otherwise `stopped` or `in flight`.
        score: The metric on the held-out examples after the last epoch; nan if not completed.
        loss: The loss on the same examples.
        values: The scores by epoch if ASHA stopped the trial, otherwise empty.
        seconds: The time of training and evaluation.
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
    """The proposals of an optimizer and their file. The first `append` creates the file.

    Args:
        path: The file.
        settings: The identity of the search (see `proposer.settings`).

    Raises:
        DifferentSearch: The file belongs to a different search.
        StoreError: The file is damaged.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]):
        self.path = path
        self._settings = json.loads(json.dumps(settings))  # turns tuples into lists, as in the file
        lines = read_lines(path)
        if lines and (differences := _differences(lines[0]["search"], self._settings)):
            raise DifferentSearch(
                f"{path.parent} contains a search with {differences}",
                "use another --out, or move this folder away",
            )
        self._begun = bool(lines)
        self.all: list[Proposal] = []
        stops = {line["number"]: line for line in lines[1:] if "stopped_at" in line}
        for line in (line for line in lines[1:] if "parameters" in line):
            self.all.append(Proposal(**line, stopped=stops.get(line["number"])))

    def append(
        self, parameters: Mapping[str, Any], trial_key: str, attributes: Mapping[str, Any]
    ) -> Proposal:
        """Write a proposal to the disk, and return it."""
        proposal = Proposal(len(self.all), parameters, trial_key, attributes)
        line = {
            name: getattr(proposal, name)
            for name in ("number", "parameters", "trial_key", "attributes")
        }
        self._write(line)
        self.all.append(proposal)
        return proposal

    def stop(self, number: int, epoch: int, values: Mapping[int, float], seconds: float) -> None:
        """Write that ASHA stopped the trial of a proposal after an epoch, counted from 0."""
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
    """Return the path of the file with the proposals of an optimizer."""
    return root / "searches" / study / workload.replace("/", "-") / optimizer / "proposals.jsonl"


def stopped_keys(root: Path) -> set[str]:
    """Return the keys of the trials that ASHA stopped, from all searches in an output folder."""
    keys = set()
    for path in (root / "searches").glob("*/*/*/proposals.jsonl"):
        lines = read_lines(path)
        stopped = {line["number"] for line in lines if "stopped_at" in line}
        proposals = [line for line in lines if "trial_key" in line]
        keys |= {line["trial_key"] for line in proposals if line["number"] in stopped}
    return keys


def outcome(proposal: Proposal, root: Path, score: str) -> Outcome:
    """Return the outcome of a proposal: from its `stopped` line, or else from the trial folder.

    `score` is the metric that scores a configuration, such as `val/accuracy`.
    """
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
        proposal, status, last.get(score, math.nan), last.get("val/loss", math.nan), {}, seconds
    )


def best(outcomes: list[Outcome], higher: bool) -> Outcome | None:
    """Return the outcome with the best score, or None if no outcome has a score.

    The best score is the highest if `higher` is True, and the lowest otherwise. Of outcomes with
    equal scores, the one with the lower loss is returned, and of equal losses, the earlier one.
    """
    sign = -1 if higher else 1
    scored = [outcome for outcome in outcomes if not math.isnan(outcome.score)]
    return min(
        scored,
        key=lambda outcome: (sign * outcome.score, outcome.loss, outcome.proposal.number),
        default=None,
    )


def _differences(stored: Mapping[str, Any], current: Mapping[str, Any]) -> str:
    """Return the settings in which two searches differ, such as `sampler = tpe, not random`."""
    old, new = _flat(stored), _flat(current)
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    return ", ".join(
        f"{name} = {old.get(name, 'absent')}, not {new.get(name, 'absent')}" for name in names
    )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
