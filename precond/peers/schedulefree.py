"""Schedule-Free AdamW, whose weights for training and for evaluation differ."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from precond.algorithm import Card
from precond.hyperparameters import (
    Hyperparameters,
    count,
    fractions,
    learning_rate,
    non_negative,
    positive,
)
from precond.peers.base import Peer, StartsAfterInitialisation
from precond.scaling import evaluate
from precond.standalone import NO_COMPLEX


@dataclass(frozen=True, kw_only=True)
class ScheduleFreeAdamW(Hyperparameters):
    """Hyperparameters of Schedule-Free AdamW.

    Three sequences belong to each weight: z takes the steps of AdamW without momentum, x is a
    weighted average of z, and y = (1 - beta_1) z + beta_1 x. The gradients are computed at y, and
    the model is evaluated at x (`precond.evaluating`).

    Attributes:
        lr: Learning rate.
        betas: The weight of x in y, which is > 0, and the weight of the old value in the mean of
            squared gradients.
        eps: Added to the square roots.
        weight_decay: lr x weight_decay x y is subtracted from z in each step.
        warmup_steps: Steps in which the learning rate rises linearly from lr / warmup_steps.
        weight_power: The weights in the average x are the largest learning rates so far to this
            power.
        step_power: These weights are multiplied by the number of the step to this power.
    """

    lr: float | Tensor = learning_rate(2.5e-3)
    betas: tuple[float, float] = fractions((0.9, 0.999))
    eps: float = positive(1e-8)
    weight_decay: float = non_negative(0.0)
    warmup_steps: int = count(0, low=0)
    weight_power: float = non_negative(2.0)
    step_power: float = non_negative(0.0)

    def problems(self) -> list[str]:
        """Return one line for each value out of range."""
        errors = super().problems()
        if not errors and not self.betas[0]:
            errors.append(f"betas = {self.betas}: the first number must be in (0, 1)")
        return errors


CARD = Card(paper="Defazio et al., NeurIPS 2024", cost="16D", memory="D", unsupported=NO_COMPLEX)


def _define(package: Any) -> Any:
    class ScheduleFreeAdamWPeer(StartsAfterInitialisation, package.ScheduleFreeAdamW):
        """Schedule-Free AdamW; a step in eval mode is an error."""

        NAME = "ScheduleFree-AdamW"
        LIBRARY = package.ScheduleFreeAdamW
        CHANGES_GRADIENTS = True
        SUMS = "exp_avg_sq"

        RENAMED = {"weight_power": "weight_lr_power", "step_power": "r"}

        def __init__(self, params: Any, **hyperparameters: Any):
            super().__init__(params, **self._renamed(vars(ScheduleFreeAdamW(**hyperparameters))))

        def step(self, closure: Callable[[], Any] | None = None) -> Any:
            loss = evaluate(closure)
            if not all(group["train_mode"] for group in self.param_groups):
                raise RuntimeError(
                    f"{self.NAME}.step() was called in eval mode, in which the weights are "
                    "averages: call optimizer.train() before the forward"
                )
            self._note_initialisation()
            for p, state in self.state.items():  # the model may have been converted
                state |= {key: value.to(p.dtype) for key, value in state.items()}
            self._library_step()
            return loss

    return ScheduleFreeAdamWPeer


PEER = Peer("ScheduleFree-AdamW", ScheduleFreeAdamW, CARD, _define)
