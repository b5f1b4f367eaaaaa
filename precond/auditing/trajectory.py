"""The updates of an optimizer on the problem of an audit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """The parameters of the model, as parts of one vector with D entries.

    Attributes:
        shapes: The shape of each parameter, by name.
    """

    shapes: Mapping[str, torch.Size]

    @cached_property
    def sizes(self) -> list[int]:
        """Number of entries of each parameter."""
        return [shape.numel() for shape in self.shapes.values()]

    @cached_property
    def segments(self) -> Tensor:
        """The number of the parameter for each entry, `[D]`."""
        return torch.repeat_interleave(torch.arange(len(self.sizes)), torch.tensor(self.sizes))

    @cached_property
    def factors(self) -> Mapping[str, Tensor]:
        """Factors of the learning rate that depend on a tensor's shape, `[parameters]`.

        A tensor has shape[0] rows. "root of the entries" applies to all tensors; the other factors
        are 1 for tensors with fewer than two dimensions.
        """
        rows = [shape[0] if len(shape) > 1 else 1 for shape in self.shapes.values()]
        columns = [
            n // r if len(shape) > 1 else 1
            for n, r, shape in zip(self.sizes, rows, self.shapes.values(), strict=True)
        ]
        r, c = torch.tensor(rows).double(), torch.tensor(columns).double()
        flat = torch.tensor([len(shape) < 2 for shape in self.shapes.values()])
        return {
            "0.2 root of the larger side": torch.where(flat, 1.0, 0.2 * torch.maximum(r, c).sqrt()),
            "root of the aspect": (r / c).clamp(min=1).sqrt(),
            "root of rows over columns": (r / c).sqrt(),
            "root of the entries": torch.tensor(self.sizes).double().rsqrt(),
        }

    def norms(self, vector: Tensor) -> Tensor:
        """Return the norm of each parameter's part, `[parameters]`."""
        squares = vector.new_zeros(len(self.sizes)).index_add(0, self.segments, vector.square())
        return squares.sqrt()

    def spread(self, values: Tensor) -> Tensor:
        """Return a vector `[D]` with the value of its parameter at each entry."""
        return values[self.segments]


@dataclass(frozen=True)
class Trajectory:
    """The weights, gradients and updates of an optimizer in each of T steps.

    Attributes:
        layout: The parameters.
        weights: The weights before each step, `[T, D]`.
        gradients: The gradients, `[T, D]`.
        updates: New weights minus old weights, `[T, D]`.
        factors: The learning rate divided by its initial value, for each step.
        settings: The options of the first parameter group.
        layerwise: True if the optimizer preconditions layers. Its updates then depend on more than
            the gradients.
    """

    layout: Layout
    weights: Tensor
    gradients: Tensor
    updates: Tensor
    factors: list[float]
    settings: Mapping[str, Any]
    layerwise: bool

    @cached_property
    def rows(self) -> list[tuple[Tensor, Tensor, float]]:
        """The weights, the gradient and the factor of each step."""
        return list(zip(self.weights, self.gradients, self.factors, strict=True))

    def restricted(self, names: Sequence[str]) -> Trajectory:
        """Return the trajectory of some of the parameters."""
        shapes = self.layout.shapes
        kept = torch.tensor([name in names for name in shapes])[self.layout.segments]
        return replace(
            self,
            layout=Layout({name: shapes[name] for name in shapes if name in names}),
            weights=self.weights[:, kept],
            gradients=self.gradients[:, kept],
            updates=self.updates[:, kept],
        )

    def along(self, directions: Tensor) -> Trajectory:
        """Return the trajectory with directions in place of the gradients."""
        return replace(self, gradients=directions)
