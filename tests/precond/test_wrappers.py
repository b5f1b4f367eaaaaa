"""Training frameworks wrap optimizers in objects whose class is a subclass of the optimizer's.

A wrapper either reads missing attributes from the optimizer, as Lightning's does, or has a copy of
its `__dict__`, as Lightning's and accelerate's had in earlier versions. A method that is called on
the wrapper must have the same effect as on the optimizer.
"""

from __future__ import annotations

import copy
import gc
import pickle
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import precond
from precond import closures
from precond.registry import REGISTRY

OURS = [
    name
    for name, entry in REGISTRY.items()
    if name not in ("sgd", "adam", "adamw") and (not entry.package or find_spec(entry.package))
]
LAYERWISE = [name for name in OURS if hasattr(REGISTRY[name].optimizer, "algorithm_type")]
INTERVALS = {
    **{"cov_interval": 1, "inv_interval": 2, "basis_interval": 2, "interval": 2},
    **{"rank": 2, "window": 4, "memory": 3},
}


class Delegating:
    """A wrapper that reads missing attributes from the optimizer."""

    def __init__(self, optimizer: Any):
        self._optimizer = optimizer
        self.__class__ = type("Wrapped", (Delegating, type(optimizer)), {})

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        return self._optimizer.step(closure)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._optimizer, name)


class DictCopy:
    """A wrapper with a copy of the optimizer's `__dict__`."""

    def __init__(self, optimizer: Any):
        vars(self).update(vars(optimizer))
        self.__class__ = type("Wrapped", (DictCopy, type(optimizer)), {})
        self._optimizer = optimizer

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        return self._optimizer.step(closure)


class Replacing:
    """A wrapper that has a copy of `__dict__`, and takes the place of the optimizer."""

    def __init__(self, optimizer: Any):
        vars(self).update(vars(optimizer))
        self.__class__ = type("Wrapped", (Replacing, type(optimizer)), {})


WRAPPERS = [Delegating, DictCopy, Replacing, copy.copy]


def make_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.LayerNorm(5), nn.Linear(5, 3))


def build(name: str, model: nn.Module) -> Any:
    values = {key: value for key, value in INTERVALS.items() if key in precond.defaults(name)}
    return precond.build(name, model, **values)


def train(model: nn.Module, optimizer: Any, numbers: range) -> None:
    for number in numbers:
        closures.step(optimizer, partial(evaluate, model, optimizer, number))


def evaluate(model: nn.Module, optimizer: Any, number: int) -> None:
    x = torch.randn(9, 6, generator=torch.Generator().manual_seed(number))
    optimizer.zero_grad()
    precond.backward(F.cross_entropy(model(x), torch.arange(9) % 3), optimizer)


def weights(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def trained(name: str, steps: int = 6) -> Tensor:
    model = make_model()
    train(model, build(name, model), range(steps))
    return weights(model)


@pytest.mark.parametrize("wrap", WRAPPERS)
@pytest.mark.parametrize("name", OURS)
def test_a_wrapper_trains_as_the_optimizer_also_if_the_optimizer_is_discarded(name, wrap):
    model = make_model()
    wrapper = wrap(build(name, model))
    gc.collect()
    train(model, wrapper, range(6))
    assert torch.equal(weights(model), trained(name))


@pytest.mark.parametrize("wrap", [*WRAPPERS[:2], copy.copy])
@pytest.mark.parametrize("name", OURS)
def test_steps_of_the_wrapper_and_of_the_optimizer_alternate(name, wrap):
    model = make_model()
    optimizer = build(name, model)
    wrapper = wrap(optimizer)
    for number in range(6):
        train(model, (optimizer, wrapper)[number % 2], range(number, number + 1))
    assert torch.equal(weights(model), trained(name))


@pytest.mark.parametrize("wrap", WRAPPERS)
@pytest.mark.parametrize("name", OURS)
def test_a_state_is_loaded_through_a_wrapper(name, wrap):
    first = make_model()
    optimizer = build(name, first)
    train(first, optimizer, range(3))
    model = make_model()
    other = build(name, model)
    wrapper = wrap(other)
    model.load_state_dict(first.state_dict())
    wrapper.load_state_dict(copy.deepcopy(wrap(optimizer).state_dict()))
    train(model, wrapper if wrap is Replacing else other, range(3, 6))
    assert torch.equal(weights(model), trained(name))


@pytest.mark.parametrize("wrap", WRAPPERS)
@pytest.mark.parametrize("name", OURS)
def test_a_group_is_added_through_a_wrapper(name, wrap):
    def run(wrap: Callable[[Any], Any]) -> Tensor:
        model = make_model()
        model[0].requires_grad_(False)
        optimizer = wrap(build(name, model))
        train(model, optimizer, range(2))
        model[0].requires_grad_(True)
        optimizer.add_param_group({"params": list(model[0].parameters())})
        train(model, optimizer, range(2, 6))
        return weights(model)

    assert torch.equal(run(wrap), run(lambda optimizer: optimizer))


@pytest.mark.parametrize("wrap", WRAPPERS)
@pytest.mark.parametrize("name", LAYERWISE)
def test_properties_are_set_and_read_through_a_wrapper(name, wrap):
    optimizer = build(name, make_model())
    wrapper = wrap(optimizer)
    wrapper.grad_output_scale, wrapper.same_examples = 0.5, False
    assert optimizer.grad_output_scale == 0.5 and not optimizer.same_examples
    assert optimizer._has_output_scale
    assert precond.coverage(wrapper) == optimizer.coverage()
    assert repr(wrapper).partition("\n")[2] == repr(optimizer).partition("\n")[2]


@pytest.mark.parametrize("name", OURS)
def test_a_copy_of_a_subclass_keeps_its_attributes(name):
    model = make_model()
    optimizer = build(name, model)
    optimizer.__class__ = Subclass = type("Subclass", (type(optimizer),), {"__module__": __name__})
    globals()["Subclass"] = Subclass  # where `pickle` finds it
    optimizer.history = [1]
    train(model, optimizer, range(3))
    for pair in (copy.deepcopy((model, optimizer)), pickle.loads(pickle.dumps((model, optimizer)))):
        other, duplicate = pair
        assert type(duplicate) is Subclass
        assert duplicate.history == [1] and duplicate.history is not optimizer.history
        train(other, duplicate, range(3, 6))
        assert torch.equal(weights(other), trained(name))


@pytest.mark.parametrize("name", [*LAYERWISE, "sketchysgd"])
def test_subclasses_may_add_arguments_and_rename_those_of_the_base(name):
    base = REGISTRY[name].optimizer

    class Mine(base):  # type: ignore[misc, valid-type]
        def __init__(self, network: nn.Module, rate: float = 0.05, *, label: str = "", **others):
            super().__init__(model=network, lr=rate, **others)
            self.label = label

    class Plain(Mine):
        pass

    model = make_model()
    values = {key: value for key, value in INTERVALS.items() if key in precond.defaults(name)}
    preset = dict(REGISTRY[name].preset)
    optimizer: Any = Plain(model, 0.03, label="a", **preset, **values)
    train(model, optimizer, range(4))
    assert optimizer.label == "a" and optimizer.param_groups[0]["lr"] == 0.03
    other = make_model()
    train(other, precond.build(name, other, lr=0.03, **values), range(4))
    assert torch.equal(weights(model), weights(other))


def test_a_hook_of_a_discarded_wrapper_and_optimizer_is_removed():
    model = make_model()
    wrapper = Replacing(build("kfac", model))
    assert model[0]._forward_hooks
    del wrapper
    gc.collect()
    assert not model[0]._forward_hooks
