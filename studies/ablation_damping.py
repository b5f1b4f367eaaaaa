"""NysAct, Appendix C, Figure 5, third plot: test accuracy for each damping.

The recipe's damping of KFAC and Eva is not in the list below. `Study.arms_of` adds it as a level,
so that all ablations share its trials. In the paper, FOOF and NysAct also lose accuracy at a
damping of 0.01, and KFAC's accuracy varies strongly between the runs at 10.
"""

from studies import LevelFigure, Study, grid, main

DAMPINGS = [0.01, 0.1, 1.0, 10.0]

STUDY = Study(
    name="ablation_damping",
    title="Effect of the damping",
    paper="NysAct",
    table="Appendix C, Figure 5",
    arms=[
        *(
            arm
            for name in ("kfac", "eva", "foof", "nysact-s")
            for arm in grid(name, as_released=True, damping=DAMPINGS)
        ),
        *grid("nysact-s", damping=DAMPINGS),
    ],
    figure=LevelFigure(factor="damping", panels=("kfac", "eva", "foof", "nysact-s")),
    seeds=3,
    published={"cifar10/resnet32": {"epochs": 100}, "cifar100/resnet110": {"epochs": 100}},
    reconstructed=("the level 1 (the text names 0.01, 0.1 and 10)",),
)

if __name__ == "__main__":
    main(STUDY)
