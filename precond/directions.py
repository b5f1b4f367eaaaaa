"""Conversion of gradients to update directions, in the buffers of the banks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from precond.bank import Bank
from precond.scaling import LossScale

Groups = Sequence[Mapping[str, Any]]  # torch's param_groups


class Directions:
    """The directions of the preconditioned parameters of one optimizer.

    Args:
        banks: The banks of the optimizer.

    Attributes:
        views: A view of a bank's buffer for each parameter. The gradient is copied into the view,
            and the direction is read from it.
    """

    def __init__(self, banks: Sequence[Bank]):
        self._banks = banks
        self.views: dict[Tensor, Tensor] = {}
        # The group of the weight of each parameter's layer.
        self._weight_group: dict[Tensor, int] = {}
        for bank in banks:
            for layer in bank.layers:
                parameters = layer.parameters
                self.views |= {parameters[key]: view for key, view in bank.views(layer).items()}
                self._weight_group |= dict.fromkeys(parameters.values(), bank.group)

    def compute(self, groups: Groups, clip: float | None, scale: LossScale | None) -> None:
        """Copy the gradients into the banks' buffers and replace them by directions.

        Args:
            groups: The parameter groups of the optimizer.
            clip: The bound of the KL-clip, or None.
            scale: The loss scale of this step, or None.
        """
        products = []
        for bank in self._banks:
            fill = partial(self._fill, bank, scale)
            fill()
            lr = _reference(groups[bank.group]["lr"])
            measure = clip is not None
            if (inner := bank.precondition(lr, measure, refill=fill)) is not None:
                products.append(inner * groups[bank.group]["lr"] ** 2)
        if clip is not None and products:
            self._clip(clip, products)

    def of(
        self, parameter: Tensor, groups: Groups, lr: float | Tensor | None = None
    ) -> Tensor | None:
        """Return the direction of a parameter, or None if it is not preconditioned.

        Args:
            parameter: A parameter of the optimizer.
            groups: The parameter groups of the optimizer.
            lr: The learning rate of the parameter's group, for algorithms whose directions contain
                the learning rate; else None.
        """
        view = self.views.get(parameter)
        if view is None or lr is None:
            return view
        # The direction contains the learning rate of the weight's group.
        weight_lr = groups[self._weight_group[parameter]]["lr"]
        reference = _reference(weight_lr)
        if reference is weight_lr and not isinstance(lr, Tensor) and lr == weight_lr:
            return view
        return view * (lr / reference)

    def _fill(self, bank: Bank, scale: LossScale | None) -> None:
        """Copy the gradients of a bank's layers into its buffer, without the scale of the loss.

        The buffers of layers without any gradient become nan; these layers are not updated.
        """
        pairs = [
            (self.views[p], p.grad) for layer in bank.layers for p in layer.parameters.values()
        ]
        if absent := [view for view, gradient in pairs if gradient is None]:
            torch._foreach_zero_(absent)
            for layer in bank.layers:
                if all(p.grad is None for p in layer.parameters.values()):
                    bank.buffer[bank.slots[layer.name]] = torch.nan
        present = [(view, gradient) for view, gradient in pairs if gradient is not None]
        if present:
            views, gradients = map(list, zip(*present, strict=True))
            torch._foreach_copy_(views, gradients)
        if scale is not None:
            scale.unscale_and_mask(bank.buffer)

    def _clip(self, bound: float, products: list[Tensor]) -> None:
        """Scale all directions by min(1, sqrt(kappa / |s|)), where s = sum of lr^2 <D, G>.

        The host does not wait for the device.
        """
        s = torch.stack(products).sum().abs()
        factor = torch.where(s > bound, (bound / s).sqrt(), 1)
        for bank in self._banks:
            bank.rescale(factor)


def _reference(lr: float | Tensor) -> float:
    """Return the learning rate that the directions of a bank contain.

    This is `lr`, the learning rate of the weights, with two exceptions. It is 1 if `lr` is 0,
    because `Directions.of` divides by it, or if `lr` is a tensor, which the host must not read.
    """
    if isinstance(lr, Tensor):
        return 1.0
    return lr if lr else 1.0
