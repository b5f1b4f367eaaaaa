"""Behaviours of the hooks of the user, and of printing."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from tests.precond.behaviours.states import assert_same_state
from tests.precond.behaviours.subject import (
    Subject,
    backward,
    behaviour,
    make_model,
    train,
)


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
