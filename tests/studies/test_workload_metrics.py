"""Plans on workloads without as-released variants, and the metrics of figures on a workload."""

from __future__ import annotations

from dataclasses import replace

import pytest

from precond import HyperparameterError
from studies.harness.command import manage
from studies.harness.design.arms import Arm, grid
from studies.harness.design.options import Options
from studies.harness.kinds.study.figures import CurveFigure, Figure, LevelFigure
from studies.harness.kinds.study.plan import plan
from studies.harness.kinds.study.study import Study
from studies.harness.kinds.target.figure import TargetFigure

CNN, AUTOENCODER = "digits/cnn", "digits/autoencoder"  # only digits/cnn has as-released variants
STUDIES = [artefact for artefact in manage.artefacts().values() if isinstance(artefact, Study)]
LEVELS = LevelFigure(factor="rank", panels=("nysact-s",), references=("sgd",))
TARGET = TargetFigure(
    reference="sgd", share=0.9, of="best", rule="r", panels=(("test/accuracy", "epochs"),)
)
RANK_STUDY = Study(
    name="plain",
    title="t",
    paper="NysAct",
    table="none",
    arms=[Arm(optimizer="sgd"), *grid("nysact-s", rank=[5, 20])],
    figure=LEVELS,
)


@pytest.mark.parametrize("study", STUDIES, ids=[study.name for study in STUDIES])
def test_workload_without_conventions_has_corrected_arms_only(study: Study):
    arms = study.arms_of(AUTOENCODER)
    assert arms and not any(arm.as_released for arm in arms)
    assert len({arm.label for arm in arms}) == len(arms)
    assert [trial.arm for trial in plan(study, Options(seeds=[0]), AUTOENCODER).trials] == arms
    assert {arm.optimizer for arm in arms} >= {arm.optimizer for arm in study.arms}


def test_variants_of_an_arm_are_one_arm_without_conventions():
    released = grid("nysact-s", rank=[5, 20], as_released=True)
    arms = [*released, *grid("nysact-s", rank=[5, 10]), Arm(optimizer="sgd", as_released=True)]
    study = replace(RANK_STUDY, arms=arms)
    assert [arm.label for arm in study.arms_of(AUTOENCODER)] == [
        "nysact-s rank=5",
        "nysact-s rank=20",
        "nysact-s rank=10",
        "sgd",
    ]
    assert [arm.label for arm in study.arms_of(CNN)] == [
        "nysact-s as-released rank=5",
        "nysact-s as-released rank=10",  # the recipe's rank
        "nysact-s as-released rank=20",
        "nysact-s rank=5",
        "nysact-s rank=10",
        "sgd as-released",
    ]


def test_recipe_level_is_added_once_without_conventions():
    arms = [*grid("nysact-s", rank=[5, 20], as_released=True), *grid("nysact-s", rank=[5, 20])]
    labels = [arm.label for arm in replace(RANK_STUDY, arms=arms).arms_of(AUTOENCODER)]
    assert labels == ["nysact-s rank=5", "nysact-s rank=10", "nysact-s rank=20"]


def test_unknown_workload_leaves_the_arms_unchanged():
    study = replace(RANK_STUDY, arms=grid("nysact-s", rank=[5], as_released=True))
    assert study.arms_of("digits/nowhere") == [*study.arms]


@pytest.mark.parametrize(
    ("workload", "headline"),
    [(CNN, "test/accuracy"), (AUTOENCODER, "test/mse"), ("text/gpt", "test/perplexity")],
)
def test_figure_has_the_headline_metric_of_the_workload(workload: str, headline: str):
    figures = (LEVELS, CurveFigure(metrics=("test/headline", "train/headline", "train/loss")))
    level, curve = (figure.on(workload) for figure in figures)
    train = headline.replace("test", "train")
    assert level.metric == curve.metric == headline
    assert curve.metrics == (headline, train, "train/loss")
    panels = (("test/headline", "epochs"), ("time/train_s", "time"))
    target = replace(TARGET, panels=panels).on(workload)
    assert target.panels == ((headline, "epochs"), ("time/train_s", "time"))
    assert target.metric == headline and target.on(workload) == target


@pytest.mark.parametrize(
    ("figure", "name", "advice"),
    [
        (
            replace(LEVELS, metric="test/accuracy"),
            "test/accuracy",
            " Known: test/headline, test/mse, test/loss",
        ),
        (
            CurveFigure(metrics=("train/accuracy",)),
            "train/accuracy",
            " Known: train/headline, train/mse, train/loss",
        ),
        (TARGET, "test/accuracy", " Known: test/headline, test/mse, test/loss"),
    ],
)
def test_metric_of_another_task_is_an_error_of_one_line(figure: Figure, name: str, advice: str):
    for study in (
        replace(RANK_STUDY, figure=figure),
        replace(RANK_STUDY, extra_figures=[figure]),
    ):
        with pytest.raises(HyperparameterError) as error:
            plan(study, Options(), AUTOENCODER)
        expected = f'metric = "{name}": {AUTOENCODER} has no such metric.{advice}'
        assert str(error.value) == expected
        assert plan(study, Options(), CNN).trials
