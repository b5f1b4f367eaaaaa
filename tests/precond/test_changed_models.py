"""Models whose layers change during the training: pruned, frozen, replaced, converted, or unused."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune

import precond
from precond.optimizer import Preconditioned
from precond.registry import REGISTRY
from tests import closures

NAMES = [
    name
    for name, entry in REGISTRY.items()
    if isinstance(entry.optimizer, type) and issubclass(entry.optimizer, Preconditioned)
]
SETTINGS = {
    **{"weight_decay": 0.0, "rank": 3, "cov_interval": 2, "inv_interval": 4, "basis_interval": 4},
    **{"damping": 0.3, "window": 4, "memory": 3},
}
Weights = dict[str, Tensor]


def make(dtype: torch.dtype = torch.float64, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        *(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3))
    ).to(dtype)


def build(name: str, model: nn.Module, **options: Any) -> Any:
    known = {key: value for key, value in SETTINGS.items() if key in precond.defaults(name)}
    return precond.build(name, model, **{**known, **options})


def batch(number: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(number)
    x = torch.randn(12, 5, generator=generator, dtype=torch.float64)
    return x, torch.randint(3, (12,), generator=generator)


def backward(model: nn.Module, number: int) -> None:
    x, y = batch(number)
    F.cross_entropy(model(x.to(next(model.parameters()).dtype)), y).backward()


def accumulate(model: nn.Module, numbers: Iterable[int]) -> None:
    for number in numbers:
        backward(model, number)


def train(model: nn.Module, optimizer: Any, numbers: range) -> None:
    for number in numbers:
        optimizer.zero_grad()
        backward(model, number)
        closures.repeat(optimizer, partial(backward, model, number))
        optimizer.step()


def weights(model: nn.Module) -> Weights:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def assert_equal(actual: Weights, expected: Weights, tolerance: float = 1e-10) -> None:
    assert actual.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(actual[key], value, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", [n for n in NAMES if not precond.needs_closure(build(n, make()))])
def test_pruning_during_training_equals_a_mask(name):
    """Each step has two micro-batches, of which the first must not count as discarded.

    The `weight` of a pruned layer is not a parameter, so it has no `grad`. The masks are applied
    after the step, too late for a second evaluation inside the step.
    """

    def run(pruned: bool) -> Weights:
        model = make()
        layer: Any = model[2]
        optimizer = build(name, model)
        train(model, optimizer, range(3))
        mask = (layer.weight.abs() > 0.15).to(torch.float64)
        if pruned:
            prune.custom_from_mask(layer, "weight", mask)
        else:
            layer.weight.data *= mask
        for step in range(3, 8):
            optimizer.zero_grad()
            backward(model, 2 * step)
            backward(model, 2 * step + 1)
            numbers = 2 * step, 2 * step + 1
            closures.repeat(optimizer, partial(accumulate, model, numbers))
            if not pruned:
                layer.weight.grad *= mask
            optimizer.step()
            if not pruned:
                layer.weight.data *= mask
        if pruned:
            prune.remove(layer, "weight")
        return weights(model)

    assert_equal(run(True), run(False))


def test_a_pruned_layer_remains_preconditioned_when_a_group_is_added():
    model = make()
    model[0].requires_grad_(False)
    optimizer = build("kfac", model)
    train(model, optimizer, range(2))
    prune.l1_unstructured(model[2], "weight", 0.3)
    model[0].requires_grad_(True)
    optimizer.add_param_group({"params": model[0].parameters()})
    train(model, optimizer, range(2, 6))
    assert optimizer.preconditioned_layers() == ["0", "2", "4"]
    assert optimizer.skipped_layers() == {}


@pytest.mark.parametrize("name", NAMES)
def test_a_gradient_removed_before_the_step_leaves_no_trace(name):
    """A step without gradients ignores the batch, as with torch's optimizers."""

    def run(factor: float) -> Weights:
        model = make()
        optimizer = build(name, model)
        for number in range(7):
            optimizer.zero_grad()
            x, y = batch(number)
            removed = number == 4
            closures.classify(optimizer, model, factor * x if removed else x, y)
            for parameter in model.parameters() if removed else ():
                parameter.grad = None
            optimizer.step()
        return weights(model)

    assert_equal(run(30.0), run(1.0), tolerance=0)


