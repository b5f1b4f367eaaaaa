"""Searches without Ray: spaces, proposals, and that a search goes on from its folders as if it had not been stopped."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import optuna
import pytest

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
    name="tune_test",
    title="A search",
    paper="NysAct",
    table="no table",
    claim="Tuning helps.",
    falsifier="It does not.",
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


def plan(
    search: Search = SEARCH, workload: str = "digits/cnn", out: Path | None = None, **changed
) -> SearchPlan:
    recipe = {"epochs": 2}
    spaces = search.spaces_of(workload)
    facts = {
        "artefact": search,
        "workload": workload,
        "options": Options(out=out),
        "spaces": spaces,
    }
    return SearchPlan(**facts, seeds=range(2), recipe=recipe, **changed)


def score(trial) -> float:
    """A known function of the learning rate; the best is at 0.2."""
    return 0.9 - 0.1 * abs(math.log10(trial.config.hyperparameters["lr"] / 0.2))


def finish(root: Path, trial, status: str = COMPLETED) -> None:
    """Write a trial's folder as a worker does."""
    store = TrialStore(root, trial.config)
    store.begin(PROVENANCE)
    for epoch in range(trial.config.epochs):
        metrics = {"val/accuracy": score(trial) - 0.01 * (1 - epoch), "val/loss": 0.5}
        store.record(epoch, {**metrics, "time/train_s": 0.5, "time/eval_s": 0.25})
    store.finish(status)


def run(
    root: Path, search: Search, most: int | None = None, optimizer: str = "nysact-s"
) -> Proposer:
    """A driver that trains one trial at a time, and is killed before it would submit trial number `most`."""
    proposer = Proposer(plan(search), optimizer, root)
    for _ in range(search.budget if most is None else most):
        if (trial := proposer.next()) is not None:  # a repeated proposal has its result already
            finish(
                root, trial, {3: DIVERGED, 5: FAILED}.get(len(proposer.outcomes()) - 1, COMPLETED)
            )
    return proposer


def proposed(root: Path, optimizer: str = "nysact-s") -> list[dict]:
    lines = proposals_path(root, "tune_test", "digits/cnn", optimizer).read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("sampler", ["tpe", "random", "nsgaii", "qmc"])
def test_a_killed_search_makes_the_proposals_of_one_that_was_not(tmp_path: Path, sampler: str):
    search = replace(SEARCH, sampler=sampler, budget=20)
    whole = run(tmp_path / "whole", search)
    run(tmp_path / "killed", search, most=7)
    proposer = Proposer(plan(search), "nysact-s", tmp_path / "killed")
    submitted = proposer.next()  # proposed, and killed before it was trained
    assert submitted is not None
    again = Proposer(plan(search), "nysact-s", tmp_path / "killed")
    while trial := again.next():
        assert len(again.outcomes()) > 8 or trial == submitted
        finish(tmp_path / "killed", trial)
    assert again.left() == 0 and len(proposed(tmp_path / "killed")) == 21
    assert proposed(tmp_path / "killed") == proposed(tmp_path / "whole")
    assert [one.status for one in whole.outcomes()].count(COMPLETED) >= 18  # failures count


def test_a_proposal_depends_on_the_results_and_the_first_is_the_recipes(tmp_path: Path):
    """TPE finds what is better than chance would; the warm start is what the paper has."""
    search = replace(SEARCH, budget=30)
    found = run(tmp_path, search, optimizer="sgd").outcomes()
    assert found[0].proposal.parameters == {"lr": 0.1, "weight_decay": 5e-4}
    late = [abs(math.log10(one.proposal.parameters["lr"] / 0.2)) for one in found[15:]]
    early = [abs(math.log10(one.proposal.parameters["lr"] / 0.2)) for one in found[1:10]]
    assert sum(late) / len(late) < 0.6 * sum(early) / len(early)
    inside = {"lr": Range(0.01, 1.0), "weight_decay": Range(0.0, 2e-3)}
    assert all(
        inside[name].holds(value)
        for one in found
        for name, value in one.proposal.parameters.items()
    )


