"""Plain steps and statistics steps read no value of the device; a refresh reads one flag per bank.

A read makes the host wait until the device has finished its work. A simulated device records the
reads (`simulated_device.py`), so that these tests need no GPU. torch's eigendecompositions read a
status from the device themselves, so only a refresh may call them. More reads are allowed

* in the first refresh under a scaler: one flag per bank that says if the step is skipped;
* in a refresh with a sketch that is redrawn (`resample`), and after a failed factorisation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from simulated_device import DEVICE, READ, STATUS, SimulatedDevice, Wait
from test_golden import NAMES, allowed_values
from torch import Tensor, nn

import precond
from precond.algorithm import Needs
from precond.optimizer import Preconditioned
from precond.registry import REGISTRY
from tests import closures
from tests.composed import COMPOSED

OPTIMIZERS = {
    name: entry.optimizer
    for name, entry in REGISTRY.items()
    if isinstance(entry.optimizer, type) and issubclass(entry.optimizer, Preconditioned)
}
# Steps 0 and 4 are refreshes, 2 is a statistics step, and 1, 3 and 5 are plain steps. EKFAC, and
# STEVE with per-example moments, also update statistics in all other steps.
STEPS = 6
ONE_REFRESH = ("kbfgs", "kbfgs-l")  # later, their factors are updated without a factorisation
SETTINGS = {
    **{"cov_interval": 2, "inv_interval": 4, "basis_interval": 4, "interval": 4},
    **{"rank": 4, "damping": 0.3, "window": 4, "memory": 3},
}


class Net(nn.Module):
    """Two convolutions, a normalisation, a layer that is called twice, and one that is not called."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, stride=2, padding=1)
        self.grouped = nn.Conv2d(4, 4, 3, padding=1, groups=2, bias=False)
        self.norm = nn.LayerNorm(36)
        self.hidden = nn.Linear(36, 6)
        self.shared = nn.Linear(6, 6)
        self.unused = nn.Linear(6, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.grouped(torch.tanh(self.conv(x)))).flatten(1)
        x = torch.tanh(self.hidden(self.norm(x)))
        return self.head(torch.tanh(self.shared(torch.tanh(self.shared(x)))))


class Training:
    """A training of the net, on the CPU or on the simulated device.

    Args:
        name: Registered name of the optimizer.
        options: Hyperparameters that differ from the defaults and from `SETTINGS`.
        device: The device of the net.
        scaled: Scale the loss.
    """

    def __init__(self, name: str, options: dict[str, Any], device: torch.device, scaled: bool):
        torch.manual_seed(0)
        self.device, self.scaled = device, scaled
        self.model = Net().double().to(device)
        known = {key: value for key, value in SETTINGS.items() if key in precond.defaults(name)}
        self.optimizer: Any = precond.build(name, self.model, **{**known, **options})
        self.scaler = torch.amp.GradScaler("cpu", init_scale=64.0, enabled=scaled)

    def backward(self, number: int) -> None:
        """Compute the gradients of a batch."""
        generator = torch.Generator().manual_seed(number)
        x = torch.randn(40, 2, 6, 6, generator=generator, dtype=torch.float64)
        y = torch.randint(3, (40,), generator=generator)
        x, y = x.to(self.device, non_blocking=True), y.to(self.device, non_blocking=True)
        if self.scaled:
            self.scaler.scale(F.cross_entropy(self.model(x), y)).backward()
        else:
            closures.classify(self.optimizer, self.model, x, y)

    def step(self, number: int, event: Event) -> None:
        """Take one step."""
        self.optimizer.zero_grad()
        self.backward(number)
        event(self, number)
        self.scaler.step(self.optimizer)
        self.scaler.update()


Event = Callable[[Training, int], None]  # something that happens between a backward and its step


def nothing(training: Training, number: int) -> None:
    pass


@dataclass
class Step:
    """One step on the simulated device.

    Attributes:
        waits: The waits of the host.
        refreshes: Number of banks that compute new factors.
        first: Number of banks that have no factor before the step, but statistics after it.
    """

    waits: list[Wait]
    refreshes: int
    first: int

    def check(self, flags: int = 1, first: int = 0) -> None:
        """Check the numbers of reads: `flags` per refresh, and `first` more per first refresh."""
        reads = [wait for wait in self.waits if wait.kind == READ or not self.refreshes]
        allowed = flags * self.refreshes + first * self.first
        assert len(reads) <= allowed, f"{allowed} allowed: " + ", ".join(map(str, reads))


