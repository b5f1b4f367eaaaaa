"""The optimizers whose behaviours are tested, and how they are built and trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

import precond
from precond.registry import REGISTRY
from tests import closures
from tests.composed import COMPOSED

# Short intervals, so that a few steps include all kinds of steps, and learning rates with which the
# loss of the small model falls in a few steps.
SETTINGS = {
    **{"cov_interval": 2, "inv_interval": 4, "basis_interval": 4, "interval": 2},
    **{"rank": 3, "damping": 0.3, "window": 4, "memory": 3},
}
LEARNING_RATES = {"adam": 0.01, "adamw": 0.01, "steve": 0.01, "sketchysgd": 0.01, "mfac": 0.1}
CONTROLS: dict[str, tuple[Callable[..., Optimizer], dict[str, Any]]] = {
    "torch SGD": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    "torch AdamW": (torch.optim.AdamW, {"lr": 0.01}),
}
NAMES = [
    name for name, entry in REGISTRY.items() if entry.package is None or find_spec(entry.package)
]
NAMES += COMPOSED


@dataclass(unsafe_hash=True)
class Subject:
    """An optimizer whose behaviours are tested.

    Attributes:
        name: The registered name, or the name of a control.
        building: True while the constructor runs, and after it raised an error.
    """

    name: str
    building: bool = field(default=False, init=False, compare=False)

    @property
    def lr(self) -> float:
        """The learning rate that `build` uses by default."""
        if self.name in CONTROLS:
            return CONTROLS[self.name][1]["lr"]
        return LEARNING_RATES.get(self.name, precond.defaults(self.name)["lr"])

    @property
    def options(self) -> list[str]:
        """The names of the hyperparameters."""
        if self.name in CONTROLS:
            kind, settings = CONTROLS[self.name]
            return list(kind([torch.zeros(1)], **settings).defaults)
        return list(precond.defaults(self.name))

    def build(
        self, model: nn.Module, params: Iterable[Any] | None = None, **options: Any
    ) -> Optimizer:
        """Build the optimizer with the settings of the tests, which `options` override."""
        self.building = True
        if self.name in CONTROLS:
            kind, settings = CONTROLS[self.name]
            trainable = [p for p in model.parameters() if p.requires_grad]
            optimizer = kind(trainable if params is None else params, **{**settings, **options})
        else:
            settings = {**SETTINGS, "lr": self.lr}
            known = {key: settings[key] for key in self.options if key in settings}
            optimizer = precond.build(self.name, model, params=params, **{**known, **options})
        self.building = False
        return optimizer

    def pair(self, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, Optimizer]:
        """Return a new model and its optimizer."""
        model = make_model(dtype)
        return model, self.build(model)

    def trained_weights(self, steps: int = 6, **options: Any) -> dict[str, Tensor]:
        """Return the weights of a new model after `steps` steps of a plain loop."""
        return _trained_weights(self, steps, **options)

    @property
    def tolerance(self) -> float:
        """The tolerance for runs that are equal up to the order of their sums.

        SOAP divides rounding errors by rounding errors in directions without gradient. Muon computes
        in bfloat16, and PSGD-Kron in float32. The sign of Lion can change.
        """
        rough = {"soap": 0.05, "muon": 0.05, "psgd-kron": 2e-3, "lion": 0.02}
        return rough.get(self.name, 1e-8)


@cache
def _trained_weights(subject: Subject, steps: int, **options: Any) -> dict[str, Tensor]:
    model = make_model()
    train(model, subject.build(model, **options), steps)
    return weights(model)


Behaviour = Callable[[Subject], None]
BEHAVIOURS: dict[str, Behaviour] = {}


def behaviour(function: Behaviour) -> Behaviour:
    """Register a behaviour by the name of its function."""
    assert function.__name__ not in BEHAVIOURS, function.__name__
    BEHAVIOURS[function.__name__] = function
    return function


class Net(nn.Module):
    """A convolution, two linear layers, and a bare parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, padding=1)
        self.hidden = nn.Linear(32, 6)
        self.scale = nn.Parameter(torch.ones(6))
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.conv(x)).flatten(1)
        return self.head(torch.tanh(self.hidden(x)) * self.scale)


def seed(number: int) -> None:
    """Seed the CPU's random numbers, without the slow formatting of the stack for other devices."""
    torch.default_generator.manual_seed(number)


def make_model(dtype: torch.dtype = torch.float64, kind: Callable[[], nn.Module] = Net) -> Any:
    """Return a model with the same weights in every call."""
    seed(0)
    return kind().to(dtype)


def batch(number: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Return the inputs and the targets of a batch."""
    seed(number + 1)
    return torch.randn(48, 1, 4, 4, dtype=torch.float32).to(dtype), torch.randint(3, (48,))


def loss_of(model: nn.Module, number: int = 0) -> Tensor:
    """Return the loss of a batch whose inputs have the dtype of the model's first parameter."""
    x, y = batch(number, next(model.parameters()).dtype)
    outputs = model(x)
    return F.cross_entropy(outputs.to(torch.promote_types(outputs.dtype, torch.float32)), y)


def backward(model: nn.Module, optimizer: Optimizer, number: int = 0) -> Tensor:
    """Set the gradients of a batch, and return the loss."""
    optimizer.zero_grad()
    return closures.backward(optimizer, loss_of, model, number).detach()


def train(
    model: nn.Module,
    optimizer: Optimizer,
    steps: int | Sequence[int] = 6,
    before_step: Callable[[], Any] = lambda: None,
    after_step: Callable[[], Any] = lambda: None,
    context: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> list[float]:
    """Train on one batch per step, and return the losses.

    Args:
        model: The model.
        optimizer: Its optimizer.
        steps: The number of steps, or the numbers of the batches.
        before_step: Called after each backward.
        after_step: Called after each step.
        context: The context of each step.
    """
    losses = []
    for number in range(steps) if isinstance(steps, int) else steps:
        losses.append(backward(model, optimizer, number).item())
        before_step()
        with context():
            optimizer.step()
        after_step()
    return losses


def assert_descends(model: nn.Module, optimizer: Optimizer, **options: Any) -> None:
    """Assert that the loss of one batch falls, and that all weights stay finite."""
    losses = train(model, optimizer, 10 * [0], **options)
    assert min(losses[-3:]) < losses[0], losses
    assert all(p.isfinite().all() for p in model.parameters())


def averages(optimizer: Optimizer) -> bool:
    """Return True if the weights continue to move to an average at a learning rate of 0."""
    return hasattr(optimizer, "eval")


def weights(model: nn.Module) -> dict[str, Tensor]:
    """Return copies of the parameters by name."""
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def assert_equal(
    actual: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 0.0
) -> None:
    """Assert that two dictionaries of tensors are equal, bitwise by default."""
    assert actual.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(
            actual[key], value, rtol=tolerance, atol=tolerance, msg=lambda m, k=key: f"{k}: {m}"
        )


def changed(model: nn.Module, before: dict[str, Tensor]) -> set[str]:
    """Return the names of the parameters that differ from `before`."""
    return {name for name, value in weights(model).items() if not torch.equal(value, before[name])}
