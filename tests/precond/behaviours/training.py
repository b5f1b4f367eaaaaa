"""Behaviours of training loops: directions, closures, and steps without gradients."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import precond
from tests import closures
from tests.precond.behaviours.subject import (
    Subject,
    assert_descends,
    assert_equal,
    backward,
    behaviour,
    changed,
    loss_of,
    make_model,
    train,
    weights,
)


@behaviour
def the_loss_falls(subject: Subject) -> None:
    assert_descends(*subject.pair())


@behaviour
def parameters_without_layers_are_trained(subject: Subject) -> None:
    class Affine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, 16))
            self.bias = nn.Parameter(torch.zeros(3))

        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1) @ self.weight.T + self.bias

    model = make_model(kind=Affine)
    assert_descends(model, subject.build(model))


@behaviour
def noncontiguous_parameters_are_trained(subject: Subject) -> None:
    model = make_model()
    model.conv.to(memory_format=torch.channels_last)
    model.hidden.weight = nn.Parameter(model.hidden.weight.detach().T.contiguous().T)
    assert not model.hidden.weight.is_contiguous()
    train(model, subject.build(model))
    assert_equal(weights(model), subject.trained_weights(), tolerance=subject.tolerance)


@behaviour
def a_closure_gives_the_same_steps(subject: Subject) -> None:
    model, optimizer = subject.pair()
    losses = []
    for number in range(6):

        def closure(number: int = number) -> Tensor:
            assert torch.is_grad_enabled()
            return backward(model, optimizer, number)

        losses.append(optimizer.step(closure).item())
    reference, plain = subject.pair()
    assert losses == train(reference, plain)
    assert_equal(weights(model), weights(reference))


@behaviour
def a_step_without_a_closure_returns_none(subject: Subject) -> None:
    model, optimizer = subject.pair()
    precond.backward(loss_of(model), optimizer)
    assert optimizer.step() is None


@behaviour
def a_step_in_no_grad_is_the_same(subject: Subject) -> None:
    model, optimizer = subject.pair()
    train(model, optimizer, context=torch.no_grad)
    assert_equal(weights(model), subject.trained_weights())
    assert all(p.requires_grad and p.is_leaf for p in model.parameters())


@behaviour
def the_loss_rises_with_maximize(subject: Subject) -> None:
    model = make_model()
    losses = train(model, subject.build(model, maximize=True), 10 * [0])
    assert losses[-1] > losses[0]


@behaviour
def foreach_and_the_for_loop_give_the_same_steps(subject: Subject) -> None:
    results = [subject.trained_weights(foreach=foreach) for foreach in (True, False)]
    assert_equal(*results, tolerance=1e-10)


@behaviour
def fused_gives_the_same_steps(subject: Subject) -> None:
    assert_equal(
        subject.trained_weights(fused=True), subject.trained_weights(), tolerance=subject.tolerance
    )


@behaviour
def a_differentiable_step_has_a_gradient(subject: Subject) -> None:
    model = make_model()
    parameter = 1 * model.scale
    parameter.grad = torch.ones_like(parameter)
    optimizer = subject.build(model, params=[parameter], differentiable=True)
    optimizer.step()
    parameter.sum().backward()
    assert model.scale.grad.all()


@behaviour
def a_step_without_gradients_changes_nothing(subject: Subject) -> None:
    """This holds for the first step and for later steps."""
    model, optimizer = subject.pair()
    for steps in (0, 3):
        train(model, optimizer, steps)
        optimizer.zero_grad()
        closures.repeat(optimizer, lambda: None)
        before = weights(model)
        optimizer.step()
        assert not changed(model, before)


@behaviour
def parameters_whose_gradient_is_none_do_not_change(subject: Subject) -> None:
    model, optimizer = subject.pair()
    train(model, optimizer, 3)
    backward(model, optimizer)
    model.head.bias.grad = model.conv.weight.grad = None
    before = weights(model)
    optimizer.step()
    assert changed(model, before) == set(before) - {"head.bias", "conv.weight"}


@behaviour
def zero_gradients_without_weight_decay_change_nothing(subject: Subject) -> None:
    """The loss is constant, or the gradients are set to zero after the backward."""
    model = make_model()
    for factor in (0.0, 1.0):
        optimizer = subject.build(model, weight_decay=0.0)
        before = weights(model)
        for _ in range(3):
            closures.backward(optimizer, lambda f: f * loss_of(model), factor)
            for p in model.parameters():
                p.grad.zero_()
            optimizer.step()
        assert not changed(model, before)


@behaviour
def a_step_does_not_change_the_gradients(subject: Subject) -> None:
    model, optimizer = subject.pair()
    gradients: dict[str, Tensor] = {}

    def remember() -> None:
        gradients.update({name: p.grad.clone() for name, p in model.named_parameters()})

    def compare() -> None:
        assert_equal({name: p.grad for name, p in model.named_parameters()}, gradients)

    train(model, optimizer, 4, before_step=remember, after_step=compare)
