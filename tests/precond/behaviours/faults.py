"""SGD with faults, to show that the behaviours notice them."""

from __future__ import annotations

import copy
from typing import Any

import torch


class Ascends(torch.optim.SGD):
    """SGD that adds the gradient."""

    def __init__(self, params: Any, **options: Any):
        super().__init__(params, maximize=True, **options)


class ChangesGradients(torch.optim.SGD):
    """SGD whose steps change the gradients in place."""

    def step(self, closure: Any = None) -> Any:
        loss = super().step(closure)
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.grad.mul_(0.5)
        return loss


class ReadsNoneAsZero(torch.optim.SGD):
    """SGD that moves parameters without a gradient by their momentum."""

    def step(self, closure: Any = None) -> Any:
        missing = [p for group in self.param_groups for p in group["params"] if p.grad is None]
        for p in missing:
            p.grad = torch.zeros_like(p)
        loss = super().step(closure)
        for p in missing:
            p.grad = None
        return loss


class UsesFirstGroup(torch.optim.SGD):
    """SGD that uses the options of the first group for all groups."""

    def step(self, closure: Any = None) -> Any:
        groups = self.param_groups
        parameters = [p for group in groups for p in group["params"]]
        self.param_groups = [{**groups[0], "params": parameters}]
        try:
            return super().step(closure)
        finally:
            self.param_groups = groups


class KeepsItsLr(torch.optim.SGD):
    """SGD that always uses the learning rate with which it was built."""

    def step(self, closure: Any = None) -> Any:
        lrs = [group["lr"] for group in self.param_groups]
        for group in self.param_groups:
            group["lr"] = float(self.defaults["lr"])
        loss = super().step(closure)
        for group, lr in zip(self.param_groups, lrs, strict=True):
            group["lr"] = lr
        return loss


class ForgetsItsState(torch.optim.SGD):
    """SGD that loads only the groups of a state."""

    def load_state_dict(self, state_dict: Any) -> None:
        super().load_state_dict({**state_dict, "state": {}})


class IsItsCopy(torch.optim.SGD):
    """SGD whose copy is the same object."""

    def __deepcopy__(self, memo: Any) -> IsItsCopy:
        return self


class SkipsHooks(torch.optim.SGD):
    """SGD whose `state_dict` calls no hooks."""

    def state_dict(self) -> Any:
        other = torch.optim.SGD(copy.copy(self.param_groups))
        other.state = self.state
        return other.state_dict()


class EvaluatesWithoutGradients(torch.optim.SGD):
    """SGD that disables gradients while it calls the closure."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = None if closure is None else closure()
        super().step()
        return loss


FAULTS = {
    Ascends: ("the_loss_falls", "the_lr_can_be_zero"),
    ChangesGradients: ("a_step_does_not_change_the_gradients",),
    ReadsNoneAsZero: (
        "parameters_whose_gradient_is_none_do_not_change",
        "a_step_without_gradients_changes_nothing",
        "a_layer_can_be_frozen_during_training",
    ),
    UsesFirstGroup: (
        "a_group_can_set_its_lr",
        "a_group_with_lr_zero_does_not_change",
        "a_group_can_set_its_weight_decay",
    ),
    KeepsItsLr: ("a_step_uses_the_current_lr", "the_lr_can_be_zero"),
    ForgetsItsState: (
        "training_resumes_from_a_state",
        "a_state_can_be_loaded_with_weights_only",
        "the_loss_falls_with_StepLR",
    ),
    IsItsCopy: ("model_and_optimizer_can_be_copied", "a_copied_optimizer_is_independent"),
    SkipsHooks: ("state_dict_hooks_are_called",),
    EvaluatesWithoutGradients: ("a_closure_gives_the_same_steps",),
}
