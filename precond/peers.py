"""Shampoo, SOAP and AdaHessian from the package pytorch-optimizer.

These optimizers, the *peers*, are for comparison. The package does their arithmetic; only this file
imports the package, when a peer is built. Thin subclasses give the peers this project's
hyperparameter names and the guarantees of every registered optimizer: gradients are not changed,
random draws are seeded, and a run resumes bitwise from a loaded state.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from precond import hessian
from precond.groups import require_model
from precond.parts.sketches import seed_of
from precond.peer_settings import CARDS, SOAP, AdaHessian, Shampoo
from precond.scaling import evaluate
from precond.shared import Shared
from precond.standalone import Standalone

__all__ = ["CARDS", "PACKAGE", "SOAP", "AdaHessian", "Shampoo", "build"]

PACKAGE = "pytorch_optimizer"


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
    require_model(f"{kind.__name__}(model", (model,))
    if kind is AdaHessian:
        hessian.refuse_data_parallel(model, kind.__name__)
    trainable = [p for p in model.parameters() if p.requires_grad]
    peer = _classes(kind.__name__)[f"{kind.__name__}Peer"]
    optimizer = peer(trainable if params is None else params, **hyperparameters)
    if isinstance(optimizer, hessian.HessianOptimizer):
        optimizer.attach(model)
    return optimizer


def _classes(name: str) -> dict[str, type[Optimizer]]:
    """Return the classes of all peers by name; the error message contains `name`."""
    try:
        import pytorch_optimizer as library  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        text = "needs the package pytorch-optimizer: pip install .[peers]"
        raise ModuleNotFoundError(f"{name} {text}") from error
    return _subclasses(library.Shampoo, library.SOAP, library.AdaHessian)


def __getattr__(name: str) -> type[Optimizer]:
    """Return the class of a peer, which `pickle` finds by its name."""
    if name in ("ShampooPeer", "SOAPPeer", "AdaHessianPeer"):
        return _classes(name.removesuffix("Peer"))[name]
    raise AttributeError(f"module 'precond.peers' has no attribute {name!r}")


@functools.cache
def _subclasses(shampoo: Any, soap: Any, adahessian: Any) -> dict[str, type[Optimizer]]:
    """Return subclasses of the package's classes, by name.

    They are created in a function, because the package may not be installed.
    """

    class ShampooPeer(_StartsAfterInitialisation, shampoo):
        """Shampoo on copies of the gradients, because the package changes gradients in place."""

        NAME = "Shampoo"

        def _unsupported_kind(self, parameter: Tensor) -> str | None:
            empty = None if parameter.numel() else "parameters without elements"
            return super()._unsupported_kind(parameter) or empty

        def __init__(self, params: Any, **hyperparameters: Any):
            settings = Shampoo(**hyperparameters)
            options: dict[str, Any] = {"weight_decouple": True, "matrix_eps": settings.eps}
            options |= {"lr": settings.lr, "weight_decay": settings.weight_decay}
            super().__init__(params, **options)

        def step(self, closure: Callable[[], Any] | None = None) -> Any:
            loss = evaluate(closure)
            self._note_initialisation()
            parameters = [
                p for group in self.param_groups for p in group["params"] if p.grad is not None
            ]
            gradients = [p.grad for p in parameters]
            try:
                for p in parameters:
                    p.grad = p.grad.clone()
                with _numbers(self.param_groups):
                    super().step()
            finally:
                for p, gradient in zip(parameters, gradients, strict=True):
                    p.grad = gradient
            return loss

    class SOAPPeer(_StartsAfterInitialisation, soap):
        """SOAP with this project's hyperparameter names."""

        NAME = "SOAP"

        def __init__(self, params: Any, **hyperparameters: Any):
            settings = dict(vars(SOAP(**hyperparameters)))
            settings["precondition_frequency"] = settings.pop("interval")
            super().__init__(params, **settings)

        def step(self, closure: Callable[[], Any] | None = None) -> Any:
            loss = evaluate(closure)
            self._note_initialisation()
            with _numbers(self.param_groups):
                super().step()
            return loss

        def __repr__(self) -> str:
            return super().__repr__().replace("precondition_frequency", "interval")

    class AdaHessianPeer(hessian.HessianOptimizer, adahessian):
        """AdaHessian. `backward(loss)` estimates the diagonal of the Hessian with seeded signs."""

        NAME = "AdaHessian"
        FIXED = ("seed",)

        def __init__(self, params: Any, **hyperparameters: Any):
            super().__init__(params, **{"step": 0, **vars(AdaHessian(**hyperparameters))})

        def add_param_group(self, param_group: dict[str, Any]) -> None:
            """Add parameters. Their state has the same keys before and after the first step."""
            super().add_param_group(param_group)
            for p in self.param_groups[-1]["params"]:
                if p.requires_grad:
                    names = ("exp_avg", "exp_hessian_diag_sq")
                    self.state[p] = {name: torch.zeros_like(p) for name in names}

        def backward(self, loss: Tensor) -> None:
            """Set the gradients as `loss.backward()` does, and estimate the diagonal of H.

            The estimate is z * (H z) for random signs z.
            """
            parameters = [p for group in self.param_groups for p in group["params"]]
            trained = [p for p in parameters if p.requires_grad]
            gradients = self._differentiate(loss, trained)
            first = self.param_groups[0]
            signs = dict(
                zip(parameters, _signs(parameters, first["seed"], first["step"]), strict=True)
            )
            products = hessian.product(gradients, trained, [signs[p] for p in trained])
            diagonal = {p: signs[p] * product for p, product in zip(trained, products, strict=True)}
            new = [diagonal[p] if p in diagonal else torch.zeros_like(p) for p in parameters]
            old = self._products
            self._products = new if old is None else [a + b for a, b in zip(old, new, strict=True)]

        def step(self, closure: Callable[[], Any] | None = None) -> Any:
            loss = self._evaluate(closure)
            if not self._has_gradients():
                return loss
            products = self._take_products()
            for p, state in self.state.items():  # the model may have been converted
                state |= {key: value.to(p.dtype) for key, value in state.items()}
            with _numbers(self.param_groups):
                super().step(hessian=products)  # pyright: ignore[reportCallIssue]
            for state in self.state.values():
                state.pop("hessian", None)
            return loss

    classes: list[Any] = [ShampooPeer, SOAPPeer, AdaHessianPeer]
    for kind in classes:  # `__getattr__` finds them by this name
        kind.__qualname__ = kind.__name__
    return {kind.__name__: kind for kind in classes}


