"""Behaviours of states that are saved and loaded."""

from __future__ import annotations

import copy
import io
from collections import defaultdict
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tests.precond.behaviours.subject import (
    Subject,
    assert_descends,
    assert_equal,
    behaviour,
    changed,
    make_model,
    train,
    weights,
)


def leaves(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return the values of nested dictionaries and lists by their path."""
    if isinstance(value, dict):
        pairs: Any = value.items()
    elif isinstance(value, list | tuple):
        pairs = enumerate(value)
    else:
        return {prefix: value}
    return {k: v for key, item in pairs for k, v in leaves(item, f"{prefix}/{key}").items()}


def assert_same_state(actual: dict[str, Any], expected: dict[str, Any]) -> None:
    """Assert that two states have the same keys and values."""
    first, second = leaves(actual), leaves(expected)
    assert list(first) == list(second)
    for key, value in second.items():
        same = torch.equal(first[key], value) if isinstance(value, Tensor) else first[key] == value
        assert same, key


def assert_resumes(subject: Subject, model: nn.Module, saved: Any, optimizer: Optimizer) -> None:
    """Assert that a new optimizer with a saved state takes the same steps, bitwise."""
    other = make_model()
    other.load_state_dict(model.state_dict())
    resumed = subject.build(other)
    resumed.load_state_dict(saved)
    assert_same_state(resumed.state_dict(), optimizer.state_dict())
    train(model, optimizer, range(5, 12))
    train(other, resumed, range(5, 12))
    assert_equal(weights(other), weights(model))
    assert_same_state(resumed.state_dict(), optimizer.state_dict())


@behaviour
def training_resumes_from_a_state(subject: Subject) -> None:
    model, optimizer = subject.pair()
    train(model, optimizer, 5)
    assert_resumes(subject, model, copy.deepcopy(optimizer.state_dict()), optimizer)


@behaviour
def training_starts_from_a_state_without_steps(subject: Subject) -> None:
    model, optimizer = subject.pair()
    assert_resumes(subject, model, copy.deepcopy(optimizer.state_dict()), optimizer)


@behaviour
def a_state_can_be_loaded_with_weights_only(subject: Subject) -> None:
    model, optimizer = subject.pair()
    train(model, optimizer, 5)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    assert_resumes(subject, model, torch.load(file, weights_only=True), optimizer)


@behaviour
def loading_the_initial_state_restarts_the_training(subject: Subject) -> None:
    model, optimizer = subject.pair()
    start = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    train(model, optimizer)
    expected = weights(model)
    model.load_state_dict(start[0])
    optimizer.load_state_dict(start[1])
    train(model, optimizer)
    assert_equal(weights(model), expected)


@behaviour
def equal_runs_have_equal_states(subject: Subject) -> None:
    states = []
    for _ in range(2):
        model, optimizer = subject.pair()
        train(model, optimizer, 5)
        states.append(optimizer.state_dict())
    assert_same_state(*states)
    assert_same_state(optimizer.state_dict(), states[1])
    assert {"state", "param_groups"} <= set(states[0])


@behaviour
def loading_does_not_change_the_loaded_dictionary(subject: Subject) -> None:
    model, optimizer = subject.pair()
    train(model, optimizer, 3)
    saved = copy.deepcopy(optimizer.state_dict())
    before = copy.deepcopy(saved)
    subject.pair()[1].load_state_dict(saved)
    assert_same_state(saved, before)


@behaviour
def loading_restores_the_options_of_the_groups(subject: Subject) -> None:
    optimizer = subject.pair()[1]
    optimizer.param_groups[0]["lr"] = 0.123
    optimizer.param_groups[0]["weight_decay"] = 0.25
    other = subject.pair()[1]
    other.load_state_dict(optimizer.state_dict())
    group = other.param_groups[0]
    assert (group["lr"], group["weight_decay"]) == (0.123, 0.25)


def load_into(subject: Subject, source: torch.dtype, target: torch.dtype) -> None:
    """Load a state into a model of another dtype: the buffers are converted, and it trains."""
    model, optimizer = subject.pair(source)
    train(model, optimizer, 3)
    other = make_model(target)
    other.load_state_dict(model.state_dict())
    resumed = subject.build(other)
    resumed.load_state_dict(optimizer.state_dict())
    for p in other.parameters():
        for key, value in resumed.state[p].items():
            if isinstance(value, Tensor) and value.shape == p.shape and value.dim():
                assert value.dtype == target, key
    assert_descends(other, resumed)
    assert {p.dtype for p in other.parameters()} == {target}


@behaviour
def a_float32_state_can_be_loaded_into_a_float64_model(subject: Subject) -> None:
    load_into(subject, torch.float32, torch.float64)


@behaviour
def a_float64_state_can_be_loaded_into_a_bfloat16_model(subject: Subject) -> None:
    load_into(subject, torch.float64, torch.bfloat16)


@behaviour
def a_state_with_other_groups_is_an_error(subject: Subject) -> None:
    model, optimizer = subject.pair()
    train(model, optimizer, 3)
    saved, before = optimizer.state_dict(), weights(model)
    other = make_model()
    p = list(other.parameters())
    for groups in ([{"params": p[:3]}, {"params": p[3:]}], p[:-1]):
        with pytest.raises(ValueError):
            subject.build(other, groups).load_state_dict(saved)
    train(model, optimizer, range(3, 6))
    assert changed(model, before)
    assert_equal(weights(model), subject.trained_weights())


@behaviour
def a_state_of_named_parameters_can_be_loaded(subject: Subject) -> None:
    model = make_model()
    optimizer = subject.build(model, model.named_parameters())
    train(model, optimizer, 3)
    other, resumed = subject.pair()
    other.load_state_dict(model.state_dict())
    resumed.load_state_dict(optimizer.state_dict())
    train(other, resumed, range(3, 6))
    assert_equal(weights(other), subject.trained_weights())


@behaviour
def a_weight_has_a_state_after_a_step(subject: Subject) -> None:
    """A layer's state may belong to its weight alone; its bias then has none."""
    model, optimizer = subject.pair()
    train(model, optimizer, 3)
    assert all(optimizer.state[p] for name, p in model.named_parameters() if "bias" not in name)


@behaviour
def the_state_can_be_cleared(subject: Subject) -> None:
    model, optimizer = subject.pair()
    train(model, optimizer, 3)
    optimizer.state = defaultdict(dict)
    assert_descends(model, optimizer)
