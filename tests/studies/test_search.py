"""Searches without Ray: spaces, proposals, reports, and how a search resumes."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import optuna
import pytest

from precond.hyperparameters import HyperparameterError
from studies.harness.command import cli, manage
from studies.harness.command.cli import main
from studies.harness.design.options import Options
from studies.harness.kinds.search import sampling
from studies.harness.kinds.search.proposals import STOPPED, Outcome, Proposal, best, proposals_path
from studies.harness.kinds.search.proposer import Proposer
from studies.harness.kinds.search.report import write
from studies.harness.kinds.search.results import SearchResults
from studies.harness.kinds.search.search import Choice, Range, Search
from studies.harness.kinds.search.tuning import SearchPlan, plans
from studies.tune_optimizers import SEARCH as TUNE
from tests.folders import PROVENANCE
from trainables.files import StoreError
from trainables.store import COMPLETED, DIVERGED, FAILED, TrialStore, trial_folders

SEARCH = Search(
    workload="digits/cnn",
    name="tune_test",
    title="A search",
    paper="NysAct",
    table="no table",
    spaces={
        "sgd": {"lr": Range(0.01, 1.0, log=True), "weight_decay": Range(0.0, 2e-3)},
        "nysact-s": {
            "lr": Range(0.03, 3.0, log=True),
            "rank": Range(5, 20),
            "resample": Choice("fixed", "window"),
        },
    },
    budget=12,
)


def plan(search: Search = SEARCH, **fields) -> SearchPlan:
    return SearchPlan(
        artefact=search,
        workload="digits/cnn",
        options=Options(),
        spaces=search.spaces_of("digits/cnn"),
        seeds=range(2),
        recipe={"epochs": 2},
        **fields,
    )


def score(trial) -> float:
    """Return a score that depends only on the learning rate, with its maximum at 0.2."""
    return 0.9 - 0.1 * abs(math.log10(trial.config.hyperparameters["lr"] / 0.2))


def write_finished_trial(root: Path, trial, status: str = COMPLETED) -> None:
    """Write the folder of a trial that a worker has trained to its end."""
    store = TrialStore(root, trial.config)
    store.begin(PROVENANCE)
    for epoch in range(trial.config.epochs):
        metrics = {"val/accuracy": score(trial) - 0.01 * (1 - epoch), "val/loss": 0.5}
        store.record(epoch, {**metrics, "time/train_s": 0.5, "time/eval_s": 0.25})
    store.finish(status)


def run_search(
    root: Path, search: Search, trials: int | None = None, optimizer: str = "nysact-s"
) -> Proposer:
    """Propose and finish one trial at a time; stop after `trials` proposals, as if killed.

    The fourth trial diverges and the sixth fails.
    """
    proposer = Proposer(plan(search), optimizer, root)
    for _ in range(search.budget if trials is None else trials):
        if (trial := proposer.next()) is not None:  # duplicates are not trained
            number = len(proposer.outcomes()) - 1
            write_finished_trial(root, trial, {3: DIVERGED, 5: FAILED}.get(number, COMPLETED))
    return proposer


def proposal_lines(root: Path, optimizer: str = "nysact-s") -> list[dict]:
    lines = proposals_path(root, "tune_test", "digits/cnn", optimizer).read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("sampler", ["tpe", "random", "nsgaii", "qmc"])
def test_killed_search_makes_the_same_proposals(tmp_path: Path, sampler: str):
    search = replace(SEARCH, sampler=sampler, budget=20)
    uninterrupted = run_search(tmp_path / "uninterrupted", search)
    run_search(tmp_path / "killed", search, trials=7)
    proposer = Proposer(plan(search), "nysact-s", tmp_path / "killed")
    submitted = proposer.next()  # the driver is killed before it trains this trial
    assert submitted is not None
    resumed = Proposer(plan(search), "nysact-s", tmp_path / "killed")
    while trial := resumed.next():
        assert len(resumed.outcomes()) > 8 or trial == submitted
        write_finished_trial(tmp_path / "killed", trial)
    assert resumed.left() == 0 and len(proposal_lines(tmp_path / "killed")) == 21
    assert proposal_lines(tmp_path / "killed") == proposal_lines(tmp_path / "uninterrupted")
    statuses = [outcome.status for outcome in uninterrupted.outcomes()]
    assert statuses.count(COMPLETED) >= 18  # the diverged and the failed trial also use the budget


def test_proposals_depend_on_the_scores_and_start_with_the_recipe(tmp_path: Path):
    """TPE starts with the recipe's values and approaches the best learning rate."""
    outcomes = run_search(tmp_path, replace(SEARCH, budget=30), optimizer="sgd").outcomes()
    proposals = [outcome.proposal.parameters for outcome in outcomes]
    assert proposals[0] == {"lr": 0.1, "weight_decay": 5e-4}
    distances = [abs(math.log10(parameters["lr"] / 0.2)) for parameters in proposals]
    early, late = distances[1:10], distances[15:]
    assert sum(late) / len(late) < 0.6 * sum(early) / len(early)
    domains = {"lr": Range(0.01, 1.0), "weight_decay": Range(0.0, 2e-3)}
    for parameters in proposals:
        assert all(domains[name].holds(value) for name, value in parameters.items())


