"""Behaviours of parameter groups."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tests.precond.behaviours.subject import (
    Net,
    Subject,
    assert_descends,
    assert_equal,
    backward,
    behaviour,
    changed,
    make_model,
    train,
    weights,
)


def split(model: nn.Module, **options: Any) -> list[dict[str, Any]]:
    """Return a group of the matrices, and a group of the vectors with `options`."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    return [{"params": matrices}, {"params": vectors, **options}]


def vectors_of(model: nn.Module) -> set[str]:
    return {name for name, p in model.named_parameters() if p.dim() == 1}


@behaviour
def a_group_can_set_its_lr(subject: Subject) -> None:
    """The vectors have a smaller learning rate, or the matrices have 0."""
    model = make_model()
    optimizer = subject.build(model, split(model, lr=subject.lr / 2))
    assert [group["lr"] for group in optimizer.param_groups] == [subject.lr, subject.lr / 2]
    assert_descends(model, optimizer)
    model = make_model()
    matrices, vectors = split(model)
    optimizer = subject.build(model, [{**matrices, "lr": 0.0}, vectors])
    before = weights(model)
    assert_descends(model, optimizer)
    assert changed(model, before) == vectors_of(model)


@behaviour
def a_group_with_lr_zero_does_not_change(subject: Subject) -> None:
    model = make_model()
    optimizer, before = subject.build(model, split(model, lr=0.0)), weights(model)
    assert_descends(model, optimizer)
    assert changed(model, before) == set(before) - vectors_of(model)


@behaviour
def a_group_can_set_its_weight_decay(subject: Subject) -> None:
    model = make_model()
    optimizer = subject.build(model, split(model, weight_decay=1.0), weight_decay=0.0)
    for step in range(3):
        backward(model, optimizer)
        for p in model.parameters():
            p.grad.zero_()
        before = weights(model)
        optimizer.step()
        norms = {name: p.norm() / before[name].norm() for name, p in model.named_parameters()}
        if step:  # SOAP's first step changes nothing
            assert {name for name, norm in norms.items() if norm < 1} == vectors_of(model)
            assert changed(model, before) == vectors_of(model)


@behaviour
def a_group_inherits_the_options_that_it_does_not_set(subject: Subject) -> None:
    model = make_model()
    optimizer = subject.build(model, split(model, lr=0.5), weight_decay=0.25)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.25, 0.25]
    assert set(optimizer.defaults) <= set(optimizer.param_groups[1])
    assert optimizer.defaults["lr"] == subject.lr


@behaviour
def a_group_keeps_keys_of_the_user(subject: Subject) -> None:
    model = make_model()
    optimizer = subject.build(model, split(model, name="vectors", lr_scale=0.5))
    train(model, optimizer, 2)
    group = optimizer.state_dict()["param_groups"][1]
    assert (group["name"], group["lr_scale"]) == ("vectors", 0.5)


@behaviour
def a_group_may_have_options_of_torch_that_are_off(subject: Subject) -> None:
    model = make_model()
    options = dict.fromkeys(("maximize", "capturable", "differentiable"), False)
    optimizer = subject.build(model, split(model, foreach=None, fused=None, **options))
    assert_descends(model, optimizer)


@behaviour
def a_group_can_be_maximized(subject: Subject) -> None:
    model = make_model()
    optimizer = subject.build(model, [{"params": list(model.parameters()), "maximize": True}])
    losses = train(model, optimizer, 10 * [0])
    assert losses[-1] > losses[0]


@behaviour
def a_group_can_be_a_single_tensor(subject: Subject) -> None:
    model = make_model()
    groups = [{"params": model.hidden.weight}, {"params": [*model.head.parameters()]}]
    optimizer, before = subject.build(model, groups), weights(model)
    assert_descends(model, optimizer)
    assert changed(model, before) == {"hidden.weight", "head.weight", "head.bias"}


@behaviour
def parameters_can_come_from_a_generator(subject: Subject) -> None:
    model = make_model()
    optimizer = subject.build(model, (p for p in model.parameters()))
    train(model, optimizer)
    assert_equal(weights(model), subject.trained_weights())


@behaviour
def parameters_can_be_named(subject: Subject) -> None:
    model = make_model()
    optimizer = subject.build(model, model.named_parameters())
    assert optimizer.param_groups[0]["param_names"] == list(weights(model))
    train(model, optimizer)
    assert_equal(weights(model), subject.trained_weights())


