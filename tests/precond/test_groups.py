"""Parameter groups: learning rates, schedulers, unsupported options, and messages."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CyclicLR, OneCycleLR

import precond
from precond.optimizer import Preconditioned
from precond.parts.linalg import Outcome
from precond.registry import REGISTRY
from tests import closures

NAMES = [
    name for name, entry in REGISTRY.items() if entry.package is None or find_spec(entry.package)
]


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 3)).double()


def is_preconditioned(name: str) -> bool:
    return isinstance(precond.build(name, net(), **known(name, rank=3)), Preconditioned)


def known(name: str, **values: Any) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key in precond.defaults(name)}


def build(name: str, model: nn.Module, **changed: Any) -> Any:
    settings = known(name, rank=3, cov_interval=1, inv_interval=2, basis_interval=2, interval=2)
    return precond.build(name, model, **{**settings, **changed})


def backward(model: nn.Module, optimizer: Any, number: int = 0) -> None:
    generator = torch.Generator().manual_seed(number)
    x = torch.randn(12, 6, generator=generator, dtype=torch.float64)
    optimizer.zero_grad()
    closures.classify(optimizer, model, x, torch.arange(12) % 3)


def train(model: nn.Module, optimizer: Any, steps: int, scheduler: Any = None) -> None:
    for number in range(steps):
        backward(model, optimizer, number)
        optimizer.step()
        if scheduler is not None:
            scheduler.step()


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


OURS = [name for name in NAMES if is_preconditioned(name)]


# ---------------------------------------------------------------------- schedulers


def one_cycle(optimizer: Any) -> Any:
    return OneCycleLR(optimizer, max_lr=0.05, total_steps=8)


def cyclic(optimizer: Any) -> Any:
    return CyclicLR(optimizer, base_lr=0.01, max_lr=0.05, step_size_up=2, cycle_momentum=True)


def momentum_of(group: dict[str, Any]) -> float:
    return group["betas"][0] if "betas" in group else group["momentum"]


@pytest.mark.parametrize("scheduler", [one_cycle, cyclic])
@pytest.mark.parametrize(
    "name", [n for n in NAMES if {"momentum", "betas"} & precond.defaults(n).keys()]
)
def test_a_scheduler_changes_the_momentum_that_the_step_uses(name, scheduler):
    """The steps differ from those with the same learning rates and a constant momentum."""
    models = []
    for cycles in (True, False):
        model = net()
        optimizer = build(name, model)
        schedule, first = scheduler(optimizer), momentum_of(optimizer.param_groups[0])
        values = []
        for number in range(6):
            if not cycles:
                for group in optimizer.param_groups:
                    constant = {"betas": (first, *group.get("betas", (0, 0))[1:])}
                    group |= constant if "betas" in group else {"momentum": first}
            backward(model, optimizer, number)
            optimizer.step()
            values.append(momentum_of(optimizer.param_groups[0]))
            schedule.step()
        assert len(set(values)) > 2 or not cycles
        models.append(weights(model))
    assert any(not torch.equal(value, models[1][key]) for key, value in models[0].items())


@pytest.mark.parametrize("scheduler", [one_cycle, cyclic])
def test_steve_without_rotation_follows_a_scheduler_as_adam(scheduler):
    """Before its first basis, U = V = I, and STEVE is Adam; `betas` are those of the group."""

    class Unrotated(precond.STEVE, algorithm=without_basis()):
        pass

    model, other = net(), net()
    optimizer = Unrotated(model)
    adam = torch.optim.Adam(other.parameters(), lr=1e-3)
    train(model, optimizer, 7, scheduler(optimizer))
    train(other, adam, 7, scheduler(adam))
    for name, value in weights(other).items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-12, atol=1e-14)


def without_basis() -> Any:
    """Return the algorithm of STEVE without changes of the basis."""

    class Algorithm(precond.STEVE.algorithm_type):
        def refresh(self, state: Any) -> Outcome:
            return Outcome.of(torch.ones(len(state.m), dtype=torch.bool))

    return Algorithm


@pytest.mark.parametrize("nesterov", [False, True])
def test_a_scheduler_changes_the_momentum_as_in_sgd(nesterov):
    """With a large damping, the direction is the gradient / damping.

    With a learning rate that is multiplied by the damping, the optimizer is therefore SGD.
    """
    model, other = net(), net()
    layers = [*model[0].parameters(), *model[3].parameters()]
    groups = [{"params": layers, "lr": 1e12}, {"params": list(model[1].parameters())}]
    settings = {"nesterov": nesterov, "weight_decay": 0.0}
    optimizer = build("foof", model, params=groups, damping=1e12, **settings)
    sgd = torch.optim.SGD(other.parameters(), lr=1.0, momentum=0.9, **settings)
    rates = [1e11, 0.1]
    for o, max_lr in ((optimizer, rates), (sgd, 0.1)):
        pair = (model, optimizer) if o is optimizer else (other, sgd)
        train(*pair, 5, OneCycleLR(o, max_lr=max_lr, total_steps=6))
    assert optimizer.param_groups[0]["momentum"] == sgd.param_groups[0]["momentum"] != 0.9
    for key, value in weights(other).items():
        torch.testing.assert_close(model.state_dict()[key], value, rtol=1e-9, atol=1e-10)


# ---------------------------------------------------------------------- learning rates


@pytest.mark.parametrize("name", NAMES)
def test_parameters_of_a_group_with_lr_0_do_not_move_and_all_others_do(name):
    """The weights have lr 0 and the biases do not, and the other way round."""
    for dims in ({1}, {2}):
        model = net()
        groups = [
            {"params": [p for p in model.parameters() if p.dim() not in dims], "lr": 0.0},
            {"params": [p for p in model.parameters() if p.dim() in dims], "lr": 0.05},
        ]
        optimizer = build(name, model, params=groups)
        before = weights(model)
        train(model, optimizer, 3)
        for key, value in model.state_dict().items():
            assert torch.equal(value, before[key]) == (value.dim() not in dims), key


@pytest.mark.parametrize("lr", [1e-30, 0.0])
def test_a_bias_does_not_depend_on_the_lr_of_its_weight(lr):
    """STEVE's directions contain the learning rate of the weight."""
    models = []
    for weight_lr in (lr, 1e-30):
        model = net()
        vectors = [p for p in model.parameters() if p.dim() == 1]
        matrices = [p for p in model.parameters() if p.dim() == 2]
        groups = [{"params": matrices, "lr": weight_lr}, {"params": vectors, "lr": 0.05}]
        optimizer = precond.STEVE(model, params=groups, basis_interval=2)
        train(model, optimizer, 3)
        models.append(weights(model))
    for key, value in models[0].items():
        torch.testing.assert_close(value, models[1][key], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_a_learning_rate_may_be_a_tensor(name, decoupled):
    """The weights are those of training with a float, also with a scheduler and with groups."""
    decay = known(name, weight_decay=0.01, decoupled=decoupled)
    models = []
    for kind in (float, lambda value: torch.tensor(value, dtype=torch.float64)):
        model = net()
        vectors = [p for p in model.parameters() if p.dim() == 1]
        matrices = [p for p in model.parameters() if p.dim() == 2]
        groups = [{"params": matrices}, {"params": vectors, "lr": kind(0.02)}]
        optimizer = build(name, model, params=groups, lr=kind(0.01), **decay)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        train(model, optimizer, 5, scheduler)
        assert isinstance(optimizer.param_groups[0]["lr"], type(kind(0.0)))
        models.append(weights(model))
    for key, value in models[0].items():
        # STEVE divides by second moments, which amplifies rounding errors in small components.
        tolerance = 1e-5 if name == "steve" else 1e-9
        torch.testing.assert_close(models[1][key], value, rtol=tolerance, atol=1e-3 * tolerance)


@pytest.mark.parametrize("name", NAMES)
def test_a_learning_rate_of_0_is_accepted_for_a_warm_up(name):
    model = net()
    optimizer = build(name, model, lr=0.0)
    before = weights(model)
    train(model, optimizer, 2)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_tensor_with_several_numbers_is_not_a_learning_rate():
    with pytest.raises(precond.HyperparameterError, match=r"lr = .*: must be a finite number"):
        precond.FOOF(net(), lr=torch.ones(2))


# ---------------------------------------------------------------------- options of groups


def halves(model: nn.Sequential, **options: Any) -> list[dict[str, Any]]:
    return [
        {"params": list(model[0].parameters())},
        {"params": [*model[1].parameters(), *model[3].parameters()], **options},
    ]


@pytest.mark.parametrize("name", [n for n in OURS if "damping" in precond.defaults(n)])
def test_the_damping_of_a_group_is_that_of_its_layers(name):
    """Each layer moves as in an optimizer in which all groups have its damping."""
    settings = known(name, kl_clip=None)

    def moved(damping: float, other: float) -> dict[str, Tensor]:
        model = net()
        groups = halves(model, damping=other)
        optimizer = build(name, model, params=groups, damping=damping, **settings)
        before = weights(model)
        train(model, optimizer, 1)
        return {key: value - before[key] for key, value in weights(model).items()}

    mixed, low, high = moved(0.1, 1.0), moved(0.1, 0.1), moved(1.0, 1.0)
    for key, value in mixed.items():
        expected = (low if key.startswith("0") else high)[key]
        torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-14)
    assert not torch.equal(low["3.weight"], high["3.weight"])


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("sgd", "adam", "adamw")])
@pytest.mark.parametrize(
    "options",
    [{"maximize": True}, {"amsgrad": True}, {"dampening": 0.5}, {"lr_decay": 0.1}],
    ids=str,
)
def test_an_option_that_would_be_ignored_is_refused_by_one_line(name, options):
    """The constructor and `add_param_group` refuse it; the latter then changes nothing."""
    model = net()
    [(key, value)] = options.items()
    message = rf"^{key} = {value} in a parameter group: "
    with pytest.raises(precond.HyperparameterError, match=message) as error:
        build(name, model, params=halves(model, **options))
    assert len(str(error.value).splitlines()) == 1
    optimizer = build(name, model, params=halves(model)[:1])
    with pytest.raises(precond.HyperparameterError, match=message):
        optimizer.add_param_group(halves(model, **options)[1])
    assert len(optimizer.param_groups) == 1
    train(model, optimizer, 2)
    optimizer.add_param_group(halves(model, **{key: type(value)(0)})[1])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("nysact-s", {"rank": 2}),
        ("nysact-s", {"betas": (0.9, 0.99)}),
        ("kfac", {"kl_clip": 0.5}),
        ("kfac", {"inv_interval": 7}),
        ("steve", {"momentum": 0.5}),
        ("steve", {"basis_interval": 7}),
        ("steve", {"fallback": "sgd"}),
        ("sketchysgd", {"damping": 7.0}),
        ("sketchysgd", {"rank": 2}),
        ("adahessian", {"seed": 7}),
        ("adahessian", {"damping": 7.0}),
        ("shampoo", {"kl_clip": 7.0}),
    ],
    ids=str,
)
def test_a_hyperparameter_that_a_group_cannot_have_is_refused(name, options):
    if name not in NAMES:
        pytest.skip("needs pytorch-optimizer")
    model = net()
    [key] = options
    with pytest.raises(precond.HyperparameterError, match=rf"^{key} = .* in a parameter group: "):
        build(name, model, params=halves(model, **options))


