"""The contract between a preconditioner and the optimizer that runs it. Start reading here.

A preconditioner is statistic -> factor -> apply. A *statistic* summarises what the layers saw (often, in hooks), a
*factor* is that summary in a form that is cheap to apply (rarely), and `precondition` maps gradients to directions
(every step):

    FOOF    covariance(inputs)            -> dense inverse
    NysAct  sketched covariance(inputs)   -> low-rank inverse

An `Algorithm` is a frozen dataclass of hyperparameters with the methods below. It never loops over layers: layers of
one shape are stacked into a bank with a leading axis L, and because `@`, `.mT` and `eigh` broadcast, the code reads as
mathematics on one matrix. The state is a separate object, a dataclass of tensors with that leading axis. It holds all
that must survive a restart (`stacks.named_tensors` lists it).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from torch import Tensor

from precond.hyperparameters import Hyperparameters, count, fraction, positive
from precond.parts.factors import Factor
from precond.parts.linalg import Outcome
from precond.parts.rows import Rows

MODES = ("accumulation", "checkpointing", "autocast", "GradScaler", "compile", "data parallel")
"""Ways of training in which an optimizer must give the numbers of a plain loop; tests compare them."""

State = TypeVar("State")


class HasFactor(Protocol):
    """A state with a factor that maps gradients to directions."""

    @property
    def factor(self) -> Factor:
        """The factor."""
        ...


FactorState = TypeVar("FactorState", bound=HasFactor)


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
    """The matrices that the factors of a bank represent, for diagnostics; None where a method does not have them.

    Attributes:
        inputs: A, `[L, p, p]`, if it is formed.
        outputs: S, `[L, o, o]`, if it is formed.
        low_rank: Y `[L, p, r]` with orthogonal columns; the factor represents A by Y Y^T.
        top: Largest eigenvalue of the damped matrix, `[L]`, if it is not the product of those of A and S.
        damping: The number that is added to the eigenvalues.
        decay: Weight of the old value in the statistic behind `low_rank`.
    """

    inputs: Tensor | None = None
    outputs: Tensor | None = None
    low_rank: Tensor | None = None
    top: Tensor | None = None
    damping: float | None = None
    decay: float = 0.0

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors that are not None, by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}


class Needs(Enum):
    """The signals that an algorithm needs from a layer, and when `accumulate` is called.

    INPUTS: the inputs, in the forward. BOTH: the inputs in the forward, the output gradients in the backward, in two
    calls. PAIRS: both in one call in the backward, for methods that need each example's own gradient.
    """

    INPUTS = auto()
    BOTH = auto()
    PAIRS = auto()


@dataclass(frozen=True)
class Signals:
    """What one layer saw in one forward or backward; at least one of inputs and output gradients is present.

    Attributes:
        inputs: The rows a (`rows.examples` of them times the positions that share the weight).
        output_gradients: `[groups, batch, positions, d_out]`, the gradients g of the loss of each example with respect
            to the layer's output: the loss is taken to be a mean over the batch, so g = batch x grad_output.
        backward: Number of the backward; the calls of a shared layer have the same number, the micro-batches of
            gradient accumulation have different ones.
    """

    inputs: Rows | None = None
    output_gradients: Tensor | None = None
    backward: int = -1

    def pair(self) -> tuple[Rows, Tensor]:
        """Return inputs and output gradients, for algorithms that need `Needs.PAIRS`."""
        assert self.inputs is not None and self.output_gradients is not None
        return self.inputs, self.output_gradients


@dataclass(frozen=True, kw_only=True)
class Card:
    """A summary of one optimizer.

    Costs are operations per step (a multiplication and an addition are 2). Memory is in scalars beyond
    gradient and momentum. Both are for each layer with N = examples x positions rows, p inputs (bias included)
    and o outputs, or for all D parameters; r is the rank, c and i are `cov_interval` and `inv_interval`.

    Attributes:
        paper: The paper that introduced it.
        cost: Operations per step.
        memory: Scalars in its state.
        deviations: Differences of the defaults from the released code.
        unsupported: The modes (of `MODES`) that it refuses, each with the reason.
    """

    paper: str
    cost: str
    memory: str
    deviations: str = "none"
    unsupported: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Algorithm(Hyperparameters, ABC, Generic[State]):
    """A preconditioner: hyperparameters, and functions of a state that the optimizer keeps for each bank."""

    NUMERICS: ClassVar[
        int
    ]  # raised when the same hyperparameters give other numbers; part of a trial's key
    CARD: ClassVar[Card | None] = None  # the text that `python -m precond` prints
    NEEDS: ClassVar[Needs] = Needs.INPUTS  # the signals that `accumulate` receives
    # Fields of the state that `refresh` writes; set if a refresh is expensive enough to split across ranks.
    SHARED: ClassVar[tuple[str, ...]] = ()

    @property
    def clip(self) -> float | None:
        """The bound kappa of the KL-clip over all layers, for algorithms with a hyperparameter `kl_clip`."""
        return getattr(self, "kl_clip", None)

    def model_problems(self, shapes: Mapping[str, LayerShape]) -> list[str]:
        """Return one line for each hyperparameter that the model's layers, given by name, do not allow."""
        return []

    def for_shape(self, shape: LayerShape) -> Algorithm[Any]:
        """Return the algorithm for layers of this shape; a bank calls it once."""
        return self

    @abstractmethod
    def statistics_due(self, step: int) -> bool:
        """Return True if the forward of this step must be recorded."""

    @abstractmethod
    def refresh_due(self, step: int) -> bool:
        """Return True if this step computes new factors, after it has committed its statistics."""

    @abstractmethod
    def new_state(self, shape: LayerShape, layers: Sequence[str], like: Tensor) -> State:
        """Return the initial state of a bank.

        Args:
            shape: Shape of every layer in the bank.
            layers: The name of each of the L slots, which seeds its random draws.
            like: Dtype and device of the state.
        """

    @abstractmethod
    def accumulate(self, state: State, slots: slice, signals: Signals) -> None:
        """Add one forward of one layer, which owns `slots` of L (as many as it has groups)."""

    def commit(self, state: State) -> None:
        """Update the statistics with all that was accumulated since the last call, if not in `prepare`."""

    def prepare(self, state: State) -> State:
        """Return the state for `refresh`, with what it needs from this step; sums over the ranks belong here."""
        return state

    @abstractmethod
    def refresh(self, state: State) -> Outcome:
        """Compute new factors from the statistics, in place; where that fails the old factor stays.

        With several ranks and `SHARED`, the state is that of this rank's share of the slots.
        """

    def curvature(self, state: State) -> Curvature:
        """Return what `refresh` has just computed the factors from, for a prepared state; only diagnostics call it."""
        return Curvature()

    @abstractmethod
    def precondition(self, state: State, gradients: Tensor, lr: float) -> Tensor:
        """Return the directions, in a new tensor.

        Args:
            state: The bank's state.
            gradients: `[L, d_out, d_in]`; not changed. Layers without gradient have nan here.
            lr: Learning rate of the bank's parameter group, for methods whose direction contains it.
        """


