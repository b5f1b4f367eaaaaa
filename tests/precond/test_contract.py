"""What every registered optimizer promises: as users of `torch.optim` expect, and as this package documents.

The optimizers are discovered, and no hyperparameter is set that the registry does not list for the name.
"""

from __future__ import annotations

import copy
import inspect
import io
import re
from importlib.util import find_spec
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import precond
from precond.optimizer import Preconditioned
from precond.registry import REGISTRY

# Without the extra `peers`, those that need it cannot be tried.
NAMES = [
    name for name, entry in REGISTRY.items() if entry.package is None or find_spec(entry.package)
]


class Net(nn.Module):
    """Convolutions, a batch norm, two layers of one shape, a bare parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.hidden = nn.Linear(64, 12)
        self.first = nn.Linear(12, 12)
        self.second = nn.Linear(12, 12)
        self.scale = nn.Parameter(torch.ones(12))
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.norm(self.conv(x))).flatten(1)
        for layer in (self.hidden, self.first, self.second):
            x = torch.tanh(layer(x))
        return self.head(x * self.scale)


class Odd(nn.Module):
    """A frozen layer, one that is never called, and one that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Linear(64, 12)
        self.unused = nn.Linear(12, 12)
        self.twice = nn.Linear(12, 12)
        self.head = nn.Linear(12, 3)
        self.frozen.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.frozen(x.flatten(1)))
        return self.head(torch.tanh(self.twice(torch.tanh(self.twice(x)))))


def make(kind: type[nn.Module] = Net) -> nn.Module:
    torch.manual_seed(0)
    return kind()