@pytest.mark.parametrize("options", [{"lr": -1.0}, {"momentum": 1.5}, {"damping": 0.0}], ids=str)
def test_a_value_of_a_group_that_is_out_of_range_is_refused(options):
    model = net()
    [key] = options
    with pytest.raises(precond.HyperparameterError, match=rf"^{key} = .*: must be .*in a param"):
        build("foof", model, params=halves(model, **options))


@pytest.mark.parametrize("name", NAMES)
def test_other_keys_of_groups_are_allowed(name):
    """Training loops store names and learning rate factors in the groups."""
    model = net()
    extra = {"name": "head", "lr_scale": 0.5, "maximize": False, "initial_lr": 0.1}
    optimizer = build(name, model, params=halves(model, **extra))
    train(model, optimizer, 2)
    assert optimizer.param_groups[1]["name"] == "head"
    saved = copy.deepcopy(optimizer.state_dict())
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[1]["lr_scale"] == 0.5


def test_a_change_of_a_fixed_hyperparameter_is_an_error_before_the_step():
    model = net()
    optimizer = build("kfac", model)
    train(model, optimizer, 1)
    before = weights(model)
    optimizer.param_groups[0]["damping"] = 0.5
    backward(model, optimizer)
    with pytest.raises(
        precond.HyperparameterError,
        match=r"^damping = 0.5 in parameter group 0: it was 1.0 when the group was added, and cannot",
    ):
        optimizer.step()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_betas_out_of_range_are_an_error_at_the_step():
    model = net()
    optimizer = build("steve", model)
    optimizer.param_groups[0]["betas"] = (1.5, 0.9)
    backward(model, optimizer)
    with pytest.raises(precond.HyperparameterError, match=r"betas = \(1.5, 0.9\): must be"):
        optimizer.step()


