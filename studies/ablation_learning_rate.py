"""NysAct, Appendix C, Figure 5, first plot: test accuracy over the learning rate."""

from studies import LevelFigure, Study, grid, main

RATES = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0]

STUDY = Study(
    name="ablation_learning_rate",
    title="Effect of the learning rate",
    paper="NysAct",
    table="Appendix C, Figure 5",
    claim=(
        "Every method has its best accuracy at a learning rate of 0.1. Eva and FOOF lose "
        "accuracy at the low end, and KFAC and Eva at 1.0. NysAct's accuracy is stable."
    ),
    falsifier=(
        "A method has its best accuracy at another learning rate than 0.1, or NysAct's "
        "accuracy varies more over the levels than that of KFAC or Eva."
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
    seeds=3,
    published={"cifar10/resnet32": {"epochs": 100}, "cifar100/resnet110": {"epochs": 100}},
    reconstructed=(
        'the levels (the text names 0.1, 1.0 and a "lower end")',
        "the learning rates at which Eva and FOOF lose accuracy",
    ),
)

if __name__ == "__main__":
    main(STUDY)
