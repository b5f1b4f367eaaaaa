"""NysAct, Appendix C, Figure 5, first plot: test accuracy for each learning rate."""

from studies import Better, LevelFigure, Study, grid, main

RATES = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0]

STUDY = Study(
    name="ablation_learning_rate",
    title="Effect of the learning rate",
    paper="NysAct",
    table="Appendix C, Figure 5",
    claims=[
        Better("* as-released lr=0.1", than="* as-released lr=*", on=("cifar*",)),
        # "Eva and FOOF struggle" at the lower end, KFAC and Eva at 1.0; NysAct does not.
        Better("nysact-s as-released lr=0.001", than="eva as-released lr=0.001"),
        Better("nysact-s as-released lr=0.001", than="foof as-released lr=0.001"),
        Better("nysact-s as-released lr=1.0", than="kfac as-released lr=1.0"),
        Better("nysact-s as-released lr=1.0", than="eva as-released lr=1.0"),
    ],
    undecidable=(
        "NysAct's accuracy is stable over the whole range of learning rates: the paper states "
        "neither the range nor a margin",
    ),
    arms=[
        *(
            arm
            for name in ("kfac", "eva", "foof", "nysact-s")
            for arm in grid(name, as_released=True, lr=RATES)
        ),
        *grid("nysact-s", lr=RATES),
    ],
    figure=LevelFigure(factor="lr", panels=("kfac", "eva", "foof", "nysact-s")),
    published={"cifar10/resnet32": {"epochs": 100}, "cifar100/resnet110": {"epochs": 100}},
    reconstructed=(
        'the levels (the text names 0.1, 1.0 and a "lower end")',
        "the learning rates at which Eva and FOOF lose accuracy",
    ),
)

if __name__ == "__main__":
    main(STUDY)
