"""Behaviours of dtypes, shapes, `torch.amp`, and learning rates that are tensors or zero."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import precond
from tests import closures
from tests.precond.behaviours.subject import (
    Net,
    Subject,
    assert_descends,
    assert_equal,
    averages,
    backward,
    batch,
    behaviour,
    changed,
    loss_of,
    make_model,
    train,
    weights,
)


@behaviour
def the_loss_falls_in_float32(subject: Subject) -> None:
    assert_descends(*subject.pair(torch.float32))


@behaviour
def the_loss_falls_in_bfloat16(subject: Subject) -> None:
    assert_descends(*subject.pair(torch.bfloat16))


@behaviour
def a_model_can_have_several_dtypes(subject: Subject) -> None:
    class Mixed(Net):
        def forward(self, x: Tensor) -> Tensor:
            x = torch.tanh(self.conv(x.bfloat16())).flatten(1).float()
            return self.head((torch.tanh(self.hidden(x)) * self.scale).double())

    model = make_model(torch.float32, Mixed)
    model.conv.bfloat16()
    model.head.double()
    assert_descends(model, subject.build(model))
    assert [p.dtype for p in model.parameters()][1:3] == [torch.bfloat16, torch.bfloat16]


@behaviour
def a_model_can_be_converted_before_the_first_step(subject: Subject) -> None:
    model, optimizer = subject.pair(torch.float32)
    model.double()
    assert_descends(model, optimizer)
    assert {p.dtype for p in model.parameters()} == {torch.float64}


@behaviour
def the_default_dtype_does_not_matter(subject: Subject) -> None:
    model, optimizer = subject.pair(torch.float32)
    train(model, optimizer)
    torch.set_default_dtype(torch.float64)
    try:
        other = make_model(torch.float64)
        other.float().load_state_dict(make_model_in_float32().state_dict())
        train(other, subject.build(other))
    finally:
        torch.set_default_dtype(torch.float32)
    assert_equal(weights(other), weights(model), tolerance=1e-4)


def make_model_in_float32() -> nn.Module:
    """Return the model that `make_model` returns if float32 is the default dtype."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        return make_model(torch.float32)
    finally:
        torch.set_default_dtype(default)


class WithParameter(Net):
    """A model whose outputs are multiplied by the magnitude of an additional parameter."""

    def __init__(self, make_parameter: Callable[[], Tensor]) -> None:
        super().__init__()
        self.other = nn.Parameter(make_parameter())

    def forward(self, x: Tensor) -> Tensor:
        magnitude = self.other.abs().sum() if self.other.numel() else 1 + self.other.sum()
        return magnitude * super().forward(x)


def train_with_parameter(subject: Subject, make_parameter: Callable[[], Tensor]) -> None:
    torch.manual_seed(0)
    model = WithParameter(make_parameter)
    optimizer, before = subject.build(model), weights(model)
    assert_descends(model, optimizer)
    expected = set(before) if model.other.numel() else set(before) - {"other"}
    assert changed(model, before) == expected


@behaviour
def complex_parameters_are_trained(subject: Subject) -> None:
    train_with_parameter(subject, lambda: torch.tensor([0.3 + 0.4j, 0.5j]))


@behaviour
def parameters_without_dimensions_are_trained(subject: Subject) -> None:
    train_with_parameter(subject, lambda: torch.tensor(1.0))


@behaviour
def parameters_without_elements_are_allowed(subject: Subject) -> None:
    train_with_parameter(subject, lambda: torch.empty(0, 3))


@behaviour
def the_loss_falls_under_autocast(subject: Subject) -> None:
    model, optimizer = subject.pair(torch.float32)

    def loss() -> Tensor:
        x, y = batch(0, torch.float32)
        with torch.autocast(x.device.type, torch.bfloat16):
            outputs = model(x)
        assert outputs.dtype == torch.bfloat16
        return F.cross_entropy(outputs.float(), y)

    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        losses.append(closures.backward(optimizer, loss).item())
        optimizer.step()
    assert min(losses[-3:]) < losses[0]


def train_with_scaler(subject: Subject, bound: float | None = None) -> dict[str, Tensor]:
    """Train under GradScaler, and return the weights.

    The gradients are unscaled and clipped before the step if there is a bound.
    """
    model, optimizer = subject.pair()
    device = next(model.parameters()).device.type
    scaler = torch.amp.GradScaler(device, init_scale=1024.0)
    for number in range(6):
        optimizer.zero_grad()
        precond.backward(scaler.scale(loss_of(model, number)), optimizer)
        if bound is not None:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), bound)
        scaler.step(optimizer)
        scaler.update()
    return weights(model)


