"""Shampoo, SOAP and AdaHessian from the package pytorch-optimizer.

These optimizers, the *peers*, are for comparison. The package does their arithmetic; only this file
imports the package, when a peer is built. Thin subclasses give the peers this project's
hyperparameter names and the guarantees of every registered optimizer: gradients are not changed,
random draws are seeded, and a run resumes bitwise from a loaded state.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from precond import hessian
from precond.algorithm import Card
from precond.hyperparameters import Hyperparameters, count, fractions, non_negative, positive
from precond.parts.sketches import seed_of

PACKAGE = "pytorch_optimizer"


@dataclass(frozen=True, kw_only=True)
class Shampoo(Hyperparameters):
    """Hyperparameters of Shampoo.

    Shampoo computes its matrix roots at each step; `docs/algorithms.md` explains why.

    Attributes:
        lr: Learning rate.
        weight_decay: Each step shrinks the weights by the factor 1 - lr x weight_decay.
        eps: The statistics start at eps I.
    """

    lr: float = positive(0.1)
    weight_decay: float = non_negative(0.0)
    eps: float = positive(1e-6)


@dataclass(frozen=True, kw_only=True)
class SOAP(Hyperparameters):
    """Hyperparameters of SOAP.

    Attributes:
        lr: Learning rate.
        betas: Weights of the old values in the two moments; the statistics use the second weight.
        eps: Added to the square roots.
        weight_decay: Each step shrinks the weights by the factor 1 - lr x weight_decay.
        interval: Steps between updates of the eigenbases.
    """

    lr: float = positive(3e-3)
    betas: tuple[float, float] = fractions((0.95, 0.95))
    eps: float = positive(1e-8)
    weight_decay: float = non_negative(0.01)
    interval: int = count(10)


@dataclass(frozen=True, kw_only=True)
class AdaHessian(Hyperparameters):
    """Hyperparameters of AdaHessian.

    Attributes:
        lr: Learning rate.
        betas: Weights of the old values in the means of gradients and of squared Hessian diagonals.
        eps: Added to the square roots.
        weight_decay: Each step shrinks the weights by the factor 1 - lr x weight_decay.
        seed: Seed of the random signs.
    """

    lr: float = positive(0.15)
    betas: tuple[float, float] = fractions((0.9, 0.999))
    eps: float = positive(1e-4)
    weight_decay: float = non_negative(0.0)
    seed: int = count(0, low=0)


CARDS = {
    Shampoo: Card(
        paper="Gupta, Koren and Singer, ICML 2018",
        cost="2op(o+p) + ~22(o^3+p^3) + 2op(o+p)",
        memory="2(o^2+p^2)",
        deviations="as in pytorch-optimizer: statistics are summed; no grafting, no momentum",
    ),
    SOAP: Card(
        paper="Vyas et al., ICLR 2025",
        cost="8op(o+p) + ~(2+4/3)(o^3+p^3)/interval",
        memory="2(o^2+p^2) + 2op",
        deviations="as in pytorch-optimizer: the first step only initialises the statistics; "
        "one factor per axis of a kernel",
    ),
    AdaHessian: Card(
        paper="Yao et al., AAAI 2021",
        cost="1 HVP + O(D)",
        memory="2D",
        deviations="as in pytorch-optimizer: no averaging over convolution kernels; "
        "decoupled weight decay",
        unsupported=hessian.UNSUPPORTED,
    ),
}


def build(
    kind: type, model: nn.Module, *, params: Iterable[Any] | None = None, **hyperparameters: Any
) -> Optimizer:
    """Build the peer that has `kind` as the dataclass of its hyperparameters.

    `registry.build` describes the other arguments.

    Raises:
        ModuleNotFoundError: The package is not installed; the message names the command to
            install it.
        ValueError: The model is data parallel, and the method needs the Hessian.
    """
    if kind is AdaHessian:
        hessian.refuse_data_parallel(model, kind.__name__)
    try:
        import pytorch_optimizer as library  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        text = "needs the package pytorch-optimizer: pip install .[peers]"
        raise ModuleNotFoundError(f"{kind.__name__} {text}") from error
    trainable = [p for p in model.parameters() if p.requires_grad]
    peers = _subclasses(library.Shampoo, library.SOAP, library.AdaHessian)
    return peers[kind](trainable if params is None else params, **hyperparameters)


@functools.cache
def _subclasses(shampoo: Any, soap: Any, adahessian: Any) -> dict[type, type[Optimizer]]:
    """Return subclasses of the package's classes.

    They are created in a function, because the package may not be installed.
    """

    class ShampooPeer(shampoo):
        """Shampoo on copies of the gradients, because the package changes gradients in place."""

        def __init__(self, params: Any, **hyperparameters: Any):
            settings = Shampoo(**hyperparameters)
            options = {"weight_decouple": True, "matrix_eps": settings.eps}
            super().__init__(params, lr=settings.lr, weight_decay=settings.weight_decay, **options)

        def step(self, closure: Callable[[], Any] | None = None) -> Any:
            loss = hessian.evaluate(closure)
            parameters = [
                p for group in self.param_groups for p in group["params"] if p.grad is not None
            ]
            gradients = [p.grad for p in parameters]
            try:
                for p in parameters:
                    p.grad = p.grad.clone()
                super().step()
            finally:
                for p, gradient in zip(parameters, gradients, strict=True):
                    p.grad = gradient
            return loss

    class SOAPPeer(soap):
        """SOAP with this project's hyperparameter names."""

        def __init__(self, params: Any, **hyperparameters: Any):
            settings = dataclasses.asdict(SOAP(**hyperparameters))
            super().__init__(params, precondition_frequency=settings.pop("interval"), **settings)

    class AdaHessianPeer(hessian.HessianOptimizer, adahessian):
        """AdaHessian. `backward(loss)` estimates the diagonal of the Hessian with seeded signs."""

        NAME = "AdaHessian"

        def __init__(self, params: Any, **hyperparameters: Any):
            settings = dataclasses.asdict(AdaHessian(**hyperparameters))
            self._seed = settings.pop("seed")
            super().__init__(params, **settings)

        def backward(self, loss: Tensor) -> None:
            """Set the gradients as `loss.backward()` does, and estimate the diagonal of H.

            The estimate is z * (H z) for random signs z.
            """
            parameters = [p for group in self.param_groups for p in group["params"]]
            gradients = hessian.differentiate(loss, parameters)
            signs = _signs(parameters, self._seed, self.param_groups[0].get("step", 0))
            products = hessian.product(gradients, parameters, signs)
            new = [z * product for z, product in zip(signs, products, strict=True)]
            old = self._products
            self._products = new if old is None else [a + b for a, b in zip(old, new, strict=True)]

        def step(self, closure: Callable[[], Any] | None = None) -> Any:
            loss = self._evaluate(closure)
            super().step(hessian=self._take_products())  # pyright: ignore[reportCallIssue]
            for state in self.state.values():
                state.pop("hessian", None)
            return loss

    return {Shampoo: ShampooPeer, SOAP: SOAPPeer, AdaHessian: AdaHessianPeer}


def _signs(parameters: list[Tensor], seed: int, step: int) -> list[Tensor]:
    """Return random signs, 1 or -1, with the shapes and devices of the parameters."""
    signs = []
    for number, p in enumerate(parameters):
        generator = torch.Generator(p.device).manual_seed(seed_of(seed, f"signs {number}", step))
        bits = torch.randint(0, 2, p.shape, generator=generator, device=p.device)
        signs.append(bits.to(p.dtype) * 2 - 1)
    return signs
