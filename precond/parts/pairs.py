"""Inputs and output gradients, kept to the end of a step in order to square the gradient of each example.

The gradient of example n is G_n = sum over t of g a^T: over positions, and over the calls of a shared layer that one
backward went through. Another backward of the same step (gradient accumulation) brings other examples.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from precond.parts import collectives
from precond.parts.factors import KroneckerBasis
from precond.parts.rows import Rows

CHUNK_ELEMENTS = 1 << 24  # of rotated rows and examples' gradients at a time: 64 MiB in float32

Use = tuple[
    Rows, Tensor
]  # the inputs of one call of a layer, and its output gradients [groups, B, T, o]


@dataclass
class Pairs:
    """What the layers of a bank saw in one step; transient, so it belongs in a field whose name starts with `_`."""

    _uses: dict[tuple[int, int], list[Use]] = field(default_factory=dict)
    _slots: dict[int, slice] = field(default_factory=dict)

    def add(self, slots: slice, rows: Rows, output_gradients: Tensor, backward: int) -> None:
        """Keep one call of one layer, which the backward of this number went through."""
        self._slots[slots.start] = slots
        self._uses.setdefault((slots.start, backward), []).append((rows, output_gradients))

    def clear(self) -> None:
        """Drop everything."""
        self._uses.clear()

    def discard(self, slots: slice) -> None:
        """Drop the calls of the layer with these slots."""
        self._uses = {key: uses for key, uses in self._uses.items() if key[0] != slots.start}

    def forget(self, skipped: Tensor) -> None:
        """Make what was kept not finite, where `skipped` (a bool on the device), so that nothing is updated with it."""
        for key, uses in self._uses.items():
            self._uses[key] = [(rows, g.masked_fill(skipped, torch.nan)) for rows, g in uses]

    def passes(self) -> Iterator[tuple[slice, list[Use]]]:
        """For each layer and backward: the layer's slots, and its calls."""
        for (start, _), uses in self._uses.items():
            yield self._slots[start], uses

    def batch_sizes(self, like: Tensor) -> Tensor:
        """Each slot's number of examples on all ranks, `[L]` for a bank shaped as `like`; 0 if it was not seen."""
        sizes = like.new_zeros(len(like))
        for slots, uses in self.passes():
            sizes[slots] += uses[0][0].examples
        collectives.add_up([sizes])
        return sizes

    def second_moments(self, basis: KroneckerBasis) -> Iterator[tuple[slice, Tensor, int]]:
        """For each layer and backward: slots, sum over n of (U^T G_n V)^.2 `[groups, o, p]`, and how many n."""
        for slots, uses in self.passes():
            yield (
                slots,
                sum_of_squares(uses, basis.output[slots], basis.input[slots]),
                uses[0][0].examples,
            )


def sum_of_squares(uses: list[Use], u: Tensor, v: Tensor) -> Tensor:
    """Sum over examples of (U^T G_n V)^.2 `[groups, o, p]`; U `[groups, o, o]`, V `[groups, p, p]`.

    Without sharing, (g a^T)^.2 = g^.2 (a^.2)^T makes it one product. Else either the rows are rotated, or the gradients
    that they add up to, whichever takes fewer operations: 2 B T (o^2 + p^2) or 2 B o p (o + p).
    """
    groups, examples, _, o = uses[0][1].shape
    p, positions = v.shape[-1], sum(g.shape[2] for _, g in uses)
    if positions == 1:
        [(rows, g)] = uses
        return (g.squeeze(2) @ u).square().mT @ rows.project(v).squeeze(2).square()
    rotate_rows = positions * (o * o + p * p) <= o * p * (o + p)
    size = max(1, CHUNK_ELEMENTS // (groups * (positions * (o + p) + 2 * o * p)))
    total = torch.zeros_like(u[:, :, :1] * v[:, :1])
    for start in range(0, examples, size):
        part = slice(start, start + size)
        terms = [_gradients(rows.take(part), g[:, part], u, v, rotate_rows) for rows, g in uses]
        total += torch.stack(terms).sum(0).square().sum(1)
    return total


def _gradients(rows: Rows, g: Tensor, u: Tensor, v: Tensor, rotate_rows: bool) -> Tensor:
    """U^T G_n V for some examples, `[groups, B, o, p]`."""
    if rotate_rows:
        return (g @ u.unsqueeze(1)).mT @ rows.project(v)
    return u.mT.unsqueeze(1) @ rows.example_gradients(g) @ v.unsqueeze(1)
