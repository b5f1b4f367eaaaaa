"""Claims: statements about the arms of a study that its trials support or contradict.

>>> Better("nysact-s rank=*", than="sgd").text
'nysact-s rank=* is better than sgd'

A claim compares arms with base arms. It selects both by their labels, in which `*` stands for any
text. With `*` on both sides, each arm is compared with the bases that have the same text there:
`Better("nysact-s rank=*", than="nysact-g rank=*")` compares the two sketches at each rank. A claim
about several pairs holds if it holds for every pair.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import ClassVar, NamedTuple, Self

POINTS = 0.003  # the default margin of a metric in percent: 0.3 percentage points
SHARE = 0.05  # the default margin of all other metrics: 5%


class Change(NamedTuple):
    """The change from one arm to another, for claims that compare the effects of a factor.

    It is the difference of their values or, for errors, the ratio.

    `Better(Change("nysact-s batch_size=1024", "nysact-s batch_size=128"), than=Change(...))` states
    that the larger batch size costs the first optimizer less than the second.

    Attributes:
        arm: The label of an arm.
        base: The label of the arm that is subtracted, or by which an error is divided.
    """

    arm: str
    base: str

    def __str__(self) -> str:
        return f"the change from {self.base} to {self.arm}"


Side = str | Change
"""One side of a claim: a label of arms, in which `*` stands for any text, or a change."""


@dataclass(frozen=True)
class Claim(ABC):
    """A statement about pairs of arms and base arms. The subclasses are the possible statements.

    Attributes:
        LOWER: The smallest gain that the claim allows, in margins; None if it has no lower limit.
        UPPER: The largest gain that the claim allows, in margins; None if it has no upper limit.
            The gain is positive if the arm is better; `evidence.gains` defines it.
        arm: The arms.
        points: The margin of a metric that is shown in percent, as a fraction: 0.003 is 0.3
            percentage points.
        share: The margin of any other metric. Errors and other positive values of which smaller
            ones are better are compared by their ratios: 0.05 is a factor of 1.05. For all other
            values it is a share of the mean of the base or, if the base is a `Change`, of the arm
            that is subtracted.
        metric: The metric, such as `train/loss`; empty for the metric of the study's tables.
        on: The workloads on which the claim is tested, in which `*` stands for any text.
    """

    LOWER: ClassVar[float | None]
    UPPER: ClassVar[float | None]

    arm: Side
    points: float = field(default=POINTS, kw_only=True)
    share: float = field(default=SHARE, kw_only=True)
    metric: str = field(default="", kw_only=True)
    on: tuple[str, ...] = field(default=("*",), kw_only=True)

    @property
    @abstractmethod
    def base(self) -> Side:
        """The base arms; empty if the arms are compared with one another."""

    @abstractmethod
    def statement(self, margin: str = "") -> str:
        """Return the claim as a sentence without its full stop.

        Args:
            margin: The margin in words, such as `0.30 percentage points`; it is omitted if empty.
        """

    @property
    def text(self) -> str:
        """The claim as a sentence without its margin and without its full stop."""
        return self.statement()

    @property
    def corrected(self) -> Self:
        """The claim about the corrected variants of its arms instead of the as-released ones."""
        sides = {name: side for name, side in vars(self).items() if isinstance(side, str | Change)}
        return replace(self, **{name: _without_variant(side) for name, side in sides.items()})


@dataclass(frozen=True)
class _OneSided(Claim):
    """A claim that limits the gain from below only."""

    UPPER: ClassVar[float | None] = None

    than: Side = field(kw_only=True)

    @property
    def base(self) -> Side:
        """The base arms."""
        return self.than


@dataclass(frozen=True)
class Better(_OneSided):
    """The arm is better than the base, by any amount."""

    LOWER: ClassVar[float | None] = 0.0

    def statement(self, margin: str = "") -> str:
        """Return the claim as a sentence; it has no margin."""
        return f"{self.arm} is better than {self.than}"


@dataclass(frozen=True)
class NotWorse(_OneSided):
    """The arm is not worse than the base by more than the margin."""

    LOWER: ClassVar[float | None] = -1.0

    def statement(self, margin: str = "") -> str:
        """Return the claim as a sentence (see `Claim.statement`)."""
        limit = f" by more than {margin}" if margin else ""
        return f"{self.arm} is not worse than {self.than}{limit}"


@dataclass(frozen=True)
class Equivalent(Claim):
    """The arm and the base differ by less than the margin.

    Without a base, all arms that the claim selects are compared with one another.
    """

    LOWER: ClassVar[float | None] = -1.0
    UPPER: ClassVar[float | None] = 1.0

    to: Side = field(default="", kw_only=True)

    @property
    def base(self) -> Side:
        """The base arms; empty if the arms are compared with one another."""
        return self.to

    def statement(self, margin: str = "") -> str:
        """Return the claim as a sentence (see `Claim.statement`)."""
        limit = f" within {margin}" if margin else ""
        if not self.to:
            return f"all pairs of {self.arm} are equivalent{limit}"
        return f"{self.arm} is equivalent to {self.to}{limit}"


def _without_variant(side: Side) -> Side:
    if isinstance(side, Change):
        return Change(*(label.replace(" as-released", "") for label in side))
    return side.replace(" as-released", "")