def test_a_loaded_damping_that_differs_is_an_error():
    model = net()
    saved = build("foof", model, params=halves(model, damping=2.0)).state_dict()
    optimizer = build("foof", model, params=halves(model, damping=3.0))
    with pytest.raises(ValueError, match=r"damping = 3.0 in the optimizer, 2.0 in the state"):
        optimizer.load_state_dict(saved)


def test_a_group_that_is_added_later_has_the_settings_of_the_others():
    model = net()
    optimizer = build("kfac", model, params=halves(model)[:1])
    optimizer.same_examples, optimizer.grad_output_scale = False, 0.25
    train(model, optimizer, 3)
    optimizer.add_param_group(halves(model)[1])
    assert optimizer.param_groups[1]["step"] == optimizer.steps == 3
    assert {bank.forwards.same_examples for bank in optimizer._banks} == {False}
    assert {bank.grad_output_scale for bank in optimizer._banks} == {0.25}


# ---------------------------------------------------------------------- messages


WRONG_ARGUMENTS: dict[str, tuple[Callable[..., Any], str]] = {
    "parameters": (lambda make, p: make(iter(p)), "needs the model, not a list_iterator"),
    "a list": (lambda make, p: make(list(p), lr=0.1), "needs the model, not a list"),
    "groups": (lambda make, p: make([{"params": list(p)}]), "needs the model, not a list"),
    "a class": (lambda make, _: make(nn.Linear), "needs the model, not the class Linear"),
    "a keyword": (lambda make, p: make(model=list(p)), "needs the model, not a list"),
    "params only": (lambda make, p: make(params=p, lr=0.1), "needs the model"),
    "lr": (
        lambda make, _: make(net(), 0.1),
        "received 0.1 in addition to the model: pass hyperparameters by name",
    ),
}