@pytest.mark.parametrize("name", NAMES)
def test_a_frozen_layer_equals_a_layer_without_gradients(name):
    def run(freeze: bool) -> Weights:
        model = make()
        optimizer = build(name, model)
        for number in range(10):
            frozen = 3 <= number < 8
            if freeze:
                model[2].requires_grad_(not frozen)
            optimizer.zero_grad()
            backward(model, number)
            closures.repeat(optimizer, partial(backward, model, number))
            for parameter in model[2].parameters() if frozen and not freeze else ():
                parameter.grad = None
            optimizer.step()
        return weights(model)

    assert_equal(run(True), run(False))


@pytest.mark.parametrize("name", NAMES)
def test_all_weights_can_be_frozen_while_the_biases_are_trained(name):
    model = make()
    optimizer = build(name, model)
    train(model, optimizer, range(3))
    linears = [layer for layer in model if isinstance(layer, nn.Linear)]
    for layer in linears:
        layer.weight.requires_grad_(False)
    before = weights(model)
    train(model, optimizer, range(3, 8))
    changed = {key for key, value in weights(model).items() if not torch.equal(value, before[key])}
    assert changed == {"0.bias", "2.bias", "4.bias"}


class Experts(nn.Module):
    """Two layers, of which the second receives a part of the examples."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(5, 3), nn.Linear(5, 3)

    def forward(self, x: Tensor, size: int, call: bool) -> Tensor:
        """Send the last `size` examples to the second layer.

        If `size` is 0, the second layer is called only if `call` is True.
        """
        first = self.first(x[: len(x) - size])
        return torch.cat([first, self.second(x[len(x) - size :])]) if size or call else first


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_a_forward_without_examples_leaves_no_trace(name, compiled):
    has_momentum = "momentum" in precond.defaults(name)
    options = {"momentum": 0.0} if has_momentum else {}

    def run(call: bool) -> Weights:
        torch.manual_seed(0)
        model = Experts().double()
        optimizer = build(name, model, **options)
        torch.compiler.reset()
        forward = torch.compile(model, backend="eager", dynamic=False) if compiled else model
        for number in range(6):
            x, y = batch(number)
            size = 0 if number in (0, 4) else 4  # these steps are refreshes
            optimizer.zero_grad()
            routed = partial(forward, size=size, call=call)
            closures.classify(optimizer, routed, x, y)
            if call and not size and not has_momentum:  # Adam's moments change if a gradient is 0
                for parameter in model.second.parameters():
                    parameter.grad = None
            optimizer.step()
        return weights(model)

    assert_equal(run(True), run(False))


def test_a_trained_layer_is_not_skipped_because_of_a_torch_func_transform():
    for early in (True, False):
        model = make()
        optimizer = build("kfac", model)
        train(model, optimizer, range(0 if early else 2))
        torch.func.grad(lambda x, model=model: model(x).sum())(batch(0)[0])
        train(model, optimizer, range(2, 4))
        assert optimizer.skipped_layers() == {}


class Growing(nn.Module):
    """A model that receives a third layer during the training."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(5, 6), nn.Linear(6, 3)
        self.extra: nn.Linear | None = None

    def grow(self) -> nn.Linear:
        """Add the layer."""
        torch.manual_seed(1)
        self.extra = nn.Linear(6, 6).double()
        return self.extra

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        x = torch.tanh(self.body(x))
        return self.head(x if self.extra is None else torch.tanh(self.extra(x)))