@behaviour
def a_scaler_does_not_change_the_training(subject: Subject) -> None:
    assert_equal(train_with_scaler(subject), subject.trained_weights(), tolerance=1e-8)


@behaviour
def gradients_can_be_unscaled_and_clipped(subject: Subject) -> None:
    model, optimizer = subject.pair()
    parameters = list(model.parameters())
    train(model, optimizer, before_step=lambda: nn.utils.clip_grad_norm_(parameters, 0.1))
    assert_equal(train_with_scaler(subject, bound=0.1), weights(model), tolerance=1e-8)


@behaviour
def a_scaler_skips_a_step_with_an_infinite_gradient(subject: Subject) -> None:
    model, optimizer = subject.pair()
    scaler = torch.amp.GradScaler(next(model.parameters()).device.type, init_scale=1024.0)
    for number in range(5):
        optimizer.zero_grad()
        precond.backward(scaler.scale(loss_of(model, number)), optimizer)
        if number == 2:
            model.scale.grad[0] = torch.inf
        before = weights(model)
        scaler.step(optimizer)
        scaler.update()
        if number != 0:  # SOAP's first step changes nothing
            assert bool(changed(model, before)) == (number != 2)
    assert scaler.get_scale() == 512.0


@behaviour
def the_lr_can_be_a_tensor(subject: Subject) -> None:
    """The steps equal those with a number of the same value, and do not change the tensor."""
    for shape in ((), (1,)):
        lr = torch.full(shape, subject.lr)
        model = make_model()
        optimizer = subject.build(model, lr=lr)
        train(model, optimizer)
        assert isinstance(optimizer.param_groups[0]["lr"], Tensor)
        assert_equal(weights(model), subject.trained_weights(lr=lr.item()), tolerance=1e-6)
        assert lr.item() == torch.tensor(subject.lr).item()


@behaviour
def a_tensor_lr_can_change_in_place(subject: Subject) -> None:
    lr = torch.tensor(subject.lr)
    model = make_model()
    optimizer = subject.build(model, lr=lr)
    train(model, optimizer, 3)
    before = weights(model)
    optimizer.param_groups[0]["lr"].zero_()
    train(model, optimizer, 3)
    assert not changed(model, before) or averages(optimizer)


@behaviour
def the_lr_of_a_group_can_become_a_tensor(subject: Subject) -> None:
    model, optimizer = subject.pair()
    train(model, optimizer, 3)
    optimizer.param_groups[0]["lr"] = torch.tensor(subject.lr, dtype=torch.float64)
    train(model, optimizer, range(3, 6))
    assert_equal(weights(model), subject.trained_weights(), tolerance=1e-8)


@behaviour
def the_lr_can_be_zero(subject: Subject) -> None:
    """The weights do not change until the learning rate is positive, as in a warm-up from 0."""
    model = make_model()
    optimizer, before = subject.build(model, lr=0.0), weights(model)
    train(model, optimizer, 3)
    assert not changed(model, before)
    optimizer.param_groups[0]["lr"] = subject.lr
    assert_descends(model, optimizer)


@behaviour
def the_lr_can_be_an_integer(subject: Subject) -> None:
    assert_equal(subject.trained_weights(lr=1), subject.trained_weights(lr=1.0))


@behaviour
def a_tensor_lr_with_two_elements_is_an_error(subject: Subject) -> None:
    with pytest.raises(ValueError, match="lr"):
        subject.build(make_model(), lr=torch.tensor([0.1, 0.2]))


@behaviour
def a_negative_lr_is_an_error(subject: Subject) -> None:
    with pytest.raises(ValueError, match=r"-1"):
        subject.build(make_model(), lr=-1.0)


@behaviour
def a_negative_weight_decay_is_an_error(subject: Subject) -> None:
    with pytest.raises(ValueError, match=r"-1"):
        subject.build(make_model(), weight_decay=-1.0)


@behaviour
def an_unknown_option_is_an_error(subject: Subject) -> None:
    with pytest.raises((TypeError, ValueError), match="no_such_option"):
        subject.build(make_model(), no_such_option=1)


@behaviour
def a_step_uses_the_current_lr(subject: Subject) -> None:
    """Setting `lr` in the groups between steps takes effect at the next step."""
    model, optimizer = subject.pair()
    train(model, optimizer, 3)
    before = weights(model)
    backward(model, optimizer)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    optimizer.step()
    assert not changed(model, before) or averages(optimizer)
