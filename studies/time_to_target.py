"""NysAct, Table 5 and Figure 4: epochs and time to 90% of the best accuracy that SGD reaches.

In the paper FOOF needs fewer epochs and more time, and AdamW less of both.

Trials train to the end and hits are read off. Seconds are those of compare_cost's files, else the report says how to
measure them. The paper's own: `--workload imagenet/resnet50` and `--workload imagenet/deit_s`, to 72 and 68%.
"""

from studies import Arm, Study, TargetFigure, main

STUDY = Study(
    name="time_to_target",
    title="Time to 90% of what SGD reaches",
    paper="NysAct",
    table="Table 5, Figure 4",
    claim="NysAct hits the target in fewer epochs than SGD, KFAC and Eva, and in less time than KFAC, Eva and FOOF.",
    falsifier="NysAct's median epochs lie above SGD's, KFAC's or Eva's, or its time above FOOF's, intervals apart.",
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
        rule="90% of the best that SGD reaches",
        panels=(("test/accuracy", "epochs"), ("test/accuracy", "time")),
    ),
    timed=True,
    published={"imagenet/resnet50": {}, "imagenet/deit_s": {}},
)

if __name__ == "__main__":
    main(STUDY)
