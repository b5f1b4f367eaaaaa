"""The pairs of arms that a claim compares, and the errors in the claims of a literal."""

from __future__ import annotations

import pytest

from studies.harness.design.claims import Better, Change, Claim, Equivalent, NotWorse
from studies.harness.design.matching import is_on, pairs, problems, unmatched

LABELS = ["sgd", "foof", "nysact-s rank=5", "nysact-s rank=20", "nysact-g rank=5", "nysact-g [x]?"]
NS5, NS20, NG5 = LABELS[2:5]


@pytest.mark.parametrize(
    ("claim", "expected"),
    [
        (Better("foof", than="sgd"), [("foof", "sgd")]),
        (Better("nysact-s rank=*", than="sgd"), [(NS5, "sgd"), (NS20, "sgd")]),
        (Better("nysact-s rank=*", than="nysact-g rank=*"), [(NS5, NG5)]),
        (NotWorse(NS5, than="nysact-s rank=*"), [(NS5, NS20)]),
        (Equivalent("nysact-? rank=5", to="sgd"), []),
        (Equivalent("nysact-g [x]?", to="sgd"), [("nysact-g [x]?", "sgd")]),
        (Equivalent("*o*"), []),
        (Equivalent("nysact-* rank=5"), [(NS5, NG5)]),
        (
            Better(Change(NS20, NS5), than=Change("foof", "sgd")),
            [(Change(NS20, NS5), Change("foof", "sgd"))],
        ),
        (Better(Change("nysact-s rank=*", NS5), than=Change(NG5, "sgd")),
         [(Change(NS20, NS5), Change(NG5, "sgd"))]),
    ],
    ids=str,
)  # fmt: skip
def test_pairs_are_selected_by_labels(claim: Claim, expected: list):
    assert pairs(claim, LABELS) == expected
    assert bool(unmatched(claim, LABELS, "this plan")) != bool(expected)


def test_equivalence_without_a_base_compares_all_pairs():
    labels = [f"sgd lr={level}" for level in range(36)]
    assert len(pairs(Equivalent("sgd lr=*"), labels)) == 630


def test_reason_names_the_missing_arm():
    claim = Better("nysact-s rank=10", than="adam")
    reason = "no arm of this plan is called nysact-s rank=10 or adam"
    assert unmatched(claim, LABELS, "this plan") == reason
    nothing = unmatched(Better("sgd", than="sgd"), LABELS, "this plan")
    assert nothing == "this plan has no two arms that the claim compares"


def test_claim_is_tested_on_its_workloads_only():
    claim = Better("sgd", than="foof", on=("cifar*/resnet32", "digits/cnn"))
    names = ["cifar10/resnet32", "digits/cnn", "digits/mlp", "cifar10/resnet110"]
    assert [is_on(claim, name) for name in names] == [True, True, False, False]


@pytest.mark.parametrize(
    ("claim", "line"),
    [
        (Better("nysact rank=5", than="sgd"), 'is called nysact rank=5. Did you mean "nysact-s'),
        (NotWorse("foof", than="sgd", points=-0.1), "points = -0.1: must be >= 0"),
        (NotWorse("foof", than="sgd", share=float("nan")), "share = nan: must be >= 0"),
        (Equivalent("foof", to="sgd", share=0), "share = 0: must be > 0"),
        (Better("foof", than="sgd", on="digits/cnn"), 'on = "digits/cnn": must be a tuple'),  # type: ignore[arg-type]
        (Better(Change(NS5, NS20), than="sgd"), "a change can only be compared with a change"),
        (Better("sgd", than="sgd"), "the study has no two arms that the claim compares"),
        (Better("nysact-s", than="sgd"), f"Its levels are {NS5}, {NS20}; nysact-s * stands for"),
        (Better("foof", than=""), "it has no base"),
        (Better("foof", than=None), "than = None: must be the label of an arm"),  # type: ignore[arg-type]
        (Better(["foof"], than="sgd"), "arm = ['foof']: must be the label of an arm"),  # type: ignore[arg-type]
        (Better("foof", than=Change("sgd", 3)), "base=3): must be the label of an arm"),  # type: ignore[arg-type]
        (NotWorse("foof", than="sgd", points="0.3"), "points = '0.3': must be a number"),  # type: ignore[arg-type]
        (NotWorse("foof", than="sgd", points=3), "points = 3: must be < 1; 0.003 is 0.3 perc"),
        (NotWorse("foof", than="sgd", share=float("inf")), "share = inf: must be finite"),
        (Better("foof", than="sgd", on=None), "on = None: must be a tuple of workloads"),  # type: ignore[arg-type]
        (Better("foof", than="sgd", on=()), "on = (): must be a tuple of workloads"),
        (Better("foof", than="sgd", metric=3), "metric = 3: must be a text"),  # type: ignore[arg-type]
    ],
    ids=str,
)
def test_each_error_is_one_line(claim: Claim, line: str):
    (error,) = problems([claim], LABELS)
    assert error.startswith(f'claim "{claim.text}": ') and line in error and "\n" not in error


def test_claims_must_be_a_list_of_claims():
    assert problems(Better("foof", than="sgd"), LABELS) == problems("foof is best", LABELS)
    assert problems(["foof is best"], LABELS)[0].startswith(
        "claims: 'foof is best': must be Better"
    )
    assert problems([NotWorse("foof", than="sgd", points=0)], LABELS) == []


def test_claim_that_is_stated_twice_is_an_error():
    claim = Better("foof", than="sgd")
    assert problems([claim, claim], LABELS) == ['claim "foof is better than sgd": is stated twice']
    assert problems([claim, Better("foof", than="sgd", metric="train/loss")], LABELS) == []
