"""Behaviours of copies of an optimizer, and of distributed checkpoints."""

from __future__ import annotations

import copy
import io
import pickle

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.optim import Optimizer, lr_scheduler

from tests.precond.behaviours.states import assert_same_state
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
