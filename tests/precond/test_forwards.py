"""Each forward whose gradient the step uses is in the statistics exactly once."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import precond
from precond.optimizer import Preconditioned
from precond.registry import REGISTRY
from tests import closures

NAMES = [
    name
    for name, entry in REGISTRY.items()
    if isinstance(entry.optimizer, type) and issubclass(entry.optimizer, Preconditioned)
]
SCALABLE = [name for name in NAMES if "GradScaler" not in REGISTRY[name].card.unsupported]
OUTPUT_METHODS = ["kfac", "eva", "ekfac", "steve"]  # they use output gradients
SETTINGS = {
    **{"weight_decay": 0.0, "rank": 4, "cov_interval": 2, "inv_interval": 4, "basis_interval": 3},
    **{"damping": 0.1, "window": 4, "memory": 3},
}
STEPS = 6


class Net(nn.Module):
    """A convolution, a layer that is called twice, and a head."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.shared = nn.Linear(4, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of images `[batch, 2, 4, 4]`."""
        x = torch.tanh(self.conv(x)).mean((2, 3))
        return self.head(torch.tanh(self.shared(torch.tanh(self.shared(x)))))


def make() -> Net:
    torch.manual_seed(0)
    return Net().double()


def build(name: str, model: nn.Module, **options: Any) -> Any:
    known = {key: value for key, value in SETTINGS.items() if key in precond.defaults(name)}
    return precond.build(name, model, **{**known, **options})


def batch(number: int, size: int = 24) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(number)
    x = torch.randn(size, 2, 4, 4, generator=generator, dtype=torch.float64)
    return x, torch.randint(3, (size,), generator=generator)


def backward(model: nn.Module, number: int, factor: float = 1.0) -> None:
    x, y = batch(number)
    F.cross_entropy(model(factor * x), y).backward()


Interruption = Callable[[nn.Module, Any], None]


def train(name: str, interrupt: Interruption | None = None, after: Interruption | None = None):
    """Train, call `interrupt` before and `after` after each backward, and return all weights."""
    model = make()
    optimizer = build(name, model)
    for number in range(STEPS):
        optimizer.zero_grad()
        if interrupt is not None:
            interrupt(model, optimizer)
        backward(model, number)
        closures.repeat(optimizer, partial(backward, model, number))
        if after is not None:
            after(model, optimizer)
        optimizer.step()
    return torch.cat([p.detach().flatten() for p in model.parameters()])


# ---------------------------------------------------------------------- forwards without a step


def discard_with_the_optimizer(model: nn.Module, optimizer: Any) -> None:
    backward(model, 50, factor=30.0)
    optimizer.zero_grad()


def discard_zeroed(model: nn.Module, optimizer: Any) -> None:
    backward(model, 50, factor=30.0)
    optimizer.zero_grad(set_to_none=False)


def discard_with_the_model(model: nn.Module, optimizer: Any) -> None:
    backward(model, 50, factor=30.0)
    model.zero_grad()


def discard_by_hand(model: nn.Module, optimizer: Any) -> None:
    backward(model, 50, factor=30.0)
    for parameter in model.parameters():
        parameter.grad = None


def discard_a_nonfinite_batch(model: nn.Module, optimizer: Any) -> None:
    backward(model, 50, factor=float("nan"))
    optimizer.zero_grad()


def discard_two_micro_batches(model: nn.Module, optimizer: Any) -> None:
    backward(model, 50, factor=30.0)
    backward(model, 51, factor=30.0)
    optimizer.zero_grad()


def evaluate_with_gradients(model: nn.Module, optimizer: Any) -> None:
    F.cross_entropy(model(batch(50)[0]), batch(50)[1]).item()


def drop_two_losses(model: nn.Module, optimizer: Any) -> None:
    losses = [model(3.0 * batch(number)[0]).sum() for number in (50, 51)]
    del losses


def saliency_map(model: nn.Module, optimizer: Any) -> None:
    x = batch(50)[0].requires_grad_()
    torch.autograd.grad(model(x).logsumexp(1).sum(), x)


