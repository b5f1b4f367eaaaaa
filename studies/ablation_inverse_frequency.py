"""NysAct, Appendix C, Figure 6: test accuracy and time for each number of steps between inverses.

Eva computes no inverse and is a reference. Trials run concurrently and slow each other down, so
the report takes the times from the files of `compare_cost`. In the paper, NysAct's accuracy is
second to FOOF's, and KFAC is absent from a plot because it often fails to invert its factors.
"""

from studies import Arm, LevelFigure, Study, grid, main

INTERVALS = [5, 10, 50, 100]

STUDY = Study(
    name="ablation_inverse_frequency",
    title="Effect of the number of steps between inverses",
    paper="NysAct",
    table="Appendix C, Figure 6",
    arms=[
        *(
            arm
            for name in ("kfac", "foof", "nysact-s")
            for arm in grid(name, as_released=True, inv_interval=INTERVALS)
        ),
        *grid("nysact-s", inv_interval=INTERVALS),
        Arm(optimizer="eva", as_released=True),
    ],
    figure=LevelFigure(
        factor="inv_interval", panels=("kfac", "foof", "nysact-s"), references=("eva",)
    ),
    timed=True,
    seeds=3,
    published={"cifar10/resnet32": {"epochs": 100}, "cifar100/resnet110": {"epochs": 100}},
)

if __name__ == "__main__":
    main(STUDY)
