"""The names of selections: readable, valid in file names and URLs, and different for each selection."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pytest

from studies.ablation_rank import STUDY
from studies.covariance_heatmap import PROBE
from studies.harness.design.options import Options
from studies.harness.kinds.selection import MAX_LENGTH, selection_name
from studies.harness.kinds.tuning.tuning import RecipeTuning
from studies.tune_optimizers import SEARCH

NAMES: Sequence[tuple[dict[str, Any], str]] = [
    ({"optimizers": ["sgd", "foof"]}, "optimizers=foof,sgd"),
    ({"optimizers": ["foof", "sgd", "foof"]}, "optimizers=foof,sgd"),
    ({"only": {"rank": [20, 5]}}, "only.rank=5,20"),
    ({"levels": {"rank": [5, 40, 10]}, "epochs": 5}, "levels.rank=5,10,40+epochs=5"),
    ({"settings": {"lr": 0.1, "damping": 1e-05}}, "set.damping=1e-05+set.lr=0.1"),
    ({"settings": {"lr": 1e20}}, "set.lr=1e20"),
    ({"settings": {"lr": -1.0, "nesterov": False, "rank": None}}, None),
    ({"workers_per_trial": 2}, "workers_per_trial=2"),
    ({"extra": {"budget": "40", "sampler": "random", "asha": True}}, None),
]


@pytest.mark.parametrize(("fields", "name"), NAMES)
def test_name_of_a_selection_is_readable(fields: dict[str, Any], name: str | None):
    selecting = Options(**fields).selecting
    assert selecting == Options(**fields, seeds=[3], dry_run=True).selecting
    assert re.fullmatch(r"[A-Za-z0-9_.,=+-]+", selection_name(selecting))
    assert name is None or selection_name(selecting) == name
    assert Options(**fields).unselected.selecting == {}


def test_options_that_select_nothing_have_no_name():
    options = Options(seeds=[1], extra={"budget": None, "asha": False}, retry=("failed",))
    assert options.selecting == {} and options.unselected.seeds == [1]


@pytest.mark.parametrize(
    "values",
    [
        [{"lr": 1e20}, {"lr": 1e-20}],
        [{"x": "True"}, {"x": True}, {"x": "1"}, {"x": 1}, {"x": 1.0}],
        [{"x": "none"}, {"x": None}],
        [{"x": "a/b"}, {"x": "a-b"}, {"x": "a?b"}, {"x": "a b"}],
        [{"x": "a+set.y=1"}, {"x": "a", "y": 1}],
        [{"x": (0.9, 0.95)}, {"x": "0.9_0.95"}, {"x": (0.95, 0.9)}],
        [{"x": "a" * 200 + end} for end in "bc"],
        [{f"setting{i}": i + last for i in range(40)} for last in (0, 1)],
    ],
)
def test_different_selections_have_different_names(values: list[dict[str, Any]]):
    names = [selection_name(Options(settings=settings).selecting) for settings in values]
    assert len({*names}) == len(values)
    for name in names:
        assert len(name) <= MAX_LENGTH and re.fullmatch(r"[A-Za-z0-9_.,=+-]+", name)


def selection(artefact: Any, **fields: Any) -> str:
    [plan] = artefact.plan(Options(**fields))
    assert plan.folder.name.partition("+")[2] == plan.selection
    return plan.selection


def test_options_that_select_the_studys_own_trials_are_no_selection():
    optimizers = list(dict.fromkeys(trial.arm.optimizer for trial in STUDY.trials()))
    levels = list(dict.fromkeys(t.arm.overrides.get("rank") for t in STUDY.trials()))
    ranks = [rank for rank in levels if rank is not None]
    assert selection(STUDY, optimizers=optimizers[::-1]) == ""
    assert selection(STUDY, levels={"rank": ranks[::-1]}) == ""
    assert selection(STUDY, only={"rank": ranks}) == ""
    assert selection(STUDY, epochs=STUDY.trials()[0].config.epochs, seeds=[7]) == ""
    assert selection(STUDY, optimizers=["sgd"]) == "optimizers=sgd"
    assert selection(STUDY, epochs=3) == "epochs=3"
    assert selection(STUDY, smoke=True) == "" != selection(STUDY, smoke=True, optimizers=["sgd"])


def test_a_plan_with_the_studys_own_trials_has_the_order_of_the_study():
    [plan] = STUDY.plan(Options(levels={"rank": [40, 20, 10, 5, 2, 1]}, seeds=[0]))
    [whole] = STUDY.plan(Options(seeds=[0]))
    assert [t.arm for t in plan.trials] == [t.arm for t in whole.trials]
    assert plan.artefact == whole.artefact


def test_each_kind_names_its_selections():
    everything = list(SEARCH.spaces)
    assert selection(SEARCH, optimizers=everything[::-1], seeds=[3]) == ""
    assert selection(SEARCH, optimizers=["sgd"]) == "optimizers=sgd"
    extra = {"budget": str(SEARCH.budget), "sampler": "TPESampler", "asha": False}
    assert selection(SEARCH, extra=extra) == ""
    assert selection(SEARCH, extra={**extra, "budget": "3"}).startswith("budget=3")
    assert selection(PROBE, settings={"rank": PROBE.measurement.rank}) == ""
    assert selection(PROBE, settings={"rank": 3}) == "set.rank=3"
    assert selection(RecipeTuning(workload="digits/mlp"), optimizers=["sgd"]) == "optimizers=sgd"