def test_attributes_of_the_sampler_are_restored(tmp_path: Path):
    """NSGA-II stores the generation in attributes of trials; without them, it would not increase."""
    search = replace(SEARCH, sampler="nsgaii", budget=20)
    generations = [
        outcome.proposal.attributes["trial"]["NSGAIISampler:generation"]
        for outcome in run_search(tmp_path, search, optimizer="sgd").outcomes()[1:]
    ]
    assert generations[0] == 0 and generations == sorted(generations) and generations[-1] == 2


def test_partial_last_line_is_not_a_proposal(tmp_path: Path):
    run_search(tmp_path, SEARCH, trials=3)
    path = proposals_path(tmp_path, "tune_test", "digits/cnn", "nysact-s")
    content = path.read_bytes()
    lines = content.splitlines(keepends=True)
    for cut in (1, len(lines[-1]) // 2, len(lines[-1]) - 1):
        path.write_bytes(content[:-cut])
        proposer = Proposer(plan(), "nysact-s", tmp_path)
        assert len(proposer.outcomes()) == 2
        assert proposer.next() is not None
        assert path.read_bytes()[: len(content)] == content, "the proposal differs"
    path.write_bytes(lines[0][:-5])  # as if the driver had been killed during its first write
    assert Proposer(plan(), "nysact-s", tmp_path).next() is not None
    assert path.read_bytes().startswith(lines[0])


def test_equal_proposals_are_trained_once(tmp_path: Path):
    spaces = {"nysact-s": {"resample": Choice("fixed", "window")}}
    proposer = Proposer(plan(replace(SEARCH, spaces=spaces, budget=6)), "nysact-s", tmp_path)
    trials = []
    while trial := proposer.next():
        trials.append(trial)
    assert len(trials) == 2 and len(list(trial_folders(tmp_path))) == 2 and proposer.left() == 6
    for trial in trials:
        write_finished_trial(tmp_path, trial)
    assert proposer.left() == 0 and len(proposer.outcomes()) == 6


def test_trial_that_asha_stopped_is_not_submitted_again(tmp_path: Path):
    search = replace(SEARCH, asha=True, budget=5)
    proposer = run_search(tmp_path, search, trials=2)
    trial = proposer.next()
    assert trial is not None
    proposer.stop(trial.config.trial_key, 0, {0: 0.25}, 3.0)
    resumed = Proposer(plan(search), "nysact-s", tmp_path)
    stopped = resumed.outcomes()[2]
    assert (stopped.status, dict(stopped.values), stopped.seconds) == (STOPPED, {0: 0.25}, 3.0)
    following = resumed.next()
    assert following is not None and following.config.trial_key != trial.config.trial_key
    path = tmp_path / "journal"
    studies = {"name": (plan(search).spaces["nysact-s"], resumed.outcomes())}
    sampling.write_journal(path, studies, higher=True)
    backend = optuna.storages.journal.JournalFileBackend(str(path))
    study = optuna.load_study(study_name="name", storage=optuna.storages.JournalStorage(backend))
    assert [t.state.name for t in study.trials] == ["COMPLETE", "COMPLETE", "PRUNED", "RUNNING"]
    assert study.trials[0].value == resumed.outcomes()[0].score
    assert study.trials[2].intermediate_values == {0: 0.25}
    assert study.trials[0].user_attrs["trial_key"] == proposal_lines(tmp_path)[1]["trial_key"]


def test_different_search_in_the_same_folder_is_an_error(tmp_path: Path):
    run_search(tmp_path, SEARCH, trials=1)
    for changed, difference in (
        (replace(SEARCH, sampler="random"), "sampler = tpe, not random"),
        (replace(SEARCH, tuning_seed=7), "trial.seed = 1000, not 7"),
        (
            replace(SEARCH, spaces={"nysact-s": {"lr": Range(0.03, 2.0, log=True)}}),
            "space.lr.high = 3.0, not 2.0",
        ),
    ):
        with pytest.raises(StoreError, match="use another --out") as error:
            Proposer(plan(changed), "nysact-s", tmp_path)
        assert difference in str(error.value)
        assert changed.state(tmp_path) == "unknown: OUT has a search with other settings"
    path = proposals_path(tmp_path, SEARCH.name, "digits/cnn", "nysact-s")
    header, *rest = path.read_text().splitlines(keepends=True)
    older = json.loads(header)
    assert older["search"]["trial"].pop("data") is None, "earlier versions do not write this field"
    path.write_text("".join([json.dumps(older) + "\n", *rest]))
    larger_budget = replace(SEARCH, budget=99)
    assert Proposer(plan(larger_budget), "nysact-s", tmp_path).left() == 98
    path.write_text("{\n" + path.read_text())
    assert SEARCH.state(tmp_path) == "unknown: OUT has an unreadable file"


def test_configurations_are_scored_on_the_held_out_part_of_the_training_set(tmp_path: Path):
    search = plan(settings={"momentum": 0.5, "rank": 7})
    tuning, fresh = search.tuning("sgd", {"lr": 0.2}), search.fresh("sgd", {"lr": 0.2})
    assert tuning.config.train_fraction == 0.9 and tuning.config.seed == 1000
    assert [t.config.seed for t in fresh] == [0, 1]
    assert {t.config.train_fraction for t in fresh} == {1.0}
    assert tuning.config.hyperparameters["momentum"] == 0.5
    assert tuning.config.hyperparameters["lr"] == 0.2


def test_best_has_the_highest_score_then_the_lower_loss_then_the_lower_number():
    rows = [
        (0.9, 0.3, COMPLETED),
        (math.nan, math.nan, DIVERGED),
        (0.95, 0.4, COMPLETED),
        (0.95, 0.2, COMPLETED),
    ]
    rows += [(0.95, 0.2, COMPLETED)]
    outcomes = [
        Outcome(Proposal(i, {}, ""), status, s, loss, {}, 0.0)
        for i, (s, loss, status) in enumerate(rows)
    ]
    winner = best(outcomes, higher=True)
    assert winner is not None and winner.proposal.number == 3
    assert best(outcomes[1:2], higher=True) is None


INVALID_SPACES = [
    (
        {"sgd": {"lrr": Range(0.1, 1)}},
        'space of sgd: lrr: unknown hyperparameter. Did you mean "lr"?',
    ),
    (
        {"sgd": {"lr": Range(1, 0.1)}},
        "space of sgd: lr = 1..0.1: the lower end must be below the upper end",
    ),
    (
        {"sgd": {"lr": Range(0, 1, log=True)}},
        "on a logarithmic scale, the lower end must be above 0",
    ),
    ({"sgd": {"lr": Range(0.01, math.inf)}}, "both ends must be finite numbers"),
    (
        {"sgd": {"momentum": Range(0.5, 1.0)}},
        "space of sgd: momentum = 1.0: must be a number in [0, 1)",
    ),
    (
        {"sgd": {"nesterov": Choice(True)}},
        "nesterov = {True}: must have at least two values, all different",
    ),
    (
        {"adam": {"betas": Choice({0.9, 0.99}, {0.9, 0.999})}},
        "values must be numbers, words, true, false, none or tuples of these",
    ),
    ({"nysact-s": {"rank": Range(5, 9999)}}, "rank = 9999: the widest layer (10) has 513 inputs"),
    (
        {"nysact-s": {"sketch": Choice("subcolumn", "gausian")}},
        "sketch = 'gausian': must be one of",
    ),
    (
        {"sgd": {"lr": Range(0.2, 1.0)}},
        "space of sgd on digits/cnn: lr = 0.2..1: must contain the recipe's 0.1",
    ),
]


@pytest.mark.parametrize(
    ("spaces", "line"), INVALID_SPACES, ids=[line for _, line in INVALID_SPACES]
)
def test_invalid_space_is_an_error(spaces, line):
    problems = plan(replace(SEARCH, spaces=spaces)).problems()
    assert any(line in problem for problem in problems), problems


def test_valid_spaces_have_no_errors():
    assert plan().problems() == []


def test_sampler_names_are_checked_and_missing_packages_are_reported():
    assert {"tpe", "random", "nsgaii", "gp"} <= set(sampling.samplers())
    assert sampling.sampler_problems("tpe") == []
    assert 'Did you mean "random"?' in sampling.sampler_problems("randm")[0]
    assert sampling.sampler_problems("xyz") == [
        '--sampler = "xyz": unknown. Known: gp, nsgaii, nsgaiii, qmc, random, tpe'
    ]
    # CMA-ES needs a package that is not installed.
    problem = "needs the package cmaes, which is not installed. Known: gp, nsgaii, "
    assert sampling.sampler_problems("cmaes")[0].startswith(f"--sampler = cmaes: {problem}")
    assert "Did you mean" not in sampling.sampler_problems("cmae")[0]


def test_sampler_that_would_draw_a_hyperparameter_at_random_is_refused(monkeypatch, tmp_path):
    # As if all packages of the samplers were installed.
    monkeypatch.setattr(sampling, "missing_packages", lambda name: [])
    monkeypatch.setattr(sampling, "propose", lambda *arguments, **named: None)
    options = Options(out=tmp_path / "out", extra={"sampler": "cmaes"})
    with pytest.raises(HyperparameterError) as error:
        plans(SEARCH, options)
    assert str(error.value) == (
        "--sampler = cmaes: does not optimize resample of nysact-s, which is not a range of "
        "numbers. Known: gp, nsgaii, nsgaiii, qmc, random, tpe"
    )
    space = {"resample": Choice(1, 2), "betas": Choice((0.9, 0.95), (0.8, 0.9))}
    [line] = sampling.sampler_problems("cmaes", [("sgd", space)])
    assert "resample, betas of sgd, which are not ranges of numbers." in line
    assert plans(SEARCH, replace(options, report_only=True))  # a report makes no proposals
    [unknown] = sampling.sampler_problems("cmae", [*SEARCH.spaces.items()])
    assert "cmaes" not in unknown
    assert 'Did you mean "cmaes"?' in sampling.sampler_problems("cmae")[0]


@pytest.mark.parametrize("sampler", ["gp", "nsgaii", "nsgaiii", "qmc", "random", "tpe"])
def test_samplers_without_requirements_support_every_space(sampler: str):
    for space in (*SEARCH.spaces.values(), {"lr": Range(0.1, 1.0)}, {"resample": Choice(1, 2)}):
        assert sampling.unsupported(sampler, space) == []


def run_command(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["tune_optimizers.py", *arguments])
    with pytest.raises(SystemExit) as exit_:
        main(TUNE)
    return int(exit_.value.code or 0)


INVALID_COMMANDS = [
    (["--sampler", "tpee"], '--sampler = "tpee": unknown. Did you mean "tpe"?'),
    (["--budget", "0"], "--budget = 0: must be an integer >= 1"),
    (["--set", "lr=0.1"], "--set lr=0.1: tune_optimizers tunes lr; remove this option"),
    (
        ["--set", "nestrov=true"],
        'no optimizer of tune_optimizers has this setting. Did you mean "nesterov"?',
    ),
    (
        ["--optimizers", "sgd,eva"],
        '--optimizers = "eva": tune_optimizers has no space for this optimizer.',
    ),
    (["--seeds", "1000,"], "1000 is the seed of the tuning trials; use other seeds"),
    (
        ["--workload", "digits/cnn", "--set", "batch_size=1"],
        "batch_size = 1: must be an integer in 2..1077",
    ),
    (["--only", "lr=1"], "--only: not available for tune_optimizers, which is a search"),
    (["--workload", "digits/cn"], 'Did you mean "digits/cnn"?'),
]


@pytest.mark.parametrize(
    ("arguments", "line"),
    INVALID_COMMANDS,
    ids=[" ".join(arguments) for arguments, _ in INVALID_COMMANDS],
)
def test_invalid_command_is_an_error_and_writes_nothing(
    arguments, line, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert run_command(arguments, monkeypatch) == 2
    assert line in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_dry_run_prints_the_plan_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = "--dry-run --budget 3 --optimizers sgd --sampler NSGA-II"
    assert run_command(arguments.split(), monkeypatch) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "3 configurations for each of 1 optimizer (nsgaii)" in text
    assert "5 fresh trials to go" in text
    assert "Training takes about" in text and not list(tmp_path.iterdir())


PAPER_WORKLOADS = [
    "cifar10/resnet32",
    "cifar10/resnet50",
    "cifar100/vit_s16",
    "tinyimagenet/resnet50",
    "imagenet/resnet50",
    "imagenet/deit_s",
]


def test_spaces_contain_the_recipes_of_the_papers():
    options = Options(only={}, levels={}, settings={}, workload=",".join(PAPER_WORKLOADS))
    assert [(plan.workload, plan.problems()) for plan in plans(TUNE, options)] == [
        (name, []) for name in PAPER_WORKLOADS
    ]


def test_reports_of_equal_folders_are_equal_and_exclude_stopped_trials(tmp_path: Path):
    search = replace(SEARCH, asha=True, budget=5)
    proposer = run_search(tmp_path, search, trials=3)
    trial = proposer.next()
    assert trial is not None
    proposer.stop(trial.config.trial_key, 0, {0: 0.99}, 3.0)
    last = proposer.next()
    assert last is not None
    write_finished_trial(tmp_path, last, DIVERGED)
    winner = proposer.winner()
    assert winner is not None and winner.proposal.number in (0, 1, 2)
    fresh = plan(search).fresh("nysact-s", winner.proposal.parameters)
    results = SearchResults(plan(search), [proposer], fresh, tmp_path)
    curve = results.curves["nysact-s"]
    assert len(curve) == 5 and curve["mean"].iloc[-1] == winner.score
    # Two of the five proposals, the stopped and the diverged trial, have no score.
    assert curve["none"].iloc[0] == pytest.approx(0.4)
    first, second = (
        {path.name: path.read_bytes() for path in write(results, tmp_path / folder)}
        for folder in ("first", "second")
    )
    text = first["report.md"].decode()
    assert "| nysact-s | 0 |" in text and "2 of 2 not run" in text and "| 5 | 1 | 1 | 0 |" in text
    assert first.pop("optuna.journal") and second.pop(
        "optuna.journal"
    )  # the journals contain the time
    assert first == second


def test_option_that_one_of_several_studies_refuses_is_an_error(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = ["run", "ablation_rank", "tune_optimizers", "--only", "rank=5", "--report-only"]
    monkeypatch.setattr(sys, "argv", ["studies", *arguments])
    assert cli.invoke(manage.GROUP) == 2
    assert "--only: not available for tune_optimizers" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
