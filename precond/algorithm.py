"""The interface between a preconditioner and the optimizer that runs it. Start reading here.

A preconditioner has two kinds of state. A *statistic* summarises the inputs of the layers, their
output gradients (the gradients of the loss with respect to their outputs), or both. Hooks record
these signals, and the statistic is updated often. A *factor* is computed from the statistic, in a
form that is cheap to apply; it is recomputed less often, in a *refresh*. At every step,
`precondition` uses the factor to map gradients to directions. For example:

    FOOF    covariance(inputs)            -> dense inverse
    NysAct  sketched covariance(inputs)   -> low-rank inverse

An `Algorithm` is a frozen dataclass of hyperparameters with the methods below. It never loops over
layers: layers of one shape are stacked into a *bank* with a leading axis L. A *slot* is an index of
this axis; a layer has one slot, or one for each group of a grouped convolution. Because `@`, `.mT`
and `eigh` broadcast over this axis, the code reads like the equations for one matrix. The state is
a separate object: a dataclass of tensors with that leading axis. It contains everything that a
checkpoint must save (`parts.stacks.named_tensors` returns these tensors).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import Any, ClassVar, Generic, Self, TypeVar

from torch import Tensor

from precond.hyperparameters import HyperparameterError, Hyperparameters
from precond.parts.linalg import Outcome
from precond.parts.rows import Rows

MODES = (
    *("accumulation", "checkpointing", "autocast", "GradScaler", "unscale_", "compile"),
    *("data parallel", "complex parameters"),
)
"""Ways of training. In each of them, an optimizer must give the same numbers as in a plain training
loop, or raise an error; tests check this.
"""

NO_UNSCALE = {"unscale_": "it hides the scale of the output gradients: set grad_output_scale"}

State = TypeVar("State")


@dataclass(frozen=True)
class LayerShape:
    """Shape of a layer's gradient matrix G = [dL/dW, dL/db].

    Attributes:
        d_out: Number of rows o: the outputs, per group for grouped convolutions.
        d_in: Number of columns p: the inputs (channels x kernel, per group), and one more for the
            bias, which is the last column.
    """

    d_out: int
    d_in: int


@dataclass(frozen=True)
class Curvature:
    """The matrices that the factors of a bank represent, for diagnostics.

    A matrix that the method does not have is None.

    Attributes:
        inputs: The covariance A of the inputs, `[L, p, p]`.
        outputs: The covariance S of the output gradients, `[L, o, o]`.
        low_rank: Y, `[L, p, r]`, with orthogonal columns; the factor represents A by Y Y^T.
        top: Largest eigenvalue of the curvature before damping, `[L]`; None if it follows from the
            matrices above.
        damping: The number that is added to the eigenvalues.
        decay: Weight of the old value in the moving average from which `low_rank` is computed.
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
    """The signals that an algorithm needs from a layer, and how `accumulate` receives them.

    Attributes:
        INPUTS: The inputs.
        BOTH: The inputs in one call, and the output gradients in a later call.
        PAIRS: The inputs and the output gradients in one call, for methods that need the gradient
            of each example.
    """

    INPUTS = auto()
    BOTH = auto()
    PAIRS = auto()


@dataclass(frozen=True)
class Signals:
    """The inputs and output gradients of one call of one layer.

    At least one of the two is present.

    Attributes:
        inputs: The input rows a, one for each example and each position that shares the weight.
        output_gradients: `[groups, batch, positions, d_out]`, the gradients g of each example's
            loss with respect to the layer's output. The loss is assumed to be a mean over the
            batch, so g = batch x grad_output.
        backward: A number that is equal for the calls of one layer with the same examples in one
            backward, and different for all other calls, such as those of two micro-batches. -1 for
            inputs without output gradients.
    """

    inputs: Rows | None = None
    output_gradients: Tensor | None = None
    backward: int = -1

    def pair(self) -> tuple[Rows, Tensor]:
        """Return inputs and output gradients, for algorithms that need `Needs.PAIRS`."""
        assert self.inputs is not None and self.output_gradients is not None
        return self.inputs, self.output_gradients


@dataclass(frozen=True)
class Means:
    """The means over one evaluation of a batch, from all ranks, for `Algorithm.second_pass`.

    Attributes:
        inputs: `[L, d_in]`, the mean of the inputs over examples and positions.
        outputs: `[L, d_out]`, the mean of the outputs over examples and positions.
        output_gradients: `[L, d_out]`, the mean over the examples of the gradients of each example's
            loss, summed over the positions.
        seen: Mask `[L]` of the slots that were evaluated, and whose means are finite.
    """

    inputs: Tensor
    outputs: Tensor
    output_gradients: Tensor
    seen: Tensor


