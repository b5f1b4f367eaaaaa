"""NysAct, Appendix C, Figure 5, third plot: test accuracy over the damping.

The damping in the recipe of KFAC and Eva is not one of the levels. It is added as a level, because
all ablations share its trials.
"""

from studies import LevelFigure, Study, grid, main

DAMPINGS = [0.01, 0.1, 1.0, 10.0]

STUDY = Study(
    name="ablation_damping",
    title="Effect of the damping",
    paper="NysAct",
    table="Appendix C, Figure 5",
    claim=(
        "NysAct's accuracy rises from damping 0.1 to 10. At 0.01, the accuracy of FOOF and "
        "NysAct drops. At 10, KFAC's accuracy declines and varies strongly."
    ),
    falsifier=(
        "NysAct's accuracy is lower at 10 than at 0.1, or KFAC's accuracy at 10 is not below "
        "its best."
    ),
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