def gradients_of_weights(model: nn.Module, optimizer: Any) -> None:
    """Compute gradients that no step uses, as for a gradient norm that is printed."""
    torch.autograd.grad(
        F.cross_entropy(model(batch(50)[0]), batch(50)[1]), list(model.parameters())
    )


@pytest.mark.parametrize(
    "interrupt",
    [
        discard_with_the_optimizer,
        discard_with_the_model,
        discard_by_hand,
        discard_a_nonfinite_batch,
        discard_two_micro_batches,
        evaluate_with_gradients,
        drop_two_losses,
        saliency_map,
        gradients_of_weights,
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_forwards_without_a_gradient_in_the_step_leave_no_trace(name, interrupt):
    torch.testing.assert_close(train(name, interrupt), train(name), rtol=0, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_discarded_by_zeroing_leaves_no_trace(name):
    """Gradients that are added to zeros have the same values as gradients that replace None."""
    torch.testing.assert_close(train(name, discard_zeroed), train(name), rtol=0, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_the_discarded_batch_would_change_the_step(name):
    """Without the call that discards it, the batch changes the steps in the tests above."""

    def accumulate(model: nn.Module, optimizer: Any) -> None:
        backward(model, 50, factor=30.0)
        closures.repeat(optimizer, lambda: [backward(model, number) for number in (0, 50)])

    accumulated = train(name, after=accumulate)
    assert not torch.allclose(accumulated, train(name), rtol=1e-3)


# ---------------------------------------------------------------------- each forward once


@pytest.mark.parametrize("name", NAMES)
def test_a_saliency_map_through_the_training_forward_is_not_counted(name):
    """The training forward has two backwards, and the first one stops at the input."""

    def step(saliency: bool, pause: bool = False) -> Tensor:
        model = make()
        optimizer = build(name, model)
        x, y = batch(0)
        closures.repeat(optimizer, partial(backward, model, 0))
        x.requires_grad_()
        output = model(x)
        score = output.logsumexp(1).sum()
        if saliency and pause:
            with optimizer.paused():
                torch.autograd.grad(score, x, retain_graph=True)
        elif saliency:
            torch.autograd.grad(score, x, retain_graph=True)
        F.cross_entropy(output, y).backward()
        optimizer.step()
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    expected = step(saliency=False)
    torch.testing.assert_close(step(saliency=True), expected, rtol=0, atol=0)
    torch.testing.assert_close(step(saliency=True, pause=True), expected, rtol=0, atol=0)


@pytest.mark.parametrize("between", [saliency_map, gradients_of_weights, evaluate_with_gradients])
@pytest.mark.parametrize("name", NAMES)
def test_a_forward_between_micro_batches_leaves_no_trace(name, between):
    """The weights already have a gradient, which is not discarded."""

    def step(interrupt: bool) -> Tensor:
        model = make()
        optimizer = build(name, model)
        backward(model, 0)
        if interrupt:
            between(model, optimizer)
        backward(model, 1)
        closures.repeat(optimizer, lambda: [backward(model, number) for number in (0, 1)])
        optimizer.step()
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    torch.testing.assert_close(step(True), step(False), rtol=0, atol=0)


def two_losses(name: str, mode: str) -> Tensor:
    """Take one step on the sum of two losses of one forward, and return the weights."""
    model = make()
    optimizer = build(name, model)
    x, y = batch(0)
    output = model(x)
    losses = F.cross_entropy(output, y), output.square().mean()
    if mode == "sum":
        sum(losses).backward()
    elif mode == "one after the other":
        losses[0].backward(retain_graph=True)
        losses[1].backward()
    else:
        torch.autograd.backward(losses)
    closures.repeat(optimizer, partial(backward, model, 0))
    optimizer.step()
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("mode", ["one after the other", "together"])
@pytest.mark.parametrize("name", NAMES)
def test_two_losses_of_one_forward_equal_their_sum(name, mode):
    torch.testing.assert_close(
        two_losses(name, mode), two_losses(name, "sum"), rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize("name", OUTPUT_METHODS)
def test_a_late_backward_through_an_earlier_forward_is_an_error(name):
    """The statistics already contain the square of the gradient of the first backward."""
    model = make()
    optimizer = build(name, model)
    output = model(batch(0)[0])
    output.sum().backward(retain_graph=True)
    model(batch(1)[0])
    with pytest.raises(RuntimeError, match="Add the losses and call backward once"):
        output.square().sum().backward()
    assert optimizer.steps == 0


@pytest.mark.parametrize("name", NAMES)
def test_gradients_that_are_assigned_are_preconditioned(name):
    """`p.grad = autograd.grad(...)`, as code for meta-learning does."""

    def step(assign: bool) -> Tensor:
        model = make()
        optimizer = build(name, model)
        x, y = batch(0)
        closures.repeat(optimizer, partial(backward, model, 0))
        loss = F.cross_entropy(model(x), y)
        if assign:
            parameters = list(model.parameters())
            gradients = torch.autograd.grad(loss, parameters)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
        else:
            loss.backward()
        optimizer.step()
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    torch.testing.assert_close(step(assign=True), step(assign=False), rtol=0, atol=0)


# ---------------------------------------------------------------------- calls with other examples


@pytest.mark.parametrize("sizes", [[24], [12, 12], [8, 16], [6, 6, 12]], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_calls_with_other_examples_equal_one_call(name, sizes):
    """For example, a discriminator is called with real and with generated examples."""

    def step(sizes: list[int]) -> Tensor:
        torch.manual_seed(0)
        layer = nn.Linear(6, 3).double()
        optimizer = build(name, layer)
        optimizer.same_examples = False
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(24, 6, generator=generator, dtype=torch.float64)

        def loss() -> Tensor:
            outputs = torch.cat([layer(part) for part in x.split(sizes)])
            return F.cross_entropy(outputs, torch.arange(24) % 3)

        closures.backward(optimizer, loss)
        optimizer.step()
        return layer.weight.detach()

    torch.testing.assert_close(step(sizes), step([24]), rtol=1e-9, atol=1e-12)


# ---------------------------------------------------------------------- the axis of the batch


class Sequences(nn.Module):
    """A transformer layer and a head on its outputs, with the batch first or second."""

    def __init__(self, batch_first: bool):
        super().__init__()
        self.batch_first = batch_first
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=batch_first)
        self.layer = precond.separate_attention(layer)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `[batch, positions, 3]` of inputs `[batch, positions, 8]`."""
        if self.batch_first:
            return self.head(self.layer(x))
        return self.head(self.layer(x.transpose(0, 1))).transpose(0, 1)


def sequence_step(name: str, batch_first: bool, declare: bool) -> Tensor:
    torch.manual_seed(0)
    model = Sequences(batch_first).double()
    if declare:
        del model.batch_first  # so that no attribute declares it for the head
    optimizer = build(name, model, **({"lr": 1e-3} if name == "steve" else {}))
    if declare:
        model.batch_first = batch_first
        optimizer.batch_first = batch_first
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(20, 9, 8, generator=generator, dtype=torch.float64)
    y = torch.randint(3, (20, 9), generator=generator)
    closures.classify(optimizer, lambda x: model(x).flatten(0, 1), x, y.flatten())
    optimizer.step()
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("declare", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_sequence_first_inputs_equal_batch_first_inputs(name, declare):
    actual, expected = (sequence_step(name, first, declare) for first in (False, True))
    torch.testing.assert_close(actual, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", OUTPUT_METHODS)
def test_an_unknown_batch_axis_is_an_error(name):
    torch.manual_seed(0)
    model = Sequences(batch_first=False)
    del model.batch_first
    optimizer = precond.build(name, model)
    model.batch_first = False
    with pytest.raises(RuntimeError, match=r"head: .* set optimizer.batch_first to True or False"):
        model(torch.randn(2, 9, 8))
    optimizer.batch_first = False
    model(torch.randn(2, 9, 8))


# ---------------------------------------------------------------------- GradScaler


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("name", SCALABLE)
def test_a_gradscaler_without_a_declared_scale_changes_nothing(name, parts):
    """The scale is a power of two, so that scaling adds no rounding errors."""

    def run(scaled: bool) -> Tensor:
        model = make()
        optimizer = build(name, model)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12, enabled=scaled)
        for number in range(STEPS):
            optimizer.zero_grad()
            for x, y in zip(*(tensor.chunk(parts) for tensor in batch(number)), strict=True):
                scaler.scale(F.cross_entropy(model(x), y) / parts).backward()
            scaler.step(optimizer)
            scaler.update()
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    torch.testing.assert_close(run(scaled=True), run(scaled=False), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", OUTPUT_METHODS)
def test_gradients_that_the_scaler_has_unscaled_are_an_error(name):
    """The optimizer knows neither the scaler's scale nor a declared scale."""
    model = make()
    optimizer = build(name, model)
    scaler = torch.amp.GradScaler("cpu")
    x, y = batch(0)
    scaler.scale(F.cross_entropy(model(x), y)).backward()
    scaler.unscale_(optimizer)
    with pytest.raises(RuntimeError, match=r"set optimizer\.grad_output_scale"):
        scaler.step(optimizer)


# ---------------------------------------------------------------------- torch.compile


@pytest.mark.parametrize("name", NAMES)
def test_a_second_compiled_model_does_not_stop_the_statistics(name):
    """Dynamo must not run the code of the teacher, which has no hooks, for the student."""

    def run(compiled: bool) -> Tensor:
        torch.compiler.reset()
        models = [make(), make()]
        optimizer = build(name, models[0])
        student, teacher = (
            torch.compile(model, backend="eager") if compiled else model for model in models
        )
        for number in range(4):
            optimizer.zero_grad()
            teacher(batch(number)[0])
            backward(student, number)
            closures.repeat(optimizer, partial(backward, student, number))
            optimizer.step()
        return torch.cat([p.detach().flatten() for p in models[0].parameters()])

    torch.testing.assert_close(run(compiled=True), run(compiled=False), rtol=1e-9, atol=1e-12)


# ---------------------------------------------------------------------- parameters added later


@pytest.mark.parametrize("name", NAMES)
def test_a_layer_that_is_unfrozen_is_preconditioned_and_saved(name):
    """Progressive unfreezing: a resumed run equals one that was not interrupted."""

    def start(unfreeze_at: int, steps: range, state: Any = None) -> tuple[nn.Module, Any]:
        model = make()
        model.conv.requires_grad_(False)
        optimizer = build(name, model)
        for number in steps:
            if number == unfreeze_at:
                model.conv.requires_grad_(True)
                optimizer.add_param_group({"params": list(model.conv.parameters())})
                if state is not None:
                    model.load_state_dict(state[0])
                    optimizer.load_state_dict(state[1])
            optimizer.zero_grad()
            backward(model, number)
            closures.repeat(optimizer, partial(backward, model, number))
            optimizer.step()
        return model, optimizer

    model, optimizer = start(2, range(5))
    assert optimizer.preconditioned_layers() == ["conv", "shared", "head"]
    state = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    expected, _ = start(2, range(8))
    resumed, _ = start(5, range(5, 8), state)
    for key, value in expected.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[key], value, rtol=0, atol=0)


def test_foreign_parameters_in_a_new_group_are_refused():
    optimizer = precond.FOOF(make())
    with pytest.raises(ValueError, match="1 tensor that the model does not have"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(3))]})
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize("name", NAMES)
def test_a_layer_that_is_frozen_during_training_does_not_move(name):
    model = make()
    optimizer = build(name, model)
    for number in range(6):
        if number == 3:
            model.conv.requires_grad_(False)
            before = model.conv.weight.clone()
        optimizer.zero_grad()
        backward(model, number)
        closures.repeat(optimizer, partial(backward, model, number))
        optimizer.step()
    assert torch.equal(model.conv.weight, before)
    assert not torch.equal(model.head.weight, make().head.weight)
