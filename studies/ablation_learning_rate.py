"""NysAct, Appendix C, Figure 5, first plot: test accuracy for each learning rate.

In the paper, Eva and FOOF lose accuracy at the lower end of the learning rates, and KFAC and Eva
lose accuracy at 1.0.
"""

from studies import LevelFigure, Study, grid, main

RATES = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0]

STUDY = Study(
    name="ablation_learning_rate",
    title="Effect of the learning rate",
    paper="NysAct",
    table="Appendix C, Figure 5",
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
    reconstructed=(
        'the levels (the text names 0.1, 1.0 and a "lower end")',
        "the learning rates at which Eva and FOOF lose accuracy",
    ),
)

if __name__ == "__main__":
    main(STUDY)