def batch(number: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(number)
    teacher = torch.randn(64, 3, generator=torch.Generator().manual_seed(1000))
    x = torch.randn(32, 1, 8, 8, generator=generator)
    return x, (x.flatten(1) @ teacher).argmax(1)


def backward(model: nn.Module, optimizer: torch.optim.Optimizer, number: int = 0) -> Tensor:
    optimizer.zero_grad()
    x, y = batch(number)
    loss = F.cross_entropy(model(x), y)
    precond.backward(loss, optimizer)
    return loss.detach()


def run(model: nn.Module, optimizer: torch.optim.Optimizer, numbers: range) -> None:
    for number in numbers:
        backward(model, optimizer, number)
        optimizer.step()


def first_move(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What the first step that moves anything changes; a method may spend one on its statistics."""
    before = parameters(model)
    for number in range(2):
        run(model, optimizer, range(number, number + 1))
        moved = {key: after - before[key] for key, after in parameters(model).items()}
        if any(step.any() for step in moved.values()):
            return moved
    raise AssertionError("two steps moved nothing")


def parameters(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def known(name: str, **values: Any) -> dict[str, Any]:
    """Those of the values that the optimizer has a hyperparameter for."""
    return {key: value for key, value in values.items() if key in precond.defaults(name)}


def build(
    name: str, model: nn.Module, groups: list[dict[str, Any]] | None = None, **values: Any
) -> Any:
    """By name; or of the same type and hyperparameters, over parameter groups."""
    if groups is None:
        return precond.build(name, model, **values)
    kind = type(precond.build(name, make()))
    values = precond.defaults(name) | values
    from_model = "model" in inspect.signature(kind).parameters
    return kind(model, params=groups, **values) if from_model else kind(groups, **values)


def flat(state: Any, prefix: str = "") -> dict[str, Any]:
    """The leaves of nested dictionaries and lists."""
    if isinstance(state, (dict, list)):
        items = state.items() if isinstance(state, dict) else enumerate(state)
        return {
            key: leaf
            for name, value in items
            for key, leaf in flat(value, f"{prefix}/{name}").items()
        }
    return {prefix: state}


def assert_same(first: Any, second: Any) -> None:
    """Bit for bit."""
    first, second = flat(first), flat(second)
    assert first.keys() == second.keys()
    for key, value in first.items():
        same = (
            torch.equal(value, second[key]) if isinstance(value, Tensor) else value == second[key]
        )
        assert same, f"{key} differs"


OURS = [name for name in NAMES if isinstance(precond.build(name, make()), Preconditioned)]


def test_optimizers_are_discovered():
    """An empty registry would pass everything else."""
    assert len(OURS) >= 3
    assert len(NAMES) > len(OURS)


@pytest.mark.parametrize("name", NAMES)
def test_it_lowers_the_loss(name):
    """With its defaults, on one batch."""
    model = make()
    optimizer = build(name, model)
    first = backward(model, optimizer)
    for _ in range(45):
        optimizer.step()
        last = backward(model, optimizer)
    assert last < 0.9 * first


@pytest.mark.parametrize("name", NAMES)
def test_a_scheduler_changes_the_step(name):
    """After StepLR(gamma=0.1) the same step is a tenth as long."""
    steps = []
    for gamma in (1.0, 0.1):
        model = make().double()
        optimizer = build(
            name, model, **known(name, kl_clip=None)
        )  # a clipped step is as long as kappa allows
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=gamma)
        for number in range(2):
            before = parameters(model)
            optimizer.zero_grad()
            x, y = batch(number)
            precond.backward(F.cross_entropy(model(x.double()), y), optimizer)
            optimizer.step()
            scheduler.step()
        steps.append({key: value - before[key] for key, value in parameters(model).items()})
    for key, step in steps[0].items():  # up to lr^2 where the decay comes after the step (SOAP)
        torch.testing.assert_close(steps[1][key], 0.1 * step, rtol=1e-4, atol=1e-15)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("option", ["lr", "weight_decay"])
def test_parameter_groups_have_their_own_settings(name, option):
    """A group's own lr or weight decay moves that group otherwise, and no other, even when it splits a layer."""
    defaults = precond.defaults(name)
    value = {"lr": 10 * defaults["lr"], "weight_decay": 1e3}[option]
    moved = []
    for extra in ({}, {option: value}):
        model = make()
        vectors = [p for p in model.parameters() if p.dim() == 1]
        others = [p for p in model.parameters() if p.dim() > 1]
        optimizer = build(name, model, [{"params": others}, {"params": vectors, **extra}])
        moved.append(first_move(model, optimizer))
    for key, step in moved[0].items():
        if step.dim() > 1:
            assert torch.equal(moved[1][key], step), f"{key} is in the other group"
        elif option == "lr":
            torch.testing.assert_close(moved[1][key], 10 * step, rtol=1e-3, atol=1e-6)
            assert step.any()
        elif key in ("scale", "norm.weight"):
            # Ones: the decay can only pull them down, even where a method sees no more than signs.
            assert (moved[1][key] < 0).all(), f"{key} ignored its group's weight decay"
            assert not torch.equal(moved[1][key], step)


@pytest.mark.parametrize("name", NAMES)
def test_the_closure_runs_with_gradients_and_its_loss_is_returned(name):
    """`step(closure)` is the same step as forward, backward, `step()`."""
    models = [make(), make()]
    optimizers = [build(name, model) for model in models]

    def closure():
        assert torch.is_grad_enabled()
        return backward(models[0], optimizers[0])

    loss = optimizers[0].step(closure)
    expected = backward(models[1], optimizers[1])
    assert optimizers[1].step() is None
    assert loss.item() == expected.item()
    assert_same(parameters(models[0]), parameters(models[1]))


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_state_goes_on_bit_for_bit(name):
    """Saved between two updates, through `torch.save`, into a fresh model and optimizer: nothing is lost."""
    settings = known(name, cov_interval=3, inv_interval=5, basis_interval=5, momentum=0.9)
    model = make()
    optimizer = build(name, model, **settings)
    run(model, optimizer, range(7))
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    run(model, optimizer, range(7, 18))

    torch.manual_seed(99)
    other = Net()
    resumed = build(name, other, **settings)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    other.load_state_dict(saved["model"])
    resumed.load_state_dict(saved["optimizer"])
    run(other, resumed, range(7, 18))
    assert_same(model.state_dict(), other.state_dict())
    assert_same(optimizer.state_dict(), resumed.state_dict())


@pytest.mark.parametrize("name", OURS)
def test_loading_forgets_what_was_recorded_before(name):
    """A forward before `load_state_dict` (a model summary, say) is no part of the loaded run."""
    model = make()
    intervals = known(name, cov_interval=2, inv_interval=4, basis_interval=4)
    optimizer = build(name, model, **intervals)
    run(model, optimizer, range(4))
    saved = copy.deepcopy({"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    run(model, optimizer, range(4, 6))

    other = make()
    resumed = build(name, other, **intervals)
    other(batch(77)[0])
    other.load_state_dict(saved["model"])
    resumed.load_state_dict(saved["optimizer"])
    run(other, resumed, range(4, 6))
    assert_same(model.state_dict(), other.state_dict())


@pytest.mark.parametrize("name", OURS)
def test_a_used_optimizer_can_go_back_to_its_beginning(name):
    """Loading the state of step 0 into an optimizer that has run is starting anew."""
    model = make()
    optimizer = build(name, model)
    saved = copy.deepcopy({"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    run(model, optimizer, range(3))
    first = parameters(model)
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    assert_same(optimizer.state_dict(), saved["optimizer"])
    run(model, optimizer, range(3))
    assert_same(parameters(model), first)


@pytest.mark.parametrize("name", NAMES)
def test_parameters_without_gradient_stay(name):
    """Neither momentum nor weight decay moves a parameter whose `grad` is None."""
    model = make()
    optimizer = build(name, model)
    run(model, optimizer, range(2))
    backward(model, optimizer, 2)
    for parameter in (model.first.weight, model.head.bias, model.norm.weight):
        parameter.grad = None
    before = parameters(model)
    optimizer.step()
    stayed = {key for key, value in parameters(model).items() if torch.equal(value, before[key])}
    assert stayed == {"first.weight", "head.bias", "norm.weight"}


@pytest.mark.parametrize(
    "options", [{}, {"momentum": 0.0, "weight_decay": 0.0}, {"nesterov": True}], ids=str
)
@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_not_modified(name, options):
    """`p.grad` belongs to the user: accumulating, clipping and logging after `step()` must see the gradient."""
    model = make()
    optimizer = build(name, model, **known(name, **options))
    for number in range(2):
        backward(model, optimizer, number)
        before = {key: p.grad.clone() for key, p in model.named_parameters()}
        optimizer.step()
        assert_same({key: p.grad for key, p in model.named_parameters()}, before)


OPTIONAL = {"kl_clip", "factor_ema"}  # None switches them off
HYPERPARAMETERS = [(name, key) for name in NAMES for key in precond.defaults(name)]


@pytest.mark.parametrize("name", NAMES)
def test_defaults_are_valid(name):
    """All at once and one by one."""
    assert precond.check(name, {}) == []
    assert precond.check(name, precond.defaults(name)) == []
    for key, value in precond.defaults(name).items():
        assert precond.check(name, {key: value}) == []


def bad_values(default: Any) -> list[Any]:
    """Values that no hyperparameter with this default may take."""
    if isinstance(default, (bool, str)):
        return ["no such value", 3]
    if isinstance(default, (int, float)):
        return [-1, float("nan"), float("inf"), "1", None, True]
    if default is None:
        return [-1, float("nan"), "1", True]
    return [[-1] * len(default), default[:1], [1.0] * len(default)]


@pytest.mark.parametrize(("name", "key"), HYPERPARAMETERS)
def test_a_value_out_of_range_is_an_error_that_names_it(name, key):
    """With the name and the allowed range, from `check` without a model and from `build`."""
    values = bad_values(precond.defaults(name)[key])
    for value in [value for value in values if value is not None or key not in OPTIONAL]:
        [line] = precond.check(name, {key: value})
        assert re.match(rf"{key} = .*: must be ", line), line
        with pytest.raises(precond.HyperparameterError, match=rf"^{key} = .*: must be "):
            precond.build(name, make(), **{key: value})


@pytest.mark.parametrize("name", NAMES)
def test_all_wrong_values_are_named_at_once(name):
    """Not one error after the other."""
    wrong = {key: bad_values(value)[0] for key, value in precond.defaults(name).items()}
    lines = precond.check(name, wrong)
    assert sorted(line.split(" = ")[0] for line in lines) == sorted(wrong)


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_hyperparameter_suggests_the_nearest(name):
    """A misspelled name is never ignored."""
    [line] = precond.check(name, {"weight_deacy": 0.1})
    assert "weight_deacy" in line
    assert 'Did you mean "weight_decay"?' in line
    with pytest.raises(precond.HyperparameterError, match="weight_deacy"):
        precond.build(name, make(), weight_deacy=0.1)


def test_an_unknown_optimizer_suggests_the_nearest():
    """And lists the known ones."""
    for name in NAMES:
        with pytest.raises(
            precond.HyperparameterError, match=re.escape(f'Did you mean "{name}"')
        ) as error:
            precond.build(name + "x", make())
        assert all(other in str(error.value) for other in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_frozen_unused_and_shared_layers_train(name):
    """The loss falls; the frozen layer and the one without gradient stay."""
    model = make(Odd)
    optimizer = build(name, model, **known(name, cov_interval=2, inv_interval=4, basis_interval=4))
    before, first = parameters(model), backward(model, optimizer)
    for _ in range(20):
        last = backward(model, optimizer)
        optimizer.step()
    assert last < first
    after = parameters(model)
    stayed = {key.split(".")[0] for key, value in after.items() if torch.equal(value, before[key])}
    assert stayed == {"frozen", "unused"}
    assert all(value.isfinite().all() for value in after.values())


@pytest.mark.parametrize("name", NAMES)
def test_build_uses_the_listed_defaults(name):
    """`defaults(name)` is what a build without arguments runs with, not what the class behind it has by itself."""
    [group] = precond.build(name, make()).param_groups
    for key, value in precond.defaults(name).items():
        if key in group:
            assert group[key] == value, f"{key} is {group[key]}, listed is {value}"


def three_steps(name: str, between: Any) -> tuple[nn.Module, dict[str, Any]]:
    """A run in which something happens between the forwards that count."""
    model = make()
    optimizer = build(name, model, **known(name, cov_interval=1, inv_interval=2, basis_interval=2))
    for number in range(3):
        between(model, optimizer)
        backward(model, optimizer, number)
        between(model, optimizer)
        optimizer.step()
    return model, optimizer.state_dict()


def evaluate(model: nn.Module, optimizer: Preconditioned) -> None:
    model.eval()
    with torch.no_grad():
        model(batch(50)[0])
    model.train()


def evaluate_in_inference_mode(model: nn.Module, optimizer: Preconditioned) -> None:
    model.eval()
    with torch.inference_mode():
        model(batch(50)[0])
    model.train()


def probe_while_paused(model: nn.Module, optimizer: Preconditioned) -> None:
    statistics = copy.deepcopy(model.norm.state_dict())
    with optimizer.paused():
        with optimizer.paused():
            model(batch(50)[0])
        model(batch(51)[0])
    model.norm.load_state_dict(statistics)


@pytest.mark.parametrize("between", [evaluate, evaluate_in_inference_mode, probe_while_paused])
@pytest.mark.parametrize("name", OURS)
def test_forwards_that_do_not_train_leave_no_trace(name, between):
    """Evaluation and `paused()` change neither statistics nor weights, before a backward and after it."""
    model, state = three_steps(name, between)
    expected, expected_state = three_steps(name, lambda model, optimizer: None)
    assert_same(state, expected_state)
    assert_same(parameters(model), parameters(expected))


def differentiate(model: nn.Module, optimizer: Preconditioned) -> None:
    x, y = batch(50)
    torch.autograd.grad(F.cross_entropy(model(x), y), list(model.parameters()))


@pytest.mark.parametrize("name", OURS)
def test_a_training_forward_does_count(name):
    """Were nothing recorded, the test above would pass as well."""
    _, state = three_steps(name, lambda model, optimizer: None)
    _, other = three_steps(name, differentiate)
    first, second = flat(state["state"]), flat(other["state"])
    assert any(
        "statistic" in key and not torch.equal(value, second[key]) for key, value in first.items()
    )


@pytest.mark.parametrize("name", [name for name in OURS if "damping" in precond.defaults(name)])
def test_large_damping_is_sgd(name):
    """With damping -> infinity, P -> I / damping: SGD at the rate lr / damping."""
    model, expected = make().double(), make().double()
    damping = 1e16  # a factored one enters by its square root
    sgd = torch.optim.SGD(expected.parameters(), lr=0.1, momentum=0.9)
    # What is no layer is not preconditioned, so its rate is not divided.
    others = [*model.norm.parameters(), model.scale]
    layers = [p for p in model.parameters() if all(p is not q for q in others)]
    optimizer = build(
        name,
        model,
        [{"params": layers}, {"params": others, "lr": 0.1}],
        lr=0.1 * damping,
        damping=damping,
        momentum=0.9,
        weight_decay=0.0,
        **known(name, kl_clip=None),
    )
    for number in range(3):
        x, y = batch(number)
        for net, stepper in ((model, optimizer), (expected, sgd)):
            stepper.zero_grad()
            F.cross_entropy(net(x.double()), y).backward()
            stepper.step()
    for key, value in parameters(expected).items():
        torch.testing.assert_close(parameters(model)[key], value, rtol=1e-6, atol=1e-7)
