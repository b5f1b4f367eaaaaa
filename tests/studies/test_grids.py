"""The grids of the papers: what is planned, what is shared, and that no key of a trial that there is moves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

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
from studies.harness.kinds.study.figures import LevelFigure
from studies.harness.kinds.study.plan import plan, plans
from studies.harness.kinds.study.study import Study
from trainables.workloads import resolve

FIGURE_5 = [ablation_learning_rate, ablation_ema, ablation_damping, ablation_batch_size]
GRIDS = [
    module.STUDY
    for module in (*FIGURE_5, ablation_inverse_frequency, ablation_rank, ablation_sampling)
]
RESNET32 = "cifar10/resnet32"


def planned(study: Study, workload: str | None = None, **chosen) -> Sequence[Trial]:
    return plan(
        study, Options(**{"only": {}, "levels": {}, "settings": {}, **chosen}), workload
    ).trials


def keys(trials: Sequence[Trial], **wanted) -> set[str]:
    """Keys of the trials of an arm: its optimizer, `as_released`, and values."""
    kind = {"as_released": False, **wanted}
    return {
        t.config.trial_key
        for t in trials
        if t.arm.as_released == kind["as_released"]
        and all(
            value(t.config, name) == level
            for name, level in wanted.items()
            if name != "as_released"
        )
    }


# ---------------------------------------------------------------------- the literals


@pytest.mark.parametrize("study", GRIDS, ids=[study.name for study in GRIDS])
def test_appendix_c_has_the_papers_seeds_epochs_and_networks(study: Study):
    assert study.seeds == (5 if study is ablation_sampling.STUDY else 3)
    for workload in (RESNET32, "cifar100/resnet110"):
        trials = planned(study, workload)
        assert {t.config.epochs for t in trials} == {100} and len(
            {t.config.seed for t in trials}
        ) == study.seeds
    assert study.papers_command.endswith("--workload cifar10/resnet32,cifar100/resnet110")
    assert {t.config.epochs for t in planned(study, RESNET32, epochs=7)} == {7}


@pytest.mark.parametrize("module", FIGURE_5, ids=[module.STUDY.name for module in FIGURE_5])
def test_figure_5_compares_four_released_methods_and_the_consistent_nysact(module):
    arms = {(t.arm.optimizer, t.arm.as_released) for t in planned(module.STUDY)}
    assert arms == {(name, True) for name in ("kfac", "eva", "foof", "nysact-s")} | {
        ("nysact-s", False)
    }


def test_levels_are_the_issues():
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
            found = [
                t.arm.overrides[factor]
                for t in planned(study, RESNET32, seeds=[0])
                if t.arm.optimizer == name
            ]
            missing = {0.03} if (factor, name) == ("damping", "kfac") else set()  # the recipe's
            assert set(found) == {*levels[factor], *missing}, (study.name, name)


def test_the_batch_sizes_of_digits_are_their_own():
    trials = planned(ablation_batch_size.STUDY)
    assert {t.config.batch_size for t in trials} == {16, 32, 64, 128, 256}
    assert len(trials) == 5 * 5 * 3 and {t.config.hyperparameters["lr"] for t in trials} == {
        0.3,
        3.0,
    }


def test_the_released_evas_coefficient_is_the_weight_of_the_new_value():
    decays = {
        t.config.hyperparameters["ema_decay"]
        for t in planned(ablation_ema.STUDY)
        if t.arm.optimizer == "eva"
    }
    assert decays == {0.2, 0.1, 0.05, 0.01}


def test_sampling_is_a_full_grid_whose_centre_is_the_algorithm():
    trials = planned(ablation_sampling.STUDY, seeds=[0])
    assert len(trials) == 2 * 4 * 2 + 2
    centres = {t.arm.label for t in trials if t.is_centre and t.arm.factors}
    assert centres == {f"nysact-{kind} resample=fixed shift=tropp" for kind in "sg"}


def test_table_2_and_table_4():
    trials = planned(compare_accuracy.STUDY, RESNET32, seeds=[0])
    released = {(t.arm.optimizer, t.config.epochs) for t in trials if t.arm.as_released}
    assert released == {
        (name, epochs) for name in compare_accuracy.OPTIMIZERS for epochs in (100, 200)
    }
    consistent = {t.arm.optimizer for t in trials if not t.arm.as_released}
    assert consistent == {
        "kfac",
        "eva",
        "foof",
        "nysact-g",
        "nysact-s",
    }  # the others have no second form there
    ninety_nine = planned(compare_accuracy.STUDY, "cifar100/resnet32", seeds=[0])
    assert ("sgd", False) in {
        (t.arm.optimizer, t.arm.as_released) for t in ninety_nine
    }  # Nesterov's there
    assert {t.arm.optimizer for t in planned(compare_accuracy.STUDY, "imagenet/deit_s")} == set(
        compare_accuracy.ON_IMAGENET
    )
    assert {t.config.epochs for t in planned(compare_accuracy.STUDY)} == {20}
    for chosen in ({"epochs": 3}, {"levels": {"epochs": [3]}}):
        assert {
            t.config.epochs for t in planned(compare_accuracy.STUDY, RESNET32, seeds=[0], **chosen)
        } == {3}


# ---------------------------------------------------------------------- what is shared


def test_the_recipes_value_is_one_trial_in_every_ablation():
    """The centre: the same trials under every study, and those that a plain arm has."""
    for workload, recipe in (("digits/cnn", {}), (RESNET32, {"epochs": 100})):
        for optimizer, as_released in (
            ("nysact-s", True),
            ("nysact-s", False),
            ("foof", True),
            ("kfac", True),
        ):
            plain = {
                resolve(
                    workload, optimizer, None, recipe, seed=s, as_released=as_released
                ).trial_key
                for s in range(3)
            }
            for study in GRIDS:
                trials = planned(study, workload, seeds=[0, 1, 2])
                arms = {(t.arm.optimizer, t.arm.as_released) for t in trials}
                if (optimizer, as_released) in arms:
                    assert plain <= {t.config.trial_key for t in trials}, (
                        study.name,
                        optimizer,
                        as_released,
                    )
                    mine = [
                        t
                        for t in trials
                        if (t.arm.optimizer, t.arm.as_released) == (optimizer, as_released)
                    ]
                    assert {t.config.trial_key for t in mine if t.is_centre} == plain


def test_centre_points_are_shared_between_ablations():
    rank, damping, sampling = (
        planned(m.STUDY) for m in (ablation_rank, ablation_damping, ablation_sampling)
    )
    ours = {
        "optimizer": "nysact-s",
        "rank": 10,
        "damping": 1.0,
        "resample": "fixed",
        "shift": "tropp",
        "lr": 0.3,
    }
    centre = keys(rank, **ours)
    assert len(centre) == 3 and centre == keys(damping, **ours) and centre < keys(sampling, **ours)


def test_the_union_trains_each_once():
    studies = [*GRIDS, compare_accuracy.STUDY]
    trials = [t for study in studies for t in planned(study)]
    assert (len(trials), len({t.config.trial_key for t in trials})) == (545, 428)


def test_no_key_of_a_trial_that_there_is_moved():
    """Of ablation_rank, as computed before an arm could set more than hyperparameters: users have these folders."""
    first = {t.arm.label: t.config.trial_key[:16] for t in planned(ablation_rank.STUDY, seeds=[0])}
    assert first == {
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
    assert {t.config.trial_key[:16] for t in cifar if t.arm.optimizer == "sgd"} == {
        "64ed86959aca43fb"
    }


# ---------------------------------------------------------------------- the mechanism

PLAIN = Study(
    name="plain",
    title="t",
    paper="NysAct",
    table="none",
    claim="c",
    falsifier="f",
    arms=grid("nysact-s", rank=[5, 20]),
    figure=LevelFigure(factor="rank", panels=("nysact-s",)),
)


def test_the_recipes_value_is_added_where_it_is_no_level():
    assert [t.arm.label for t in planned(PLAIN, seeds=[0])] == [
        f"nysact-s rank={r}" for r in (5, 10, 20)
    ]
    assert [t.is_centre for t in planned(PLAIN, seeds=[0])] == [False, True, False]
    named = planned(PLAIN, seeds=[0], levels={"rank": [5, 20]})
    assert [t.arm.overrides["rank"] for t in named] == [
        5,
        20,
    ]  # what a command names is what it gets


def test_an_arm_may_set_fields_of_the_recipe():
    study = replace(
        PLAIN,
        arms=[*grid("sgd", batch_size=[32, 64]), Arm(optimizer="foof", overrides={"epochs": 3})],
    )
    configs = {t.arm.label: t.config for t in planned(study, seeds=[0])}
    assert configs["sgd batch_size=32"] == resolve("digits/cnn", "sgd", None, {"batch_size": 32})
    assert configs["foof"].epochs == 3 and configs["sgd batch_size=64"] == resolve(
        "digits/cnn", "sgd"
    )
    assert {
        t.config.batch_size
        for t in planned(study, seeds=[0], only={"batch_size": [32]}, optimizers=["sgd"])
    } == {32}


def test_a_plan_for_each_workload():
    made = plans(PLAIN, Options(only={}, levels={}, settings={}, workload="digits/mlp,digits/cnn"))
    assert [each.workload for each in made] == ["digits/mlp", "digits/cnn"]


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
def test_a_wrong_arm_is_named_before_anything_runs(arms: list[Arm], message: str):
    with pytest.raises(HyperparameterError, match=message) as found:
        planned(replace(PLAIN, arms=arms))
    assert len(str(found.value).splitlines()) == 1


def test_every_wrong_arm_has_a_line():
    arms = [*grid("nysact-s", rank=[0]), *grid("sgd", lr=[-1.0]), *grid("foof", batch_size=[2000])]
    with pytest.raises(HyperparameterError) as found:
        planned(replace(PLAIN, arms=arms))
    assert [line.partition(" ")[0] for line in str(found.value).splitlines()] == [
        "rank",
        "lr",
        "batch_size",
    ]


def test_every_study_of_the_tree_plans_its_default_and_its_published_workloads():
    for study in (
        artefact for artefact in manage.artefacts().values() if isinstance(artefact, Study)
    ):
        for workload in (study.workload, *study.published):
            assert planned(study, workload, seeds=[0]), (study.name, workload)
