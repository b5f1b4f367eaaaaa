"""Every registered optimizer shows each behaviour of `tests.precond.behaviours`, or refuses it.

A refusal is an error whose message says why. `behaviours/refusals.py` lists all refusals.
"""

from __future__ import annotations

import re

import pytest

from precond.__main__ import REFUSALS as DOCUMENTED
from precond.algorithm import MODES
from precond.registry import REGISTRY
from tests.composed import COMPOSED
from tests.precond.behaviours import BEHAVIOURS, CONTROLS, NAMES, Subject
from tests.precond.behaviours.faults import FAULTS
from tests.precond.behaviours.refusals import LIST, MODE_OF, REFUSALS, WORDS_FOR
from tests.precond.behaviours.schedulers import SIMILAR, behaviour_of

ERRORS = (ValueError, TypeError, RuntimeError)
# One optimizer for each kind of step, for the behaviours of similar schedulers.
KINDS = (
    *("sgd", "nysact-s", "steve", "kbfgs", "sketchysgd", "mfac", "soap", "schedulefree-adamw"),
    *("muon", "kfac+orthogonal"),
)
FEW = {behaviour_of(scheduler) for scheduler in SIMILAR}
CASES = [
    (name, behaviour)
    for name in (*CONTROLS, *NAMES)
    for behaviour in BEHAVIOURS
    if behaviour not in FEW or name in CONTROLS or name in KINDS
]


@pytest.mark.parametrize(("name", "behaviour"), CASES)
def test_optimizers_behave_like_those_of_torch(name, behaviour):
    subject, refusal = Subject(name), REFUSALS.get((name, behaviour))
    if refusal is None:
        BEHAVIOURS[behaviour](subject)
        return
    with pytest.raises(ERRORS) as error:
        BEHAVIOURS[behaviour](subject)
    first_line = str(error.value).splitlines()[0]
    assert re.match(refusal.message, first_line), first_line
    assert subject.building == refusal.at_construction


def test_refusals_are_listed_once():
    """The refusals name only known behaviours and registered optimizers, not the controls."""
    cells = [(n, b) for refusal in LIST for n in refusal.names for b in refusal.behaviours]
    assert len(cells) == len(set(cells))
    assert {name for name, _ in cells} <= {*REGISTRY, *COMPOSED}
    assert {behaviour for _, behaviour in cells} <= set(BEHAVIOURS)


def test_the_table_of_modes_agrees_with_the_refusals():
    """The documentation generates this table from `card.unsupported` of the registry."""
    assert set(MODE_OF.values()) | {"checkpointing", "compile", "data parallel"} == set(MODES)
    for behaviour, mode in MODE_OF.items():
        for name, entry in REGISTRY.items():
            refused = (name, behaviour) in REFUSALS
            assert refused == (mode in entry.card.unsupported), (name, mode)


def test_the_documentation_names_all_refusals():
    """Each refused behaviour tests a mode of the table, or the text below the table names it."""
    assert {behaviour for _, behaviour in REFUSALS} <= set(MODE_OF) | set(WORDS_FOR)
    assert all(words in DOCUMENTED for words in WORDS_FOR.values())


@pytest.mark.parametrize("kind", FAULTS, ids=lambda kind: kind.__name__)
def test_the_behaviours_notice_faults(kind, monkeypatch):
    settings = CONTROLS["torch SGD"][1]
    monkeypatch.setitem(CONTROLS, kind.__name__, (kind, {**settings, "weight_decay": 1e-3}))
    for behaviour in FAULTS[kind]:
        with pytest.raises((AssertionError, pytest.fail.Exception)):
            BEHAVIOURS[behaviour](Subject(kind.__name__))