@pytest.mark.parametrize("name", NAMES)
def test_a_new_layer_is_preconditioned_and_saved(name):
    torch.manual_seed(0)
    model = Growing().double()
    optimizer = build(name, model)
    train(model, optimizer, range(3))
    optimizer.add_param_group({"params": model.grow().parameters()})
    train(model, optimizer, range(3, 7))
    assert "extra" in optimizer.preconditioned_layers()
    state, saved = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(model.state_dict())
    train(model, optimizer, range(7, 10))

    other = Growing().double()
    extra = other.grow()
    other.load_state_dict(saved)
    groups = [[*other.body.parameters(), *other.head.parameters()], list(extra.parameters())]
    loaded = build(name, other, params=[{"params": group} for group in groups])
    loaded.load_state_dict(state)
    train(other, loaded, range(7, 10))
    assert_equal(weights(model), weights(other), tolerance=0)


def test_parameters_with_the_names_of_earlier_ones_are_refused():
    model = make()
    optimizer = build("kfac", model)
    train(model, optimizer, range(2))
    model[4] = nn.Linear(6, 3).double()
    with pytest.raises(ValueError, match=r"4\.weight, 4\.bias: other parameters had these names"):
        optimizer.add_param_group({"params": model[4].parameters()})
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize("name", NAMES)
def test_replaced_weights_are_an_error(name):
    """A load with `assign=True` replaces the parameters, so that no optimizer would train them."""
    model = make()
    optimizer = build(name, model)
    model.load_state_dict(copy.deepcopy(model.state_dict()), assign=True)
    backward(model, 0)
    closures.repeat(optimizer, partial(backward, model, 0))
    with pytest.raises(RuntimeError, match="0, 2, 4: the weights were replaced"):
        optimizer.step()


@pytest.mark.parametrize("name", NAMES)
def test_a_converted_model_is_trained_in_the_precision_of_the_state(name):
    """As in torch, converting the model does not convert the state; loading a state does."""
    model = make(torch.float32)
    optimizer = build(name, model)
    train(model, optimizer, range(4))
    model.double()
    state = copy.deepcopy(optimizer.state_dict())
    other = make(seed=1)
    other.load_state_dict(model.state_dict())
    loaded = build(name, other)
    loaded.load_state_dict(state)
    train(model, optimizer, range(4, 8))
    train(other, loaded, range(4, 8))
    assert_equal(weights(model), weights(other), tolerance=1e-4)


@pytest.mark.parametrize("copied", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_a_load_or_a_copy_converts_the_state_with_the_model(name, copied):
    model = make(torch.float32)
    optimizer = build(name, model)
    train(model, optimizer, range(4))
    model.double()
    state = copy.deepcopy(optimizer.state_dict())
    if copied:
        model, optimizer = copy.deepcopy((model, optimizer))
    else:
        optimizer.load_state_dict(state)
    other = make(seed=1)
    other.load_state_dict(model.state_dict())
    loaded = build(name, other)
    loaded.load_state_dict(state)
    train(model, optimizer, range(4, 8))
    train(other, loaded, range(4, 8))
    assert_equal(weights(model), weights(other), tolerance=0)


@pytest.mark.parametrize("name", NAMES)
def test_a_later_hook_that_is_prepended_does_not_change_the_gradients(name):
    """A hook that multiplies the output has the effect of a multiplication after the layer."""
    intervals = ("cov_interval", "inv_interval")
    every_step = {key: 1 for key in intervals if key in precond.defaults(name)}

    def run(hooked: bool) -> Weights:
        model = make()
        optimizer = build(name, model, **every_step)
        if hooked:
            model[2].register_forward_hook(lambda *_: None, prepend=True)
            train(model, optimizer, range(1))
            model[2].register_forward_hook(lambda *arguments: 2 * arguments[2], prepend=True)
            model(batch(0)[0])  # moves the optimizer's hook to the front
        else:
            train(model, optimizer, range(1))
            model[3].register_forward_pre_hook(lambda _, inputs: (2 * inputs[0],))
        train(model, optimizer, range(1, 6))
        return weights(model)

    assert_equal(run(True), run(False))
