"""STEVE, Figures 1 to 3: epochs and time to Adam's usual final accuracy.

The as-released variants of STEVE are Algorithm 1 as printed; SGD or Adam trains the parameters
without Kronecker factors. The paper's workloads are cifar10/resnet50, tinyimagenet/resnet50 and
cifar100/vit_s16, with targets of 92.5, 44 and 46% and at most 100 epochs.
"""

from studies import Arm, Study, TargetFigure, main

ALGORITHM_1 = {"bias_correction": "paper", "second_moment": "per_example"}

STUDY = Study(
    name="time_to_target_steve",
    title="Time to Adam's usual final accuracy",
    paper="STEVE",
    table="Figures 1, 2 and 3",
    claim=(
        "STEVE reaches the target in 60 to 85% fewer epochs and 30 to 60% less time than "
        "Adam. KFAC and EKFAC do not reach it."
    ),
    falsifier=(
        "The interval of STEVE's epochs or time is not below Adam's, or KFAC or EKFAC "
        "reaches the target."
    ),
    arms=[
        Arm(
            optimizer="steve",
            overrides={**ALGORITHM_1, "fallback": "sgd"},
            factors=("fallback",),
            as_released=True,
        ),
        Arm(
            optimizer="steve",
            overrides={**ALGORITHM_1, "fallback": "adam"},
            factors=("fallback",),
            as_released=True,
        ),
        Arm(optimizer="steve"),
        Arm(optimizer="adam", as_released=True),
        Arm(optimizer="kfac", as_released=True),
        Arm(optimizer="ekfac", as_released=True),
    ],
    figure=TargetFigure(
        reference="adam",
        share=1.0,
        of="last",
        rule="Adam's usual final accuracy",
        panels=(("test/loss", "time"), ("train/loss", "epochs")),
    ),
    timed=True,
    published={"cifar10/resnet50": {}, "tinyimagenet/resnet50": {}, "cifar100/vit_s16": {}},
)

if __name__ == "__main__":
    main(STUDY)
