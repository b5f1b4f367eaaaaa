"""STEVE, Figures 1 to 3: epochs and time to Adam's usual final accuracy.

The two as-released variants of STEVE are Algorithm 1 as printed. They differ in `fallback`, the
optimizer of the parameters without Kronecker factors, which is SGD or Adam. The paper's targets are
92.5% on cifar10/resnet50, 44% on tinyimagenet/resnet50 and 46% on cifar100/vit_s16, within 100
epochs.
"""

from studies import Arm, Study, TargetFigure, main

ALGORITHM_1 = {"bias_correction": "paper", "second_moment": "per_example"}

STUDY = Study(
    name="time_to_target_steve",
    title="Time to Adam's usual final accuracy",
    paper="STEVE",
    table="Figures 1, 2 and 3",
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
