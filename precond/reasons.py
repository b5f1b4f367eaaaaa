"""The reasons why a module is not preconditioned, and what can be done about it."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

KINDS = (nn.Linear, nn.Conv2d)
SEPARATE = "call precond.separate_attention(model) before you build the optimizer"
UNCALLED = f"MultiheadAttention does not call its forward; {SEPARATE}"
FROZEN = (
    "its weight did not require a gradient when the optimizer was built: to train it, call "
    "weight.requires_grad_() and optimizer.add_param_group"
)
NOT_GIVEN = (
    "its weight is not in the parameters of this optimizer: to train it here, pass it in params or "
    "to optimizer.add_param_group"
)
# The reasons in an error of the constructor, when there is no optimizer to which one could add.
WHEN_BUILDING = {
    FROZEN: "its weight does not require a gradient: to train it, call weight.requires_grad_() before "
    "you build the optimizer",
    NOT_GIVEN: "its weight is not in params",
}
USE_PLAIN = "use a plain optimizer such as torch.optim.SGD"
UNFREEZE = (
    "no parameter of the model requires a gradient: call requires_grad_() on those to train before "
    "you build the optimizer"
)
RECURRENT = "to precondition its weights, write the cell with Linear layers"
ADVICE = {
    nn.RNNBase: RECURRENT,
    nn.RNNCellBase: RECURRENT,
    nn.Conv1d: "a Conv2d with a kernel of height 1 computes the same",
}


def reason_to_skip(
    module: nn.Module, trained: Collection[Tensor], uses: Mapping[Tensor, int]
) -> str | None:
    """Return why a module is not preconditioned, or None if it is.

    A module that could not be preconditioned if it were trained has this reason also if it is not.
    """
    kind = next((kind for kind in KINDS if isinstance(module, kind)), None)
    if kind is None:
        kind = getattr(module, "original_name", type(module).__name__)
        return f"{kind} is not a Linear or Conv2d layer{_advice(module)}"
    methods = [name for name in ("forward", "_conv_forward") if hasattr(kind, name)]
    if any(getattr(type(module), name) is not getattr(kind, name) for name in methods) or any(
        name in vars(module) for name in methods
    ):
        return f"its forward is not that of {kind.__name__}"
    weight, bias = module._parameters.get("weight"), module._parameters.get("bias")
    if weight is None or "bias" not in module._parameters:
        return "its weight or bias is computed from other tensors"
    for parameter in (weight, bias):
        if parameter is not None and (reason := _reason_of_tensor(parameter)):
            return reason
    if uses[weight] > 1 or (bias is not None and uses[bias] > 1):
        return "its weight or bias belongs to several modules"
    if weight in trained:
        return None
    return NOT_GIVEN if weight.requires_grad else FROZEN


def _advice(module: nn.Module) -> str:
    """Return how the weights of a module can be preconditioned, or "" if it is not known."""
    if reads_weights(module):
        return f"; {SEPARATE}"
    return next((f"; {text}" for kind, text in ADVICE.items() if isinstance(module, kind)), "")


def _reason_of_tensor(parameter: Tensor) -> str | None:
    """Return why a parameter cannot be preconditioned, or None if it can."""
    if type(parameter.data) is not Tensor:
        return f"its parameters are of the type {type(parameter.data).__name__}"
    if not parameter.is_floating_point():
        return f"its parameters are {str(parameter.dtype).removeprefix('torch.')}"
    if parameter.layout is not torch.strided:
        return "its parameters are sparse"
    return None if parameter.numel() else "its parameters are empty"


def reads_weights(module: nn.Module) -> bool:
    """Return True if the module has the forward of `nn.MultiheadAttention`."""
    kind = nn.MultiheadAttention
    return isinstance(module, kind) and type(module).forward is kind.forward
