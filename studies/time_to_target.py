"""NysAct, Table 5 and Figure 4: epochs and time to 90% of SGD's best accuracy.

All trials are trained for all epochs, and the report determines when each trial reached the target.
The report takes the seconds per epoch from the files of `compare_cost`, and prints the commands for
missing measurements. The paper's targets are 72% on imagenet/resnet50 and 68% on imagenet/deit_s.
In the paper, FOOF needs fewer epochs than NysAct, and AdamW needs fewer epochs and less time.
"""

from studies import Arm, Study, TargetFigure, main

STUDY = Study(
    name="time_to_target",
    title="Time to 90% of SGD's best accuracy",
    paper="NysAct",
    table="Table 5, Figure 4",
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
