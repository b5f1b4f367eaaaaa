"""Inputs and output gradients, kept until the end of a step to square the gradient of each example.

The gradient of example n is G_n = sum over t of g a^T. The sum is over the positions, and over the
calls of a shared layer within one backward. With gradient accumulation, each backward of a step has
different examples.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from precond.parts import collectives
from precond.parts.factors import KroneckerBasis
from precond.parts.rows import Rows

# Limit of the elements of rotated rows and example gradients that exist at the same time. They
# occupy 64 MiB in float32.
CHUNK_ELEMENTS = 1 << 24

# The inputs of one call of a layer, and its output gradients [groups, B, T, o].
Use = tuple[Rows, Tensor]


@dataclass
class Pairs:
    """The inputs and output gradients of a bank's layers in one step.

    Store a `Pairs` in a field whose name starts with `_`: it is not part of the saved state.
    """

    _uses: dict[tuple[int, int], list[Use]] = field(default_factory=dict)
    _slots: dict[int, slice] = field(default_factory=dict)

    def add(self, slots: slice, rows: Rows, output_gradients: Tensor, backward: int) -> None:
        """Add one call of one layer, in the backward with the number `backward`."""
        self._slots[slots.start] = slots
        self._uses.setdefault((slots.start, backward), []).append((rows, output_gradients))

    def clear(self) -> None:
        """Drop all calls."""
        self._uses.clear()

    def rescale(self, factor: Tensor) -> None:
        """Multiply the output gradients by a factor."""
        for key, uses in self._uses.items():
            self._uses[key] = [(rows, g * factor) for rows, g in uses]

    def discard(self, slots: slice) -> None:
        """Drop the calls of the layer with these slots."""
        self._uses = {key: uses for key, uses in self._uses.items() if key[0] != slots.start}

    def forget(self, skipped: Tensor) -> None:
        """Replace the output gradients by nan if `skipped` (a bool tensor) is True.

        Because statistics ignore values that are not finite, a skipped step does not update them.
        """
        for key, uses in self._uses.items():
            self._uses[key] = [(rows, g.masked_fill(skipped, torch.nan)) for rows, g in uses]

    def passes(self) -> Iterator[tuple[slice, list[Use]]]:
        """Yield the slots and the calls of each layer, for each backward."""
        for (start, _), uses in self._uses.items():
            yield self._slots[start], uses

    def batch_sizes(self, like: Tensor) -> Tensor:
        """Return the number of examples of each slot, summed over all ranks.

        The result is `[L]`, with the dtype and device of `like`, whose first axis is L. It is 0 for
        a layer that took part in no backward.
        """
        sizes = like.new_zeros(len(like))
        for slots, uses in self.passes():
            sizes[slots] += uses[0][0].examples
        collectives.add_up([sizes])
        return sizes

    def second_moments(self, basis: KroneckerBasis) -> Iterator[tuple[slice, Tensor, int]]:
        """Yield slots, the sum over examples n of (U^T G_n V)^.2, and the number of examples.

        The sum is `[groups, o, p]`, and X^.2 contains the squares of the entries of X. There is one
        item per layer and backward.
        """
        for slots, uses in self.passes():
            total = sum_of_squares(uses, basis.output[slots], basis.input[slots])
            yield slots, total, uses[0][0].examples


def sum_of_squares(uses: list[Use], u: Tensor, v: Tensor) -> Tensor:
    """Return the sum over examples of (U^T G_n V)^.2, `[groups, o, p]`.

    U is `[groups, o, o]` and V is `[groups, p, p]`. For one position per example, the sum is a
    single product because (g a^T)^.2 = g^.2 (a^.2)^T. Otherwise, the function rotates either the
    rows or the gradients of the examples, whichever needs fewer operations: 2 B T (o^2 + p^2) or
    2 B o p (o + p).
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
    """Return U^T G_n V for some examples, `[groups, B, o, p]`."""
    if rotate_rows:
        return (g @ u.unsqueeze(1)).mT @ rows.project(v)
    return u.mT.unsqueeze(1) @ rows.example_gradients(g) @ v.unsqueeze(1)
