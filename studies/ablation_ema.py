"""NysAct, Appendix C, Figure 5, second plot: test accuracy over the coefficient of the moving averages.

`ema_decay` is the weight of the old value. In the released Eva the coefficient is the weight of the new one, so its
.8 .9 .95 .99 are .2 .1 .05 .01 here. Reconstructed: the levels (the text names 0.9; Table 7 has 0.95).
"""

from studies import LevelFigure, Study, grid, main

DECAYS, OF_EVA = [0.8, 0.9, 0.95, 0.99], [0.2, 0.1, 0.05, 0.01]

STUDY = Study(
    name="ablation_ema",
    title="Coefficient of the moving averages",
    paper="NysAct",
    table="Appendix C, Figure 5",
    claim="NysAct and the others hardly depend on it; KFAC does, and at 0.9 above all.",
    falsifier="A level of NysAct, Eva or FOOF that is told from the recipe's, or KFAC flat within noise.",
    arms=[
        *grid("kfac", as_released=True, ema_decay=DECAYS),
        *grid("eva", as_released=True, ema_decay=OF_EVA),
        *grid("foof", as_released=True, ema_decay=DECAYS),
        *grid("nysact-s", as_released=True, ema_decay=DECAYS),
        *grid("nysact-s", ema_decay=DECAYS),
    ],
    figure=LevelFigure(factor="ema_decay", panels=("kfac", "eva", "foof", "nysact-s")),
    seeds=3,
    published={"cifar10/resnet32": {"epochs": 100}, "cifar100/resnet110": {"epochs": 100}},
    reconstructed=(
        "the levels, of which it names 0.9",
        "that Eva's are those of the released code, where the coefficient is the weight of the new value",
    ),
)

if __name__ == "__main__":
    main(STUDY)
