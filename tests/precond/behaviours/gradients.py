"""Behaviours of gradients that are cleared, accumulated, clipped, used twice or discarded."""

from __future__ import annotations

import torch
from torch import nn

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
    train,
    weights,
)


@behaviour
def zero_grad_removes_the_gradients_or_sets_them_to_zero(subject: Subject) -> None:
    model, optimizer = subject.pair()
    for set_to_none in (False, True):
        backward(model, optimizer)
        optimizer.zero_grad(set_to_none=set_to_none)
        gradients = [p.grad for p in model.parameters()]
        if set_to_none:
            assert all(gradient is None for gradient in gradients)
        else:
            assert all(gradient is not None and not gradient.any() for gradient in gradients)


@behaviour
def zeroed_gradients_give_the_same_steps_as_removed_ones(subject: Subject) -> None:
    model, optimizer = subject.pair()
    for number in range(6):
        optimizer.zero_grad(set_to_none=False)
        closures.backward(optimizer, loss_of, model, number)
        optimizer.step()
    assert_equal(weights(model), subject.trained_weights())


@behaviour
def the_model_can_clear_the_gradients(subject: Subject) -> None:
    model, optimizer = subject.pair()
    for number in range(6):
        model.zero_grad()
        closures.backward(optimizer, loss_of, model, number)
        optimizer.step()
    assert_equal(weights(model), subject.trained_weights())


@behaviour
def the_loss_falls_with_accumulated_gradients(subject: Subject) -> None:
    model, optimizer = subject.pair()
    before = loss_of(model).item()

    def evaluate() -> None:
        for number in (0, 1):
            precond.backward(loss_of(model, number) / 2, optimizer)

    for _ in range(10):
        optimizer.zero_grad()
        evaluate()
        closures.repeat(optimizer, evaluate)
        optimizer.step()
    assert loss_of(model).item() < before


@behaviour
def the_loss_falls_with_clipped_gradients(subject: Subject) -> None:
    model, optimizer = subject.pair()
    parameters = list(model.parameters())
    assert_descends(model, optimizer, before_step=lambda: nn.utils.clip_grad_norm_(parameters, 0.5))


@behaviour
def gradients_can_be_used_twice(subject: Subject) -> None:
    """Both steps use the gradients of the last training step again, without a backward."""
    model, optimizer = subject.pair()
    train(model, optimizer, 3)
    for _ in range(2):
        before = weights(model)
        optimizer.step()
        assert changed(model, before) == set(before)


@behaviour
def evaluation_between_steps_changes_nothing(subject: Subject) -> None:
    model, optimizer = subject.pair()

    def evaluate() -> None:
        with torch.no_grad():
            loss_of(model.eval(), 7)
        with torch.inference_mode():
            loss_of(model, 8)
        model.train()

    train(model, optimizer, before_step=evaluate, after_step=evaluate)
    assert_equal(weights(model), subject.trained_weights())


@behaviour
def a_discarded_batch_changes_nothing(subject: Subject) -> None:
    """Its backward runs, but the gradients are cleared instead of used."""
    for clear_in_model in (False, True):
        model, optimizer = subject.pair()
        clear = model.zero_grad if clear_in_model else optimizer.zero_grad
        for number in range(6):
            closures.backward(optimizer, loss_of, model, number)
            optimizer.step()
            clear()
            precond.backward(loss_of(model, 9), optimizer)
            clear()
        assert_equal(weights(model), subject.trained_weights())