@dataclass(frozen=True, kw_only=True)
class Card:
    """A summary of one optimizer, as texts. `__main__.LEGEND` explains the symbols in them.

    Attributes:
        paper: The paper that introduced the method.
        cost: Operations per step; a multiplication and an addition count as 2.
        memory: Scalars in the state, without the gradients and without one momentum buffer.
        deviations: Differences between the defaults and the released code.
        unsupported: The modes (of `MODES`) that the optimizer refuses, each with the reason.
    """

    paper: str
    cost: str
    memory: str
    deviations: str = "none"
    unsupported: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Algorithm(Hyperparameters, ABC, Generic[State]):
    """A preconditioner: its hyperparameters, and methods that use or update a state.

    The optimizer has one state for each bank.
    """

    # Increase this after a change that gives different numbers for the same hyperparameters. The
    # keys of trials contain it.
    NUMERICS: ClassVar[int]
    CARD: ClassVar[Card | None] = None  # the text that `python -m precond` prints
    NEEDS: ClassVar[Needs] = Needs.INPUTS  # the signals that `accumulate` receives
    # True if each step evaluates its batch again at the new weights and calls `second_pass`. Then
    # `step` needs a closure.
    SECOND_PASS: ClassVar[bool] = False
    # The fields of the state that `refresh` writes, if a refresh is so expensive that the ranks
    # should split it; else empty.
    SHARED: ClassVar[tuple[str, ...]] = ()
    # Hyperparameters that may differ between parameter groups. Those in `VARIABLE` may also change
    # during training, as by a scheduler.
    PER_GROUP: ClassVar[tuple[str, ...]] = ()
    VARIABLE: ClassVar[tuple[str, ...]] = ()

    @property
    def clip(self) -> float | None:
        """The bound kappa of the KL-clip over all layers, or None without a KL-clip."""
        return getattr(self, "kl_clip", None)

    def model_problems(self, shapes: Mapping[str, LayerShape]) -> list[str]:
        """Return one line for each hyperparameter that is invalid for the model's layers.

        Args:
            shapes: The shape of each layer, by name.
        """
        return []

    def for_group(self, group: Mapping[str, Any]) -> Self:
        """Return the algorithm with the hyperparameters of a parameter group.

        Raises:
            HyperparameterError: A value is out of range.
        """
        names = (*self.PER_GROUP, *self.VARIABLE)
        values = {name: group[name] for name in names if name in group}
        if all(getattr(self, name) == value for name, value in values.items()):
            return self
        algorithm = replace(self, **values)
        if errors := algorithm.problems():
            raise HyperparameterError("\n".join(errors))
        return algorithm

    def for_shape(self, shape: LayerShape) -> Algorithm[Any]:
        """Return the algorithm that a bank of layers of this shape uses."""
        return self

    @abstractmethod
    def statistics_due(self, step: int) -> bool:
        """Return True if the forward of this step must be recorded."""

    @abstractmethod
    def refresh_due(self, step: int) -> bool:
        """Return True if this step must compute new factors, after its update of the statistics."""

    @abstractmethod
    def new_state(self, shape: LayerShape, layers: Sequence[str], like: Tensor) -> State:
        """Return the initial state of a bank.

        Args:
            shape: Shape of every layer in the bank.
            layers: The names of the L slots. Random draws for a slot are seeded by its name.
            like: A tensor with the dtype and device of the state.
        """

    @abstractmethod
    def accumulate(self, state: State, slots: slice, signals: Signals) -> None:
        """Add the signals of one layer, which has the slots `slots` of the bank."""

    def commit(self, state: State) -> None:
        """Update the statistics with the sums accumulated since the last call.

        An algorithm may do this in `prepare` instead.
        """

    def prepare(self, state: State) -> State:
        """Return the state for `refresh`, with the data of this step that `refresh` needs.

        Sum over the ranks here if necessary: not every rank calls `refresh`.
        """
        return state

    @abstractmethod
    def refresh(self, state: State) -> Outcome:
        """Compute new factors from the statistics, in place; keep the old factor where this fails.

        With several ranks and `SHARED`, the state contains only this rank's share of the slots.
        """

    def curvature(self, state: State) -> Curvature:
        """Return the matrices from which `refresh` has just computed the factors.

        Only the diagnostics call this method. `state` is the prepared state.
        """
        return Curvature()

    @abstractmethod
    def precondition(
        self, state: State, gradients: Tensor, lr: float, overwrite: bool = False
    ) -> Tensor:
        """Return the directions, in a new tensor or, if `overwrite` is True, in `gradients`.

        Args:
            state: The bank's state.
            gradients: `[L, d_out, d_in]`. The slots of a layer without a gradient are nan.
            lr: Learning rate of the bank's parameter group, for methods whose direction contains
                it.
            overwrite: True if `gradients` may be changed, which saves memory traffic. A method
                that needs a new tensor anyway can ignore it.
        """

    def second_pass(self, state: State, before: Means, after: Means) -> None:
        """Update the state after the second evaluation of a batch; only with `SECOND_PASS`.

        The signals of the second evaluation are not passed to `accumulate`.

        Args:
            state: The bank's state.
            before: The means of the first evaluation.
            after: The means of the second evaluation, at the new weights.
        """
        raise NotImplementedError
