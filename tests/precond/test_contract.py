"""Each registered optimizer fulfils the contract of `torch.optim` and that of this package.

The tests take the optimizers from the registry, and set only hyperparameters that it lists.
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
from precond.registry import REGISTRY, SEPARATOR
from tests import closures
from tests.composed import COMPOSED

# The optimizers of the extra `peers` are tested only if it is installed.
NAMES = [
    name for name, entry in REGISTRY.items() if entry.package is None or find_spec(entry.package)
]
NAMES += COMPOSED


class Net(nn.Module):
    """A convolution, a batch norm, two layers of the same shape, and a bare parameter."""

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


class FrozenUnusedShared(nn.Module):
    """A frozen layer, a layer that is never called, and a layer that is called twice."""

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


def make_model(kind: type[nn.Module] = Net) -> nn.Module:
    torch.manual_seed(0)
    return kind()


def batch(number: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(number)
    teacher = torch.randn(64, 3, generator=torch.Generator().manual_seed(1000))
    x = torch.randn(32, 1, 8, 8, generator=generator)
    return x, (x.flatten(1) @ teacher).argmax(1)


def backward(model: nn.Module, optimizer: torch.optim.Optimizer, number: int = 0) -> Tensor:
    optimizer.zero_grad()
    return closures.backward(optimizer, loss_of, model, number).detach()


def loss_of(model: nn.Module, number: int = 0) -> Tensor:
    x, y = batch(number)
    return F.cross_entropy(model(x.to(next(model.parameters()).dtype)), y)


def train_steps(model: nn.Module, optimizer: torch.optim.Optimizer, numbers: range) -> None:
    for number in numbers:
        backward(model, optimizer, number)
        optimizer.step()


def first_changes(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the changes by the first step that changes a parameter.

    The first step of some optimizers only initialises their statistics.
    """
    before = copy_parameters(model)
    for number in range(2):
        train_steps(model, optimizer, range(number, number + 1))
        changes = {key: after - before[key] for key, after in copy_parameters(model).items()}
        if any(change.any() for change in changes.values()):
            return changes
    raise AssertionError("two steps changed no parameter")


def copy_parameters(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def known_hyperparameters(name: str, **values: Any) -> dict[str, Any]:
    """Return only the values of hyperparameters that the optimizer has."""
    return {key: value for key, value in values.items() if key in precond.defaults(name)}


def build(
    name: str, model: nn.Module, groups: list[dict[str, Any]] | None = None, **values: Any
) -> Any:
    """Build an optimizer by name, with parameter groups if they are given."""
    if groups is None or SEPARATOR in name:
        return precond.build(name, model, params=groups, **values)
    kind = type(precond.build(name, make_model()))
    values = precond.defaults(name) | values
    from_model = "model" in inspect.signature(kind).parameters
    return kind(model, params=groups, **values) if from_model else kind(groups, **values)


def leaves(state: Any, prefix: str = "") -> dict[str, Any]:
    """Return the leaves of nested dictionaries and lists, by path."""
    if isinstance(state, (dict, list)):
        items = state.items() if isinstance(state, dict) else enumerate(state)
        return {
            key: leaf
            for name, value in items
            for key, leaf in leaves(value, f"{prefix}/{name}").items()
        }
    return {prefix: state}


def assert_bitwise_equal(first: Any, second: Any) -> None:
    """Compare tensors and other values in two nested states, tensors bitwise."""
    first, second = leaves(first), leaves(second)
    assert first.keys() == second.keys()
    for key, value in first.items():
        other = second[key]
        same = torch.equal(value, other) if isinstance(value, Tensor) else value == other
        assert same, f"{key} differs"


PRECONDITIONED = [
    name for name in NAMES if isinstance(precond.build(name, make_model()), Preconditioned)
]


def test_optimizers_are_discovered():
    """With an empty registry, the other tests would have no cases and pass."""
    assert len(PRECONDITIONED) >= 3
    assert len(NAMES) > len(PRECONDITIONED)


@pytest.mark.parametrize("name", NAMES)
def test_training_lowers_the_loss(name):
    """All steps use the same batch and the default hyperparameters."""
    model = make_model()
    optimizer = build(name, model)
    first = backward(model, optimizer)
    for _ in range(45):
        optimizer.step()
        last = backward(model, optimizer)
    assert last < 0.9 * first


@pytest.mark.parametrize("name", NAMES)
def test_a_scheduler_scales_the_step(name):
    """With gamma=0.1, the second step is a tenth as long as with gamma=1."""
    steps = []
    for gamma in (1.0, 0.1):
        model = make_model().double()
        # Without KL-clip, because the length of a clipped step depends on kappa.
        optimizer = build(name, model, **known_hyperparameters(name, kl_clip=None))
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=gamma)
        for number in range(2):
            before = copy_parameters(model)
            backward(model, optimizer, number)
            optimizer.step()
            scheduler.step()
        steps.append({key: value - before[key] for key, value in copy_parameters(model).items()})
    for key, step in steps[0].items():  # equal up to lr^2, as SOAP decays the new weights
        torch.testing.assert_close(steps[1][key], 0.1 * step, rtol=1e-4, atol=1e-15)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("option", ["lr", "weight_decay"])
