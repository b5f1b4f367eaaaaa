"""Run an optimizer on the problem of an audit."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from precond.auditing.problem import Batch, Network, Problem
from precond.auditing.sides import Side, user_code
from precond.auditing.trajectory import Layout, Trajectory
from precond.closures import needs_closure
from precond.hessian import backward

CHANGE = 0.5  # factor of the learning rate in the second half of the steps

Gradient = Callable[[Tensor, Tensor], Tensor]  # a function of the gradient and the weights


def follow(
    side: Side,
    problem: Problem,
    path: Trajectory | None = None,
    *,
    gradient: Gradient | None = None,
    delayed: bool = False,
    **changes: Any,
) -> Trajectory:
    """Run an optimizer and return its trajectory.

    Args:
        side: The optimizer.
        problem: The model and the batches.
        path: Start each step from the weights of this trajectory, instead of those after the
            optimizer's previous step.
        gradient: Replace each gradient by the value of this function before the step.
        delayed: Give the optimizer the forward and the backward of the previous step, but the
            gradient of the current one; `path` is required. The first step follows the gradient.
        **changes: Changed hyperparameters.
    """
    with torch.random.fork_rng(devices=[]), user_code():
        torch.manual_seed(problem.seed)
        model = problem.model()
        run = _Run(side.build(model, **changes), model, path)
        model.requires_grad_()  # both sides need all gradients, even if a side freezes parameters
        settings = {k: v for k, v in run.optimizer.param_groups[0].items() if k != "params"}
        if callable(switch := getattr(run.optimizer, "train", None)):
            switch()  # some optimizers start in the mode for evaluation, with other weights
        batches = problem.batches()
        rows: list[tuple[Tensor, Tensor, Tensor]] = []
        for number, batch in enumerate(batches):
            if number == change_step(problem.steps):
                run.scale_lr()
            torch.manual_seed(problem.seed + number)
            run.evaluate(batches, number, delayed)
            if gradient is not None:
                run.set_gradients(gradient(run.gradients(), run.weights()))
            rows.append(run.follow_gradient() if delayed and number == 0 else run.step(batch))
    weights, gradients, after = (torch.stack(column) for column in zip(*rows, strict=True))
    factors = [CHANGE if n >= change_step(problem.steps) else 1.0 for n in range(problem.steps)]
    layout = Layout({n: p.shape for n, p in model.named_parameters()})
    layerwise = hasattr(run.optimizer, "preconditioned_layers")
    return Trajectory(layout, weights, gradients, after - weights, factors, settings, layerwise)


def change_step(steps: int) -> int:
    """Return the index of the first step with the reduced learning rate."""
    return max(1, steps // 2)


def _needs_closure(optimizer: Optimizer) -> bool:
    """Return True if the optimizer declares it, or if the argument `closure` is required."""
    if needs_closure(optimizer):
        return True
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    return closure is not None and closure.default is closure.empty


@dataclass(frozen=True)
class _Run:
    """An optimizer, its model, and the path of weights that it follows."""

    optimizer: Optimizer
    model: Network
    path: Trajectory | None

    @property
    def parameters(self) -> list[nn.Parameter]:
        return list(self.model.parameters())

    def evaluate(self, batches: list[Batch], number: int, delayed: bool) -> None:
        """Compute the gradients of a step, with the statistics of the previous step if delayed."""
        self.optimizer.zero_grad()
        current = max(0, number - 1) if delayed else number
        if self.path is not None:
            self.set_weights(self.path.weights[current])
        backward(batches[current].loss(self.model), self.optimizer)
        if delayed and self.path is not None:
            self.set_weights(self.path.weights[number])
            self.set_gradients(self.path.gradients[number])

    def step(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Take a step; return the weights before it, the gradients, and the weights after it."""

        @torch.enable_grad()
        def closure() -> Tensor:
            self.optimizer.zero_grad()
            loss = batch.loss(self.model)
            backward(loss, self.optimizer)
            return loss

        before, gradients = self.weights(), self.gradients()
        if _needs_closure(self.optimizer):
            self.optimizer.step(closure)  # type: ignore[arg-type]
        else:
            self.optimizer.step()
        return before, gradients, self.weights()

    def follow_gradient(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the result of `step` for a step along the gradient, and forget the forward."""
        before, gradients = self.weights(), self.gradients()
        self.optimizer.zero_grad()
        return before, gradients, before - self.optimizer.param_groups[0]["lr"] * gradients

    def scale_lr(self) -> None:
        """Multiply the learning rates by `CHANGE`."""
        for group in self.optimizer.param_groups:
            if isinstance(group.get("lr"), float | int | Tensor):
                group["lr"] = group["lr"] * CHANGE

    def weights(self) -> Tensor:
        """Return the weights, `[D]`."""
        return torch.cat([p.detach().reshape(-1) for p in self.parameters])

    def gradients(self) -> Tensor:
        """Return the gradients, `[D]`; 0 for a parameter without a gradient."""
        gradients = (torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters)
        return torch.cat([gradient.reshape(-1) for gradient in gradients])

    @torch.no_grad()
    def set_weights(self, vector: Tensor) -> None:
        """Replace the weights."""
        for p, part in self._parts(vector):
            p.copy_(part)

    def set_gradients(self, vector: Tensor) -> None:
        """Replace the gradients."""
        for p, part in self._parts(vector):
            p.grad = part.clone()

    def _parts(self, vector: Tensor) -> Iterator[tuple[nn.Parameter, Tensor]]:
        parts = vector.split([p.numel() for p in self.parameters])
        return ((p, part.view_as(p)) for p, part in zip(self.parameters, parts, strict=True))
