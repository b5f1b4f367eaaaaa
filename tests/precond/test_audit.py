"""`precond.audit` names the first step, the tensor and the conventions in which two sides differ."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest
import torch

import precond
from precond.auditing import reference
from precond.auditing.catalogue import CATALOGUE
from precond.auditing.conventions import FAMILIES, LION, SIGN
from precond.auditing.problem import Problem
from precond.auditing.running import follow
from precond.auditing.sides import AuditError, side
from precond.hyperparameters import HyperparameterError

FILE = Path(__file__).with_name("planted.py")
ADAMW = "torch.optim.AdamW:lr=0.01,betas=(0.9,0.99),eps=0.001,weight_decay=0.1"
SGD = "torch.optim.SGD:lr=0.1,momentum=0.9,weight_decay=0.05"
FOOF = "foof:cov_interval=1,inv_interval=1"


def planted(name: str, topic: str = "") -> str:
    """Return the description of an optimizer in planted.py, or in planted_TOPIC.py."""
    return f"{FILE.with_stem(f'planted_{topic}' if topic else 'planted')}:{name}"


PLAIN = f"{FOOF},ema_decay=0.0,damping=0.3,momentum=0.0,weight_decay=0.0"

PLANTED = [
    (ADAMW, planted("EpsInside"), "eps_place"),
    (ADAMW, planted("EpsHat"), "eps_place"),
    (ADAMW, planted("EpsInSquares"), "eps_place"),
    (ADAMW, planted("NoFirstCorrection"), "first_correction"),
    (ADAMW, planted("NoSecondCorrection"), "second_correction"),
    (ADAMW, planted("CounterAhead"), "counter"),
    (ADAMW, ADAMW.replace("AdamW", "Adam"), "decay"),
    (ADAMW, planted("DecayWithoutLr"), "decay"),
    (ADAMW, planted("DecayAfter"), "decay"),
    (ADAMW, planted("DecayInFirstMoment"), "decay"),
    (ADAMW, f"{ADAMW},amsgrad=True", "amsgrad"),
    (ADAMW, f"{ADAMW},maximize=True", "sense"),
    (ADAMW, planted("OldSecondMoment"), "second_use"),
    (ADAMW, planted("Deviation"), "second_of"),
    (ADAMW, planted("NormalisedByTensor"), "gradient"),
    (ADAMW, planted("Clipped"), "gradient"),
    (ADAMW, planted("Swapped"), "beta1"),
    (ADAMW, planted("HiddenBeta2"), "beta2"),
    (ADAMW, planted("HiddenEps"), "eps"),
    (ADAMW, planted("ByShape"), "scale"),
    (SGD, f"{SGD},nesterov=True", "nesterov"),
    (SGD, planted("NesterovFromStep2", "rules"), "nesterov"),
    (SGD, planted("Averaged", "rules"), "momentum"),
    (SGD, f"{SGD},dampening=0.5", "dampening"),
    (planted("Averaged", "rules"), planted("AveragedFromGradient", "rules"), "first_buffer"),
    (SGD, planted("LrInBuffer", "rules"), "lr_place"),
    (SGD, planted("Decoupled", "rules"), "decay"),
    (SGD, planted("HiddenLr", "rules"), "lr"),
    (SGD, planted("TrustRatio", "rules"), "scale"),
    (SGD, planted("Normalised", "rules"), "gradient"),
    (planted("Lion", "rules"), planted("LionDecayAfter", "rules"), "decay"),
    ("torch.optim.RMSprop:eps=0.001", planted("RMSpropInside", "rules"), "eps_place"),
    ("kfac", "kfac:damping_rule=eigen", "damping_rule"),
    ("foof:lr=0.05", "foof:damping=0.5,lr=0.05", "damping"),
    (FOOF, f"{FOOF},nesterov=True", "nesterov"),
    (FOOF, f"{FOOF},decoupled=True", "decay"),
    (
        FOOF + ",weight_decay=0.1",
        planted("PreconditionedDecay:cov_interval=1,inv_interval=1,weight_decay=0.1", "layers"),
        "place of the decay",
    ),
    (PLAIN, planted("FOOFWithoutBias", "layers"), "bias"),
    (PLAIN, planted("DelayedFOOF", "layers"), "use of the statistics"),
    (PLAIN.replace("0.3", "0.5"), planted("LiteralFOOF", "layers"), "damping"),
    (FOOF + ",nesterov=True,weight_decay=0.0", planted("ReleasedNesterov", "layers"), "nesterov"),
]


@pytest.mark.parametrize(("a", "b", "convention"), PLANTED)
def test_a_planted_difference_is_named(a, b, convention):
    result = precond.audit(a, b, steps=8)
    assert not result.equal
    assert result.conventions == [{convention}], str(result)
    assert result.explanations[0].error <= result.tolerance


@pytest.mark.parametrize(("a", "b", "convention"), PLANTED[::7])
def test_the_order_of_the_sides_does_not_matter(a, b, convention):
    assert precond.audit(b, a, steps=8).conventions == [{convention}]


@pytest.mark.parametrize(
    ("b", "conventions"),
    [
        ("EpsInsideUncorrected", {"eps_place", "first_correction"}),
        ("AfterWithoutSecondCorrection", {"decay", "second_correction"}),
        ("NoFirstCorrection:lr=0.02", {"lr", "first_correction"}),
    ],
)
def test_two_differences_are_both_named(b, conventions):
    assert precond.audit(ADAMW, planted(b)).conventions == [conventions]


def test_an_estimated_value_is_reported():
    (explanation,) = precond.audit(ADAMW, planted("HiddenBeta2")).explanations
    assert explanation.differences[0].b == "beta2 = 0.95"
    (explanation,) = precond.audit(planted("HiddenLr", "rules"), SGD).explanations
    assert explanation.differences[0].a == "lr = 0.17"


def test_the_first_step_is_that_of_the_difference():
    first = precond.audit(SGD, planted("NesterovFromStep2", "rules")).first
    assert first is not None and first.step == 2
    first = precond.audit(SGD, planted("LrInBuffer", "rules")).first
    assert first is not None and first.step == 11  # the learning rate changes there


def test_the_tensor_is_the_one_that_differs():
    def without_decay_of_the_head(model):
        groups = [
            {"params": [p for n, p in model.named_parameters() if n != "head.weight"]},
            {"params": [model.head.weight], "weight_decay": 0.0},
        ]
        return torch.optim.SGD(groups, lr=0.1, momentum=0.9, weight_decay=0.05)

    result = precond.audit(SGD, without_decay_of_the_head)
    assert result.first is not None and result.first.tensor == "head.weight"
    assert [any(row[i] for row in result.table) for i in range(len(result.tensors))] == [
        name == "head.weight" for name in result.tensors
    ]
    (explanation,) = result.explanations
    assert explanation.tensors == ("head.weight",)
    assert result.conventions == [{"weight_decay"}]


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (SGD, "sgd:lr=0.1,weight_decay=0.05"),
        (ADAMW, "adamw:lr=0.01,betas=(0.9,0.99),eps=0.001,weight_decay=0.1"),
        (ADAMW, planted("Adam")),
        (PLAIN, planted("LiteralFOOF", "layers")),
        (FOOF, "nysact-s:rank=18,cov_interval=1,inv_interval=1"),
        ("nysact-g", "nysact-g"),
        ("sketchysgd:interval=5", "sketchysgd:interval=5"),
        ("torch.optim.LBFGS", "torch.optim.LBFGS"),  # its step requires a closure
    ],
)
def test_equal_optimizers_are_equal(a, b):
    result = precond.audit(a, b, steps=8)
    assert result.equal and not result.explanations, str(result)


def test_an_unknown_difference_is_not_explained():
    result = precond.audit(ADAMW, planted("Cubed"), steps=4)
    assert not result.equal and not result.explanations
    assert "Nothing in the catalogue" in str(result)
    assert "the updates differ in their direction" in " ".join(str(result).split())
    assert max(len(line) for line in str(result).splitlines() if str(FILE) not in line) <= 80


def test_choices_that_a_run_does_not_distinguish_are_all_listed():
    """The decay before and after the step differ by lr x weight_decay = 1e-3."""
    coupled = ADAMW.replace("AdamW", "Adam")
    result = precond.audit(coupled, planted("DecayAfter"), steps=4, tolerance=0.005)
    sentences = [explanation.differences[0].b for explanation in result.explanations]
    assert [sentence[-15:] for sentence in sentences] == ["before the step", " after the step"]
    assert "This run does not distinguish 2 explanations." in str(result)


def test_a_convention_that_cannot_show_is_listed():
    text = " ".join(str(precond.audit(f"{SGD[:-5]}=0.0", "sgd:lr=0.1,weight_decay=0.0")).split())
    assert "weight decay (weight_decay = 0)" in text
    assert "Nesterov" not in text


def test_a_hyperparameter_that_differs_without_effect_is_listed():
    result = precond.audit("foof:lr=0.1", "foof:lr=0.2,ema_decay=0.5", steps=4)
    assert result.conventions == [{"lr"}]
    assert "ema_decay (A: 0.95, B: 0.5)" in result.undistinguished


def test_kinds_of_parameters_that_a_side_refuses_are_omitted():
    result = precond.audit("torch.optim.Muon", "torch.optim.Muon", steps=2)
    assert result.model == "weights of Linear layers only"
    assert "Muon only supports 2D parameters" in " ".join(str(result).split())
    assert result.equal


def test_the_report_has_80_columns():
    lines = str(precond.audit(ADAMW, planted("EpsInside"), steps=4)).splitlines()
    assert max(len(line) for line in lines if str(FILE) not in line) <= 80
    assert lines[3].startswith("A and B first differ in step 1. ")


def test_a_side_can_be_a_function_of_the_model():
    result = precond.audit(
        lambda model: torch.optim.SGD(model.parameters(), lr=0.1),
        lambda model: torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1),
        steps=4,
    )
    assert result.conventions == [{"weight_decay"}]


def test_an_audit_does_not_change_the_random_numbers():
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    precond.audit("sketchysgd", "sketchysgd", steps=2)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("name", CATALOGUE)
def test_each_choice_changes_the_updates(name):
    """The reference computes each choice in another way, where the catalogue says so."""
    path = follow(side(ADAMW), Problem("all kinds of parameters", 8))
    bound = 0.9 * path.gradients.abs().max().item()  # clips some steps and some entries
    options = {"max_norm": bound, "dampening": 0.5, "weight_decay": 0.1, "eps": 1e-2}
    for family in FAMILIES.values():
        if name == "gradient" and family.kind in (SIGN, LION):
            continue  # the sign of a gradient does not depend on its norm
        base = replace(family, beta1=0.9, beta2=0.99, lr=0.1, **options)
        choices = CATALOGUE[name].differing(base)
        updates = [
            torch.stack(list(reference.updates(replace(base, **{name: choice}), path)))
            for choice in choices
        ]
        for (first, u), (second, v) in combinations(zip(choices, updates, strict=True), 2):
            assert not torch.allclose(u, v, rtol=1e-9, atol=0), (name, base, first, second)


def _frozen(model):
    for p in list(model.parameters())[:2]:
        p.requires_grad_(False)
    return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)


def _sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1)


def test_parameters_that_one_side_freezes_are_no_convention():
    for pair in ((_frozen, _sgd), (_sgd, _frozen)):
        result = precond.audit(*pair, steps=4)
        assert not result.equal and not result.conventions
    assert precond.audit(_frozen, _frozen, steps=4).equal


def test_the_report_says_that_a_does_not_change_a_tensor():
    result = precond.audit(_frozen, _sgd, steps=3)
    assert result.first.ratio is None and "A does not change `shift`." in str(result)
    json.loads(result.json(), parse_constant=pytest.fail)


@pytest.mark.parametrize("lr", ["1e200", "1e60"])
def test_an_update_that_is_not_finite_is_an_error(lr):
    sgd = f"torch.optim.SGD:lr={lr}"
    with pytest.raises(AuditError, match=r"its update of .* in step \d is not finite"):
        precond.audit(sgd, sgd)
    with pytest.raises(AuditError, match=r"update of embedding.weight in step 1 is not finite"):
        precond.audit("torch.optim.Adam", "torch.optim.Adam:eps=0", steps=3)


def test_the_report_says_that_rounding_may_hide_a_difference():
    note = "may hide relative differences below"
    tiny = precond.audit("torch.optim.SGD:lr=1e-18", "torch.optim.Adam:lr=1e-18", steps=4)
    assert tiny.resolution > 0.1 and note in " ".join(str(tiny).split())
    zero = precond.audit("torch.optim.SGD:lr=0", "torch.optim.SGD:lr=0", steps=4)
    assert zero.resolution == 1 and note in " ".join(str(zero).split())
    result = precond.audit(ADAMW, ADAMW, steps=4)
    assert result.resolution < 1e-12 and note not in " ".join(str(result).split())


def test_options_that_are_no_numbers_are_not_hyperparameters_of_the_reference():
    def make(model):
        optimizer = _sgd(model)
        optimizer.param_groups[0]["betas"] = (None, 0.9)
        return optimizer

    (names,) = precond.audit(make, "torch.optim.SGD:lr=0.2", steps=4).conventions
    assert names == {"lr"}


def test_a_value_that_does_not_fit_the_model_of_the_audit_names_the_side():
    with pytest.raises(HyperparameterError, match=r"nysact-s:rank=99: rank = 99: .*\(an audit "):
        precond.audit("nysact-s", "nysact-s:rank=99")