@behaviour
def a_group_can_be_empty(subject: Subject) -> None:
    model = make_model()
    optimizer = subject.build(model, [{"params": []}, {"params": list(model.parameters())}])
    train(model, optimizer)
    assert_equal(weights(model), subject.trained_weights())


@behaviour
def a_group_can_be_added_before_the_first_step(subject: Subject) -> None:
    model = make_model()
    optimizer = subject.build(model, list(model.hidden.parameters()))
    others = [p for n, p in model.named_parameters() if not n.startswith("hidden")]
    optimizer.add_param_group({"params": others, "lr": 0.5 * subject.lr})
    before = weights(model)
    assert_descends(model, optimizer)
    assert changed(model, before) == set(before)


@behaviour
def a_group_can_be_added_during_training(subject: Subject) -> None:
    """The group contains a layer that was frozen until then."""
    model = make_model()
    model.hidden.requires_grad_(False)
    optimizer = subject.build(model)
    train(model, optimizer, 3)
    optimizer.zero_grad()
    model.hidden.requires_grad_(True)
    optimizer.add_param_group({"params": list(model.hidden.parameters())})
    before = weights(model)
    assert_descends(model, optimizer)
    assert changed(model, before) == set(before)


@behaviour
def a_group_of_a_single_tensor_can_be_added(subject: Subject) -> None:
    model = make_model()
    optimizer = subject.build(model, list(model.hidden.parameters()))
    optimizer.add_param_group({"params": model.scale})
    before = weights(model)
    assert_descends(model, optimizer)
    assert changed(model, before) == {"hidden.weight", "hidden.bias", "scale"}


@behaviour
def groups_contain_the_parameters_of_the_model(subject: Subject) -> None:
    model, optimizer = subject.pair()
    assert isinstance(optimizer, torch.optim.Optimizer)
    [group] = optimizer.param_groups
    assert all(p is q for p, q in zip(group["params"], model.parameters(), strict=True))


@behaviour
def an_empty_list_of_parameters_is_an_error(subject: Subject) -> None:
    with pytest.raises(ValueError, match="empty parameter list"):
        subject.build(make_model(), [])


@behaviour
def a_tensor_instead_of_a_list_is_an_error(subject: Subject) -> None:
    model = make_model()
    with pytest.raises(TypeError, match="iterable"):
        subject.build(model, model.head.weight)


@behaviour
def a_set_of_parameters_is_an_error(subject: Subject) -> None:
    model = make_model()
    with pytest.raises(TypeError, match="ordered"):
        subject.build(model, [{"params": set(model.parameters())}])


@behaviour
def a_parameter_in_two_groups_is_an_error(subject: Subject) -> None:
    model = make_model()
    groups = [{"params": list(model.parameters())}, {"params": [model.scale]}]
    with pytest.raises(ValueError, match="more than one parameter group"):
        subject.build(model, groups)
    optimizer = subject.build(model)
    with pytest.raises(ValueError, match="more than one parameter group"):
        optimizer.add_param_group({"params": [model.scale]})
    assert len(optimizer.param_groups) == 1
    assert_descends(model, optimizer)


@behaviour
def a_parameter_twice_in_a_group_is_a_warning(subject: Subject) -> None:
    model = make_model()
    with pytest.warns(UserWarning, match="duplicate parameters"):
        subject.build(model, [*model.parameters(), model.scale])


@behaviour
def a_computed_tensor_is_an_error(subject: Subject) -> None:
    model = make_model()
    with pytest.raises(ValueError, match="non-leaf"):
        subject.build(model, [2 * model.head.weight])


@behaviour
def a_group_that_is_no_dictionary_is_an_error(subject: Subject) -> None:
    model, optimizer = subject.pair()
    with pytest.raises(TypeError, match="dict"):
        optimizer.add_param_group([model.scale])  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="Tensors"):
        subject.build(model, ["head.weight"])


@behaviour
def naming_only_some_parameters_is_an_error(subject: Subject) -> None:
    model = make_model(kind=Net)
    with pytest.raises(ValueError, match="names"):
        subject.build(model, [("scale", model.scale), model.head.weight])
