"""Tables of differences, paired by seed: every arm against a reference, and every level against the recipe's value."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from studies.harness.evidence.contrasts import ALPHA, contrasts, higher_is_better, holm
from studies.harness.kinds.study.study import Arm, Study, Trial
from studies.harness.report.document import Block, Heading, Table, Text
from studies.harness.report.wording import few, probability, unit

NO_TEST = "a dash: all differences are equal, so that there is nothing to test with"


class Pair(NamedTuple):
    """Arm - base over their common seeds; nan where nothing can be said."""

    arm: str
    base: str
    n: int
    difference: float
    ci_lo: float
    ci_hi: float
    p: float
    p_holm: float


def differences(study: Study, trials: Sequence[Trial], frame: pd.DataFrame) -> list[Block]:
    """Both tables, each where it has a row.

    Args:
        study: Its figure names the references, and the metric.
        trials: The plan.
        frame: Its `ledger.frame(..., per="trial")`.
    """
    arms = list({trial.arm.label: trial.arm for trial in trials}.values())
    against, centres = references(study, arms), _centres(trials)
    if not against and not centres:
        against = {arm.label: arms[0].label for arm in arms[1:]}
    pairs = contrasts(frame, study.figure.metric)
    return [*_to_references(study, pairs, against), *_to_centres(study, pairs, centres)]


def references(study: Study, arms: Sequence[Arm]) -> dict[str, str]:
    """Which arm each arm is held against: that of the figure's first reference, at the same levels where it has any."""
    planned = {arm.optimizer for arm in arms}
    name = next((name for name in study.figure.references if name in planned), None)
    found: dict[str, str] = {}
    for arm in arms:
        for base in (base for base in arms if base.optimizer == name):
            shared = set(base.factors) & set(arm.factors)
            if all(base.overrides[factor] == arm.overrides[factor] for factor in shared):
                found.setdefault(arm.label, base.label)
    return {arm: base for arm, base in found.items() if arm != base}


def _centres(trials: Sequence[Trial]) -> dict[str, str]:
    """Of each level the arm of the same optimizer and factors whose every factor is at the recipe's value."""
    arms = {trial.arm.label: trial for trial in trials if trial.arm.factors}
    centres = {_family(trial.arm): label for label, trial in arms.items() if trial.is_centre}
    found = {label: centres.get(_family(trial.arm), label) for label, trial in arms.items()}
    return {label: centre for label, centre in found.items() if label != centre}


def _family(arm: Arm) -> tuple[Any, ...]:
    return arm.optimizer, arm.faithful, arm.factors


def _to_references(study: Study, pairs: pd.DataFrame, against: Mapping[str, str]) -> list[Block]:
    rows = _pairs(pairs, against)
    if not rows:
        return []
    tests = sum(not math.isnan(p) for p in pairs["p"])
    bases = list(dict.fromkeys(against.values()))
    title = bases[0] if len(bases) == 1 else f"{bases[0].partition(' ')[0]} at the same level"
    note = (
        f"Arm - {title}, on the seeds that both completed: paired t test, p-values by Holm over all {tests} pairs of "
        f"arms with two common seeds. The intervals are not corrected; {NO_TEST}."
    )
    said = Text(_told(rows, title, study.figure.metric), found=True)
    return [*_blocks("differences", f"Differences to {title}", study.figure.metric, rows, note), said]


def _told(rows: Sequence[Pair], title: str, metric: str) -> str:
    """`Better than sgd: foof; not told from sgd: 8 arms.`"""
    kinds: dict[str, list[str]] = {"better than": [], "worse than": [], "not told from": []}
    for row in rows:
        better = (row.difference > 0) == higher_is_better(metric)
        told = row.p_holm <= ALPHA  # nan is not
        kinds["not told from" if not told else "better than" if better else "worse than"].append(row.arm)
    said = "; ".join(f"{kind} {title}: {few(arms)}" for kind, arms in kinds.items() if arms)
    return f"{said[0].upper()}{said[1:]}."


def _to_centres(study: Study, pairs: pd.DataFrame, against: Mapping[str, str]) -> list[Block]:
    rows = _pairs(pairs, against)
    corrected = holm(np.array([row.p for row in rows]))
    rows = [row._replace(p_holm=float(p)) for row, p in zip(rows, corrected, strict=True)]
    if not rows:
        return []
    tests = sum(not math.isnan(row.p) for row in rows)
    centres = ", ".join(dict.fromkeys(row.base for row in rows))
    note = (
        f"Each level - the recipe's of the same optimizer ({centres}), on the seeds that both completed: paired t "
        f"test, p-values by Holm over the {tests} differences of this table. The intervals are not corrected; "
        f"{NO_TEST}."
    )
    return _blocks("centres", "Differences to the recipe's values", study.figure.metric, rows, note)


def _pairs(pairs: pd.DataFrame, against: Mapping[str, str]) -> list[Pair]:
    """Those asked for that have a common seed, in the order of the plan."""
    known = {(row["arm"], row["other"]): row for row in pairs.to_dict("records")}
    found = []
    for arm, base in against.items():
        turned = (arm, base) not in known
        row = known[(base, arm) if turned else (arm, base)]
        difference, lo, hi = (row[name] for name in ("difference", "ci_lo", "ci_hi"))
        if turned:
            difference, lo, hi = -difference, -hi, -lo
        found.append(Pair(arm, base, row["n"], difference, lo, hi, row["p"], row["p_holm"]))
    return [pair for pair in found if not math.isnan(pair.difference)]


def _blocks(name: str, title: str, metric: str, rows: Sequence[Pair], note: str) -> list[Block]:
    show = unit(metric)
    header = ["arm", "common seeds", f"difference ({show.difference})", "95% t-interval", "p (Holm)"]
    cells = [
        [
            row.arm,
            str(row.n),
            show.show(row.difference, signed=True),
            show.interval(row.ci_lo, row.ci_hi, signed=True),
            probability(row.p_holm),
        ]
        for row in rows
    ]
    caption = f"{title} in {show.difference}, paired by seed."
    return [Heading(title), Table(name=name, header=header, rows=cells, caption=caption), Text(note, note=True)]
