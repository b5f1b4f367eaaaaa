"""Hyperparameters that are tuples: on the command line, in grids, in searches and in tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from studies import Arm, Better, Choice, CurveFigure, LevelFigure, Search, Study, grid
from studies.harness.command.options import parse
from studies.harness.design.options import Options
from studies.harness.evidence import ledger
from studies.harness.kinds.search import sampling
from studies.harness.kinds.search.proposals import Outcome, Proposal
from studies.harness.kinds.search.tuning import plans
from studies.harness.kinds.study.plan import plan
from trainables.workloads import resolve

BETAS = [(0.9, 0.95), (0.9, 0.99)]
STUDY = Study(
    name="tuples",
    title="Betas of Adam",
    claims=[Better("adam betas=0.9/0.99", than="sgd")],
    arms=[*grid("adam", betas=BETAS), Arm(optimizer="sgd")],
    figure=LevelFigure(factor="betas", panels=("adam",), references=("sgd",)),
    workload="digits/mlp",
)


def options(**raw: Any) -> Options:
    parsed, errors = parse(raw)
    assert not errors, errors
    return parsed


@pytest.mark.parametrize("text", ["betas=0.9,0.95", "betas=0.9/0.95"])
def test_a_tuple_can_be_set_on_the_command_line(text: str):
    assert options(settings=[text]).settings == {"betas": (0.9, 0.95)}
    study = Study(
        name="adam", title="Adam", claims=[], arms=[Arm(optimizer="adam")], figure=CurveFigure()
    )
    trials = plan(study, options(settings=[text])).trials
    assert [trial.config.hyperparameters["betas"] for trial in trials] == [[0.9, 0.95]] * 5


def test_levels_that_are_tuples_are_spelled_with_slashes():
    expected = {"betas": [(0.9, 0.95), (0.8, 0.9)]}
    given = ["betas=0.9/0.95,0.8/0.9"]
    assert options(levels=given, only=given).levels == expected
    assert options(levels=given, only=given).only == expected


def test_values_that_are_no_tuples_are_parsed_as_before():
    """A comma in a value of `--set` makes a tuple only if the hyperparameter is a tuple."""
    given = options(
        settings=["lr=0.1,0.2", "randaugment=9/0.5", "rank=5"], levels=["rank=5,10", "sketch=a/b"]
    )
    assert given.settings == {"lr": "0.1,0.2", "randaugment": "9/0.5", "rank": 5}
    assert given.levels == {"rank": [5, 10], "sketch": ["a/b"]}


def test_a_scalar_for_a_tuple_is_an_error_that_shows_the_allowed_values():
    with pytest.raises(ValueError, match=r"betas = \(0\.9,\): must be two numbers in \[0, 1\)"):
        plan(STUDY, options(levels=["betas=0.9"]))


def test_the_levels_of_a_grid_can_be_tuples():
    labels = [trial.arm.label for trial in plan(STUDY, Options(seeds=[0])).trials]
    assert labels == [f"adam betas=0.9/{beta}" for beta in (0.95, 0.99, 0.999)] + ["sgd"]
    selected = plan(STUDY, options(only=["betas=0.9/0.95"], seeds="1")).trials
    assert [trial.arm.label for trial in selected] == ["adam betas=0.9/0.95", "sgd"]
    with pytest.raises(ValueError, match=r"--only betas=0\.1/0\.2: not a level.*are 0\.9/0\.95"):
        plan(STUDY, options(only=["betas=0.1/0.2"]))


def test_a_list_and_a_tuple_are_the_same_trial():
    configs = [resolve("digits/mlp", "adam", {"betas": betas}) for betas in ((0.9, 0), [0.9, 0.0])]
    assert configs[0].trial_key == configs[1].trial_key
    assert configs[0].hyperparameters["betas"] == [0.9, 0.0]
    arms = [*grid("adam", betas=[[0.9, 0.95]]), *grid("adam", betas=[(0.9, 0.95)])]
    assert arms[0] == arms[1]


def test_tables_show_tuples_as_the_command_line_spells_them(tmp_path: Path):
    frame = ledger.frame(plan(STUDY, Options(seeds=[0])).trials, tmp_path)
    assert list(frame["betas"].dropna()) == ["0.9/0.95", "0.9/0.99", "0.9/0.999"]
    assert ledger.series(frame.iloc[0], "lr", ["betas"]) == "betas=0.9/0.95"


SEARCH = Search(
    name="tune",
    title="Tune Adam",
    claims=[],
    spaces={"adam": {"betas": Choice((0.9, 0.999), [0.8, 0.9], (0.5, 0.9))}},
    budget=3,
    workload="digits/mlp",
)


@pytest.mark.parametrize("sampler", ["tpe", "random", "nsgaii"])
def test_a_search_chooses_among_tuples_and_resumes_from_its_file(sampler: str, tmp_path: Path):
    """Parameters read from the file are lists; they give the same proposals and trials."""
    (searched,) = plans(SEARCH, Options())
    space, start = searched.spaces["adam"], searched.start("adam")
    live: list[Outcome] = []
    resumed: list[Outcome] = []
    for number in range(4):
        outcomes = (live, resumed)
        proposals = [sampling.propose(sampler, space, start, o, 1, higher=True) for o in outcomes]
        assert proposals[0] == proposals[1]
        parameters, attributes = proposals[0]
        assert parameters["betas"] in space["betas"].ends
        stored = json.loads(json.dumps(parameters))
        trials = [searched.tuning("adam", values) for values in (parameters, stored)]
        assert trials[0] == trials[1]
        for values, known in zip((parameters, stored), outcomes, strict=True):
            proposal = Proposal(number, values, "", json.loads(json.dumps(attributes)))
            known.append(Outcome(proposal, "completed", 0.5 + number / 10, 0.1, {}, 1.0))
    assert live[0].proposal.parameters == {"betas": (0.9, 0.999)}
    sampling.write_journal(tmp_path / "journal", {"adam": (space, resumed)}, higher=True)


def test_a_choice_of_other_values_than_plain_ones_is_refused():
    assert "tuples of these" in Choice((1, 2), ((1, 2), 3)).problem()
    assert Choice((1, 2), (1, 2)).problem() == "must have at least two values, all different"
    assert str(Choice((0.9, 0.95), "a")) == "{0.9/0.95, a}"
