"""SketchySGD: SGD preconditioned by a sketch of the Hessian (Frangella et al. 2024).

H is the Hessian of the batch's loss with respect to all D parameters together. Therefore SketchySGD
is a separate torch optimizer, not an `Algorithm` that works on layers. Phi `[D, r]` is a Gaussian
test matrix with orthonormal columns:

    every tau steps, starting with step 0:
        Y = H Phi                        (r Hessian-vector products)
        U S U^T = the Nystrom approximation of H from Y and Phi (`parts/nystrom.py`), S diagonal
    every step t:
        m <- mu m + g,   g^ = m / (1 - mu^{t+1})
        d = U (S + rho I)^{-1} U^T g^ + (g^ - U U^T g^) / rho
        w <- w - lr (d + wd w)

The momentum buffer m sums gradients, not directions; g^ is 1/(1 - mu) times a weighted mean of the
gradients. d is computed as g^ / rho - Z Z^T g^. H may be indefinite: if the smallest eigenvalue of
the matrix Phi^T Y is negative, the shift nu of `parts/nystrom.py` is at least twice its absolute
value. Negative curvature counts as zero.

Cost per step: 4 D r operations. Every tau steps, r Hessian-vector products (each about two backward
passes) and 7 D r^2 operations are added. Memory: D r.

`docs/algorithms.md` lists the differences from the released code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import reduce
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from precond import hessian
from precond.algorithm import Card
from precond.counts import counted
from precond.hyperparameters import (
    HyperparameterError,
    Hyperparameters,
    count,
    fraction,
    learning_rate,
    make,
    non_negative,
    positive,
)
from precond.parts import linalg
from precond.parts.nystrom import low_rank_factor
from precond.parts.sketches import GaussianSketch

NUMERICS = 2

CARD = Card(
    paper="Frangella et al., SIAM J. Math. Data Sci. 2024",
    cost="r HVP/tau + 7Dr^2/tau + 4Dr, tau = interval",
    memory="Dr",
    deviations="the Hessian is that of the current batch, not of another batch; the shift for an "
    "indefinite Hessian is added to the whole sketch, not only to its r x r core matrix",
    unsupported=hessian.UNSUPPORTED,
)


@dataclass(frozen=True, kw_only=True)
class Settings(Hyperparameters):
    """Hyperparameters of SketchySGD; parameter groups may override the first three.

    Attributes:
        lr: Learning rate.
        momentum: Momentum of the gradients, before they are preconditioned.
        weight_decay: Decoupled weight decay, as in AdamW.
        rank: Number of columns of the sketch.
        damping: Added to every eigenvalue before inverting.
        interval: Number of steps between sketches of the Hessian.
        seed: Seed of the test matrices.
    """

    lr: float | Tensor = learning_rate(1e-3)
    momentum: float = fraction(0.9, symbol="mu")
    weight_decay: float = non_negative(0.0, symbol="wd")
    rank: int = count(10, symbol="r")
    damping: float = positive(0.1, symbol="rho")
    interval: int = count(100, symbol="tau")
    seed: int = count(0, low=0)


class SketchySGD(hessian.HessianOptimizer):
    """The implementation of `precond.SketchySGD`, which declares the explicit signature.

    Call `optimizer.backward(loss)` instead of `loss.backward()`; between sketches, both do the
    same. Several calls before one step accumulate: the gradients are summed, and so are the
    Hessians.

    Raises:
        HyperparameterError: Lists every value out of range, with the range, and every unknown name.
        ValueError: The model is data parallel.
    """

    NAME = "SketchySGD"
    FIXED: ClassVar[tuple[str, ...]] = ("rank", "damping", "interval", "seed")

    def __init__(
        self, model: nn.Module, *, params: Iterable[Any] | None = None, **hyperparameters: Any
    ):
        hessian.refuse_data_parallel(model, self.NAME)
        [self.settings] = make(Settings, values=hyperparameters)
        s: Settings = self.settings
        trainable = [p for p in model.parameters() if p.requires_grad]
        super().__init__(trainable if params is None else params, {**vars(s), "step": 0})
        size = sum(p.numel() for p in self._parameters())
        if s.rank > size:
            raise HyperparameterError(
                f"rank = {s.rank}: the optimizer has {counted(size, 'parameter')}, use 1..{size}"
            )
        self.attach(model)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters. Their state has the same keys before and after the first step."""
        super().add_param_group(param_group)
        for p in self.param_groups[-1]["params"]:
            if p.requires_grad:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
                self.state[p]["factor"] = p.new_zeros(p.numel(), self.settings.rank)

    def backward(self, loss: Tensor) -> None:
        """Set the gradients, as `loss.backward()` does, and sketch the Hessian if it is due."""
        if not self._due:
            loss.backward()
            return
        parameters = self._parameters()
        gradients = self._differentiate(loss, parameters)
        if self._products is None:
            self._products = self._draw(parameters)
        sketch, products = self._products  # Phi and Y
        for column in range(self.settings.rank):
            vectors = _split(sketch.omega[0, :, column], parameters)
            parts = hessian.product(gradients, parameters, vectors)
            products[0, :, column] += torch.cat(
                [part.flatten().to(products.dtype) for part in parts]
            )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Compute a new preconditioner if it is due, and update the parameters.

        Args:
            closure: Computes and returns the loss, and calls `optimizer.backward(loss)`.

        Returns:
            The loss that the closure returned, or None without a closure.

        Raises:
            RuntimeError: A sketch is due, but `optimizer.backward(loss)` has not been called.
        """
        loss = self._evaluate(closure)
        if not self._has_gradients():
            return loss
        if self._due:
            self._refresh()
        self._descend()
        for group in self.param_groups:
            group["step"] += 1
        return loss

    def _differentiates_twice(self) -> bool:
        return self._due

    @property
    def _due(self) -> bool:
        return self.param_groups[0]["step"] % self.settings.interval == 0

    def _parameters(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"] if p.requires_grad]

    def _draw(self, parameters: list[Tensor]) -> tuple[GaussianSketch, Tensor]:
        """Return the Phi of this step, and zeros for Y, both `[1, D, r]`."""
        size, rank = sum(p.numel() for p in parameters), self.settings.rank
        like = parameters[0].new_empty(
            0, dtype=torch.promote_types(parameters[0].dtype, torch.float32)
        )
        number = self.param_groups[0]["step"] // self.settings.interval
        sketch = GaussianSketch.draw([f"sketch {number}"], size, rank, self.settings.seed, like)
        return sketch, like.new_zeros(1, size, rank)

    def _refresh(self) -> None:
        """Compute Z from the sketch and split its rows over the parameters.

        If the computation fails, the old Z remains in use, which is 0 at first.
        """
        sketch, products = self._take_products()
        with linalg.exact_arithmetic(products.device):
            eigenvalues, _, _ = linalg.eigh(linalg.symmetrize(sketch.core(products.double())))
            least_shift = (-2 * eigenvalues[:, 0]).clamp(min=0)
            z, outcome = low_rank_factor(
                products, sketch, self.settings.damping, least_shift=least_shift
            )
        parameters = self._parameters()
        for p, rows in zip(parameters, z[0].split([p.numel() for p in parameters]), strict=True):
            new = rows.to(p)
            old = self.state[p].get("factor", torch.zeros_like(new))
            self.state[p]["factor"] = torch.where(outcome.ok, new, old)

    def _descend(self) -> None:
        means: dict[Tensor, Tensor] = {}
        for group in self.param_groups:
            correction = 1 - group["momentum"] ** (group["step"] + 1)
            for p in (p for p in group["params"] if p.grad is not None):
                momentum = _momentum(self.state[p], p).mul_(group["momentum"]).add_(p.grad)
                means[p] = momentum.flatten() / correction
        sketched = {
            p: self.state[p]["factor"].to(p.dtype) for p in means if "factor" in self.state[p]
        }
        dtype = reduce(torch.promote_types, [p.dtype for p in means])
        coefficients: Any = sum((z.mT @ means[p]).to(dtype) for p, z in sketched.items())
        for group in self.param_groups:
            for p in (p for p in group["params"] if p in means):
                direction = means[p] / self.settings.damping
                if p in sketched:
                    direction -= sketched[p] @ coefficients.to(p.dtype)
                lr, direction = group["lr"], direction.view_as(p)
                p.mul_(1 - lr * group["weight_decay"])
                if isinstance(lr, Tensor):  # the host does not read its value
                    p.sub_(direction * lr.reshape(()))
                else:
                    p.add_(direction, alpha=-lr)


def _momentum(state: dict[str, Any], parameter: Tensor) -> Tensor:
    """Return the momentum of a parameter in its dtype; create it with zeros if necessary."""
    value = state.get("momentum_buffer")
    value = torch.zeros_like(parameter) if value is None else value.to(parameter.dtype)
    state["momentum_buffer"] = value
    return value


def _split(vector: Tensor, parameters: list[Tensor]) -> list[Tensor]:
    """Split a vector `[D]` into tensors with the parameters' shapes and dtypes."""
    parts = vector.split([p.numel() for p in parameters])
    return [part.view(p.shape).to(p.dtype) for part, p in zip(parts, parameters, strict=True)]
