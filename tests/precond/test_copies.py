"""Copies of optimizers by `copy.deepcopy`, `pickle` and `torch.save`, alone and with the model."""

from __future__ import annotations

import copy
import gc
import io
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
from precond.closures import step
from precond.optimizer import Preconditioned
from precond.registry import REGISTRY
from tests.composed import COMPOSED

NAMES = [
    name for name, entry in REGISTRY.items() if entry.package is None or find_spec(entry.package)
]
NAMES += COMPOSED
OURS = [name for name in NAMES if name not in ("sgd", "adam", "adamw")]
INTERVALS = {
    **{"cov_interval": 2, "inv_interval": 4, "basis_interval": 3, "interval": 2},
    **{"rank": 3, "window": 4, "memory": 3},
}


class Net(nn.Module):
    """A convolution, two layers of one shape, a norm, and a layer that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.norm = nn.LayerNorm(8)
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.unused = nn.Linear(8, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(torch.tanh(self.conv(x)).flatten(1))
        return self.head(torch.tanh(self.second(torch.tanh(self.first(x)))))


def build(name: str) -> tuple[Net, Any]:
    torch.manual_seed(0)
    model = Net()
    values = {key: value for key, value in INTERVALS.items() if key in precond.defaults(name)}
    groups = [
        {"params": [p for p in model.parameters() if p.dim() > 1]},
        {"params": [p for p in model.parameters() if p.dim() == 1], "weight_decay": 0.0},
    ]
    return model, precond.build(name, model, params=groups, **values)


def backward(model: nn.Module, optimizer: Any, number: int) -> None:
    generator = torch.Generator().manual_seed(number)
    x = torch.randn(12, 1, 4, 4, generator=generator)
    optimizer.zero_grad()
    precond.backward(F.cross_entropy(model(x), torch.arange(12) % 3), optimizer)


def train(model: nn.Module, optimizer: Any, numbers: range) -> None:
    for number in numbers:
        step(optimizer, partial(backward, model, optimizer, number))


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def through_torch(pair: Any) -> Any:
    file = io.BytesIO()
    torch.save(pair, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def through_pickle(pair: Any) -> Any:
    return pickle.loads(pickle.dumps(pair))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, through_torch, through_pickle])
@pytest.mark.parametrize("steps", [0, 5])
@pytest.mark.parametrize("name", NAMES)
def test_a_copy_of_model_and_optimizer_trains_bitwise_as_the_original(name, steps, duplicate):
    """The copy trains first, so it would change the original if they shared memory."""
    model, optimizer = build(name)
    train(model, optimizer, range(steps))
    other, duplicated = duplicate((model, optimizer))
    train(other, duplicated, range(steps, steps + 6))
    train(model, optimizer, range(steps, steps + 6))
    assert_same(weights(model), weights(other))
    assert not torch.equal(model.first.weight, build(name)[0].first.weight)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, through_torch])
@pytest.mark.parametrize("name", NAMES)
def test_a_copy_and_the_original_can_load_each_others_state(name, duplicate):
    """Torch adds the option `differentiable` to the defaults of the copy only."""
    model, optimizer = build(name)
    train(model, optimizer, range(3))
    other, duplicated = duplicate((model, optimizer))
    duplicated.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    optimizer.load_state_dict(copy.deepcopy(duplicated.state_dict()))
    train(other, duplicated, range(3, 6))
    train(model, optimizer, range(3, 6))
    assert_same(weights(model), weights(other))


@pytest.mark.parametrize("name", OURS)
def test_a_copy_keeps_the_names_of_parameters_that_the_model_has_replaced(name):
    """Torch's optimizers keep such parameters, too."""
    model, optimizer = build(name)
    train(model, optimizer, range(2))
    model.first = nn.Linear(8, 8)
    other, duplicated = copy.deepcopy((model, optimizer))
    duplicated.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(other, duplicated, range(2, 5))
    train(model, optimizer, range(2, 5))
    assert_same(weights(model), weights(other))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, through_torch])
@pytest.mark.parametrize("name", OURS)
def test_a_copy_of_the_optimizer_alone_has_a_copy_of_the_model(name, duplicate):
    model, optimizer = build(name)
    if not hasattr(optimizer, "_model"):
        pytest.skip("the optimizer has no reference to the model, like torch's optimizers")
    train(model, optimizer, range(3))
    duplicated = duplicate(optimizer)
    other = duplicated._model
    assert other is not model
    train(other, duplicated, range(3, 7))
    train(model, optimizer, range(3, 7))
    assert_same(weights(model), weights(other))


@pytest.mark.parametrize("name", ["kfac", "steve", "sketchysgd"])
def test_a_copy_between_backward_and_step_has_no_forwards_and_no_gradients(name):
    """The original and the copy then train on the next batches."""
    model, optimizer = build(name)
    train(model, optimizer, range(2))
    backward(model, optimizer, 2)
    other, duplicated = copy.deepcopy((model, optimizer))
    assert all(p.grad is None for p in other.parameters())
    optimizer.zero_grad()
    train(other, duplicated, range(3, 6))
    train(model, optimizer, range(3, 6))
    assert_same(weights(model), weights(other))


