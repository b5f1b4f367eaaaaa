"""Behaviours of models with frozen, unused or shared parameters, and with copies."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

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
    """A second optimizer trains as if the first had never existed."""
    model, optimizer = subject.pair()
    backward(model, optimizer, 9)
    del optimizer
    train(model, subject.build(model))
    assert_equal(weights(model), subject.trained_weights())


@behaviour
def a_copy_of_the_model_does_not_change_the_training(subject: Subject) -> None:
    """One copy, an average of the weights, runs forwards. The other copy also runs backwards."""
    model, optimizer = subject.pair()
    train(model, optimizer, 1)
    average, teacher = AveragedModel(model), copy.deepcopy(model)

    def use_copies() -> None:
        average.update_parameters(model)
        loss_of(average, 5)
        loss_of(teacher, 6).backward()

    train(model, optimizer, range(1, 6), before_step=use_copies, after_step=use_copies)
    assert_equal(weights(model), subject.trained_weights())