def test_options_of_a_parameter_group_affect_only_that_group(name, option):
    """The lr and weight decay of a group change only its steps, even if it splits a layer."""
    defaults = precond.defaults(name)
    value = {"lr": 10 * defaults["lr"], "weight_decay": 1e3}[option]
    changes = []
    for extra in ({}, {option: value}):
        model = make_model()
        vectors = [p for p in model.parameters() if p.dim() == 1]
        matrices = [p for p in model.parameters() if p.dim() > 1]
        optimizer = build(name, model, [{"params": matrices}, {"params": vectors, **extra}])
        changes.append(first_changes(model, optimizer))
    for key, step in changes[0].items():
        if step.dim() > 1:
            assert torch.equal(changes[1][key], step), f"{key} is in the other group"
        elif option == "lr":
            torch.testing.assert_close(changes[1][key], 10 * step, rtol=1e-3, atol=1e-6)
            # The normalisation removes `conv.bias`: its gradient is a rounding error.
            assert step.any() or key == "conv.bias"
        elif key in ("scale", "norm.weight"):
            # These parameters are 1, so that a large decay makes all changes negative, even if a
            # method uses only the signs of the gradient.
            assert (changes[1][key] < 0).all(), f"{key} ignored its group's weight decay"
            assert not torch.equal(changes[1][key], step)


@pytest.mark.parametrize("name", NAMES)
def test_the_closure_runs_with_gradients_and_its_loss_is_returned(name):
    """`step(closure)` gives the same step as a forward, a backward and `step()`."""
    models = [make_model(), make_model()]
    optimizers = [build(name, model) for model in models]

    def closure():
        assert torch.is_grad_enabled()
        return backward(models[0], optimizers[0])

    loss = optimizers[0].step(closure)
    expected = backward(models[1], optimizers[1])
    assert optimizers[1].step() is None
    assert loss.item() == expected.item()
    assert_bitwise_equal(copy_parameters(models[0]), copy_parameters(models[1]))


@pytest.mark.parametrize("name", NAMES)
def test_training_resumes_bitwise_from_a_saved_state(name):
    """The state is saved by `torch.save` between two updates, and loaded into new objects."""
    settings = known_hyperparameters(
        name, cov_interval=3, inv_interval=5, basis_interval=5, momentum=0.9, window=4
    )
    model = make_model()
    optimizer = build(name, model, **settings)
    train_steps(model, optimizer, range(7))
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    train_steps(model, optimizer, range(7, 18))

    torch.manual_seed(99)
    other = Net()
    resumed = build(name, other, **settings)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    other.load_state_dict(saved["model"])
    resumed.load_state_dict(saved["optimizer"])
    train_steps(other, resumed, range(7, 18))
    assert_bitwise_equal(model.state_dict(), other.state_dict())
    assert_bitwise_equal(optimizer.state_dict(), resumed.state_dict())