class _StartsAfterInitialisation(Standalone):
    """An optimizer whose training does not depend on how its state was initialised.

    `torch.distributed.checkpoint` initialises the state of a new optimizer by a step with gradients
    and learning rates of zero. So that this step does not count as the first step of the training,
    the next step discards the state.
    """

    COPIED = ("_initialised",)
    _initialised = Shared(False)

    def _note_initialisation(self) -> None:
        """Discard the state if the last step only initialised it; else note if this step does so.

        Call this at the start of a step.
        """
        if self._initialised:
            self._initialised = False
            self.state.clear()
            for group in self.param_groups:
                group.pop("step", None)
        elif not self.state and all(not group["lr"] for group in self.param_groups):
            gradients = [p.grad for group in self.param_groups for p in group["params"]]
            self._initialised = not any(g.any() for g in gradients if g is not None)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state as in `torch.optim`, also one that a step has only initialised."""
        super().load_state_dict(state_dict)
        # SOAP's sums of the outer products of the gradients.
        sums = [value for state in self.state.values() for value in state.get("GG", ())]
        gradients = any(value.any() for value in sums if isinstance(value, Tensor))
        self._initialised = bool(sums) and not gradients


@contextmanager
def _numbers(groups: list[dict[str, Any]]) -> Iterator[None]:
    """Replace learning rates that are tensors by numbers; the package would change them in place."""
    tensors = [(group, group["lr"]) for group in groups if isinstance(group["lr"], Tensor)]
    try:
        for group, lr in tensors:
            group["lr"] = lr.item()
        yield
    finally:
        for group, lr in tensors:
            group["lr"] = lr


def _signs(parameters: list[Tensor], seed: int, step: int) -> list[Tensor]:
    """Return random signs, 1 or -1, with the shapes and devices of the parameters."""
    signs = []
    for number, p in enumerate(parameters):
        generator = torch.Generator(p.device).manual_seed(seed_of(seed, f"signs {number}", step))
        bits = torch.randint(0, 2, p.shape, generator=generator, device=p.device)
        signs.append(bits.to(p.dtype) * 2 - 1)
    return signs
