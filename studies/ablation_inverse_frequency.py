"""NysAct, Appendix C, Figure 6: test accuracy and time over the steps between two inverses.

Eva computes no inverse and is shown for reference. The trials share the machine, so the times are
those that `compare_cost` measured. The paper's figure omits KFAC where the inversion fails.
"""

from studies import Arm, LevelFigure, Study, grid, main

INTERVALS = [5, 10, 50, 100]

STUDY = Study(
    name="ablation_inverse_frequency",
    title="Effect of the number of steps between inverses",
    paper="NysAct",
    table="Appendix C, Figure 6",
    claim=(
        "A longer interval does not reduce NysAct's accuracy, which is second to FOOF's. "
        "NysAct is the fastest from an interval of 10 steps on. KFAC often fails to invert "
        "its factors."
    ),
    falsifier=(
        "A level of NysAct differs significantly from the recipe's level, or NysAct is not "
        "the fastest at 10 steps or more, or no trial of KFAC fails or diverges."
    ),
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
