"""The state: hooks of torch, `torch.distributed.checkpoint`, and states that do not match."""

from __future__ import annotations

import copy
import io
from functools import cache
from importlib.util import find_spec
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed import checkpoint
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    get_state_dict,
    set_optimizer_state_dict,
    set_state_dict,
)

import precond
from precond.optimizer import Preconditioned
from precond.registry import REGISTRY
from tests import closures
from tests.composed import COMPOSED
from tests.precond.behaviours.states import assert_same_state
from tests.states import by_name, by_parameter

NAMES = [
    name for name, entry in REGISTRY.items() if entry.package is None or find_spec(entry.package)
]
NAMES += COMPOSED
# Adam divides by small numbers, and Newton-Schulz steps are in bfloat16 unless a model is in float64.
FLOAT32_DIFFERS = ("adam", "adamw", "nysact-s+orthogonal", "kfac+orthogonal")
INTERVALS = {
    **{"cov_interval": 2, "inv_interval": 4, "basis_interval": 3, "interval": 2},
    **{"rank": 3, "window": 4, "memory": 3},
}


class Net(nn.Module):
    """Two layers and a norm inside a module, and a head."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 8))
        self.head = nn.Linear(8, 3)
        self.to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.body(x)))


def build(name: str, dtype: torch.dtype = torch.float32, **changed: Any) -> tuple[Net, Any]:
    torch.manual_seed(0)
    model = Net(dtype)
    values = {key: value for key, value in INTERVALS.items() if key in precond.defaults(name)}
    biases = [p for p in model.parameters() if p.dim() == 1]
    groups = [
        {"params": [p for p in model.parameters() if p.dim() > 1]},
        {"params": biases, "weight_decay": 0.0},
    ]
    return model, precond.build(name, model, params=groups, **{**values, **changed})


def train(model: nn.Module, optimizer: Any, numbers: range) -> None:
    dtype = next(model.parameters()).dtype
    for number in numbers:
        generator = torch.Generator().manual_seed(number)
        x = torch.randn(12, 6, generator=generator).to(dtype)
        optimizer.zero_grad()
        closures.classify(optimizer, model, x, torch.arange(12) % 3)
        optimizer.step()


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


# ---------------------------------------------------------------------- distributed checkpoints


OPTIONS = [
    StateDictOptions(),
    StateDictOptions(flatten_optimizer_state_dict=True),
    StateDictOptions(full_state_dict=True, cpu_offload=True),
]


@pytest.mark.parametrize("options", OPTIONS, ids=["plain", "flat", "full"])
@pytest.mark.parametrize("name", NAMES)
def test_a_distributed_checkpoint_resumes_bitwise_in_a_new_optimizer(name, options):
    """The state is saved by `torch.save` between two refreshes."""
    if name in ("shampoo", "soap", "psgd-kron") and options != OPTIONS[0]:
        pytest.skip("its state contains lists, which torch does not flatten")
    model, optimizer = build(name)
    train(model, optimizer, range(5))
    file = io.BytesIO()
    torch.save(get_state_dict(model, optimizer, options=options), file)
    train(model, optimizer, range(5, 10))
    file.seek(0)
    model_state, optimizer_state = torch.load(file)
    other, resumed = build(name)
    set_state_dict(
        other,
        resumed,
        model_state_dict=model_state,
        optim_state_dict=optimizer_state,
        options=options,
    )
    train(other, resumed, range(5, 10))
    assert_same(weights(model), weights(other))


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize(
    "name", ["nysact-s", "ekfac", "skfac", "steve", "sketchysgd", "ggt", "mfac"]
)
def test_a_checkpoint_on_disk_is_read_into_a_new_optimizer(name, flat, tmp_path):
    """As in torchtitan: the tensors are read in place into the state of the new optimizer."""
    options = StateDictOptions(flatten_optimizer_state_dict=flat)

    def state(model: nn.Module, optimizer: Any) -> dict[str, Any]:
        parts = get_state_dict(model, optimizer, options=options)
        return dict(zip(("model", "optimizer"), parts, strict=True))

    model, optimizer = build(name)
    train(model, optimizer, range(5))
    checkpoint.save(state(model, optimizer), checkpoint_id=tmp_path, no_dist=True)
    train(model, optimizer, range(5, 9))
    other, resumed = build(name)
    loaded = state(other, resumed)
    checkpoint.load(loaded, checkpoint_id=tmp_path, no_dist=True)
    set_state_dict(
        other,
        resumed,
        model_state_dict=loaded["model"],
        optim_state_dict=loaded["optimizer"],
        options=options,
    )
    train(other, resumed, range(5, 9))
    assert_same(weights(model), weights(other))


@pytest.mark.parametrize("name", NAMES)
def test_a_new_optimizer_has_the_keys_of_a_trained_one(name):
    """`torch.distributed.checkpoint.load` reads only the keys and shapes of a new optimizer."""

    def shapes(state: Any, prefix: str = "") -> dict[str, Any]:
        if not isinstance(state, (dict, list)):
            return {prefix: state.shape if isinstance(state, Tensor) else type(state)}
        items = state.items() if isinstance(state, dict) else enumerate(state)
        return {k: v for key, x in items for k, v in shapes(x, f"{prefix}/{key}").items()}

    fresh, trained = build(name), build(name)
    train(*trained, range(5))
    assert shapes(get_optimizer_state_dict(*fresh)) == shapes(get_optimizer_state_dict(*trained))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", [0, 4])
def test_reading_a_distributed_checkpoint_changes_nothing(name, steps):
    """Torch may initialise a state by a step with gradients of zero, which must not count."""
    if name in ("sgd", "adam", "adamw") and steps == 0:
        pytest.skip("torch counts this step")
    models = []
    for read in (True, False):
        model, optimizer = build(name)
        train(model, optimizer, range(steps))
        optimizer.zero_grad()
        if read:
            get_optimizer_state_dict(model, optimizer)
        train(model, optimizer, range(steps, steps + 4))
        models.append(weights(model))
    assert_same(*models)


@pytest.mark.parametrize("name", ["foof", "steve"])
def test_without_momentum_no_step_is_made_to_initialise_the_state(name):
    """The state of this optimizer has no buffers of an update rule."""
    settings = {"momentum": 0.0} if name == "foof" else {"fallback": "sgd"}
    model, optimizer = build(name, **settings)
    train(model, optimizer, range(3))
    optimizer.zero_grad()
    get_optimizer_state_dict(model, optimizer)
    assert optimizer.steps == 3 and all(p.grad is None for p in model.parameters())


def test_a_frozen_layer_may_be_absent_from_a_distributed_checkpoint():
    """Torch saves no entries of parameters that require no gradient."""
    model, optimizer = build("kfac")
    train(model, optimizer, range(3))
    model.body[0].requires_grad_(False)
    state = get_optimizer_state_dict(model, optimizer)
    other, resumed = build("kfac")
    other.load_state_dict(model.state_dict())
    other.body[0].requires_grad_(False)
    set_optimizer_state_dict(other, resumed, state)
    train(model, optimizer, range(3, 6))
    train(other, resumed, range(3, 6))
    assert_same(weights(model), weights(other))


def test_buffers_of_a_layer_without_statistics_cannot_be_lost():
    """Adam updates such a layer. A new optimizer does not have these buffers in its state."""

    def make() -> tuple[nn.ModuleDict, Any]:
        torch.manual_seed(0)
        model = nn.ModuleDict({"used": nn.Linear(4, 3), "functional": nn.Linear(3, 3)})
        return model, precond.STEVE(model)

    def run(model: nn.ModuleDict, optimizer: Any) -> None:
        x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
        layer = model["functional"]
        optimizer.zero_grad()
        F.linear(model["used"](x), layer.weight, layer.bias).square().mean().backward()
        optimizer.step()

    model, optimizer = make()
    run(model, optimizer)
    options = StateDictOptions(flatten_optimizer_state_dict=True)
    other, resumed = make()
    with pytest.raises(ValueError, match=r"functional\.weight: the state lacks the buffers"):
        flat = get_optimizer_state_dict(model, optimizer, options=options)
        set_optimizer_state_dict(other, resumed, flat, options=options)
    set_optimizer_state_dict(other, resumed, get_optimizer_state_dict(model, optimizer))
    other.load_state_dict(model.state_dict())
    run(model, optimizer)
    run(other, resumed)
    assert_same(weights(model), weights(other))


# ---------------------------------------------------------------------- hooks


@pytest.mark.parametrize("name", NAMES)
def test_hooks_of_the_state_are_called_as_by_torch(name):
    """A hook of `state_dict` or `load_state_dict` may replace the state."""
    model, optimizer = build(name)
    train(model, optimizer, range(1))
    calls: list[str] = []
    optimizer.register_state_dict_pre_hook(lambda o: calls.append("pre"))

    def add_note(o: Any, state: dict[str, Any]) -> dict[str, Any]:
        calls.append("post")
        return {**state, "note": "text"}

    def remove_note(o: Any, state: dict[str, Any]) -> dict[str, Any]:
        calls.append("load pre")
        assert o is optimizer and state["note"] == "text"
        return {key: value for key, value in state.items() if key != "note"}

    optimizer.register_state_dict_post_hook(add_note)
    optimizer.register_load_state_dict_pre_hook(remove_note)
    optimizer.register_load_state_dict_post_hook(lambda o: calls.append("load post"))
    state = copy.deepcopy(optimizer.state_dict())
    assert state["note"] == "text" and calls == ["pre", "post"]
    optimizer.load_state_dict(state)
    assert calls == ["pre", "post", "load pre", "load post"] and "note" in state


@pytest.mark.parametrize("name", NAMES)
def test_hooks_of_the_step_are_called_once_and_may_change_its_arguments(name):
    model, optimizer = build(name)
    calls: list[str] = []

    def closure() -> Tensor:
        calls.append("closure")
        return backward_loss(model, optimizer)

    optimizer.register_step_pre_hook(lambda o, args, kwargs: (calls.append("pre"), None)[1])
    optimizer.register_step_pre_hook(lambda o, args, kwargs: ((o, closure), {}))
    optimizer.register_step_post_hook(lambda o, args, kwargs: calls.append("post"))
    optimizer.step()
    evaluations = 2 if precond.needs_closure(optimizer) else 1
    assert calls == ["pre", *evaluations * ["closure"], "post"]


def backward_loss(model: nn.Module, optimizer: Any) -> Tensor:
    optimizer.zero_grad()
    x = torch.randn(12, 6, generator=torch.Generator().manual_seed(0))
    loss = F.cross_entropy(model(x), torch.arange(12) % 3)
    precond.backward(loss, optimizer)
    return loss.detach()


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_zero_grad_does_what_it_does_in_torch(name, set_to_none):
    model, optimizer = build(name)
    backward_loss(model, optimizer)
    outside = nn.Linear(2, 2)
    outside(torch.ones(1, 2)).sum().backward()
    optimizer.zero_grad(set_to_none=set_to_none)
    for p in model.parameters():
        assert p.grad is None if set_to_none else not p.grad.any()
    assert outside.weight.grad is not None and outside.weight.grad.any()


# ---------------------------------------------------------------------- other states


@pytest.mark.parametrize("name", [n for n in NAMES if n not in FLOAT32_DIFFERS])
def test_a_float32_state_in_a_float64_model_becomes_float64(name):
    """The load gives momentum the dtype of its parameter, as in torch, and training continues."""
    model, optimizer = build(name)
    train(model, optimizer, range(3))
    other, resumed = build(name, torch.float64)
    other.load_state_dict(model.state_dict())
    resumed.load_state_dict(optimizer.state_dict())
    for entry in by_parameter(resumed.state_dict()).values() if is_ours(resumed) else ():
        for key, value in entry.items():
            if key != "step" and isinstance(value, Tensor):
                assert value.dtype == torch.float64, key
    train(other, resumed, range(3, 4))
    train(model, optimizer, range(3, 4))
    for key, value in other.state_dict().items():
        torch.testing.assert_close(value.float(), model.state_dict()[key], rtol=1e-3, atol=1e-3)


def is_ours(optimizer: Any) -> bool:
    return isinstance(optimizer, Preconditioned)


@cache
def trained_state(name: str) -> dict[str, Any]:
    """Return the state of an optimizer after a step."""
    model, optimizer = build(name)
    train(model, optimizer, range(1))
    return optimizer.state_dict()


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("sgd", "adam", "adamw")])
def test_the_state_of_another_optimizer_is_a_one_line_error_and_changes_nothing(name):
    model, optimizer = build(name)
    train(model, optimizer, range(1))
    for source in NAMES:
        if name.partition("-")[0] == source.partition("-")[0]:
            continue
        before = copy.deepcopy(optimizer.state_dict())
        with pytest.raises(ValueError, match=r"^not a state of ") as error:
            optimizer.load_state_dict(copy.deepcopy(trained_state(source)))
        [line] = str(error.value).splitlines()
        assert len(line) < 400
        assert_same_state(optimizer.state_dict(), before)
    twin = build(name)
    train(*twin, range(3))
    train(model, optimizer, range(1, 3))
    assert_same(weights(model), weights(twin[0]))


@pytest.mark.parametrize("name", ["nysact-s", "kfac", "steve"])
def test_a_state_of_version_0_1_resumes_bitwise(name):
    """Such a state is keyed by the names of layers, and the hyperparameters are not in its groups."""
    model, optimizer = build(name)
    train(model, optimizer, range(5))
    new = copy.deepcopy(optimizer.state_dict())
    algorithm = vars(optimizer.algorithm)
    old: dict[str, Any] = {"state": by_name(new), "algorithm": algorithm, "steps": 5}
    for entry in old["state"].values():
        entry.pop("buffers", None)
    outside = {*algorithm, "step", "param_names", "params"}
    old["param_groups"] = [
        {k: v for k, v in group.items() if k not in outside} | {"params": group["param_names"]}
        for group in new["param_groups"]
    ]
    other, resumed = build(name)
    other.load_state_dict(model.state_dict())
    resumed.load_state_dict(old)
    train(model, optimizer, range(5, 9))
    train(other, resumed, range(5, 9))
    assert_same(weights(model), weights(other))


@pytest.mark.parametrize(
    ("name", "key"), [("foof", "damping"), ("sketchysgd", "rank"), ("sketchysgd", "seed")]
)
def test_a_hyperparameter_that_differs_from_the_state_is_a_one_line_error(name, key):
    _, optimizer = build(name)
    _, other = build(name, **{key: 2})
    value = precond.defaults(name)[key] if key not in INTERVALS else INTERVALS[key]
    with pytest.raises(ValueError, match=rf"{key} = 2 in the optimizer, {value} in the state: b"):
        other.load_state_dict(optimizer.state_dict())


def test_a_state_without_names_is_loaded_by_position():
    """Other programs may drop the names of the parameters."""
    model, optimizer = build("foof")
    train(model, optimizer, range(3))
    state = copy.deepcopy(optimizer.state_dict())
    for group in state["param_groups"]:
        del group["param_names"]
    other, resumed = build("foof")
    other.load_state_dict(model.state_dict())
    resumed.load_state_dict(state)
    train(model, optimizer, range(3, 6))
    train(other, resumed, range(3, 6))
    assert_same(weights(model), weights(other))
    state["param_groups"][0]["params"].pop()
    numbers = r"\[3, 5\] in the optimizer, \[2, 5\] in the state"
    message = f"param_groups: the numbers of parameters differ: {numbers}"
    with pytest.raises(ValueError, match=message):
        resumed.load_state_dict(state)
