"""NysAct, Table 5 and Figure 4: epochs and time to 90% of SGD's best accuracy.

All trials are trained to the end, and the report determines when each reached the target. The
seconds per epoch come from the files of `compare_cost`; if there are none, the report prints the
commands that measure them. The paper's workloads are imagenet/resnet50 and imagenet/deit_s, with
targets of 72 and 68%.
"""

from studies import Arm, Study, TargetFigure, main

STUDY = Study(
    name="time_to_target",
    title="Time to 90% of SGD's best accuracy",
    paper="NysAct",
    table="Table 5, Figure 4",
    claim=(
        "NysAct reaches the target in fewer epochs than SGD, KFAC and Eva, and in less time "
        "than KFAC, Eva and FOOF. FOOF needs fewer epochs than NysAct, and AdamW needs fewer "
        "epochs and less time."
    ),
    falsifier=(
        "NysAct's median number of epochs lies above that of SGD, KFAC or Eva, or its time "
        "above FOOF's, and the intervals do not overlap."
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
        panels=(("test/accuracy", "epochs"), ("test/accuracy", "time")),
    ),
    timed=True,
    published={"imagenet/resnet50": {}, "imagenet/deit_s": {}},
)

if __name__ == "__main__":
    main(STUDY)
