"""NysAct, Appendix C, Figure 5, second plot: test accuracy over the decay of the moving averages.

`ema_decay` is the weight of the old value. In Eva's released code, the coefficient is the weight of
the new value: 0.8, 0.9, 0.95 and 0.99 there are an `ema_decay` of 0.2, 0.1, 0.05 and 0.01.
"""

from studies import LevelFigure, Study, grid, main

DECAYS, EVA_DECAYS = [0.8, 0.9, 0.95, 0.99], [0.2, 0.1, 0.05, 0.01]

STUDY = Study(
    name="ablation_ema",
    title="Effect of the coefficient of the moving averages",
    paper="NysAct",
    table="Appendix C, Figure 5",
    claim=(
        "The accuracy of NysAct, Eva and FOOF hardly depends on the coefficient. KFAC's "
        "accuracy does, most strongly at 0.9."
    ),
    falsifier=(
        "A level of NysAct, Eva or FOOF differs significantly from the recipe's level, or no "
        "two levels of KFAC differ significantly."
    ),
    arms=[
        *grid("kfac", as_released=True, ema_decay=DECAYS),
        *grid("eva", as_released=True, ema_decay=EVA_DECAYS),
        *grid("foof", as_released=True, ema_decay=DECAYS),
        *grid("nysact-s", as_released=True, ema_decay=DECAYS),
        *grid("nysact-s", ema_decay=DECAYS),
    ],
    figure=LevelFigure(factor="ema_decay", panels=("kfac", "eva", "foof", "nysact-s")),
    seeds=3,
    published={"cifar10/resnet32": {"epochs": 100}, "cifar100/resnet110": {"epochs": 100}},
    reconstructed=(
        "the levels (the text names 0.9, and Table 7 has 0.95)",
        "Eva's levels, which are those of its released code",
    ),
)

if __name__ == "__main__":
    main(STUDY)
