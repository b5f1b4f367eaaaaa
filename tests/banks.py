"""A function that adds statistics to a bank without running a model."""

from torch import Tensor

from precond.bank import Bank
from precond.layers import Layer


def record(
    bank: Bank, layer: Layer, x: Tensor | None = None, gradient: Tensor | None = None
) -> None:
    """Add an input, an output gradient or both, as a forward and a backward pass do."""
    bank.accumulate(layer, x, gradient)
    bank.forwards.added.add(layer.name)
