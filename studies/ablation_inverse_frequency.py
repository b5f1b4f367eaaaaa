"""NysAct, Appendix C, Figure 6: test accuracy and time over the steps between two inverses.

The paper finds NysAct fastest from 10 steps on, and leaves KFAC out where it fails to invert.

Eva has no inverse: it is a reference. Times are not taken from trials, which share the machine, but from
`compare_cost`.
"""

from studies import Arm, LevelFigure, Study, grid, main

INTERVALS = [5, 10, 50, 100]

STUDY = Study(
    name="ablation_inverse_frequency",
    title="Steps between two inverses",
    paper="NysAct",
    table="Appendix C, Figure 6",
    claim="A longer interval costs NysAct no accuracy, second to FOOF's; KFAC frequently fails to invert.",
    falsifier="A level of NysAct told from the recipe's, or KFAC without a failed or diverged trial.",
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