@dataclass(frozen=True, kw_only=True)
class AveragedAlgorithm(Algorithm[FactorState]):
    """A method that inverts an averaged, damped curvature, by default after each update of the average.

    Attributes:
        ema_decay: Weight of the old value in the moving averages.
        damping: Added to every eigenvalue before inverting.
        cov_interval: Steps between updates of the statistics.
    """

    ema_decay: float = fraction(0.95, symbol="beta_2")
    damping: float = positive(1.0, symbol="rho")
    cov_interval: int = count(5, symbol="tau_cov")

    def statistics_due(self, step: int) -> bool:
        """Return True every `cov_interval` steps."""
        return step % self.cov_interval == 0

    def refresh_due(self, step: int) -> bool:
        """Return True together with the statistics."""
        return self.statistics_due(step)

    def precondition(self, state: FactorState, gradients: Tensor, lr: float) -> Tensor:
        """Apply the factor."""
        return state.factor.solve(gradients)


@dataclass(frozen=True, kw_only=True)
class DampedAlgorithm(AveragedAlgorithm[FactorState]):
    """A method whose factor is too expensive for each update of the average.

    Attributes:
        inv_interval: Steps between updates of the factors.
    """

    inv_interval: int = count(50, symbol="tau_inv")

    def problems(self) -> list[str]:
        """Return one line for each hyperparameter out of range, and for intervals that contradict each other."""
        errors = super().problems()
        if not errors and self.cov_interval > self.inv_interval:
            errors.append(
                f"cov_interval = {self.cov_interval} > inv_interval = {self.inv_interval}: the factor would be made "
                f"again without new statistics. Set inv_interval >= {self.cov_interval}"
            )
        return errors

    def refresh_due(self, step: int) -> bool:
        """Return True every `inv_interval` steps."""
        return step % self.inv_interval == 0
