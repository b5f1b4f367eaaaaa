"""The contract of all registered optimizers: that of `torch.optim`, and that of this package.

The optimizers come from the registry. The tests set only hyperparameters that the registry lists.
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

# Optimizers that need the extra `peers` are left out if it is not installed.
NAMES = [
    name for name, entry in REGISTRY.items() if entry.package is None or find_spec(entry.package)
]


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


class Odd(nn.Module):
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
    """Return the changes by the first step that changes a parameter.

    A method may use one step for its statistics only.
    """
    before = parameters(model)
    for number in range(2):
        run(model, optimizer, range(number, number + 1))
        changes = {key: after - before[key] for key, after in parameters(model).items()}
        if any(change.any() for change in changes.values()):
            return changes
    raise AssertionError("two steps changed no parameter")


def parameters(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def known(name: str, **values: Any) -> dict[str, Any]:
    """Return the values for which the optimizer has a hyperparameter."""
    return {key: value for key, value in values.items() if key in precond.defaults(name)}


def build(
    name: str, model: nn.Module, groups: list[dict[str, Any]] | None = None, **values: Any
) -> Any:
    """Build an optimizer by name; with `groups`, use its class and defaults with these groups."""
    if groups is None:
        return precond.build(name, model, **values)
    kind = type(precond.build(name, make()))
    values = precond.defaults(name) | values
    from_model = "model" in inspect.signature(kind).parameters
    return kind(model, params=groups, **values) if from_model else kind(groups, **values)


def flat(state: Any, prefix: str = "") -> dict[str, Any]:
    """Return the leaves of nested dictionaries and lists, by path."""
    if isinstance(state, (dict, list)):
        items = state.items() if isinstance(state, dict) else enumerate(state)
        return {
            key: leaf
            for name, value in items
            for key, leaf in flat(value, f"{prefix}/{name}").items()
        }
    return {prefix: state}


def assert_same(first: Any, second: Any) -> None:
    """Compare bitwise."""
    first, second = flat(first), flat(second)
    assert first.keys() == second.keys()
    for key, value in first.items():
        other = second[key]
        same = torch.equal(value, other) if isinstance(value, Tensor) else value == other
        assert same, f"{key} differs"


OURS = [name for name in NAMES if isinstance(precond.build(name, make()), Preconditioned)]


def test_optimizers_are_discovered():
    """With an empty registry, all other tests would pass."""
    assert len(OURS) >= 3
    assert len(NAMES) > len(OURS)


@pytest.mark.parametrize("name", NAMES)
def test_training_lowers_the_loss(name):
    """With the defaults, on one batch."""
    model = make()
    optimizer = build(name, model)
    first = backward(model, optimizer)
    for _ in range(45):
        optimizer.step()
        last = backward(model, optimizer)
    assert last < 0.9 * first


@pytest.mark.parametrize("name", NAMES)
def test_a_scheduler_changes_the_step(name):
    """After StepLR(gamma=0.1), the same step is a tenth as long."""
    steps = []
    for gamma in (1.0, 0.1):
        model = make().double()
        # Without KL-clip, because the length of a clipped step depends on kappa.
        optimizer = build(name, model, **known(name, kl_clip=None))
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=gamma)
        for number in range(2):
            before = parameters(model)
            optimizer.zero_grad()
            x, y = batch(number)
            precond.backward(F.cross_entropy(model(x.double()), y), optimizer)
            optimizer.step()
            scheduler.step()
        steps.append({key: value - before[key] for key, value in parameters(model).items()})
    for key, step in steps[0].items():  # SOAP decays after the step: equal up to lr^2
        torch.testing.assert_close(steps[1][key], 0.1 * step, rtol=1e-4, atol=1e-15)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("option", ["lr", "weight_decay"])
def test_options_of_a_parameter_group_affect_only_that_group(name, option):
    """The lr and weight decay of a group change only its steps, even if it splits a layer."""
    defaults = precond.defaults(name)
    value = {"lr": 10 * defaults["lr"], "weight_decay": 1e3}[option]
    changes = []
    for extra in ({}, {option: value}):
        model = make()
        vectors = [p for p in model.parameters() if p.dim() == 1]
        matrices = [p for p in model.parameters() if p.dim() > 1]
        optimizer = build(name, model, [{"params": matrices}, {"params": vectors, **extra}])
        changes.append(first_move(model, optimizer))
    for key, step in changes[0].items():
        if step.dim() > 1:
            assert torch.equal(changes[1][key], step), f"{key} is in the other group"
        elif option == "lr":
            torch.testing.assert_close(changes[1][key], 10 * step, rtol=1e-3, atol=1e-6)
            assert step.any()
        elif key in ("scale", "norm.weight"):
            # These parameters are 1: a large decay makes every change negative, also for methods
            # that use only the signs.
            assert (changes[1][key] < 0).all(), f"{key} ignored its group's weight decay"
            assert not torch.equal(changes[1][key], step)


@pytest.mark.parametrize("name", NAMES)
def test_the_closure_runs_with_gradients_and_its_loss_is_returned(name):
    """`step(closure)` gives the same step as a forward, a backward and `step()`."""
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
def test_training_resumes_bitwise_from_a_saved_state(name):
    """The state is saved by `torch.save` between two updates, and loaded into new objects."""
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
def test_loading_discards_earlier_recordings(name):
    """A forward before `load_state_dict` (as in a model summary) does not affect the loaded run."""
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
def test_loading_the_initial_state_restarts_the_training(name):
    """An optimizer that has made steps can load its state of step 0 and train again."""
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
def test_parameters_without_gradient_do_not_change(name):
    """Neither momentum nor weight decay changes a parameter whose `grad` is None."""
    model = make()
    optimizer = build(name, model)
    run(model, optimizer, range(2))
    backward(model, optimizer, 2)
    for parameter in (model.first.weight, model.head.bias, model.norm.weight):
        parameter.grad = None
    before = parameters(model)
    optimizer.step()
    after = parameters(model)
    unchanged = {key for key, value in after.items() if torch.equal(value, before[key])}
    assert unchanged == {"first.weight", "head.bias", "norm.weight"}


@pytest.mark.parametrize(
    "options", [{}, {"momentum": 0.0, "weight_decay": 0.0}, {"nesterov": True}], ids=str
)
@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_not_modified(name, options):
    """`p.grad` is the same before and after `step()`, for users who log or accumulate it."""
    model = make()
    optimizer = build(name, model, **known(name, **options))
    for number in range(2):
        backward(model, optimizer, number)
        before = {key: p.grad.clone() for key, p in model.named_parameters()}
        optimizer.step()
        assert_same({key: p.grad for key, p in model.named_parameters()}, before)


OPTIONAL = {"kl_clip", "factor_ema"}  # None disables them
HYPERPARAMETERS = [(name, key) for name in NAMES for key in precond.defaults(name)]


@pytest.mark.parametrize("name", NAMES)
def test_defaults_are_valid(name):
    """`check` accepts all defaults together, and each default alone."""
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
    """`check` and `build` report the name and the allowed range."""
    values = bad_values(precond.defaults(name)[key])
    for value in [value for value in values if value is not None or key not in OPTIONAL]:
        [line] = precond.check(name, {key: value})
        assert re.match(rf"{key} = .*: must be ", line), line
        with pytest.raises(precond.HyperparameterError, match=rf"^{key} = .*: must be "):
            precond.build(name, make(), **{key: value})


@pytest.mark.parametrize("name", NAMES)
def test_the_error_lists_all_invalid_values(name):
    values = {key: bad_values(value)[0] for key, value in precond.defaults(name).items()}
    lines = precond.check(name, values)
    assert sorted(line.split(" = ")[0] for line in lines) == sorted(values)


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_hyperparameter_suggests_the_nearest(name):
    """A misspelled name is an error."""
    [line] = precond.check(name, {"weight_deacy": 0.1})
    assert "weight_deacy" in line
    assert 'Did you mean "weight_decay"?' in line
    with pytest.raises(precond.HyperparameterError, match="weight_deacy"):
        precond.build(name, make(), weight_deacy=0.1)


def test_an_unknown_optimizer_suggests_the_nearest():
    """The error also lists all known names."""
    for name in NAMES:
        message = re.escape(f'Did you mean "{name}"')
        with pytest.raises(precond.HyperparameterError, match=message) as error:
            precond.build(name + "x", make())
        assert all(known_name in str(error.value) for known_name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_models_with_frozen_unused_and_shared_layers_train(name):
    """The loss falls; the frozen layer and the layer without gradient do not change."""
    model = make(Odd)
    optimizer = build(name, model, **known(name, cov_interval=2, inv_interval=4, basis_interval=4))
    before, first = parameters(model), backward(model, optimizer)
    for _ in range(20):
        last = backward(model, optimizer)
        optimizer.step()
    assert last < first
    after = parameters(model)
    unchanged = {key for key, value in after.items() if torch.equal(value, before[key])}
    assert {key.split(".")[0] for key in unchanged} == {"frozen", "unused"}
    assert all(value.isfinite().all() for value in after.values())


@pytest.mark.parametrize("name", NAMES)
def test_build_uses_the_listed_defaults(name):
    """`build(name)` uses the values of `defaults(name)`, not other defaults of the class."""
    [group] = precond.build(name, make()).param_groups
    for key, value in precond.defaults(name).items():
        if key in group:
            assert group[key] == value, f"{key} is {group[key]}, the listed default is {value}"


def three_steps(name: str, between: Any) -> tuple[nn.Module, dict[str, Any]]:
    """Train for three steps, and call `between` before each forward and after each backward."""
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
def test_forwards_outside_training_change_nothing(name, between):
    """Evaluation and `paused()` change neither the statistics nor the weights."""
    model, state = three_steps(name, between)
    expected, expected_state = three_steps(name, lambda model, optimizer: None)
    assert_same(state, expected_state)
    assert_same(parameters(model), parameters(expected))


@pytest.mark.parametrize("name", OURS)
def test_training_steps_fill_the_statistics(name):
    """If nothing were recorded, the test above would pass, too."""
    _, state = three_steps(name, lambda model, optimizer: None)
    tensors = flat(state["state"])
    assert any("statistic" in key and tensors[key].count_nonzero() > 0 for key in tensors)


@pytest.mark.parametrize("name", [name for name in OURS if "damping" in precond.defaults(name)])
def test_large_damping_is_sgd(name):
    """For damping -> infinity, P -> I / damping: SGD with the learning rate lr / damping."""
    model, expected = make().double(), make().double()
    damping = 1e16  # so large because factored damping uses its square root
    sgd = torch.optim.SGD(expected.parameters(), lr=0.1, momentum=0.9)
    # Parameters outside the layers are not preconditioned: their learning rate is not divided.
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
