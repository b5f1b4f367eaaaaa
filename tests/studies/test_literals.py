"""The claims in the study files: each compares arms that its study has."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from precond.layers import find_layers
from studies.harness.command import manage
from studies.harness.design import matching
from studies.harness.design.claims import Better, Change, Claim, Equivalent
from studies.harness.design.options import Options
from studies.harness.kinds.artefact import Artefact
from studies.harness.kinds.cost.cost import CostStudy
from studies.harness.kinds.probe.probe import Probe
from studies.harness.kinds.search.search import Search
from studies.harness.kinds.study.study import Study
from studies.harness.published.papers import cells_of
from trainables.workloads import skeleton, workload

ARTEFACTS = manage.artefacts()


def workloads(artefact: Artefact) -> list[str]:
    """Return the default workload, those of the paper, and those of its published numbers."""
    numbers = [str(cell.protocol["workload"]) for cell in cells_of(artefact)]
    return list(dict.fromkeys([artefact.workload, *artefact.published, *numbers]))


def labels(artefact: Artefact, name: str) -> list[str]:
    """Return the labels of the arms that the claims of an artefact can compare on a workload."""
    match artefact:
        case Study():
            return [trial.arm.label for trial in artefact.trials(name, [0])]
        case Search():
            return [*artefact.spaces_of(name)]
        case CostStudy():
            [plan] = artefact.plan(Options(workload=name, extra={"device": "cpu"}))
            released = plan.commands[1][-1].removeprefix("--optimizers=").split(",")
            return [*plan.optimizers, *(f"{optimizer} as-released" for optimizer in released)]
        case Probe():
            selected = workload(name)
            model = skeleton(selected.model, selected.fit(selected.settings({})))
            layers, _ = find_layers(model)
            return artefact.measurement.code.labels([layer.name for layer in layers])
    raise AssertionError(f"{artefact.name}: no labels for this kind")


CASES = [
    pytest.param(artefact, name, id=f"{artefact.name} {name}")
    for artefact in ARTEFACTS.values()
    for name in workloads(artefact)
]


@pytest.mark.parametrize(("artefact", "name"), CASES)
def test_each_claim_compares_arms_of_its_workload(artefact: Artefact, name: str):
    known, claims = labels(artefact, name), artefact.claims_on(name)
    assert claims, "no claim is tested on this workload"
    for claim in claims:
        assert matching.pairs(claim, known), matching.unmatched(claim, known, name)
    texts = [(claim.text, claim.metric) for claim in claims]
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize("artefact", ARTEFACTS.values(), ids=list(ARTEFACTS))
def test_each_claim_is_tested_on_some_workload(artefact: Artefact):
    names = workloads(artefact)
    for claim in artefact.claims:
        assert any(matching.is_on(claim, name) for name in names), claim.text
    reasons = [text.partition(": ")[2] for text in artefact.undecidable]
    assert all(reasons), "each undecidable statement has a reason after a colon"


# ---------------------------------------------------------------------- workloads without variants


def sides(claim: Claim) -> Iterator[str]:
    for side in (claim.arm, claim.base):
        yield from side if isinstance(side, Change) else [side]


@pytest.mark.parametrize(
    "claim",
    [
        Better("kfac as-released lr=*", than="sgd as-released"),
        Equivalent("kfac as-released lr=*"),
        Better(Change("kfac as-released lr=1", "kfac as-released lr=0"), than=Change("a", "b")),
    ],
)
def test_corrected_claim_is_about_the_corrected_variants(claim: Claim):
    corrected = [label.replace(" as-released", "") for label in sides(claim)]
    assert list(sides(claim.corrected)) == corrected != list(sides(claim))
    assert (claim.corrected.on, claim.corrected.points) == (claim.on, claim.points)


def test_first_texts_of_both_sides_are_equal():
    """`*` stands for the optimizer and, in the base only, for each other learning rate."""
    labels = [f"{name} lr={rate}" for name in ("kfac", "eva") for rate in (1, 2, 3)]
    assert matching.pairs(Better("* lr=2", than="* lr=*"), labels) == [
        (f"{name} lr=2", f"{name} lr={rate}") for name in ("kfac", "eva") for rate in (1, 3)
    ]


def test_claims_are_about_the_variants_that_a_workload_has():
    study = ARTEFACTS["ablation_damping"]
    for name, variant in (("digits/autoencoder", ""), ("digits/cnn", " as-released")):
        assert study.claims_on(name)[0] == Better(
            f"nysact-s{variant} damping=10.0", than=f"nysact-s{variant} damping=0.1"
        )
