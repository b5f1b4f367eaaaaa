"""The rows of the examples of one step, stacked over the slots of a bank and gathered from all ranks.

An example has one row for each call of the layer: the mean of the inputs over the positions, and the
sum or the mean of the output gradients over the positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from precond.parts import collectives, linalg
from precond.parts.pairs import Pairs


@dataclass
class Batch:
    """One side of the rows of a step.

    Attributes:
        rows: `[L, R, d]`. A slot with fewer rows than another one has rows of zeros at the end.
        examples: The divisor of the covariance of the rows, `[L]` in int64; 0 in slots without rows.
    """

    rows: Tensor
    examples: Tensor

    def covariance(self) -> Tensor:
        """Return `X^T X / B`, `[L, d, d]`."""
        return self.rows.mT @ self._divided(self.rows)

    def divided_by_examples(self) -> Batch:
        """Return the rows divided by the number of examples: gradients of the batch's mean loss."""
        return Batch(self._divided(self.rows), self.examples)

    def where(self, mask: Tensor) -> Batch:
        """Return rows of zeros in the slots where `mask [L]` is False."""
        zeros = torch.zeros_like(self.rows)
        return Batch(linalg.select(mask, self.rows, zeros), self.examples)

    def _divided(self, rows: Tensor) -> Tensor:
        return rows / linalg.per_layer(self.examples.clamp(min=1).to(rows.dtype), rows)


@dataclass
class LastBatch:
    """The saved numbers of the batch that determined the factors of each slot.

    Attributes:
        examples: Number of its input rows, `[L]` in int64; 0 before the first batch.
        dropped: Number of batches that were dropped because they were not finite, `[L]` in int64.
    """

    examples: Tensor
    dropped: Tensor

    @classmethod
    def empty(cls, num_layers: int, like: Tensor) -> LastBatch:
        """Return the state before the first batch."""
        return cls(*(like.new_zeros(num_layers, dtype=torch.int64) for _ in range(2)))

    def update(self, inputs: Batch, outputs: Batch) -> Tensor:
        """Note a batch; return a mask `[L]` of the slots in which it has rows that are all finite."""
        finite = linalg.all_finite(inputs.rows) & linalg.all_finite(outputs.rows)
        fresh = finite & (inputs.examples > 0)
        self.dropped += ~finite
        self.examples.copy_(torch.where(fresh, inputs.examples, self.examples))
        return fresh


def batches_of(
    pairs: Pairs, input_like: Tensor, output_like: Tensor, average_outputs: bool
) -> tuple[Batch, Batch]:
    """Return the rows of the inputs and of the output gradients of one step, from all ranks.

    All calls of a shared layer in one backward have the same examples. For the inputs, each call
    counts as further examples; for the output gradients, the examples count once.

    Args:
        pairs: The calls of the layers in this step.
        input_like: A tensor `[L, ..., p]` with the dtype and the device of the result.
        output_like: A tensor `[L, ..., o]` with the dtype and the device of the result.
        average_outputs: Average the output gradients over the positions instead of summing them.
    """
    length = len(input_like)
    parts: dict[int, list[tuple[Tensor, Tensor]]] = {}
    slots_of, counts = {}, torch.zeros(2, length, dtype=torch.int64)
    for slots, uses in pairs.passes():
        slots_of[slots.start] = slots
        for rows, g in uses:
            outputs = g.mean(2) if average_outputs else g.sum(2)
            parts.setdefault(slots.start, []).append((rows.example_means(), outputs))
            counts[0, slots] += rows.examples
        counts[1, slots] += uses[0][0].examples
    starts, total = collectives.places(counts[0].tolist(), input_like.device)
    sides = [like.new_zeros(length, total, like.shape[-1]) for like in (input_like, output_like)]
    for start, calls in parts.items():
        for stack, rows in zip(sides, zip(*calls, strict=True), strict=True):
            block = torch.cat(rows, 1)
            stack[slots_of[start], starts[start] : starts[start] + block.shape[1]] = block
    examples = counts.to(input_like.device, non_blocking=True)
    collectives.add_up([*sides, examples])
    return Batch(sides[0], examples[0]), Batch(sides[1], examples[1])
