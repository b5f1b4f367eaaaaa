"""STEVE, Figures 1 to 3: epochs and time to the accuracy that Adam usually ends with.

STEVE is Algorithm 1 as printed, with SGD or with Adam for what has no Kronecker factors.

A file of its own, since it is another paper's claim. The paper's own: `--workload cifar10/resnet50`,
`tinyimagenet/resnet50` and `cifar100/vit_s16`, to 92.5, 44 and 46%, trained to the cap of 100 epochs and read off.
"""

from studies import Arm, Study, TargetFigure, main

ALGORITHM_1 = {"bias_correction": "paper", "second_moment": "per_example"}

STUDY = Study(
    name="time_to_target_steve",
    title="Time to what Adam ends with",
    paper="STEVE",
    table="Figures 1, 2 and 3",
    claim="STEVE hits the target in 60 to 85% fewer epochs and 30 to 60% less time than Adam; KFAC and EKFAC miss it.",
    falsifier="An interval of STEVE's epochs or time that is not below Adam's, or KFAC or EKFAC reaching the target.",
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
        rule="what Adam usually ends with",
        panels=(("test/loss", "time"), ("train/loss", "epochs")),
    ),
    timed=True,
    published={"cifar10/resnet50": {}, "tinyimagenet/resnet50": {}, "cifar100/vit_s16": {}},
)

if __name__ == "__main__":
    main(STUDY)
