"""Behaviours of states, copies, hooks and printing."""

from __future__ import annotations

import copy
import io
import pickle
from collections import defaultdict
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.optim import Optimizer, lr_scheduler
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from tests.precond.behaviours.subject import (
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


# ---------------------------------------------------------------------- copies


def assert_copies_train_alike(
    model: nn.Module, optimizer: Optimizer, other: nn.Module, duplicate: Optimizer
) -> None:
    """Assert that a copy takes the same steps, and that the original is independent of it."""
    before = weights(model)
    train(other, duplicate, range(5, 12))
    assert not changed(model, before)
    train(model, optimizer, range(5, 12))
    assert_equal(weights(other), weights(model))
    assert changed(model, before) == set(before)


@behaviour
def model_and_optimizer_can_be_copied(subject: Subject) -> None:
    for steps in (0, 5):
        model, optimizer = subject.pair()
        train(model, optimizer, steps)
        assert_copies_train_alike(model, optimizer, *copy.deepcopy((model, optimizer)))


@behaviour
def model_and_optimizer_can_be_pickled(subject: Subject) -> None:
    model, optimizer = subject.pair()
    train(model, optimizer, 5)
    text = pickle.dumps((model, optimizer))
    assert_copies_train_alike(model, optimizer, *pickle.loads(text))


@behaviour
def model_and_optimizer_can_be_saved_together(subject: Subject) -> None:
    model, optimizer = subject.pair()
    train(model, optimizer, 5)
    file = io.BytesIO()
    torch.save({"optimizer": optimizer, "model": model}, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert_copies_train_alike(model, optimizer, loaded["model"], loaded["optimizer"])


@behaviour
def a_copied_optimizer_is_independent(subject: Subject) -> None:
    """A copy without its model has copies of the parameters."""
    model, optimizer = subject.pair()
    train(model, optimizer, 5)
    duplicate = copy.deepcopy(optimizer)
    groups = zip(optimizer.param_groups, duplicate.param_groups, strict=True)
    for group, other in groups:
        for p, q in zip(group["params"], other["params"], strict=True):
            assert p is not q and torch.equal(p, q)
    assert_same_state(duplicate.state_dict(), optimizer.state_dict())
    public = {key for key in vars(optimizer) if not key.startswith("_")}
    assert all(hasattr(duplicate, key) for key in public)
    duplicate.zero_grad()
    train(model, optimizer, range(5, 8))
    assert_equal(weights(model), subject.trained_weights(steps=8))


@behaviour
def an_optimizer_with_a_scheduler_can_be_copied(subject: Subject) -> None:
    model, optimizer = subject.pair()
    scheduler = lr_scheduler.ExponentialLR(optimizer, 0.9)
    train(model, optimizer, 5, after_step=scheduler.step)
    assert_copies_train_alike(model, optimizer, *copy.deepcopy((model, optimizer)))
    other, duplicate, _ = copy.deepcopy((model, optimizer, scheduler))
    assert_descends(other, duplicate)


# ---------------------------------------------------------------------- distributed checkpoints


def assert_resumes_from_checkpoint(subject: Subject, steps: int) -> None:
    model, optimizer = subject.pair()
    train(model, optimizer, steps)
    saved = copy.deepcopy(get_optimizer_state_dict(model, optimizer))
    other = make_model()
    other.load_state_dict(model.state_dict())
    resumed = subject.build(other)
    set_optimizer_state_dict(other, resumed, saved)
    train(model, optimizer, range(steps, steps + 6))
    train(other, resumed, range(steps, steps + 6))
    assert_equal(weights(other), weights(model))


@behaviour
def a_distributed_checkpoint_resumes_the_training(subject: Subject) -> None:
    assert_resumes_from_checkpoint(subject, steps=5)


@behaviour
def a_distributed_checkpoint_can_be_saved_before_the_first_step(subject: Subject) -> None:
    assert_resumes_from_checkpoint(subject, steps=0)


# ---------------------------------------------------------------------- hooks


@behaviour
def step_hooks_are_called_in_order(subject: Subject) -> None:
    """Global hooks, which torch calls for every optimizer, surround those of this optimizer."""
    model, optimizer = subject.pair()
    calls: list[str] = []
    handles = [
        register_optimizer_step_pre_hook(lambda o, *_: calls.append("global pre")),
        register_optimizer_step_post_hook(lambda o, *_: calls.append("global post")),
        optimizer.register_step_pre_hook(lambda o, *_: calls.append("pre")),
        optimizer.register_step_post_hook(lambda o, *_: calls.append("post")),
    ]
    try:
        train(model, optimizer, 1)
        assert calls == ["global pre", "pre", "post", "global post"]
    finally:
        for handle in handles:
            handle.remove()
    train(model, optimizer, 1)
    assert len(calls) == 4


@behaviour
def a_step_hook_can_pass_a_closure(subject: Subject) -> None:
    model, optimizer = subject.pair()

    def add_closure(o: Any, arguments: Any, keywords: Any) -> Any:
        return (o, lambda: backward(model, optimizer)), {}

    optimizer.register_step_pre_hook(add_closure)
    assert isinstance(optimizer.step(), Tensor)


@behaviour
def state_dict_hooks_are_called(subject: Subject) -> None:
    """A post-hook may change or replace the state; a removed hook is not called."""
    model, optimizer = subject.pair()
    train(model, optimizer, 2)
    calls: list[str] = []

    def replace(o: Any, state: dict[str, Any]) -> dict[str, Any]:
        return {**state, "replaced": True}

    handles = [
        optimizer.register_state_dict_pre_hook(lambda o: calls.append("second")),
        optimizer.register_state_dict_pre_hook(lambda o: calls.append("first"), prepend=True),
        optimizer.register_state_dict_post_hook(lambda o, state: state.update(changed=True)),
        optimizer.register_state_dict_post_hook(replace),
    ]
    state = optimizer.state_dict()
    assert calls == ["first", "second"]
    assert state["changed"] and state["replaced"]
    for handle in handles:
        handle.remove()
    assert "changed" not in optimizer.state_dict() and len(calls) == 2


@behaviour
def load_state_dict_hooks_are_called(subject: Subject) -> None:
    """A pre-hook may replace the state."""
    model, optimizer = subject.pair()
    train(model, optimizer, 5)
    saved = copy.deepcopy(optimizer.state_dict())
    resumed = subject.pair()[1]
    calls: list[str] = []
    resumed.register_load_state_dict_pre_hook(lambda o, state: copy.deepcopy(saved))
    resumed.register_load_state_dict_post_hook(lambda o: calls.append("second"))
    resumed.register_load_state_dict_post_hook(lambda o: calls.append("first"), prepend=True)
    resumed.load_state_dict({**saved, "param_groups": []})
    assert calls == ["first", "second"]
    assert_same_state(resumed.state_dict(), optimizer.state_dict())


# ---------------------------------------------------------------------- printing


@behaviour
def printing_names_the_class_and_every_hyperparameter(subject: Subject) -> None:
    model = make_model()
    optimizer = subject.build(
        model, [{"params": model.hidden.parameters()}, {"params": model.scale}]
    )
    text = repr(optimizer)
    assert text.startswith(type(optimizer).__name__)
    assert "Parameter Group 0" in text and "Parameter Group 1" in text
    missing = [key for key in subject.options if f"{key}: " not in text]
    assert not missing, f"{missing} are not in\n{text}"
    assert f"lr: {subject.lr}" in text