@pytest.mark.parametrize("name", PRECONDITIONED)
def test_loading_discards_earlier_recordings(name):
    """A forward before `load_state_dict` (as in a model summary) does not affect the loaded run."""
    model = make_model()
    intervals = known_hyperparameters(name, cov_interval=2, inv_interval=4, basis_interval=4)
    optimizer = build(name, model, **intervals)
    train_steps(model, optimizer, range(4))
    saved = copy.deepcopy({"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    train_steps(model, optimizer, range(4, 6))

    other = make_model()
    resumed = build(name, other, **intervals)
    other(batch(77)[0])
    other.load_state_dict(saved["model"])
    resumed.load_state_dict(saved["optimizer"])
    train_steps(other, resumed, range(4, 6))
    assert_bitwise_equal(model.state_dict(), other.state_dict())


@pytest.mark.parametrize("name", PRECONDITIONED)
def test_loading_the_initial_state_restarts_the_training(name):
    """An optimizer that has made steps can load its state of step 0 and train again."""
    model = make_model()
    optimizer = build(name, model)
    saved = copy.deepcopy({"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    train_steps(model, optimizer, range(3))
    first = copy_parameters(model)
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    assert_bitwise_equal(optimizer.state_dict(), saved["optimizer"])
    train_steps(model, optimizer, range(3))
    assert_bitwise_equal(copy_parameters(model), first)


@pytest.mark.parametrize("name", NAMES)
def test_parameters_without_gradient_do_not_change(name):
    """Neither momentum nor weight decay changes parameters whose `grad` is None."""
    model = make_model()
    optimizer = build(name, model)
    train_steps(model, optimizer, range(2))
    backward(model, optimizer, 2)
    for parameter in (model.first.weight, model.head.bias, model.norm.weight):
        parameter.grad = None
    before = copy_parameters(model)
    optimizer.step()
    after = copy_parameters(model)
    unchanged = {key for key, value in after.items() if torch.equal(value, before[key])}
    # The normalisation removes `conv.bias`: its gradient is a rounding error.
    assert unchanged - {"conv.bias"} == {"first.weight", "head.bias", "norm.weight"}


@pytest.mark.parametrize(
    "options", [{}, {"momentum": 0.0, "weight_decay": 0.0}, {"nesterov": True}], ids=str
)
@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_not_modified(name, options):
    """`step()` does not change `p.grad`, which users may log or accumulate."""
    model = make_model()
    optimizer = build(name, model, **known_hyperparameters(name, **options))
    for number in range(2):
        backward(model, optimizer, number)
        before = {key: p.grad.clone() for key, p in model.named_parameters()}
        optimizer.step()
        assert_bitwise_equal({key: p.grad for key, p in model.named_parameters()}, before)


OPTIONAL = {"kl_clip", "factor_ema"}  # None disables them
HYPERPARAMETERS = [(name, key) for name in NAMES for key in precond.defaults(name)]


@pytest.mark.parametrize("name", NAMES)
def test_defaults_are_valid(name):
    """`check` accepts all defaults together, and each default alone."""
    assert precond.check(name, {}) == []
    assert precond.check(name, precond.defaults(name)) == []
    for key, value in precond.defaults(name).items():
        assert precond.check(name, {key: value}) == []


def invalid_values(default: Any) -> list[Any]:
    """Return values that are invalid for every hyperparameter with a default of this type."""
    if isinstance(default, (bool, str)):
        return ["no such value", 3]
    if isinstance(default, (int, float)):
        return [-1, float("nan"), float("inf"), "1", None, True]
    if default is None:
        return [-1, float("nan"), "1", True]
    return [[-1] * len(default), default[:1], [1.0] * len(default)]


@pytest.mark.parametrize(("name", "key"), HYPERPARAMETERS)
def test_an_invalid_value_is_an_error_with_name_and_range(name, key):
    """`check` and `build` report the name and the allowed range."""
    values = invalid_values(precond.defaults(name)[key])
    for value in [value for value in values if value is not None or key not in OPTIONAL]:
        [line] = precond.check(name, {key: value})
        assert re.match(rf"{key} = .*: must be ", line), line
        with pytest.raises(precond.HyperparameterError, match=rf"^{key} = .*: must be "):
            precond.build(name, make_model(), **{key: value})


@pytest.mark.parametrize("name", NAMES)
def test_the_error_lists_all_invalid_values(name):
    values = {key: invalid_values(value)[0] for key, value in precond.defaults(name).items()}
    lines = precond.check(name, values)
    assert sorted(line.split(" = ")[0] for line in lines) == sorted(values)


@pytest.mark.parametrize("name", NAMES)
def test_the_error_for_an_unknown_hyperparameter_suggests_a_known_name(name):
    [line] = precond.check(name, {"weight_deacy": 0.1})
    assert "weight_deacy" in line
    assert 'Did you mean "weight_decay"?' in line
    with pytest.raises(precond.HyperparameterError, match="weight_deacy"):
        precond.build(name, make_model(), weight_deacy=0.1)


def test_the_error_for_an_unknown_optimizer_suggests_a_known_name():
    """The error also lists all known names."""
    names = [name for name in NAMES if name not in COMPOSED]
    for name in names:
        message = re.escape(f'Did you mean "{name}"')
        with pytest.raises(precond.HyperparameterError, match=message) as error:
            precond.build(name + "x", make_model())
        assert all(known_name in str(error.value) for known_name in names)


@pytest.mark.parametrize("name", NAMES)
def test_models_with_frozen_unused_and_shared_layers_train(name):
    """The loss falls; the frozen layer and the layer without gradient do not change."""
    model = make_model(FrozenUnusedShared)
    optimizer = build(
        name, model, **known_hyperparameters(name, cov_interval=2, inv_interval=4, basis_interval=4)
    )
    before, first = copy_parameters(model), backward(model, optimizer)
    for _ in range(20):
        last = backward(model, optimizer)
        optimizer.step()
    assert last < first
    after = copy_parameters(model)
    unchanged = {key for key, value in after.items() if torch.equal(value, before[key])}
    assert {key.split(".")[0] for key in unchanged} == {"frozen", "unused"}
    assert all(value.isfinite().all() for value in after.values())


@pytest.mark.parametrize("name", NAMES)
def test_build_uses_the_listed_defaults(name):
    """`build(name)` uses the values of `defaults(name)`, even if those of the class differ."""
    [group] = precond.build(name, make_model()).param_groups
    for key, value in precond.defaults(name).items():
        if key in group:
            assert group[key] == value, f"{key} is {group[key]}, the listed default is {value}"


def three_steps(name: str, between: Any) -> tuple[nn.Module, dict[str, Any]]:
    """Train for three steps, and call `between` before each forward and after each backward."""
    model = make_model()
    optimizer = build(
        name, model, **known_hyperparameters(name, cov_interval=1, inv_interval=2, basis_interval=2)
    )
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
@pytest.mark.parametrize("name", PRECONDITIONED)
def test_forwards_outside_training_change_nothing(name, between):
    """Evaluation and `paused()` change neither the statistics nor the weights."""
    model, state = three_steps(name, between)
    expected, expected_state = three_steps(name, lambda model, optimizer: None)
    assert_bitwise_equal(state, expected_state)
    assert_bitwise_equal(copy_parameters(model), copy_parameters(expected))


@pytest.mark.parametrize("name", PRECONDITIONED)
def test_training_steps_fill_the_statistics(name):
    """If nothing were recorded, the test above would pass, too."""
    _, state = three_steps(name, lambda model, optimizer: None)
    tensors = leaves(state["state"])
    assert any("statistic" in key and tensors[key].count_nonzero() > 0 for key in tensors)


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in PRECONDITIONED
        if not precond.check(name, {"damping": 1e16}) and name not in COMPOSED
    ],
)
def test_training_with_large_damping_equals_sgd(name):
    """For damping -> infinity, P -> I / damping: a step is that of SGD with lr / damping."""
    model, expected = make_model().double(), make_model().double()
    damping = 1e16  # factored damping uses the square root, 1e8
    sgd = torch.optim.SGD(expected.parameters(), lr=0.1, momentum=0.9)
    # Parameters outside the layers are not preconditioned, so that their lr is not multiplied.
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
        **known_hyperparameters(name, kl_clip=None),
    )
    for number in range(3):
        x, y = batch(number)
        for net, stepper in ((model, optimizer), (expected, sgd)):
            stepper.zero_grad()
            F.cross_entropy(net(x.double()), y).backward()
            stepper.step()
    for key, value in copy_parameters(expected).items():
        torch.testing.assert_close(copy_parameters(model)[key], value, rtol=1e-6, atol=1e-7)