def train(name: str, event: Event = nothing, scaled: bool = False, **options: Any) -> list[Step]:
    """Train on the simulated device, and compare the weights with those of a training on the CPU."""
    expected = Training(name, options, torch.device("cpu"), scaled)
    for number in range(STEPS):
        expected.step(number, event)
    steps = []
    with SimulatedDevice() as device:
        training = Training(name, options, DEVICE, scaled)
        banks = getattr(training.optimizer, "_banks", [])
        for number in range(STEPS):
            old = sum(bank.has_factor for bank in banks)
            device.take()
            training.step(number, event)
            due = banks and training.optimizer.algorithm.refresh_due(number)
            new = sum(bank.has_factor for bank in banks) - old
            first = sum(bank.filled for bank in banks) - old
            steps.append(Step(device.take(), new + old if due else new, first))
        weights = [device.values(p) for p in training.model.parameters()]
    for weight, p in zip(weights, expected.model.parameters(), strict=True):
        torch.testing.assert_close(weight, p.detach(), rtol=1e-8, atol=1e-10)
    return steps


def cases() -> list[tuple[str, dict[str, Any]]]:
    """Return each name with its defaults, and with each other value of each of its choices."""
    pairs: list[tuple[str, dict[str, Any]]] = []
    for name, optimizer in OPTIMIZERS.items():
        pairs.append((name, {}))
        for field in dataclasses.fields(optimizer.algorithm_type):
            values = allowed_values(field)
            pairs += [
                (name, {field.name: v}) for v in values if v != precond.defaults(name)[field.name]
            ]
    return pairs + [(name, {}) for name in COMPOSED]


def text(value: Any) -> str | None:
    """Return the test id of the options of a case."""
    if isinstance(value, dict):
        return ",".join(f"{key}={option}" for key, option in value.items()) or "defaults"
    return None


# ---------------------------------------------------------------------- the optimizers


@pytest.mark.parametrize(("name", "options"), cases(), ids=text)
def test_only_a_refresh_reads_and_only_one_flag_per_bank(name, options):
    steps = train(name, **options)
    assert steps[0].refreshes == 5
    assert steps[4].refreshes == (0 if name in ONE_REFRESH else 5)
    assert not any(step.refreshes for step in steps[1::2])
    for step in steps:
        step.check(flags=50 if options.get("resample") else 1)


def accumulate(training: Training, number: int) -> None:
    training.backward(number + 100)
    numbers = number, number + 100
    closures.repeat(training.optimizer, lambda: [training.backward(n) for n in numbers])


def discard_a_batch(training: Training, number: int) -> None:
    training.optimizer.zero_grad()
    training.backward(number + 100)


def forget_no_grad(training: Training, number: int) -> None:
    training.model(torch.ones(40, 2, 6, 6, dtype=torch.float64, device=training.device))


def clip(training: Training, number: int) -> None:
    nn.utils.clip_grad_norm_(training.model.parameters(), 0.1)


def remove_gradients(training: Training, number: int) -> None:
    training.model.head.weight.grad = training.model.head.bias.grad = None


def measure(training: Training, number: int) -> None:
    if number == 0:
        training.optimizer.monitor()


@pytest.mark.parametrize(
    "event", [accumulate, discard_a_batch, forget_no_grad, clip, remove_gradients, measure]
)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_events_between_backward_and_step_cause_no_additional_reads(name, event):
    for step in train(name, event):
        step.check()


def overflow(training: Training, number: int) -> None:
    if number in (0, 2, 3):
        training.model.norm.bias.grad[0] = torch.inf


def unscale(training: Training, number: int) -> None:
    training.scaler.unscale_(training.optimizer)
    clip(training, number)


@pytest.mark.parametrize("event", [nothing, overflow, unscale])
@pytest.mark.parametrize(
    "name", [n for n in OPTIMIZERS if "GradScaler" not in REGISTRY[n].card.unsupported]
)
def test_a_scaler_causes_no_reads_except_for_the_first_factor(name, event):
    """The first factor requires one more flag: the host must know if its step is skipped."""
    options = {"fallback": "sgd"} if name == "steve" else {}
    if event is unscale and OPTIMIZERS[name].algorithm_type.NEEDS is not Needs.INPUTS:
        pytest.skip("grad_output_scale must be set")
    for step in train(name, event, scaled=True, **options):
        step.check(first=1)


