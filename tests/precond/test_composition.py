"""Names and states of preconditioners with an update rule, and the step of a rule on a CPU."""

from __future__ import annotations

import dataclasses
import re

import pytest
import torch
from test_rules import backward, make_model, train
from torch import nn

import precond
from precond import HyperparameterError
from precond.registry import SEPARATOR, composable, composed_names, lookup
from precond.rules import RULES
from precond.rules.base import CHUNK

# ---------------------------------------------------------------------- names and states


def test_a_composed_name_and_the_argument_give_the_same_optimizer():
    weights = []
    for name, options in (("nysact-s+orthogonal", {}), ("nysact-s", {"rule": "orthogonal"})):
        model = make_model()
        optimizer = precond.build(name, model, rank=4, **options)
        assert optimizer.param_groups[0]["rule"] == "orthogonal"
        weights.append(train(model, optimizer))
    assert all(torch.equal(weights[0][key], value) for key, value in weights[1].items())


def test_each_preconditioner_can_be_followed_by_each_rule():
    """The names of the hyperparameters of a rule and an algorithm never coincide."""
    names = composed_names()
    assert len(names) == len(composable()) * (len(RULES) - 1) == 27
    for name in names:
        fields = [f.name for kind in lookup(name).kinds for f in dataclasses.fields(kind)]
        assert len(fields) == len(set(fields)), name
        assert precond.check(name, {}) == []
        assert lookup(name).numerics != lookup(name.partition(SEPARATOR)[0]).numerics


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("steve+sign", "no update rule can follow steve. Use steve, or one of nysact-s, "),
        ("ggt+adam", "no update rule can follow ggt. Use ggt, or one of nysact-s, "),
        ("soap+orthogonal", "no update rule can follow soap"),
        ("foof+sgd", "sgd is the default update rule of foof. Use foof"),
        ("foof+sgin", 'unknown rule "sgin". Did you mean "sign"? Known: sgd, adam, sign, '),
        ("fooof+sign", 'unknown. Did you mean "foof"? Known: sgd, '),
        ("foof+", 'unknown rule "". Known: sgd'),
        ("foof+sign+adam", 'unknown rule "sign+adam".'),
    ],
)
def test_an_invalid_composition_is_a_one_line_error(name, message):
    for call in (lookup, precond.defaults, lambda name: precond.build(name, make_model())):
        with pytest.raises(HyperparameterError, match=re.escape(f'"{name}": {message}')) as error:
            call(name)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("kind", "rule", "message"),
    [
        ("STEVE", "sign", 'rule = "sign": STEVE has its own update rule. Remove rule'),
        ("FOOF", "sgin", 'rule = "sgin": unknown. Did you mean "sign"? Known: sgd, adam, sign'),
        ("GGT", "sign", "rule: unknown hyperparameter"),
    ],
)
def test_an_invalid_rule_of_a_class_is_a_one_line_error(kind, rule, message):
    with pytest.raises(HyperparameterError, match=re.escape(message)):
        getattr(precond, kind)(make_model(), rule=rule)


def test_a_group_cannot_have_another_rule():
    model = make_model()
    with pytest.raises(HyperparameterError, match="FOOF uses rule = 'sign' in all groups"):
        precond.FOOF(model, params=[{"params": [*model.parameters()], "rule": "adam"}], rule="sign")


@pytest.mark.parametrize("target", RULES)
@pytest.mark.parametrize("source", RULES)
def test_the_state_of_another_rule_is_refused_and_changes_nothing(source, target):
    state = precond.FOOF(make_model(), rule=source).state_dict()
    optimizer = precond.FOOF(make_model(), rule=target)
    before = optimizer.state_dict()
    if source == target:
        optimizer.load_state_dict(state)
        return
    with pytest.raises(ValueError, match="not a state of FOOF: its param_groups have "):
        optimizer.load_state_dict(state)
    assert optimizer.state_dict()["param_groups"] == before["param_groups"]


# ---------------------------------------------------------------------- the step on a CPU


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("decoupled", [False, True])
def test_steps_in_parts_equal_steps_of_all_parameters(nesterov, decoupled, monkeypatch):
    """The parts are chosen for the cache of a CPU; they do not change a bit."""
    weights = []
    for size in (CHUNK, 20, 1):
        monkeypatch.setattr("precond.rules.base.CHUNK", size)
        model = make_model()
        optimizer = precond.FOOF(model, lr=0.1, nesterov=nesterov, decoupled=decoupled)
        weights.append(train(model, optimizer))
    for other in weights[1:]:
        assert all(torch.equal(other[key], value) for key, value in weights[0].items())


def test_a_step_does_not_change_the_gradients():
    """On a CPU, the weight decay is added to the directions in place, not to the gradients."""
    for rule in RULES:
        model = make_model()
        optimizer = precond.FOOF(model, rule=rule, weight_decay=0.1)
        backward(model, 0)
        before = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        optimizer.step()
        after = [p.grad for p in model.parameters() if p.grad is not None]
        assert all(map(torch.equal, before, after)), rule


def test_a_failed_direction_restores_the_gradients_of_its_bank(monkeypatch):
    """A CPU overwrites the gradients; after a failure, all layers of the bank have theirs again."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)).double()
    optimizer = precond.NysAct(model, lr=1.0, rank=2, momentum=0.0, weight_decay=0.0)
    x = torch.randn(8, 4, dtype=torch.float64)
    for _ in range(2):
        optimizer.zero_grad()
        model(x).square().sum().backward()
        before = [p.detach().clone() for p in model.parameters()]
        [bank] = optimizer._banks
        expected = bank.algorithm.precondition(
            bank.state,
            torch.stack([torch.cat([m.weight.grad, m.bias.grad[:, None]], 1) for m in model[::2]]),
            lr=1.0,
        )
        if optimizer.steps == 1:
            bank.state.factor.z[0] = torch.inf
        optimizer.step()
    first = before[0] - model[0].weight.detach()
    torch.testing.assert_close(first, model[0].weight.grad)
    torch.testing.assert_close(before[2] - model[2].weight.detach(), expected[1][:, :-1])
    assert optimizer.diagnostics()["0"]["fallbacks"] == 1
    assert optimizer.diagnostics()["2"]["fallbacks"] == 0
