"""Mirrored results: a metric m and 1 - m with the opposite direction give the same conclusions.

The accuracy of `digits/cnn` has larger values for better trials, and the squared error of
`digits/autoencoder` has smaller values.
"""

from __future__ import annotations

import itertools
import math
import re
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import folders
import numpy as np
import optuna
import pandas as pd
import pytest

from studies.harness.design.arms import Trial
from studies.harness.design.options import Options
from studies.harness.design.result import Report
from studies.harness.evidence import costs
from studies.harness.evidence.analysis import Evidence
from studies.harness.evidence.levels import EDGE, INSIDE
from studies.harness.evidence.targets import Times, target_of_runs
from studies.harness.kinds.search import sampling
from studies.harness.kinds.search.proposals import Outcome, Proposal, best
from studies.harness.kinds.search.proposer import Proposer
from studies.harness.kinds.search.search import Range
from studies.harness.kinds.search.tuning import SearchPlan
from studies.harness.kinds.study.figures import LevelFigure
from studies.harness.kinds.study.study import Study
from studies.harness.kinds.target.figure import TargetFigure
from studies.harness.report.figures.means import set_scale
from studies.harness.report.figures.style import panels
from studies.harness.statistics.budgets import best_of_k, overtakes, shrinkage
from studies.tune_optimizers import SEARCH
from trainables.store import COMPLETED, DIVERGED

HIGHER, LOWER = "digits/cnn", "digits/autoencoder"
METRICS = {HIGHER: "test/accuracy", LOWER: "test/mse"}
EPOCHS = 8
# Rank 10 of NysAct-S is the best arm. NysAct-G improves up to the edge of its grid.
MEANS = {
    "sgd": 0.60,
    "foof": 0.66,
    "nysact-g rank=5": 0.62,
    "nysact-g rank=10": 0.64,
    "nysact-g rank=20": 0.68,
    "nysact-s rank=5": 0.65,
    "nysact-s rank=10": 0.75,
    "nysact-s rank=20": 0.70,
}


def accuracy(trial: Trial, epoch: int) -> float:
    """Return a value between 0 and 1 that does not depend on the workload."""
    label, seed = trial.arm.label, trial.config.seed
    noise = np.random.default_rng(zlib.crc32(f"{label} {seed}".encode())).normal()
    return MEANS[label] * (1 - 0.5 ** (epoch + 1)) + 0.004 * float(noise)


class Mirror(NamedTuple):
    """The output folder, the trials and the report of the results on a workload."""

    root: Path
    trials: list[Trial]
    report: Report
    text: str
    evidence: Evidence