def test_adam_under_a_scaler_reads_one_flag_in_each_step():
    """The host counts the steps of torch's Adam, and must know which of them are skipped."""
    for step in train("steve", overflow, scaled=True):
        others = [wait for wait in step.waits if "Undo.restore_where" not in wait.place]
        assert len(step.waits) - len(others) == 1
        replace(step, waits=others).check(first=1)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in {*OPTIMIZERS, *COMPOSED}])
def test_other_optimizers_read_only_at_a_refresh(name):
    """The other optimizers have no banks: SketchySGD, those of windows, and those of torch.

    The optimizers that use a window of gradients compute a factor of it in each step.
    """
    for number, step in enumerate(train(name)):
        refresh = name == "sketchysgd" and number % SETTINGS["interval"] == 0
        refresh |= "window" in precond.defaults(name)
        replace(step, refreshes=int(refresh)).check()


# ---------------------------------------------------------------------- the simulated device

READS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "item": lambda x, mask: x[0].item(),
    "condition": lambda x, mask: bool(mask.all()),
    "slice": lambda x, mask: x[: mask.sum()],
    "list": lambda x, mask: x.tolist(),
    "nonzero": lambda x, mask: mask.nonzero(),
    "where": lambda x, mask: torch.where(mask),
    "selection by a mask": lambda x, mask: x[mask],
    "assignment to a mask": lambda x, mask: x.clone().__setitem__(mask, x[:2]),
    "masked_select": lambda x, mask: x.masked_select(mask),
    "unique": lambda x, mask: x.unique(),
    "equal": lambda x, mask: torch.equal(x, x),
    "allclose": lambda x, mask: torch.allclose(x, x),
    "is_nonzero": lambda x, mask: x[0].is_nonzero(),
    "number of repetitions": lambda x, mask: x.repeat_interleave(mask.long()),
    "number as an argument": lambda x, mask: x.add(x, alpha=x[0]),
    "copy to the host": lambda x, mask: x.cpu(),
    "copy that does not wait": lambda x, mask: x.to("cpu", non_blocking=True),
    "copy into a tensor of the host": lambda x, mask: torch.zeros(4).copy_(x),
}
OTHERS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "masked_fill": lambda x, mask: x.masked_fill(mask, 0),
    "number for a mask": lambda x, mask: x.clone().__setitem__(mask, 0),  # as masked_fill
    "selection of values": lambda x, mask: torch.where(mask, x, 1),
    "integer indices": lambda x, mask: x[mask.long()],
    "view": lambda x, mask: x.view(2, 2)[1].add_(1),
    "number of the host": lambda x, mask: x + torch.tensor(2.0),
    "cholesky_ex": lambda x, mask: torch.linalg.cholesky_ex(torch.outer(x, x)),
    "copy to the device": lambda x, mask: torch.ones(4).to(DEVICE, non_blocking=True),
}


@pytest.mark.parametrize("operation", READS.values(), ids=READS)
def test_the_device_records_a_read(operation):
    with SimulatedDevice() as device:
        x = torch.arange(4.0).to(DEVICE)
        mask = x > 1
        device.take()
        operation(x, mask)
        assert READ in [wait.kind for wait in device.take()]


@pytest.mark.parametrize("operation", OTHERS.values(), ids=OTHERS)
def test_the_device_does_not_record_other_operations(operation):
    with SimulatedDevice() as device:
        x = torch.arange(4.0).to(DEVICE)
        mask = x > 1
        device.take()
        operation(x, mask)
        assert not device.take()


def test_the_device_computes_what_the_cpu_computes():
    """In-place operations on views change the tensor, and gradients have values."""
    x = torch.arange(6.0).view(2, 3)
    with SimulatedDevice() as device:
        y = x.to(DEVICE)
        y[1].mul_(2)
        weight = torch.ones(3, requires_grad=True, device=DEVICE)
        (y @ weight).square().sum().backward()
        assert device.values(y).tolist() == [[0, 1, 2], [6, 8, 10]]
        expected = 2 * device.values(y).sum(1) @ device.values(y)
        assert torch.equal(device.values(weight.grad), expected)
        with pytest.raises(RuntimeError, match="on the host and on the device"):
            y + x
        values, _ = torch.linalg.eigh(y @ y.mT)
        assert [wait.kind for wait in device.take()][-1] == STATUS
        assert device.values(values)[1] > 0
