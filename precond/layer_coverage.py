"""The share of a model that an optimizer preconditions.

>>> precond.coverage(optimizer)
Coverage(layers=1, skipped=2, parameters=132, total=6852)
>>> print(precond.coverage(optimizer))
preconditions 1 of 3 layers, 132 of 6,852 parameters (1.9%)
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor, nn
from torch.optim import Optimizer

from precond.counts import counted


@dataclass(frozen=True)
class Coverage:
    """The numbers of layers and parameters whose directions are preconditioned.

    A layer here is a module that itself has parameters which the optimizer trains. A parameter that
    several modules share counts once.

    Attributes:
        layers: Number of preconditioned layers.
        skipped: Number of layers that follow their gradient.
        parameters: Number of elements of the preconditioned parameters.
        total: Number of elements of all parameters that the optimizer trains.
    """

    layers: int
    skipped: int
    parameters: int
    total: int

    @property
    def share(self) -> float:
        """The share of the parameters that are preconditioned, 0 to 1."""
        return self.parameters / self.total if self.total else 0.0

    def __str__(self) -> str:
        layers = f"{self.layers} of {counted(self.layers + self.skipped, 'layer')}"
        parameters = f"{self.parameters:,} of {counted(self.total, 'parameter')}"
        return f"preconditions {layers}, {parameters} ({self.share:.1%})"


@runtime_checkable
class KnowsCoverage(Protocol):
    """An optimizer that preconditions some layers and not others."""

    def coverage(self) -> Coverage:
        """Return how much of the model is preconditioned."""
        ...


def coverage(optimizer: Optimizer) -> Coverage | None:
    """Return how many layers and parameters an optimizer preconditions.

    Nothing is computed, so the model may be on the meta device.

    Returns:
        The numbers, or None if the optimizer does not distinguish layers, as `torch.optim.SGD`
        and the optimizers that precondition every parameter.

    Raises:
        TypeError: The argument is a model.
    """
    if isinstance(optimizer, nn.Module):
        raise TypeError("coverage needs the optimizer, not the model: pass coverage(optimizer)")
    return optimizer.coverage() if isinstance(optimizer, KnowsCoverage) else None


def count(
    modules: Iterable[nn.Module],
    parameters: Iterable[Tensor],
    preconditioned: Collection[Tensor],
) -> Coverage:
    """Count layers and parameters.

    Args:
        modules: The modules of the model.
        parameters: The parameters of the optimizer. Those that require no gradient are not counted.
        preconditioned: The parameters whose directions are preconditioned.
    """
    trained = {p for p in parameters if p.requires_grad}
    included = trained & set(preconditioned)
    owned = [trained & set(module.parameters(recurse=False)) for module in modules]
    layers = sum(not group.isdisjoint(included) for group in owned)
    skipped = sum(map(bool, owned)) - layers
    sizes = (sum(p.numel() for p in group) for group in (included, trained))
    return Coverage(layers, skipped, *sizes)