def test_what_a_sampler_notes_is_there_again(tmp_path: Path):
    """Generations follow one another, of as many as complete; a sampler that forgot would stay in the first."""
    found = run(tmp_path, replace(SEARCH, sampler="nsgaii", budget=20), optimizer="sgd").outcomes()
    generations = [
        one.proposal.attributes["trial"]["NSGAIISampler:generation"] for one in found[1:]
    ]
    assert generations[0] == 0 and generations == sorted(generations) and generations[-1] == 2


def test_a_torn_last_line_is_no_proposal(tmp_path: Path):
    run(tmp_path, SEARCH, most=3)
    path = proposals_path(tmp_path, "tune_test", "digits/cnn", "nysact-s")
    content = path.read_bytes()
    lines = content.splitlines(keepends=True)
    for cut in (1, len(lines[-1]) // 2, len(lines[-1]) - 1):
        path.write_bytes(content[:-cut])
        proposer = Proposer(plan(), "nysact-s", tmp_path)
        assert len(proposer.outcomes()) == 2
        assert proposer.next() is not None
        assert path.read_bytes()[: len(content)] == content, (
            "the same proposal, on a line of its own"
        )
    path.write_bytes(lines[0][:-5])  # killed at the very start
    assert Proposer(plan(), "nysact-s", tmp_path).next() is not None
    assert path.read_bytes().startswith(lines[0])


def test_two_equal_proposals_are_trained_once(tmp_path: Path):
    spaces = {"nysact-s": {"resample": Choice("fixed", "window")}}
    proposer = Proposer(plan(replace(SEARCH, spaces=spaces, budget=6)), "nysact-s", tmp_path)
    trials = []
    while trial := proposer.next():
        trials.append(trial)
    assert len(trials) == 2 and len(list(trial_folders(tmp_path))) == 2 and proposer.left() == 6
    for trial in trials:
        finish(tmp_path, trial)
    assert proposer.left() == 0 and len(proposer.outcomes()) == 6


def test_what_asha_stopped_is_not_submitted_again(tmp_path: Path):
    search = replace(SEARCH, asha=True, budget=5)
    proposer = run(tmp_path, search, most=2)
    trial = proposer.next()
    assert trial is not None
    proposer.stop(trial.config.trial_key, 0, {0: 0.25}, 3.0)
    again = Proposer(plan(search), "nysact-s", tmp_path)
    stopped = again.outcomes()[2]
    assert (stopped.status, dict(stopped.values), stopped.seconds) == (STOPPED, {0: 0.25}, 3.0)
    following = again.next()
    assert following is not None and following.config.trial_key != trial.config.trial_key
    path = tmp_path / "journal"
    sampling.write_journal(path, {"one": (plan(search).spaces["nysact-s"], again.outcomes())})
    backend = optuna.storages.journal.JournalFileBackend(str(path))
    study = optuna.load_study(study_name="one", storage=optuna.storages.JournalStorage(backend))
    assert [t.state.name for t in study.trials] == ["COMPLETE", "COMPLETE", "PRUNED", "RUNNING"]
    assert (
        study.trials[2].intermediate_values == {0: 0.25}
        and study.trials[0].value == again.outcomes()[0].score
    )
    assert study.trials[0].user_attrs["trial_key"] == proposed(tmp_path)[1]["trial_key"]


def test_another_search_in_the_same_folder_is_refused_by_name(tmp_path: Path):
    run(tmp_path, SEARCH, most=1)
    for changed, words in (
        (replace(SEARCH, sampler="random"), "sampler = tpe, not random"),
        (replace(SEARCH, tuning_seed=7), "trial.seed = 1000, not 7"),
        (
            replace(SEARCH, spaces={"nysact-s": {"lr": Range(0.03, 2.0, log=True)}}),
            "space.lr.high = 3.0, not 2.0",
        ),
    ):
        with pytest.raises(StoreError, match="name another --out") as refused:
            Proposer(plan(changed), "nysact-s", tmp_path)
        assert words in str(refused.value)
    assert (
        Proposer(plan(replace(SEARCH, budget=99)), "nysact-s", tmp_path).left() == 98
    )  # more of it is welcome


def test_configurations_are_scored_on_what_was_held_out_and_winners_on_the_whole(tmp_path: Path):
    chosen = plan(settings={"momentum": 0.5, "rank": 7})
    tuning, fresh = chosen.tuning("sgd", {"lr": 0.2}), chosen.fresh("sgd", {"lr": 0.2})
    assert tuning.config.train_fraction == 0.9 and tuning.config.seed == 1000
    assert [t.config.seed for t in fresh] == [0, 1] and {
        t.config.train_fraction for t in fresh
    } == {1.0}
    assert (
        tuning.config.hyperparameters["momentum"] == 0.5
        and tuning.config.hyperparameters["lr"] == 0.2
    )


def test_the_best_is_the_highest_score_then_the_lower_loss_then_the_earlier():
    rows = [
        (0.9, 0.3, COMPLETED),
        (math.nan, math.nan, DIVERGED),
        (0.95, 0.4, COMPLETED),
        (0.95, 0.2, COMPLETED),
    ]
    rows += [(0.95, 0.2, COMPLETED)]
    found = [
        Outcome(Proposal(i, {}, ""), status, s, loss, {}, 0.0)
        for i, (s, loss, status) in enumerate(rows)
    ]
    chosen = best(found)
    assert chosen is not None and chosen.proposal.number == 3
    assert best(found[1:2]) is None


WRONG = [
    (
        {"sgd": {"lrr": Range(0.1, 1)}},
        'space of sgd: lrr: unknown hyperparameter. Did you mean "lr"?',
    ),
    (
        {"sgd": {"lr": Range(1, 0.1)}},
        "space of sgd: lr = 1..0.1: the lower end must be below the upper one",
    ),
    (
        {"sgd": {"lr": Range(0, 1, log=True)}},
        "on a logarithmic scale the lower end must be above 0",
    ),
    ({"sgd": {"lr": Range(0.01, math.inf)}}, "both ends must be finite numbers"),
    (
        {"sgd": {"momentum": Range(0.5, 1.0)}},
        "space of sgd: momentum = 1.0: must be a number in [0, 1)",
    ),
    (
        {"sgd": {"nesterov": Choice(True)}},
        "nesterov = {True}: needs two values or more, all different",
    ),
    (
        {"adam": {"betas": Choice((0.9, 0.99), (0.9, 0.999))}},
        "values must be numbers, words, true, false or none",
    ),
    ({"nysact-s": {"rank": Range(5, 9999)}}, "rank = 9999: the widest layer (10) has 513 inputs"),
    (
        {"nysact-s": {"sketch": Choice("subcolumn", "gausian")}},
        "sketch = 'gausian': must be one of",
    ),
    (
        {"sgd": {"lr": Range(0.2, 1.0)}},
        "space of sgd on digits/cnn: lr = 0.2..1: the recipe's 0.1 is outside",
    ),
]


@pytest.mark.parametrize(("spaces", "line"), WRONG, ids=[line for _, line in WRONG])
def test_wrong_spaces_are_refused(spaces, line):
    found = plan(replace(SEARCH, spaces=spaces)).problems()
    assert any(line in one for one in found), found


def test_right_spaces_are_not():
    assert plan().problems() == []


def test_samplers_by_name():
    assert {"tpe", "random", "nsgaii", "gp"} <= set(
        sampling.samplers()
    ) and sampling.sampler_problem("tpe") == ""
    assert 'Did you mean "random"?' in sampling.sampler_problem("randm")
    assert "--sampler = cmaes" in sampling.sampler_problem(
        "cmaes"
    )  # needs a package that is not installed


def command(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["tune_optimizers.py", *arguments])
    with pytest.raises(SystemExit) as ended:
        main(TUNE)
    return int(ended.value.code or 0)


REFUSED = [
    (["--sampler", "tpee"], '--sampler = "tpee": unknown. Did you mean "tpe"?'),
    (["--budget", "0"], "--budget = 0: must be an integer >= 1"),
    (["--set", "lr=0.1"], "--set lr=0.1: tune_optimizers tunes it; leave it out"),
    (["--set", "nestrov=true"], 'no optimizer of tune_optimizers has it. Did you mean "nesterov"?'),
    (["--optimizers", "sgd,eva"], '--optimizers = "eva": tune_optimizers has no space for it.'),
    (["--seeds", "1000,"], "1000 is the search's own seed; fresh ones must be others"),
    (["--set", "batch_size=1"], "batch_size = 1: must be an integer in 2..1077"),
    (["--only", "lr=1"], "--only: not available for tune_optimizers, which is a search"),
    (["--workload", "digits/cn"], 'Did you mean "digits/cnn"?'),
]


@pytest.mark.parametrize(
    ("arguments", "line"), REFUSED, ids=[" ".join(arguments) for arguments, _ in REFUSED]
)
def test_a_bad_command_is_refused_and_writes_nothing(
    arguments, line, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert command(arguments, monkeypatch) == 2
    assert line in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_a_dry_run_says_what_it_takes_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert (
        command(
            ["--dry-run", "--budget", "3", "--optimizers", "sgd", "--sampler", "NSGA-II"],
            monkeypatch,
        )
        == 0
    )
    text = " ".join(capsys.readouterr().out.split())
    assert (
        "3 configurations for each of 1 optimizers (nsgaii)" in text
        and "5 fresh trials to go" in text
    )
    assert "of training" in text and not list(tmp_path.iterdir())


PAPERS = ["cifar10/resnet32", "cifar10/resnet50", "cifar100/vit_s16", "tinyimagenet/resnet50", "imagenet/resnet50",
          "imagenet/deit_s"]  # fmt: skip


def test_the_papers_values_are_in_the_spaces_of_their_workloads():
    options = Options(only={}, levels={}, settings={}, workload=",".join(PAPERS))
    assert [(plan.workload, plan.problems()) for plan in plans(TUNE, options)] == [
        (name, []) for name in PAPERS
    ]


def test_the_report_of_the_same_folders_is_the_same_and_stopped_is_not_averaged(tmp_path: Path):
    search = replace(SEARCH, asha=True, budget=5)
    proposer = run(tmp_path, search, most=3)
    trial = proposer.next()
    assert trial is not None
    proposer.stop(trial.config.trial_key, 0, {0: 0.99}, 3.0)
    last = proposer.next()
    assert last is not None
    finish(tmp_path, last, DIVERGED)
    winner = proposer.winner()
    assert winner is not None and winner.proposal.number in (0, 1, 2)
    results = SearchResults(
        plan(search),
        [proposer],
        plan(search).fresh("nysact-s", winner.proposal.parameters),
        tmp_path,
    )
    curve = results.curves["nysact-s"]
    assert (
        len(curve) == 5
        and curve["mean"].iloc[-1] == winner.score
        and curve["none"].iloc[0] == pytest.approx(0.4)
    )
    paths = write(results, tmp_path / "one")
    text = (tmp_path / "one/report.md").read_text()
    assert "| nysact-s | 0 |" in text and "2 of 2 not run" in text and "| 5 | 1 | 1 | 0 |" in text
    again = {
        path.name: path.read_bytes()
        for path in write(results, tmp_path / "two")
        if path.suffix != ".journal"
    }
    assert {path.name: path.read_bytes() for path in paths if path.suffix != ".journal"} == again


def test_several_studies_with_one_command_are_refused_before_any_starts(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    arguments = ["run", "ablation_rank", "tune_optimizers", "--only", "rank=5", "--report-only"]
    monkeypatch.setattr(sys, "argv", ["studies", *arguments])
    assert cli.invoke(manage.GROUP) == 2
    assert "--only: not for tune_optimizers" in capsys.readouterr().err and not list(
        tmp_path.iterdir()
    )