@pytest.fixture
def mirrors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a function that writes the mirrored results of a study."""
    numbers = itertools.count()

    def write(study: Study = folders.STUDY, value: Callable = accuracy) -> dict[str, Mirror]:
        """Write trials with the accuracies `value(trial, epoch)`, or 1 minus this value."""
        monkeypatch.setattr(folders, "accuracy", value)
        results = {}
        for workload in METRICS:
            root = tmp_path / str(next(numbers))
            trials = folders.planned(4, EPOCHS, study.arms, workload)
            for trial in trials:
                folders.write_trial(root, trial)
            report = folders.report(root, trials, study)
            text = report.files[0].read_text()
            evidence = folders.evidence(root, trials, study)
            results[workload] = Mirror(root, trials, report, text, evidence)
        return results

    return write


def test_best_arm_is_named_in_the_terminal_and_in_the_report(mirrors):
    for workload, mirror in mirrors().items():
        listing = mirror.report.listing
        bold = [listing.rows[row][0] for row, _ in sorted(listing.bold)]
        assert bold == ["nysact-s rank=10"], workload
        assert METRICS[workload].replace("/", " ") in listing.caption
        for text in (listing.caption, mirror.text):
            assert ("Smaller values are better." in text) == (workload == LOWER)
        assert "nysact-s rank=10 is significantly better than 7 arms; no arm" in mirror.text
        assert re.search(r"\| nysact-s rank=10 \| 4 \| \*\*[\d.]+\*\* \|", mirror.text)
        assert "rank 10 has the best mean, inside the grid" in mirror.text
        assert "rank 20 has the best mean, at the edge of the grid" in mirror.text


def test_no_sentence_about_a_squared_error_uses_percent_or_accuracy(mirrors):
    terms = (
        r"(95|80|5)% (t-interval|interval|Student|level|power|of the (mean|smaller result))"
        r"|by more than 5%"
    )
    shares = "<summary>Preconditioned layers</summary>.*?</details>"  # of the parameters
    text = re.sub(terms, "", re.sub(shares, "", mirrors()[LOWER].text, flags=re.DOTALL))
    assert not re.search(r"accurac|percent|\d %|\d%", text, re.IGNORECASE), text
    assert "difference (test mse)" in text and "percentage points" in mirrors()[HIGHER].text


def test_statistics_of_mirrored_results_are_mirrored(mirrors):
    higher, lower = (mirror.evidence for mirror in mirrors().values())
    assert list(higher.arms["bold"]) == list(lower.arms["bold"])
    np.testing.assert_allclose(lower.arms["mean"], 1 - higher.arms["mean"], rtol=1e-12)
    np.testing.assert_allclose(lower.arms["best"], 1 - higher.arms["best"], rtol=1e-12)
    np.testing.assert_allclose(lower.pairs["difference"], -higher.pairs["difference"], atol=1e-12)
    np.testing.assert_allclose(lower.pairs["p_adjusted"], higher.pairs["p_adjusted"], rtol=1e-6)
    assert [verdict.verdict for verdict in higher.levels] == [EDGE, INSIDE]
    assert higher.levels == lower.levels
    for order in ("better than", "worse than", "not significantly different from"):
        sentences = [re.findall(rf"[^.;|]*{order} sgd", m.text) for m in mirrors().values()]
        assert sentences[0] == sentences[1]


def test_equality_of_levels_has_a_margin_that_suits_the_metric(mirrors):
    def nearly_equal(trial: Trial, epoch: int) -> float:
        return 0.7 + 1e-6 * trial.config.seed * trial.arm.overrides["rank"]

    arms = [arm for arm in folders.ARMS if arm.optimizer == "nysact-s"]
    study = replace(
        folders.STUDY, arms=arms, figure=LevelFigure(factor="rank", panels=("nysact-s",))
    )
    higher, lower = mirrors(study, nearly_equal).values()
    assert "all levels are equal within 0.3 percentage points" in higher.text
    assert "all levels are equal within 5% of the smaller result of each seed" in lower.text
    noisy = mirrors(study, lambda trial, epoch: accuracy(trial, 0) - MEANS[trial.arm.label] / 2)
    assert "not every pair of levels is equal within 0.3 percentage points" in noisy[HIGHER].text
    assert "all levels are equal within 5% of the smaller result of each seed" in noisy[LOWER].text


# ---------------------------------------------------------------------- times to a target


TARGET = replace(
    folders.STUDY,
    figure=TargetFigure(
        reference="sgd",
        share=1,
        of="last",
        rule="the last value of SGD",
        panels=(("test/headline", "epochs"), ("train/loss", "epochs")),
    ),
)


def test_times_to_mirrored_targets_are_equal(mirrors):
    def times(mirror: Mirror, workload: str) -> Times:
        metric, frame = METRICS[workload], mirror.evidence.frame
        target = target_of_runs(frame, metric, "sgd", share=1, of="last", rule="r")
        return Times(
            evidence=mirror.evidence,
            metric=metric,
            reference="sgd",
            target=target,
            costs=costs.read(mirror.trials, mirror.root),
        )

    results = mirrors(TARGET)
    higher, lower = (times(mirror, workload) for workload, mirror in results.items())
    assert lower.value == pytest.approx(1 - higher.value)
    np.testing.assert_allclose(lower.grid(), 1 - np.array(higher.grid()))
    for arm in MEANS:
        expected, actual = vars(higher.time(arm)), vars(lower.time(arm))
        assert actual == pytest.approx(expected, nan_ok=True), arm
        for target in higher.grid():
            expected = higher.time(arm, target).median
            assert lower.time(arm, 1 - target).median == pytest.approx(expected, nan_ok=True)
    assert higher.time("nysact-s rank=10").median < higher.time("foof").median < EPOCHS
    sentences = [re.findall("Median epochs to [^:]+: (.*)", m.text) for m in results.values()]
    assert sentences[0] == sentences[1] and len(sentences[0]) == 1


# ---------------------------------------------------------------------- searches


SCORES = [0.70, 0.55, 0.90, math.nan, 0.85, 0.90, 0.60, 0.75]
WORSE = [0.80, 0.82, 0.81, 0.79, 0.83, 0.78, 0.84, 0.80]


def outcomes(scores: list[float], sign: int) -> list[Outcome]:
    """Return outcomes with the scores, or with 1 minus the scores if `sign` is negative."""
    values = [score if sign > 0 else 1 - score for score in scores]
    statuses = [DIVERGED if math.isnan(score) else COMPLETED for score in scores]
    return [
        Outcome(Proposal(i, {"lr": 0.05 * (1 + i)}, str(i)), status, value, 0.5 - 0.01 * i, {}, 1.0)
        for i, (value, status) in enumerate(zip(values, statuses, strict=True))
    ]


def test_mirrored_scores_have_the_same_winner():
    winners = [best(outcomes(SCORES, sign), sign > 0) for sign in (1, -1)]
    assert [winner and winner.proposal.number for winner in winners] == [5, 5]


@pytest.mark.parametrize("sampler", ["tpe", "nsgaii", "gp"])
def test_mirrored_scores_give_the_same_proposals(sampler: str):
    scores = [0.9 - abs(0.05 * (1 + i) - 0.2) for i in range(12)]
    higher, lower = (
        sampling.propose(
            sampler, {"lr": Range(0.001, 1.0)}, {}, outcomes(scores, sign), 7, sign > 0
        )[0]["lr"]
        for sign in (1, -1)
    )
    assert lower == pytest.approx(higher, rel=0.02)


def test_journal_has_the_direction_of_the_score(tmp_path: Path):
    for higher, direction in ((True, "MAXIMIZE"), (False, "MINIMIZE")):
        path = tmp_path / direction
        scored = outcomes(SCORES, 1 if higher else -1)
        undefined = scored[0]._replace(score=math.nan)  # Optuna does not accept such a value
        studies = {"s": ({"lr": Range(0.0, 1.0)}, [*scored, undefined])}
        sampling.write_journal(path, studies, higher)
        backend = optuna.storages.journal.JournalFileBackend(str(path))
        study = optuna.load_study(study_name="s", storage=optuna.storages.JournalStorage(backend))
        assert study.direction.name == direction
        assert study.best_value == pytest.approx(0.9 if higher else 0.1)
        assert study.trials[-1].state.name == "FAIL"


def mirrored(*runs):
    return [[1 - score for score in scores] for scores in runs]


def test_mirrored_curves_shrinkage_and_budgets():
    higher, lower = best_of_k(SCORES), best_of_k(*mirrored(SCORES), higher=False)
    np.testing.assert_allclose(lower["mean"], 1 - higher["mean"])
    np.testing.assert_allclose(lower["lo"], 1 - higher["hi"])
    np.testing.assert_allclose(lower["none"], higher["none"])
    first, second = overtakes(SCORES, WORSE), overtakes(*mirrored(SCORES, WORSE), higher=False)
    assert first == second and first is not None and first.k == 3
    fresh = [0.84, 0.86, 0.88]
    first = shrinkage(0.9, fresh)
    second = shrinkage(0.1, [1 - value for value in fresh], higher=False)
    assert first.shrinkage == pytest.approx(0.04)
    for name in ("shrinkage", "ci_lo", "ci_hi"):
        assert getattr(first, name) == pytest.approx(getattr(second, name))


def test_asha_stops_the_same_trials_for_mirrored_scores(tmp_path: Path):
    from studies.harness.cluster.search import _Asha

    tune: Any = None
    scores, stopped = [0.5, 0.9, 0.3, 0.8, 0.95, 0.6, 0.2, 0.7], []
    for workload, metric in METRICS.items():
        search = SearchPlan(
            artefact=SEARCH,
            workload=workload,
            options=Options(),
            spaces=SEARCH.spaces,
            seeds=range(2),
            recipe={"epochs": 8},
        )
        proposer = Proposer(search, "sgd", tmp_path / workload.replace("/", "-"))
        assert search.metric == metric and proposer.score == metric.replace("test", "val")
        scheduler = _Asha(proposer, proposer.root, lambda key: None)
        decisions = []
        for number, score in enumerate(scores):
            trial: Any = SimpleNamespace(trial_id=str(number), config={"key": str(number)})
            scheduler.on_trial_add(tune, trial)
            value = score if search.higher else 1 - score
            result = {proposer.score: value, "epoch": 1, "time/train_s": 1.0, "time/eval_s": 1.0}
            decisions.append(scheduler.on_trial_result(tune, trial, result))
        stopped.append([i for i, decision in enumerate(decisions) if decision == "STOP"])
    expected = [i for i in range(1, 8) if scores[i] < np.percentile(scores[:i], 75)]
    assert stopped == [expected, expected] and expected == [2, 5, 6, 7]


@pytest.mark.parametrize("worst", [-1.0, 0.0, math.inf])
def test_axis_of_a_smaller_is_better_metric_has_finite_limits(worst: float):
    """A logarithmic axis requires positive numbers."""
    _, ((axes,),) = panels((3, 3))
    set_scale(axes, [pd.DataFrame({"mean": [worst, 30.0, 2.0, 1.0]})], higher=False)
    assert axes.get_yscale() == ("log" if worst > 0 else "linear")
    low, high = axes.get_ylim()
    assert low < 1.0 and 30.0 < high < 50.0
