"""The procedure that tunes recipes: spaces, configurations, and the ledger of the scores.

Every optimizer has the same budget: `BUDGET` configurations, each trained with `SEEDS`, which no
study uses, on the fraction `TRAIN_FRACTION` of the training set. The score of a trial is the
workload's headline metric on the held-out examples after the last epoch. The recipe has the values
of the configuration with the best mean score over the seeds. If several configurations have this
mean, the configuration with the smallest index is used. `python -m studies tune-recipe` runs the
procedure.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from trainables.metrics import metric

BUDGET = 16
SEEDS = (100, 101, 102)
TRAIN_FRACTION = 0.9
LEDGERS = Path(__file__).parent / "ledgers"
RANGE = 30.0  # the ends of a space that is not in `SPACES`: default / RANGE and default * RANGE
DIGITS = 2  # significant digits of a value in a configuration, to keep recipes readable
SCORE_DIGITS = 6  # significant digits of a score in a ledger

Space = Mapping[str, tuple[float, float]]
"""The smallest and the largest value of each tuned hyperparameter. Scales are logarithmic."""

# The spaces suit the cross-entropy and also squared errors that are summed over the outputs. For
# these errors, the best learning rates are 10 to 100 times smaller. The best values in
# docs/digits.md, and in a pilot with seed 100 on an autoencoder with torch's default initialisation,
# are inside the spaces.
_INPUTS = {"lr": (1e-3, 1.0), "damping": (0.03, 10.0)}
_QUASI_NEWTON = {"lr": (1e-3, 1.0), "damping": (1e-3, 1.0)}
SPACES: Mapping[str, Space] = {
    "sgd": {"lr": (1e-3, 1.0)},
    "adam": {"lr": (1e-4, 0.1)},
    "adamw": {"lr": (1e-4, 0.1)},
    "foof": _INPUTS,
    "nysact-s": _INPUTS,
    "nysact-g": _INPUTS,
    "eva": {"lr": (3e-3, 3.0), "damping": (0.01, 10.0)},
    "nysact-s+orthogonal": {"lr": (1e-3, 1.0), "damping": (0.03, 10.0), "adam_lr": (1e-4, 0.1)},
    "kfac": {"lr": (0.01, 10.0), "damping": (1e-3, 10.0)},
    "skfac": {"lr": (0.01, 10.0), "damping": (1e-3, 10.0)},
    "kbfgs": _QUASI_NEWTON,
    "kbfgs-l": _QUASI_NEWTON,
    "ekfac": {"lr": (3e-4, 1.0), "damping": (0.01, 10.0)},
    "steve": {"lr": (1e-4, 0.1)},
    "sketchysgd": {"lr": (1e-3, 1.0), "damping": (0.1, 100.0)},
    "ggt": {"lr": (1e-3, 1.0)},
    "mfac": {"lr": (1e-4, 0.1), "damping": (1e-6, 1e-2)},
    "shampoo": {"lr": (3e-3, 3.0)},
    "soap": {"lr": (1e-4, 0.1)},
    "adahessian": {"lr": (1e-3, 1.0)},
    "shampoo-graft": {"lr": (1e-3, 1.0)},
    "lion": {"lr": (1e-5, 1e-2)},
    "adopt": {"lr": (1e-4, 0.1)},
    "sophia-h": {"lr": (1e-2, 10.0)},
    "psgd-kron": {"lr": (1e-4, 0.1)},
    "schedulefree-adamw": {"lr": (1e-4, 0.1)},
    "muon": {"lr": (1e-3, 1.0), "adam_lr": (1e-4, 0.1)},
}
"""The space of each optimizer. All other hyperparameters have the recipe's or the default value."""

# Bases of the radical inverses, for the second, third and fourth hyperparameter of a space.
_BASES = (2, 3, 5)


def space_of(optimizer: str) -> Space:
    """Return the space of an optimizer.

    If the optimizer is not in `SPACES`, because a plugin registers it for example, the space has its
    `lr` and its `damping`, from 1/30 of the default to 30 times the default. It does not have those
    whose default is not a float, or is 0.
    """
    if optimizer in SPACES:
        return SPACES[optimizer]
    from precond.registry import defaults  # imports torch

    known = defaults(optimizer)
    tuned = {n: known[n] for n in ("lr", "damping") if isinstance(known.get(n), float) and known[n]}
    return {name: (value / RANGE, value * RANGE) for name, value in tuned.items()}


def configurations(optimizer: str, budget: int = BUDGET) -> list[dict[str, float]]:
    """Return the configurations of an optimizer, in the order of their indices.

    Args:
        optimizer: A name in `SPACES`.
        budget: The number of configurations.
    """
    return points(SPACES[optimizer], budget)


def points(space: Space, budget: int) -> list[dict[str, float]]:
    """Return the configurations of a space, in the order of their indices.

    They are the points of a Hammersley set (Hammersley 1960) on logarithmic scales. The set covers
    the range of each hyperparameter, and of each pair of hyperparameters, evenly and without random
    numbers. The first hyperparameter rises with the index. Values are rounded to `DIGITS`
    significant digits.

    Args:
        space: The space.
        budget: The number of configurations.
    """
    shifts = [0.5 / budget] * len(space)
    results = []
    for index in range(budget):
        point = [index / budget, *(_reverse(index, base) for base in _BASES)]
        values = [
            low * (high / low) ** (place + shift)
            for (low, high), place, shift in zip(space.values(), point, shifts, strict=False)
        ]
        results.append(dict(zip(space, (_rounded(value, DIGITS) for value in values), strict=True)))
    return results


