"""NysAct, Appendix C, Figure 5, first plot: test accuracy over the learning rate.

Reconstructed: the levels (the text names 0.1, 1.0 and a "lower end") and so where Eva and FOOF drop.
"""

from studies import LevelFigure, Study, grid, main

RATES = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0]

STUDY = Study(
    name="ablation_learning_rate",
    title="Learning rate",
    paper="NysAct",
    table="Appendix C, Figure 5",
    claim="Every method is best at 0.1; at the low end Eva and FOOF drop, at 1.0 KFAC and Eva; NysAct stays stable.",
    falsifier="A best level other than 0.1, or NysAct varying over the levels more than KFAC or Eva.",
    arms=[
        *(
            arm
            for name in ("kfac", "eva", "foof", "nysact-s")
            for arm in grid(name, as_released=True, lr=RATES)
        ),
        *grid("nysact-s", lr=RATES),
    ],
    figure=LevelFigure(factor="lr", panels=("kfac", "eva", "foof", "nysact-s")),
    seeds=3,
    published={"cifar10/resnet32": {"epochs": 100}, "cifar100/resnet110": {"epochs": 100}},
    reconstructed=("the levels, of which it names 0.1, 1.0 and a lower end",),
)

if __name__ == "__main__":
    main(STUDY)
