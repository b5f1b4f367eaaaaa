"""NysAct, Table 5 and Figure 4: epochs and time to 90% of SGD's best accuracy.

All trials are trained for all epochs, and the report determines when each trial reached the target.
The report takes the seconds per epoch from the files of `compare_cost`, and prints the commands for
missing measurements. The paper's targets are 72% on imagenet/resnet50 and 68% on imagenet/deit_s.
In the paper, AdamW needs fewer epochs and less time than NysAct.
"""

from studies import Arm, Better, Study, TargetFigure, main

EPOCHS, SECONDS = "epochs_to_target", "seconds_to_target"
NOT_DEIT = ("imagenet/resnet50", "digits/*")  # FOOF fails with DeiT-S

STUDY = Study(
    name="time_to_target",
    title="Time to 90% of SGD's best accuracy",
    paper="NysAct",
    table="Table 5, Figure 4",
    claims=[
        Better("nysact-s as-released", than="sgd as-released", metric=EPOCHS),
        Better("nysact-s as-released", than="kfac as-released", metric=EPOCHS),
        Better("nysact-s as-released", than="eva as-released", metric=EPOCHS),
        Better("foof as-released", than="nysact-s as-released", metric=EPOCHS, on=NOT_DEIT),
        Better("nysact-s as-released", than="foof as-released", metric=SECONDS),
        Better("nysact-s as-released", than="kfac as-released", metric=SECONDS),
        Better("nysact-s as-released", than="eva as-released", metric=SECONDS),
    ],
    undecidable=(
        "KFAC and FOOF fail to train DeiT-S because they cannot invert their factors: here a failed "
        "inversion keeps the old factor, and a failed trial does not show its cause",
    ),
    arms=[
        Arm(optimizer="nysact-s", as_released=True),
        Arm(optimizer="sgd", as_released=True),
        Arm(optimizer="adamw", as_released=True),
        Arm(optimizer="kfac", as_released=True),
        Arm(optimizer="eva", as_released=True),
        Arm(optimizer="foof", as_released=True),
    ],
    figure=TargetFigure(
        reference="sgd",
        share=0.9,
        of="best",
        rule="90% of SGD's best accuracy",
        panels=(("test/headline", "epochs"), ("test/headline", "time")),
    ),
    timed=True,
    published={"imagenet/resnet50": {}, "imagenet/deit_s": {}},
)

if __name__ == "__main__":
    main(STUDY)
