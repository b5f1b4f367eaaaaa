"""The means of one evaluation of a batch, for algorithms that evaluate each batch twice."""

from __future__ import annotations

from torch import Tensor

from precond.algorithm import Means, Signals
from precond.parts import linalg
from precond.parts.statistics import KroneckerStatistic


class Pass:
    """The sums over the inputs and output gradients of one evaluation of a batch.

    Args:
        like: A tensor `[L, d_out, d_in]` with the dtype and the device of the sums.
    """

    def __init__(self, like: Tensor):
        length, o, p = like.shape
        self._statistic = KroneckerStatistic.zeros(length, o, p, like, axes=1)
        self._backwards: dict[int, set[int]] = {}  # by the first slot of the layer

    def add(self, slots: slice, signals: Signals) -> None:
        """Add the inputs, the output gradients or both of one call of a layer."""
        if signals.inputs is not None:
            self._statistic.inputs.add(slots, signals.inputs.total(), signals.inputs.count)
        if (g := signals.output_gradients) is not None:
            self._statistic.add_outputs(slots, g.sum((1, 2)), g.shape[1], signals.backward)
            self._backwards.setdefault(slots.start, set()).add(signals.backward)

    def discard(self, slots: slice) -> None:
        """Discard what was added for some slots."""
        self._statistic.inputs.discard(slots)
        self._statistic.outputs.discard(slots)
        self._backwards.pop(slots.start, None)

    @property
    def backwards(self) -> set[int]:
        """The numbers of the backwards (see `Signals`) whose output gradients were added."""
        return set().union(*self._backwards.values())

    def take(self, weights: Tensor) -> Means:
        """Return the means over all ranks, and start the next evaluation.

        Args:
            weights: `[L, d_out, d_in]`, the weights of this evaluation, with the bias as the last
                column. The layers are linear, so they map the mean input to the mean output.
        """
        self._backwards.clear()
        seen = self._statistic.commit(decay=0.0)
        gradients, inputs = self._statistic.means()
        outputs = (weights @ inputs.unsqueeze(2)).squeeze(2)
        return Means(inputs, outputs, gradients, seen & linalg.all_finite(outputs))
