"""The section of a report on the interaction of two factors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from precond.counts import counted
from studies.harness.evidence.analysis import Evidence
from studies.harness.evidence.interaction import Cells, Interaction, interaction
from studies.harness.evidence.metrics import Unit, number, probability, unit
from studies.harness.report.document import Block, Heading, Table, Text
from studies.harness.statistics.paired import ALPHA

NOTE = (
    "Each cell is the mean minus the value of the additive model, in which each level of a factor "
    "has the same effect at all levels of the other one. The F-test compares this model with a "
    "mean of each pair of levels; both models have an effect of each seed. It uses the seeds with "
    "a result at every pair of levels, assumes noise with the same variance, and is exploratory: "
    "its p-value is not corrected. Whether factors interact depends on the scale, which is that of "
    "the table."
)


def section(evidence: Evidence, parts: Sequence[Cells]) -> list[Block]:
    """Return the sentences and the tables; nothing without a pair of levels."""
    if not parts:
        return []
    first, second = (name.replace("_", " ") for name in parts[0].factors)
    show, blocks = unit(evidence.metric), list[Block]()
    for i, part in enumerate(parts):
        result = _test(evidence, part)
        name = f"`{part.optimizer}`{f' ({part.setting})' if part.setting else ''}"
        blocks.append(Text(f"{name}: {_sentence(result, first, second)}", finding=True))
        if not math.isnan(result.p):
            blocks.append(_table(f"interaction-{i}", part, result, show))
    notes = [Text(NOTE, note=True)] if any(isinstance(block, Table) for block in blocks) else []
    return [Heading(f"Interaction of {first} and {second}"), *blocks, *notes]


def _test(evidence: Evidence, part: Cells) -> Interaction:
    """Return the test of a part; without one if a pair of levels has no arm."""
    labels = part.labels
    if (labels == "").any():
        return Interaction(0, np.full(labels.shape, np.nan))
    values = evidence.by_seed[list(labels.ravel())].to_numpy().reshape(-1, *labels.shape)
    return interaction(values, evidence.step)


def _sentence(result: Interaction, first: str, second: str) -> str:
    if math.isnan(result.p):
        return (
            f"the interaction of {first} and {second} cannot be tested, because fewer than two "
            "seeds have a result at every pair of two or more levels of each."
        )
    depends = "depends" if result.p <= ALPHA else "does not significantly depend"
    p = probability(result.p)
    test = f"F({result.df[0]}, {result.df[1]}) = {number(result.f, '.3g')}"
    return (
        f"the effect of {first} {depends} on {second} ({test}, p {p if '<' in p else f'= {p}'}, "
        f"{counted(result.n, 'seed')})."
    )


def _table(name: str, part: Cells, result: Interaction, show: Unit) -> Table:
    (first, second), (rows, columns) = part.factors, part.levels
    header = [first, *(f"{second} {level}" for level in columns)]
    cells = [
        [str(level), *(show.show(float(value), signed=True) for value in line)]
        for level, line in zip(rows, result.departures, strict=True)
    ]
    caption = f"{part.optimizer}: departures from the additive model in {show.difference}."
    return Table(name, header, cells, caption=caption)
