"""Behaviours of training loops: directions, closures, gradients, and parts of a model."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import precond
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
    backward(model, optimizer)
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
            precond.backward(factor * loss_of(model), optimizer)
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
        precond.backward(loss_of(model, number), optimizer)
        optimizer.step()
    assert_equal(weights(model), subject.trained_weights())


@behaviour
def the_model_can_clear_the_gradients(subject: Subject) -> None:
    model, optimizer = subject.pair()
    for number in range(6):
        model.zero_grad()
        precond.backward(loss_of(model, number), optimizer)
        optimizer.step()
    assert_equal(weights(model), subject.trained_weights())


@behaviour
def the_loss_falls_with_accumulated_gradients(subject: Subject) -> None:
    model, optimizer = subject.pair()
    before = loss_of(model).item()
    for _ in range(10):
        optimizer.zero_grad()
        for number in (0, 1):
            precond.backward(loss_of(model, number) / 2, optimizer)
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
            precond.backward(loss_of(model, number), optimizer)
            optimizer.step()
            clear()
            precond.backward(loss_of(model, 9), optimizer)
            clear()
        assert_equal(weights(model), subject.trained_weights())


@behaviour
def frozen_parameters_do_not_change(subject: Subject) -> None:
    """They are frozen before the optimizer is built, whether its groups contain them or not."""
    for include in (False, True):
        model = make_model()
        model.hidden.requires_grad_(False)
        params = list(model.parameters()) if include else None
        optimizer, before = subject.build(model, params=params), weights(model)
        assert_descends(model, optimizer)
        assert changed(model, before) == set(before) - {"hidden.weight", "hidden.bias"}


@behaviour
def a_layer_can_be_frozen_during_training(subject: Subject) -> None:
    model, optimizer = subject.pair()
    train(model, optimizer, 3)
    optimizer.zero_grad()
    model.hidden.requires_grad_(False)
    before = weights(model)
    assert_descends(model, optimizer)
    assert changed(model, before) == set(before) - {"hidden.weight", "hidden.bias"}


@behaviour
def a_frozen_layer_of_a_group_can_be_unfrozen(subject: Subject) -> None:
    model = make_model()
    model.hidden.requires_grad_(False)
    optimizer = subject.build(model, params=list(model.parameters()))
    train(model, optimizer, 3)
    model.hidden.requires_grad_(True)
    before = weights(model)
    assert_descends(model, optimizer)
    assert changed(model, before) == set(before)


@behaviour
def parameters_outside_the_loss_do_not_change(subject: Subject) -> None:
    model = make_model()
    model.unused = nn.Linear(3, 3).double()
    optimizer, before = subject.build(model), weights(model)
    assert_descends(model, optimizer)
    assert changed(model, before) == {name for name in before if "unused" not in name}


@behaviour
def tied_weights_are_trained_once(subject: Subject) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inputs = nn.Linear(16, 3)
            self.middle, self.tied = nn.Linear(3, 3), nn.Linear(3, 3)
            self.tied.weight = self.middle.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.tied(torch.tanh(self.middle(torch.tanh(self.inputs(x.flatten(1))))))

    model = make_model(kind=Tied)
    assert_descends(model, subject.build(model))
    assert model.tied.weight is model.middle.weight


@behaviour
def two_optimizers_can_share_a_model(subject: Subject) -> None:
    """Each optimizer changes its own parameters."""
    model = make_model()
    first = subject.build(model, params=model.hidden.parameters())
    second = torch.optim.SGD([*model.conv.parameters(), model.scale, *model.head.parameters()], 0.1)
    before = weights(model)
    backward(model, first)
    first.step()
    assert changed(model, before) <= {"hidden.weight", "hidden.bias"}
    assert_descends(model, first, after_step=second.step)
    assert changed(model, before) == set(before)


@behaviour
def an_optimizer_can_be_built_again(subject: Subject) -> None:
    """Building it again restarts the training as if the first one had never existed."""
    model, optimizer = subject.pair()
    backward(model, optimizer, 9)
    del optimizer
    train(model, subject.build(model))
    assert_equal(weights(model), subject.trained_weights())


@behaviour
def a_copy_of_the_model_does_not_change_the_training(subject: Subject) -> None:
    """The copies are an average of the model over the steps, and a model with its own backward."""
    model, optimizer = subject.pair()
    train(model, optimizer, 1)
    average, teacher = AveragedModel(model), copy.deepcopy(model)

    def use_copies() -> None:
        average.update_parameters(model)
        loss_of(average, 5)
        loss_of(teacher, 6).backward()

    train(model, optimizer, range(1, 6), before_step=use_copies, after_step=use_copies)
    assert_equal(weights(model), subject.trained_weights())