@pytest.mark.parametrize("name", ["foof", "steve"])
def test_a_copy_of_a_copy_trains_after_the_original_is_deleted(name):
    model, optimizer = build(name)
    train(model, optimizer, range(2))
    other, duplicated = through_torch(copy.deepcopy((model, optimizer)))
    train(model, optimizer, range(2, 5))
    expected = weights(model)
    del model, optimizer
    gc.collect()
    hooks = sum(len(module._forward_hooks) for module in other.modules())
    assert hooks == 5  # one for each Linear and Conv2d, and none of the originals
    train(other, duplicated, range(2, 5))
    assert_same(expected, weights(other))


def test_layers_that_were_added_later_are_copied_with_their_banks():
    """The layers stay in their banks, because other batched operations could round differently."""
    model = Net()
    model.first.requires_grad_(False)
    optimizer = precond.KFAC(model, cov_interval=1, inv_interval=2)
    train(model, optimizer, range(2))
    model.first.requires_grad_(True)
    optimizer.add_param_group({"params": list(model.first.parameters()), "lr": 0.02})
    train(model, optimizer, range(2, 4))
    other, duplicated = copy.deepcopy((model, optimizer))
    shapes = [[list(bank.slots) for bank in o._banks] for o in (optimizer, duplicated)]
    assert shapes[0] == shapes[1]
    train(other, duplicated, range(4, 8))
    train(model, optimizer, range(4, 8))
    assert_same(weights(model), weights(other))


def test_settings_and_diagnostics_are_copied():
    model, optimizer = build("kfac")
    optimizer.monitor()
    optimizer.same_examples, optimizer.grad_output_scale = False, 0.5
    train(model, optimizer, range(5))
    other, duplicated = copy.deepcopy((model, optimizer))
    assert duplicated.same_examples is False and duplicated.grad_output_scale == 0.5
    assert duplicated.steps == 5 and duplicated.skipped_layers() == optimizer.skipped_layers()
    optimizer.diagnostics()
    duplicated.diagnostics()
    train(model, optimizer, range(5, 9))
    train(other, duplicated, range(5, 9))
    assert duplicated.diagnostics() == optimizer.diagnostics()


@pytest.mark.parametrize("name", ["nysact-s", "steve", "sketchysgd"])
def test_a_scheduler_is_copied_with_its_optimizer(name):
    model, optimizer = build(name)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5)
    lr = optimizer.param_groups[0]["lr"]
    train(model, optimizer, range(1))
    scheduler.step()
    copied = copy.deepcopy((model, optimizer, scheduler))

    def run(model: nn.Module, optimizer: Any, scheduler: Any) -> dict[str, Tensor]:
        for number in range(1, 5):
            train(model, optimizer, range(number, number + 1))
            scheduler.step()
        return weights(model)

    assert_same(run(*copied), run(model, optimizer, scheduler))
    assert copied[1].param_groups[0]["lr"] == optimizer.param_groups[0]["lr"] == lr / 4


def test_a_new_hook_of_a_loaded_model_has_no_flags_of_an_unsaved_hook():
    """Torch numbers hooks from 0 in each process, and stores flags such as `with_kwargs` by number.

    The flags of a hook that was not saved must not apply to a new hook with the same number.
    """
    model, _ = build("foof")
    saved = pickle.dumps(model)
    torch.utils.hooks.RemovableHandle.next_id = 0  # as in another process
    loaded: Any = pickle.loads(saved)
    calls: list[int] = []
    for module in loaded.modules():
        for _ in range(4):
            module.register_forward_hook(lambda module, args, output: calls.append(len(args)))
    loaded(torch.randn(2, 1, 4, 4))
    assert calls


def subclass(name: str) -> Any:
    """Return the class of an optimizer with a mixin, as training frameworks create it."""
    _, optimizer = build(name)

    class Counting:
        def step(self, closure: Callable[[], Any] | None = None) -> Any:
            self.calls = getattr(self, "calls", 0) + 1
            return super().step(closure)  # type: ignore[misc]

    return type("Wrapped", (Counting, type(optimizer)), {"extra": True})


@pytest.mark.parametrize(
    "name", [n for n in OURS if isinstance(build(n)[1], Preconditioned) and n not in COMPOSED]
)
def test_subclasses_and_replaced_classes_train_as_their_base(name):
    """A framework may also replace the class of an optimizer that exists."""
    model, optimizer = build(name)
    train(model, optimizer, range(3))
    kind = subclass(name)
    other, replaced = build(name)
    replaced.__class__ = kind
    train(other, replaced, range(3))
    assert replaced.calls == 3 and replaced.extra
    assert_same(weights(model), weights(other))
    torch.manual_seed(0)
    third = Net()
    built = kind(third, **precond.defaults(name) | {"lr": 0.01})
    train(third, built, range(3))
    assert built.calls == 3 and third.first.weight.isfinite().all()
    duplicated_model, duplicated = copy.deepcopy((other, replaced))
    train(duplicated_model, duplicated, range(3, 5))
    assert type(duplicated) is kind