def _reverse(index: int, base: int) -> float:
    """Return the radical inverse: the digits of `index`, reversed, as the digits of a fraction."""
    result, weight = 0.0, 1.0
    while index:
        weight /= base
        index, digit = divmod(index, base)
        result += digit * weight
    return result


def _rounded(value: float, digits: int) -> float:
    return float(f"{value:.{digits}g}")


class Row(NamedTuple):
    """A trial in a ledger.

    Attributes:
        optimizer: Name of the optimizer.
        configuration: Index of the configuration.
        values: The values of the tuned hyperparameters.
        seed: The trial's seed.
        status: The trial's status.
        score: The metric after the last epoch; nan unless the status is `completed`.
    """

    optimizer: str
    configuration: int
    values: Mapping[str, float]
    seed: int
    status: str
    score: float


class Candidate(NamedTuple):
    """A configuration and the mean of its scores, which is nan if a seed has no finite score."""

    configuration: int
    values: Mapping[str, float]
    mean: float


@dataclass(frozen=True)
class Ledger:
    """The trials of a tuning.

    Attributes:
        metric: The metric of the scores, such as `val/accuracy`.
        rows: The trials, grouped by configuration.
    """

    metric: str
    rows: Sequence[Row]

    @property
    def optimizers(self) -> list[str]:
        """The names of the optimizers."""
        return list(dict.fromkeys(row.optimizer for row in self.rows))

    def ranking(self, optimizer: str) -> list[Candidate]:
        """Return the configurations of an optimizer, the best first.

        A configuration with a trial that has no finite score ranks below all others.
        """
        sign = -1 if metric(self.metric).higher_is_better else 1

        def rank(candidate: Candidate) -> tuple[bool, float, int]:
            missing = math.isnan(candidate.mean)
            return missing, 0.0 if missing else sign * candidate.mean, candidate.configuration

        return sorted(self._candidates(optimizer), key=rank)

    def winner(self, optimizer: str) -> Candidate | None:
        """Return the best configuration of an optimizer, or None if none has a mean."""
        candidates = self.ranking(optimizer)
        return candidates[0] if candidates and not math.isnan(candidates[0].mean) else None

    def edges(self, optimizer: str) -> list[str]:
        """Return the hyperparameters that are at an end of their range in the winner.

        The winner's value is the smallest or the largest of all configurations.
        """
        winner = self.winner(optimizer)
        if winner is None:
            return []
        tried = [row.values for row in self.rows if row.optimizer == optimizer]
        ends = {
            name: {f(values[name] for values in tried) for f in (min, max)}
            for name in winner.values
        }
        return [name for name, value in winner.values.items() if value in ends[name]]

    def updated(self, newer: Ledger) -> Ledger:
        """Return this ledger with the optimizers of a newer ledger added or replaced.

        Raises:
            ValueError: The ledgers have different metrics.
        """
        if newer.metric != self.metric:
            raise ValueError(
                f"metric {newer.metric} instead of {self.metric}: not the same workload"
            )
        kept = [row for row in self.rows if row.optimizer not in newer.optimizers]
        return Ledger(self.metric, [*kept, *newer.rows])

    def to_csv(self) -> str:
        """Return the ledger as CSV; equal ledgers give equal text.

        The columns are `optimizer`, `configuration`, the hyperparameters, `seed`, `status`, the
        metric, and `mean`, which is the mean score of the configuration.
        """
        names = list(dict.fromkeys(name for row in self.rows for name in row.values))
        means = {
            (name, candidate.configuration): candidate.mean
            for name in self.optimizers
            for candidate in self._candidates(name)
        }
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        columns = ["optimizer", "configuration", *names, "seed", "status", self.metric, "mean"]
        writer.writerow(columns)
        for row in self.rows:
            values = [row.values.get(name, "") for name in names]
            scores = [_cell(row.score), _cell(means[row.optimizer, row.configuration])]
            identity = [row.optimizer, row.configuration]
            writer.writerow([*identity, *values, row.seed, row.status, *scores])
        return text.getvalue()

    @classmethod
    def from_csv(cls, text: str) -> Ledger:
        """Return the ledger whose `to_csv` returned this text; the column `mean` is not read.

        Raises:
            ValueError: The text is not a ledger.
        """
        header, *lines = csv.reader(io.StringIO(text))
        names, rows = header[2 : header.index("seed")], []
        for optimizer, number, *cells in lines:
            values = {name: float(cell) for name, cell in zip(names, cells, strict=False) if cell}
            seed, status, score, _ = cells[len(names) :]
            numbers = int(seed), status, float(score or "nan")
            rows.append(Row(optimizer, int(number), values, *numbers))
        return cls(header[-2], rows)

    def _candidates(self, optimizer: str) -> list[Candidate]:
        configurations: dict[int, list[Row]] = {}
        for row in self.rows:
            if row.optimizer == optimizer:
                configurations.setdefault(row.configuration, []).append(row)
        return [
            Candidate(number, rows[0].values, _mean([row.score for row in rows]))
            for number, rows in configurations.items()
        ]


def _mean(scores: Sequence[float]) -> float:
    """Return the mean of the scores as rounded in the CSV file, or nan if a score is not finite."""
    values = [_rounded(score, SCORE_DIGITS) for score in scores]
    return math.fsum(values) / len(values) if all(map(math.isfinite, values)) else math.nan


def _cell(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.{SCORE_DIGITS}g}"


def ledger_file(workload: str) -> Path:
    """Return the path of the committed ledger of a workload, which may not exist."""
    return LEDGERS / f"{workload.replace('/', '-')}.csv"


def committed_ledger(workload: str) -> Ledger | None:
    """Return the committed ledger of a workload, or None if the workload is not tuned."""
    file = ledger_file(workload)
    return Ledger.from_csv(file.read_text()) if file.exists() else None