@pytest.mark.parametrize("kind", WRONG_ARGUMENTS)
@pytest.mark.parametrize("name", NAMES)
def test_wrong_arguments_say_what_to_pass(name, kind):
    call, message = WRONG_ARGUMENTS[kind]
    optimizer = type(build(name, net()))
    makes = {f'precond.build("{name}", model': partial(precond.build, name)}
    if hasattr(precond, optimizer.__name__):
        mine = type("Mine", (optimizer,), {})
        makes |= {f"{optimizer.__name__}(model": optimizer, "Mine(model": mine}
    for example, make in makes.items():
        with pytest.raises(TypeError) as error:
            call(make, list(net().parameters()))
        text = str(error.value)
        assert message in text and example in text and "\n" not in text


@pytest.mark.parametrize("name", NAMES)
def test_the_text_of_an_optimizer_names_every_hyperparameter(name):
    optimizer = build(name, net())
    text = repr(optimizer)
    for key in precond.defaults(name):
        assert f"{key}: " in text, key
    assert text.startswith(f"{type(optimizer).__name__} (\n") and text.endswith(")")


def test_the_text_of_an_optimizer_lists_the_layers():
    model = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.LayerNorm(8), nn.Linear(8, 8))
    model[3].requires_grad_(False)
    text = repr(precond.FOOF(model, damping=0.25, params=model.parameters()))
    assert "Preconditioned layers (2): 0, 3" in text
    assert "Not preconditioned (2): 1, 2 (LayerNorm is not a Linear or Conv2d layer)" in text
    assert "damping: 0.25" in text
    # 7 x 8 and 8; the norms have 16 each; the frozen layer does not count
    assert "Preconditions 1 of 3 layers, 56 of 88 parameters (63.6%)" in text


def test_the_text_of_an_optimizer_names_the_layers_of_others():
    """The numbers are those of this optimizer, so layers outside of it are no skipped layers."""
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 3), nn.Linear(3, 3))
    model[3].requires_grad_(False)
    text = repr(precond.NysAct(model, params=[model[1].weight, model[2].weight], rank=1))
    text = " ".join(text.split())
    assert "Preconditions 1 of 2 layers, 12 of 16 parameters (75.0%) in this optimizer" in text
    assert "Not preconditioned (1): 1 (LayerNorm is not" in text
    assert "Not in this optimizer (1): 0 (its weight is not in" in text
    assert "Not in this optimizer (1): 3 (its weight did not require" in text


def test_a_layer_with_a_computed_weight_is_in_the_optimizer():
    layer = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4, bias=False))
    text = repr(precond.FOOF(nn.Sequential(layer, nn.Linear(4, 3))))
    assert "Not preconditioned (1): 0 (its weight or bias is computed" in text
    assert "Not in this optimizer" not in text


def test_the_text_of_a_large_model_is_short_and_fits_100_columns():
    layers = [part for _ in range(30) for part in (nn.Linear(4, 4), nn.LayerNorm(4))]
    text = repr(precond.KFAC(nn.ModuleDict({f"a_module_{i}": m for i, m in enumerate(layers)})))
    assert "Preconditioned layers (30): a_module_0," in text and text.count("and 20 more") == 2
    assert "Not preconditioned (30): a_module_1," in text
    assert max(map(len, text.splitlines())) <= 100
