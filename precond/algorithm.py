"""The contract between a preconditioner and the optimizer that runs it. Start reading here.

A preconditioner is statistic -> factor -> apply. A *statistic* summarises what the layers saw (often, in hooks), a
*factor* is that summary in a form cheap to apply (rarely), and `precondition` maps gradients to directions (each step):

    FOOF    covariance(inputs)            -> dense inverse
    NysAct  sketched covariance(inputs)   -> low-rank inverse

An `Algorithm` is a frozen dataclass of hyperparameters and the five functions below. It never loops over layers: layers
of one shape are stacked into a bank with a leading axis L, and since `@`, `.mT` and `eigh` broadcast, the code reads as
mathematics on one matrix. State is a separate object, made of tensors with that leading axis; everything that must
survive a restart is in it (`stacks.named_tensors` finds it).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, ClassVar

from torch import Tensor

from precond.card import Card
from precond.hyperparameters import count, fraction, positive, problems
from precond.parts.statistics import Rows


@dataclass(frozen=True)
class LayerShape:
    """Shape of a layer's homogeneous gradient matrix G = [dL/dW, dL/db].

    Attributes:
        d_out: Rows o: outputs, per group for grouped convolutions.
        d_in: Columns p: inputs (channels x kernel, per group), and one more for the bias, which comes last.
    """

    d_out: int
    d_in: int


@dataclass(frozen=True)
class Curvature:
    """What the factors of a bank stand for, to be looked at (`diagnostics.py`); None where a method has no such thing.

    Attributes:
        inputs: A, `[L, p, p]`, where it is formed.
        outputs: S, `[L, o, o]`, where it is formed.
        low_rank: Y `[L, p, r]` with orthogonal columns: Y Y^T is what the factor has in A's place.
        top: Largest eigenvalue of what is damped, `[L]`, where that is not the product of A's and S's.
    """

    inputs: Tensor | None = None
    outputs: Tensor | None = None
    low_rank: Tensor | None = None
    top: Tensor | None = None


class Needs(Enum):
    """What an algorithm wants to see of a layer, and when `accumulate` is called.

    INPUTS: the inputs, in the forward. BOTH: the inputs in the forward, the output gradients in the backward, in two
    calls. PAIRS: both in one call in the backward, for methods that need each example's own gradient.
    """

    INPUTS = auto()
    BOTH = auto()
    PAIRS = auto()


@dataclass(frozen=True)
class Signals:
    """What one layer saw in one forward or backward; at least one of the two is there.

    Attributes:
        inputs: The rows a (`rows.examples` of them times the positions that share the weight).
        output_gradients: `[groups, batch, positions, d_out]`, the gradients g of each example's own loss with respect
            to the layer's output: the loss is taken to be a mean over the batch, so g = batch x grad_output.
        backward: Number of the backward in which this is; the calls of a shared layer have it in common, the
            micro-batches of gradient accumulation do not.
    """

    inputs: Rows | None = None
    output_gradients: Tensor | None = None
    backward: int = -1


@dataclass(frozen=True, kw_only=True)
class Algorithm(ABC):
    """A preconditioner: hyperparameters, and pure functions of a state that the optimizer keeps for each bank."""

    NUMERICS: ClassVar[int]  # raised when the same hyperparameters give other numbers; part of a trial's key
    CARD: ClassVar[Card | None] = None  # what `python -m precond` says about it
    # Fields of the state that `refresh` writes, if it is dear enough for ranks to share its work.
    SHARED: ClassVar[tuple[str, ...]] = ()

    @property
    def needs(self) -> Needs:
        """What `accumulate` is given."""
        return Needs.INPUTS

    @property
    def clip(self) -> float | None:
        """Bound kappa of the KL-clip over all preconditioned layers (KFAC, Eva), or None."""
        return None

    def problems(self) -> list[str]:
        """One line for each hyperparameter out of range."""
        return problems(self)

    def model_problems(self, shapes: Mapping[str, LayerShape]) -> list[str]:
        """One line for each hyperparameter that does not fit the model's layers, given by name."""
        return []

    @abstractmethod
    def statistics_due(self, step: int) -> bool:
        """Whether the forward of this step is to be recorded."""

    @abstractmethod
    def refresh_due(self, step: int) -> bool:
        """Whether this step makes new factors, after its statistics are committed."""

    @abstractmethod
    def new_state(self, shape: LayerShape, layers: Sequence[str], like: Tensor) -> Any:
        """State of a bank.

        Args:
            shape: Shape of every layer in the bank.
            layers: Name of each slot, which seeds its random draws; L is their number.
            like: Dtype and device of the state.
        """

    @abstractmethod
    def accumulate(self, state: Any, slots: slice, signals: Signals) -> None:
        """Add one forward of one layer, which owns `slots` of L (as many as it has groups)."""

    @abstractmethod
    def commit(self, state: Any) -> None:
        """Make what was accumulated since the last call one update of the statistics."""

    def prepare(self, state: Any) -> Any:
        """The state for `refresh`, with what that needs of this step; the place for sums over the ranks."""
        return state

    @abstractmethod
    def refresh(self, state: Any) -> Tensor:
        """Make new factors from the statistics, in place; where that fails the old one stays.

        With several ranks and `SHARED`, the state is that of this rank's share of the slots.

        Returns:
            Where it succeeded, `[L]`.
        """

    def curvature(self, state: Any) -> Curvature:
        """What `refresh` has just made the factors of the prepared state from; asked for only when somebody looks."""
        return Curvature()

    @abstractmethod
    def precondition(self, state: Any, gradients: Tensor, lr: float) -> Tensor:
        """Directions, in a new tensor.

        Args:
            state: The bank's.
            gradients: `[L, d_out, d_in]`; not changed. Layers without gradient have nan here.
            lr: Learning rate of the bank's parameter group, for methods whose direction contains it.
        """


@dataclass(frozen=True, kw_only=True)
class DampedAlgorithm(Algorithm):
    """The hyperparameters shared by the methods that invert an averaged, damped curvature.

    Attributes:
        ema_decay: Weight of the old value in the moving averages.
        damping: Added to every eigenvalue before inverting.
        cov_interval: Steps between updates of the statistics.
        inv_interval: Steps between updates of the factors, from the statistics there are.
    """

    ema_decay: float = fraction(0.95)  # beta_2
    damping: float = positive(1.0)  # rho
    cov_interval: int = count(5)  # tau_cov
    inv_interval: int = count(50)  # tau_inv

    def problems(self) -> list[str]:
        """One line for each hyperparameter out of range, and for intervals that contradict each other."""
        wrong = problems(self)
        if not wrong and self.cov_interval > self.inv_interval:
            wrong.append(
                f"cov_interval = {self.cov_interval} > inv_interval = {self.inv_interval}: the factor would be made "
                f"again without new statistics. Set inv_interval >= {self.cov_interval}"
            )
        return wrong

    def statistics_due(self, step: int) -> bool:
        """Every `cov_interval` steps."""
        return step % self.cov_interval == 0

    def refresh_due(self, step: int) -> bool:
        """Every `inv_interval` steps."""
        return step % self.inv_interval == 0
