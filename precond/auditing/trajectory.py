"""The updates of an optimizer on the problem of an audit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from precond.auditing.problem import Batch, Problem
from precond.auditing.sides import Side
from precond.hessian import backward

CHANGE = 0.5  # factor of the learning rate in the second half of the steps

Parameters = list[nn.Parameter]
Gradient = Callable[[Tensor, Tensor], Tensor]  # a function of the gradient and the weights


@dataclass(frozen=True)
class Layout:
    """The parameters of the model, as parts of one vector with D entries.

    Attributes:
        shapes: The shape of each parameter, by name.
    """

    shapes: Mapping[str, torch.Size]

    @cached_property
    def sizes(self) -> list[int]:
        """Number of entries of each parameter."""
        return [shape.numel() for shape in self.shapes.values()]

    @cached_property
    def segments(self) -> Tensor:
        """The number of the parameter for each entry, `[D]`."""
        return torch.repeat_interleave(torch.arange(len(self.sizes)), torch.tensor(self.sizes))

    @cached_property
    def factors(self) -> Mapping[str, Tensor]:
        """Factors of the learning rate that depend on a tensor's shape, `[parameters]`.

        A tensor has shape[0] rows; one with less than two dimensions has the factor 1.
        """
        rows = [shape[0] if len(shape) > 1 else 1 for shape in self.shapes.values()]
        columns = [
            n // r if len(shape) > 1 else 1
            for n, r, shape in zip(self.sizes, rows, self.shapes.values(), strict=True)
        ]
        r, c = torch.tensor(rows).double(), torch.tensor(columns).double()
        flat = torch.tensor([len(shape) < 2 for shape in self.shapes.values()])
        return {
            "0.2 root of the larger side": torch.where(flat, 1.0, 0.2 * torch.maximum(r, c).sqrt()),
            "root of the aspect": (r / c).clamp(min=1).sqrt(),
            "root of rows over columns": (r / c).sqrt(),
            "root of the entries": torch.tensor(self.sizes).double().rsqrt(),
        }

    def norms(self, vector: Tensor) -> Tensor:
        """Return the norm of each parameter's part, `[parameters]`."""
        squares = vector.new_zeros(len(self.sizes)).index_add(0, self.segments, vector.square())
        return squares.sqrt()

    def spread(self, values: Tensor) -> Tensor:
        """Return a vector `[D]` with the value of its parameter at each entry."""
        return values[self.segments]


