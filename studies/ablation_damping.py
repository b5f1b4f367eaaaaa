"""NysAct, Appendix C, Figure 5, third plot: test accuracy for each damping.

If the recipe's damping of an optimizer is not in the list below, such as 0.03 for KFAC and Eva on
CIFAR, `Study.arms_of` adds it as a level, so that all ablations share its trials.
"""

from studies import Better, LevelFigure, Study, grid, main

DAMPINGS = [0.01, 0.1, 1.0, 10.0]

STUDY = Study(
    name="ablation_damping",
    title="Effect of the damping",
    paper="NysAct",
    table="Appendix C, Figure 5",
    claims=[
        Better("nysact-s as-released damping=10.0", than="nysact-s as-released damping=0.1"),
        Better("kfac as-released damping=0.1", than="kfac as-released damping=10.0"),
        Better("kfac as-released damping=0.01", than="foof as-released damping=0.01"),
        Better("kfac as-released damping=0.01", than="nysact-s as-released damping=0.01"),
        Better("eva as-released damping=0.01", than="foof as-released damping=0.01"),
        Better("eva as-released damping=0.01", than="nysact-s as-released damping=0.01"),
    ],
    undecidable=(
        "KFAC's accuracy varies strongly between runs at a damping of 10: a claim compares means, "
        "and a few seeds do not estimate a variance",
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
    published={"cifar10/resnet32": {"epochs": 100}, "cifar100/resnet110": {"epochs": 100}},
    reconstructed=("the level 1 (the text names 0.01, 0.1 and 10)",),
)

if __name__ == "__main__":
    main(STUDY)
