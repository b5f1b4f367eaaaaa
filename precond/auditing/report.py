"""The result of an audit, as text in 80 columns and as JSON."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from precond.auditing.explanation import Explanation
from precond.counts import counted

WIDTH = 80
SHOWN = 6  # steps in the table


@dataclass(frozen=True)
class FirstDifference:
    """The first difference between the updates of the two sides.

    Attributes:
        step: The step, counted from 1.
        tensor: The parameter with the largest difference in this step.
        difference: The norm of the difference, divided by the larger norm of the two updates.
        cosine: The smallest cosine between the two updates of a tensor in this step; 1 if they
            differ only in their scales.
        ratio: The norm of B's update of `tensor` divided by that of A's; None if A's is zero.
    """

    step: int
    tensor: str
    difference: float
    cosine: float
    ratio: float | None


@dataclass(frozen=True)
class Audit:
    """The result of an audit; `str(audit)` is a report.

    Attributes:
        labels: The descriptions of the sides A and B.
        steps: The number of steps.
        tolerance: The largest relative difference that counts as rounding.
        model: The kinds of parameters in the model.
        omitted: The errors because of which the model has no other kinds of parameters.
        tensors: The names of the parameters.
        table: The relative difference for each step and parameter.
        first: The first difference, or None if the sides are equal.
        explanations: The smallest sets of conventions that reproduce the numbers of both sides.
            Several if this run does not distinguish them; none if nothing explains them.
        undistinguished: The conventions that this run cannot distinguish.
        resolution: The relative difference below which the rounding of the weights may hide a
            difference of the updates.
    """

    labels: tuple[str, str]
    steps: int
    tolerance: float
    model: str
    omitted: tuple[str, ...]
    tensors: tuple[str, ...]
    table: tuple[tuple[float, ...], ...]
    first: FirstDifference | None
    explanations: tuple[Explanation, ...]
    undistinguished: tuple[str, ...]
    resolution: float

    @property
    def equal(self) -> bool:
        """True if no update differs by more than the tolerance."""
        return self.first is None

    @property
    def conventions(self) -> list[set[str]]:
        """The names of the differing conventions, for each explanation."""
        return [{d.convention for d in e.differences} for e in self.explanations]

    def json(self) -> str:
        """Return all attributes as JSON."""
        values: dict[str, Any] = {"equal": self.equal, **asdict(self)}
        return json.dumps(values, indent=2)

    def __str__(self) -> str:
        paragraphs = [self._sentence(), *self._details(), self._table(), *self._notes()]
        return "\n\n".join(paragraphs)

    def _sentence(self) -> str:
        a, b = self.labels
        names = f"A = {a}\nB = {b}\n\n"
        if self.first is None:
            largest = max(map(max, self.table))
            text = (
                f"A and B are equal in {counted(self.steps, 'step')}: the largest relative "
                f"difference of an update is {largest:.1e}."
            )
        else:
            text = (
                f"A and B first differ in step {self.first.step}. The largest relative difference "
                f"of that step is {self.first.difference:.1e}, in `{self.first.tensor}`."
            )
        return names + _fill(text)

    def _details(self) -> Iterator[str]:
        if self.first is None:
            return
        if not self.explanations:
            yield _fill(
                "Nothing in the catalogue of conventions explains the difference: no change that "
                "was tried reproduces the numbers of both sides."
            )
            yield self._geometry(self.first)
        if len(self.explanations) > 1:
            yield _fill(
                f"This run does not distinguish {len(self.explanations)} explanations. Each of "
                "them reproduces the numbers of both sides. Other values of the hyperparameters "
                "may distinguish them."
            )
        for number, explanation in enumerate(self.explanations, 1):
            several = len(self.explanations) > 1
            yield _explained(explanation, f"Explanation {number}" if several else "Explanation")

    def _geometry(self, first: FirstDifference) -> str:
        kind = "scale only" if first.cosine > 1 - 1e-9 else "direction"
        scale = (
            f"A does not change `{first.tensor}`."
            if first.ratio is None
            else f"The norm of B's update of `{first.tensor}` is {first.ratio:.6g} times that of A's."
        )
        return _fill(
            f"In this step, the smallest cosine between the two updates of a tensor is "
            f"{first.cosine:.9f}: the updates differ in their {kind}. {scale}"
        )

    def _table(self) -> str:
        """Return the relative differences of some steps, with a row for each tensor."""
        start = 0 if self.first is None else self.first.step - 1
        chosen = sorted({*range(start, self.steps)[: SHOWN - 2], self.steps // 2, self.steps - 1})
        chosen = [step for step in chosen if step < self.steps]
        width = max(map(len, ("step", *self.tensors)))
        lines = ["Relative difference of the updates:"]
        lines.append(" ".join([f"{'step':<{width}}", *(f"{step + 1:>8}" for step in chosen)]))
        for number, name in enumerate(self.tensors):
            cells = (f"{self.table[step][number]:>8.1e}" for step in chosen)
            lines.append(" ".join([f"{name:<{width}}", *cells]))
        return "\n".join(lines)

    def _notes(self) -> Iterator[str]:
        if self.equal and self.resolution > self.tolerance:
            yield _fill(
                "The updates are small: the rounding of the weights may hide relative differences "
                f"below {self.resolution:.1e}. To see smaller ones, raise the learning rate of "
                "both."
            )
        if self.omitted:
            reasons = "; ".join(self.omitted)
            yield _fill(
                f"The model of the audit has {self.model}, because of these errors: {reasons}"
            )
        if self.undistinguished:
            yield _fill(
                "This run does not distinguish all choices of these conventions: "
                + "; ".join(self.undistinguished)
                + "."
            )


def _explained(explanation: Explanation, heading: str) -> str:
    lines = []
    for difference in explanation.differences:
        lines.append(_fill(f"* {difference.title}", "  "))
        lines += [_fill(f"  A: {difference.a}", "     "), _fill(f"  B: {difference.b}", "     ")]
    number = len(explanation.differences)
    choices, verb = ("choice", "reproduces") if number == 1 else ("choices", "reproduce")
    text = (
        f"{heading}: {counted(number, 'convention')}. A's {choices} {verb} the updates of A, and "
        f"B's {choices} those of B (largest relative error {explanation.error:.1e})."
    )
    if explanation.tensors:
        names = ", ".join(f"`{name}`" for name in explanation.tensors)
        text += f" This explains {names}; the updates of all other tensors are equal."
    return "\n".join([_fill(text), *lines])


def _fill(text: str, indent: str = "") -> str:
    wrapper = textwrap.TextWrapper(WIDTH, subsequent_indent=indent, break_on_hyphens=False)
    return wrapper.fill(text)