@dataclass(frozen=True)
class Trajectory:
    """What an optimizer received and did in each of T steps.

    Attributes:
        layout: The parameters.
        weights: The weights before each step, `[T, D]`.
        gradients: The gradients, `[T, D]`.
        updates: New weights minus old weights, `[T, D]`.
        factors: The learning rate divided by its initial value, for each step.
        settings: The options of the first parameter group.
        layerwise: True if the optimizer lists layers that it preconditions. Its updates are then
            no function of the gradients alone.
    """

    layout: Layout
    weights: Tensor
    gradients: Tensor
    updates: Tensor
    factors: list[float]
    settings: Mapping[str, Any]
    layerwise: bool

    def restricted(self, names: Sequence[str]) -> Trajectory:
        """Return the trajectory of some of the parameters."""
        shapes = self.layout.shapes
        kept = torch.tensor([name in names for name in shapes])[self.layout.segments]
        return replace(
            self,
            layout=Layout({name: shapes[name] for name in shapes if name in names}),
            weights=self.weights[:, kept],
            gradients=self.gradients[:, kept],
            updates=self.updates[:, kept],
        )

    def along(self, directions: Tensor) -> Trajectory:
        """Return the trajectory with other gradients."""
        return replace(self, gradients=directions)


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
        path: Start each step from the weights of this trajectory, not from the optimizer's.
        gradient: Replace each gradient by the value of this function before the step.
        delayed: Let the forward and the backward of each step use the weights and the batch of the
            step before; the gradient is replaced by that of `path`. The first step has no forward.
        **changes: Changed hyperparameters.
    """
    with torch.random.fork_rng(devices=[]):
        model = problem.model()
        torch.manual_seed(problem.seed)
        optimizer = side.build(model, **changes)
        parameters = [p for p in model.parameters() if p.requires_grad]
        layout = Layout({n: p.shape for n, p in model.named_parameters() if p.requires_grad})
        settings = {k: v for k, v in optimizer.param_groups[0].items() if k != "params"}
        if callable(switch := getattr(optimizer, "train", None)):
            switch()  # optimizers with other weights for the evaluation
        rows: list[tuple[Tensor, Tensor, Tensor]] = []
        batches = problem.batches()
        for step, batch in enumerate(batches):
            if step == change_step(problem.steps):
                _scale_lr(optimizer)
            torch.manual_seed(problem.seed + step)
            if delayed and path is not None:
                _evaluate_previous(optimizer, model, parameters, path, batches, step)
            else:
                if path is not None:
                    _write(parameters, path.weights[step])
                optimizer.zero_grad()
                backward(batch.loss(model), optimizer)
            if gradient is not None:
                _replace_gradients(parameters, gradient)
            rows.append(_step(optimizer, model, parameters, batch))
    weights, gradients, after = (torch.stack(column) for column in zip(*rows, strict=True))
    factors = [CHANGE if s >= change_step(problem.steps) else 1.0 for s in range(problem.steps)]
    layerwise = hasattr(optimizer, "preconditioned_layers")
    return Trajectory(layout, weights, gradients, after - weights, factors, settings, layerwise)


def change_step(steps: int) -> int:
    """Return the index of the first step with the reduced learning rate."""
    return max(1, steps // 2)


def _step(
    optimizer: Optimizer, model: nn.Module, parameters: Parameters, batch: Batch
) -> tuple[Tensor, Tensor, Tensor]:
    """Take a step; return the weights before it, the gradients, and the weights after it."""

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = batch.loss(model)
        with torch.enable_grad():
            backward(loss, optimizer)
        return loss

    before, gradients = _read(parameters), _read_gradients(parameters)
    if getattr(optimizer, "needs_closure", False):
        with torch.enable_grad():
            optimizer.step(closure)  # type: ignore[arg-type]
    else:
        optimizer.step()
    return before, gradients, _read(parameters)


def _evaluate_previous(
    optimizer: Optimizer,
    model: nn.Module,
    parameters: Parameters,
    path: Trajectory,
    batches: list[Batch],
    step: int,
) -> None:
    """Evaluate the model as in the step before, and set the gradients of this step."""
    optimizer.zero_grad()
    if step:
        _write(parameters, path.weights[step - 1])
        backward(batches[step - 1].loss(model), optimizer)
    _write(parameters, path.weights[step])
    for p, part in zip(parameters, _parts(parameters, path.gradients[step]), strict=True):
        p.grad = part.clone()


def _scale_lr(optimizer: Optimizer) -> None:
    for group in optimizer.param_groups:
        if isinstance(group.get("lr"), float | int | Tensor):
            group["lr"] = group["lr"] * CHANGE


def _replace_gradients(parameters: Parameters, gradient: Gradient) -> None:
    values = gradient(_read_gradients(parameters), _read(parameters))
    for p, part in zip(parameters, _parts(parameters, values), strict=True):
        p.grad = part.clone()


def _read(parameters: Parameters) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in parameters])


def _read_gradients(parameters: Parameters) -> Tensor:
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad.detach() for p in parameters]
    return torch.cat([g.reshape(-1) for g in gradients])


def _parts(parameters: Parameters, vector: Tensor) -> Iterator[Tensor]:
    parts = vector.split([p.numel() for p in parameters])
    return (part.view_as(p) for p, part in zip(parameters, parts, strict=True))


@torch.no_grad()
def _write(parameters: Parameters, vector: Tensor) -> None:
    for p, part in zip(parameters, _parts(parameters, vector), strict=True):
        p.copy_(part)
