"""The base of the peers that estimate the diagonal of the Hessian with random signs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from precond import hessian
from precond.parts.sketches import seed_of
from precond.peers.base import LibraryOptimizer


class HutchinsonOptimizer(hessian.HessianOptimizer, LibraryOptimizer):
    """Base class of optimizers whose steps use z * (H z) for random signs z.

    The signs depend only on the seed, the step and the parameter.

    Attributes:
        BUFFERS: The entries of a parameter's state, which start at zero.
    """

    BUFFERS: ClassVar[tuple[str, str]]

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters. Their state has the same keys before and after the first step."""
        super().add_param_group(param_group)
        for p in self.param_groups[-1]["params"]:
            if p.requires_grad:
                self.state[p] = {name: torch.zeros_like(p) for name in self.BUFFERS}

    @property
    def _due(self) -> bool:
        """True if the next step needs the Hessian."""
        return True

    def _differentiates_twice(self) -> bool:
        return self._due

    def backward(self, loss: Tensor) -> None:
        """Set the gradients as `loss.backward()` does, and estimate the diagonal of H if needed."""
        if not self._due:
            loss.backward()
            return
        parameters = [p for group in self.param_groups for p in group["params"]]
        trained = [p for p in parameters if p.requires_grad]
        gradients = self._differentiate(loss, trained)
        first = self.param_groups[0]
        drawn = random_signs(parameters, first["seed"], first["step"])
        signs = dict(zip(parameters, drawn, strict=True))
        products = hessian.product(gradients, trained, [signs[p] for p in trained])
        diagonal = {p: signs[p] * product for p, product in zip(trained, products, strict=True)}
        new = [diagonal[p] if p in diagonal else torch.zeros_like(p) for p in parameters]
        old = self._products
        self._products = new if old is None else [a + b for a, b in zip(old, new, strict=True)]

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the parameters, and return the closure's loss, or None without a closure.

        Raises:
            RuntimeError: The step needs the Hessian, but `optimizer.backward(loss)` has not been
                called.
        """
        loss = self._evaluate(closure)
        if not self._has_gradients():
            return loss
        products = self._take_products() if self._due else None
        for p, state in self.state.items():  # the model may have been converted
            state |= {key: value.to(p.dtype) for key, value in state.items()}
        self._library_step(hessian=products)
        for state in self.state.values():
            state.pop("hessian", None)
        return loss


def random_signs(parameters: list[Tensor], seed: int, step: int) -> list[Tensor]:
    """Return random signs, 1 or -1, with the shapes and devices of the parameters."""
    signs = []
    for number, p in enumerate(parameters):
        generator = torch.Generator(p.device).manual_seed(seed_of(seed, f"signs {number}", step))
        bits = torch.randint(0, 2, p.shape, generator=generator, device=p.device)
        signs.append(bits.to(p.dtype) * 2 - 1)
    return signs
