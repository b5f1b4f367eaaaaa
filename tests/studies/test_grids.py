"""The grids of the papers' ablations: their trials, and the trials that several studies share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from precond import HyperparameterError
from studies import (
    ablation_batch_size,
    ablation_damping,
    ablation_ema,
    ablation_inverse_frequency,
    ablation_learning_rate,
    ablation_rank,
    ablation_sampling,
    compare_accuracy,
)
from studies.harness.command import manage
from studies.harness.design.arms import Arm, Trial, grid, value
from studies.harness.design.options import Options
from studies.harness.kinds.study.figures import (
    CurveFigure,
    Figure,
    LevelFigure,
    ResidualFigure,
)
from studies.harness.kinds.study.plan import missing, plan, plans
from studies.harness.kinds.study.study import Study
from studies.harness.kinds.target.figure import TargetFigure
from trainables.workloads import resolve

FIGURE_5 = [ablation_learning_rate, ablation_ema, ablation_damping, ablation_batch_size]
GRIDS = [
    module.STUDY
    for module in (*FIGURE_5, ablation_inverse_frequency, ablation_rank, ablation_sampling)
]
RESNET32, CNN, AUTOENCODER = "cifar10/resnet32", "digits/cnn", "digits/autoencoder"


def planned(study: Study, workload: str | None = None, **options) -> Sequence[Trial]:
    defaults = {"only": {}, "levels": {}, "settings": {}}
    return plan(study, Options(**{**defaults, **options}), workload).trials


def keys(trials: Sequence[Trial], **values) -> set[str]:
    """Return the keys of the trials of corrected variants with these values, such as `rank=10`."""
    return {
        t.config.trial_key
        for t in trials
        if not t.arm.as_released
        and all(value(t.config, name) == level for name, level in values.items())
    }


# ---------------------------------------------------------------------- the literals


@pytest.mark.parametrize("study", GRIDS, ids=[study.name for study in GRIDS])
def test_ablations_use_the_epochs_and_networks_of_appendix_c(study: Study):
    assert study.seeds == 5  # the three runs of the paper are too few for its claims
    for workload in (RESNET32, "cifar100/resnet110"):
        trials = planned(study, workload)
        assert {t.config.epochs for t in trials} == {100}
        assert len({t.config.seed for t in trials}) == study.seeds
    assert study.papers_command.endswith("--workload cifar10/resnet32,cifar100/resnet110")
    assert {t.config.epochs for t in planned(study, RESNET32, epochs=7)} == {7}


@pytest.mark.parametrize("module", FIGURE_5, ids=[module.STUDY.name for module in FIGURE_5])
def test_figure_5_compares_four_as_released_methods_and_corrected_nysact(module):
    arms = {(t.arm.optimizer, t.arm.as_released) for t in planned(module.STUDY, CNN)}
    assert arms == {(name, True) for name in ("kfac", "eva", "foof", "nysact-s")} | {
        ("nysact-s", False)
    }


def test_ablations_use_the_papers_levels_and_the_recipes_level():
    levels = {
        "lr": [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0],
        "ema_decay": [0.8, 0.9, 0.95, 0.99],
        "damping": [0.01, 0.1, 1.0, 10.0],
        "batch_size": [64, 128, 256, 512, 1024],
        "inv_interval": [5, 10, 50, 100],
    }
    for study in GRIDS[:5]:
        factor = study.figure.factor
        for name in {arm.optimizer for arm in study.arms if arm.factors} - {"eva"}:
            trials = planned(study, RESNET32, seeds=[0])
            planned_levels = {t.arm.overrides[factor] for t in trials if t.arm.optimizer == name}
            # KFAC's damping in the recipe is not a level of the paper, so the plan adds it.
            recipe_level = {0.03} if (factor, name) == ("damping", "kfac") else set()
            assert planned_levels == {*levels[factor], *recipe_level}, (study.name, name)


def test_digits_uses_smaller_batch_sizes_than_the_papers_workloads():
    trials = planned(ablation_batch_size.STUDY, CNN)
    assert {t.config.batch_size for t in trials} == {16, 32, 64, 128, 256}
    assert len(trials) == 5 * 5 * 5
    assert {t.config.hyperparameters["lr"] for t in trials} == {0.3, 3.0}


def test_ema_decay_of_as_released_eva_is_the_weight_of_the_new_value():
    decays = {
        t.config.hyperparameters["ema_decay"]
        for t in planned(ablation_ema.STUDY, CNN)
        if t.arm.optimizer == "eva"
    }
    assert decays == {0.2, 0.1, 0.05, 0.01}


def test_ema_decay_of_corrected_eva_is_the_weight_of_the_old_value():
    trials = planned(ablation_ema.STUDY, AUTOENCODER, seeds=[0])
    decays = {t.config.hyperparameters["ema_decay"] for t in trials if t.arm.optimizer == "eva"}
    assert decays == {0.8, 0.9, 0.95, 0.99}


def test_sampling_is_a_full_grid_centred_on_algorithm_1():
    trials = planned(ablation_sampling.STUDY, seeds=[0])
    assert len(trials) == 2 * 4 * 2 + 2
    centres = {t.arm.label for t in trials if t.is_centre and t.arm.factors}
    assert centres == {f"nysact-{kind} resample=fixed shift=tropp" for kind in "sg"}


def test_compare_accuracy_has_the_arms_of_tables_2_and_4():
    trials = planned(compare_accuracy.STUDY, RESNET32, seeds=[0])
    released = {(t.arm.optimizer, t.config.epochs) for t in trials if t.arm.as_released}
    assert released == {
        (name, epochs) for name in compare_accuracy.OPTIMIZERS for epochs in (100, 200)
    }
    # For all other optimizers, the two variants are the same trials on CIFAR-10.
    corrected = {t.arm.optimizer for t in trials if not t.arm.as_released}
    assert corrected == {"kfac", "eva", "foof", "nysact-g", "nysact-s"}
    # On CIFAR-100, the released code uses Nesterov momentum for SGD.
    cifar100 = planned(compare_accuracy.STUDY, "cifar100/resnet32", seeds=[0])
    assert ("sgd", False) in {(t.arm.optimizer, t.arm.as_released) for t in cifar100}
    imagenet = planned(compare_accuracy.STUDY, "imagenet/deit_s")
    assert {t.arm.optimizer for t in imagenet} == set(compare_accuracy.ON_IMAGENET)
    assert {t.config.epochs for t in planned(compare_accuracy.STUDY)} == {20}
    for options in ({"epochs": 3}, {"levels": {"epochs": [3]}}):
        trials = planned(compare_accuracy.STUDY, RESNET32, seeds=[0], **options)
        assert {t.config.epochs for t in trials} == {3}


# ---------------------------------------------------------------------- shared trials


def test_recipe_level_is_shared_by_all_ablations():
    """Each ablation of an optimizer contains the trials that have all values of its recipe."""
    for workload, recipe in ((CNN, {}), (AUTOENCODER, {}), (RESNET32, {"epochs": 100})):
        for optimizer, as_released in (
            ("nysact-s", True),
            ("nysact-s", False),
            ("foof", True),
            ("kfac", True),
            ("kfac", False),
        ):
            config = resolve(workload, optimizer, None, recipe, as_released=as_released)
            recipe_keys = {config.with_seed(seed).trial_key for seed in range(3)}
            for study in GRIDS:
                trials = planned(study, workload, seeds=[0, 1, 2])
                variant = [
                    t
                    for t in trials
                    if (t.arm.optimizer, t.arm.as_released) == (optimizer, as_released)
                ]
                if variant:
                    case = (study.name, optimizer, as_released)
                    assert recipe_keys <= {t.config.trial_key for t in trials}, case
                    assert {t.config.trial_key for t in variant if t.is_centre} == recipe_keys


def test_rank_damping_and_sampling_ablations_share_the_recipes_trials():
    rank, damping, sampling = (
        planned(m.STUDY, CNN) for m in (ablation_rank, ablation_damping, ablation_sampling)
    )
    recipe = {
        "optimizer": "nysact-s",
        "rank": 10,
        "damping": 1.0,
        "resample": "fixed",
        "shift": "tropp",
        "lr": 0.3,
    }
    centre = keys(rank, **recipe)
    assert len(centre) == 5
    assert centre == keys(damping, **recipe) == keys(sampling, **recipe)


def test_all_grids_together_have_630_distinct_trials_on_digits_cnn():
    studies = [*GRIDS, compare_accuracy.STUDY]
    trials = [t for study in studies for t in planned(study, CNN)]
    assert (len(trials), len({t.config.trial_key for t in trials})) == (805, 630)


def test_trial_keys_are_unchanged():
    """Compare with the keys of an earlier version, because users have trial folders with these keys."""
    configs = {t.arm.label: t.config for t in planned(ablation_rank.STUDY, CNN, seeds=[0])}
    keys_by_arm = {
        # The NUMERICS of NysAct was 2 when the keys were computed.
        label: replace(
            config,
            numerics={**config.numerics, "optimizer": 2 if "nysact" in label else 1},
        ).trial_key[:16]
        for label, config in configs.items()
    }
    assert keys_by_arm == {
        "nysact-s rank=5": "83e5da15b1561c10",
        "nysact-s rank=10": "3d7594823e1903a0",
        "nysact-s rank=15": "14172c96cc521082",
        "nysact-s rank=20": "73c85df6256e1001",
        "nysact-g rank=5": "05e458c3d9ceb3e2",
        "nysact-g rank=10": "996f61f4f4930863",
        "nysact-g rank=15": "57364a7daff60563",
        "nysact-g rank=20": "3e7e47ead083a473",
        "foof": "72d84f638c3f0715",
        "sgd": "63c3151b1a6d39e7",
    }
    cifar = planned(ablation_rank.STUDY, RESNET32, seeds=[0], epochs=200)
    [sgd] = [t.config.trial_key for t in cifar if t.arm.optimizer == "sgd"]
    assert sgd.startswith("64ed86959aca43fb")


# ---------------------------------------------------------------------- grids in general

RANK_STUDY = Study(
    workload="digits/cnn",
    name="plain",
    title="t",
    paper="NysAct",
    table="none",
    arms=grid("nysact-s", rank=[5, 20]),
    figure=LevelFigure(factor="rank", panels=("nysact-s",)),
)


def test_recipe_level_is_added_to_the_levels():
    assert [t.arm.label for t in planned(RANK_STUDY, seeds=[0])] == [
        f"nysact-s rank={r}" for r in (5, 10, 20)
    ]
    assert [t.is_centre for t in planned(RANK_STUDY, seeds=[0])] == [False, True, False]
    # If a command sets the levels, the recipe's level is not added.
    trials = planned(RANK_STUDY, seeds=[0], levels={"rank": [5, 20]})
    assert [t.arm.overrides["rank"] for t in trials] == [5, 20]


def test_arm_can_set_fields_of_the_recipe():
    study = replace(
        RANK_STUDY,
        arms=[*grid("sgd", batch_size=[32, 64]), Arm(optimizer="foof", overrides={"epochs": 3})],
        figure=CurveFigure(),
    )
    configs = {t.arm.label: t.config for t in planned(study, seeds=[0])}
    assert configs["sgd batch_size=32"] == resolve("digits/cnn", "sgd", None, {"batch_size": 32})
    assert configs["foof"].epochs == 3
    assert configs["sgd batch_size=64"] == resolve("digits/cnn", "sgd")
    trials = planned(study, seeds=[0], only={"batch_size": [32]}, optimizers=["sgd"])
    assert {t.config.batch_size for t in trials} == {32}


def test_summary_of_one_trial_is_in_the_singular(tmp_path: Path):
    options = Options(only={"rank": [5]}, seeds=[0], out=tmp_path)
    (single,) = plans(RANK_STUDY, options)
    assert missing(single).summary == "1 trial (1 arm x 1 seed): 0 done, 1 to go"


def test_each_workload_has_a_plan():
    workloads = "digits/mlp,digits/cnn"
    planned = plans(RANK_STUDY, Options(only={}, levels={}, settings={}, workload=workloads))
    assert [plan.workload for plan in planned] == ["digits/mlp", "digits/cnn"]


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        (
            [*grid("sgd", lr=[0.1]), *grid("sgd", lr=[0.1, 0.2])],
            r"arms sgd lr=0\.1 and sgd lr=0\.1 are the same trials",
        ),
        (
            [Arm(optimizer="sgd"), *grid("sgd", batch_size=[64])],
            r"arms sgd and sgd batch_size=64 are the same trials",
        ),
        (grid("sgd", rank=[5]), "rank"),
        (grid("nysact-s", rnk=[5]), 'Did you mean "rank"'),
        (grid("nysact-s", rank=[0, 5]), "rank = 0: must be an integer >= 1"),
        (
            grid("kfac", damping=[1.0, -1.0], as_released=True),
            "damping = -1.0: must be a finite number > 0",
        ),
        (
            grid("foof", batch_size=[64, 2000]),
            r"batch_size = 2000: must be an integer in 2\.\.1197",
        ),
        (grid("foof", epochs=[0]), "epochs = 0: must be an integer >= 1"),
    ],
)
def test_invalid_arm_is_an_error_of_one_line(arms: list[Arm], message: str):
    with pytest.raises(HyperparameterError, match=message) as error:
        planned(replace(RANK_STUDY, arms=arms, figure=CurveFigure()))
    assert len(str(error.value).splitlines()) == 1


LEVELS = LevelFigure(factor="rank", panels=("nysact-s",), references=("sgd",))
TARGET = TargetFigure(
    reference="sgd", share=0.9, of="best", rule="r", panels=(("test/accuracy", "epochs"),)
)


@pytest.mark.parametrize(
    ("figure", "name", "suggestion"),
    [
        (replace(LEVELS, panels=("nysact",)), "nysact", "nysact-s"),
        (replace(LEVELS, factor="rnk"), "rnk", "rank"),
        (replace(LEVELS, references=("sgdd",)), "sgdd", "sgd"),
        (replace(LEVELS, metric="test/acc"), "test/acc", "test/accuracy"),
        (CurveFigure(references=("sgdd",)), "sgdd", "sgd"),
        (CurveFigure(metrics=("train/los",)), "train/los", "train/loss"),
        (replace(TARGET, reference="sgdd"), "sgdd", "sgd"),
        (replace(TARGET, panels=(("tst/loss", "epochs"),)), "tst/loss", "test/loss"),
        (ResidualFigure(optimizers=("nysact",)), "nysact", "nysact-s"),
    ],
)
def test_unknown_name_in_a_figure_is_an_error_of_one_line(
    figure: Figure, name: str, suggestion: str
):
    arms = [Arm(optimizer="sgd"), *RANK_STUDY.arms]
    study = replace(RANK_STUDY, arms=arms, figure=LEVELS)
    for broken in (replace(study, figure=figure), replace(study, extra_figures=[figure])):
        with pytest.raises(HyperparameterError) as error:
            planned(broken)
        (line,) = str(error.value).splitlines()
        assert f'"{name}"' in line and f'Did you mean "{suggestion}"' in line


def test_selection_may_leave_out_the_panels_and_references_of_a_figure():
    study = replace(RANK_STUDY, arms=[Arm(optimizer="sgd"), *RANK_STUDY.arms], figure=LEVELS)
    for name in ("sgd", "nysact-s"):
        assert {t.arm.optimizer for t in planned(study, optimizers=[name])} == {name}


def test_panels_without_a_comma_are_an_error():
    with pytest.raises(HyperparameterError, match=r'must be a tuple, such as \("nysact-s",\)'):
        planned(replace(RANK_STUDY, figure=replace(LEVELS, panels="nysact-s", references=())))


@pytest.mark.parametrize(
    ("name", "message"),
    [("NySact-S", 'Did you mean "nysact-s"'), ("zzz", "; or name its file with --plugin")],
)
def test_unknown_optimizer_is_an_error_with_advice(name: str, message: str):
    study = replace(RANK_STUDY, arms=[Arm(optimizer="sgd"), Arm(optimizer=name)])
    with pytest.raises(HyperparameterError, match=message) as error:
        planned(study)
    assert str(error.value).startswith(f'optimizer = "{name}": unknown.')
    assert len(str(error.value).splitlines()) == 1


def test_every_invalid_arm_is_reported_in_one_line():
    arms = [*grid("nysact-s", rank=[0]), *grid("sgd", lr=[-1.0]), *grid("foof", batch_size=[2000])]
    with pytest.raises(HyperparameterError) as error:
        planned(replace(RANK_STUDY, arms=arms, figure=CurveFigure()))
    names = [line.partition(" ")[0] for line in str(error.value).splitlines()]
    assert names == ["rank", "lr", "batch_size"]


def test_every_study_plans_its_default_and_its_published_workloads():
    studies = [artefact for artefact in manage.artefacts().values() if isinstance(artefact, Study)]
    for study in studies:
        for workload in (study.workload, *study.published):
            assert planned(study, workload, seeds=[0]), (study.name, workload)
