"""NysAct, Algorithm 1 against its released code: when the sketch is drawn anew, and how the factor is shifted.

The released code redraws the sketch at every update of the statistics, so that its average mixes sketches, and inverts
with the last one; the algorithm as the mathematics has it keeps one (`fixed`, `tropp`).

`window` and `joint` redraw without mixing: at each inverse with a fresh average, or averaging the sketch, too. Nobody
has published this: the report's differences to the recipe's values are the result.
"""

from studies import Arm, LevelFigure, Study, grid, main

RESAMPLE, SHIFT = ["fixed", "window", "joint", "official"], ["tropp", "official"]

STUDY = Study(
    name="ablation_sampling",
    title="Sketches redrawn, and the shift of the factor",
    paper="NysAct",
    table="Algorithm 1 and its released code",
    claim="What the released code does differently, redrawn sketches in one average and another shift, costs nothing.",
    falsifier="A variant that is told from `fixed`, `tropp` of the same sketch.",
    arms=[
        *grid("nysact-s", resample=RESAMPLE, shift=SHIFT),
        *grid("nysact-g", resample=RESAMPLE, shift=SHIFT),
        Arm(optimizer="foof"),
        Arm(optimizer="sgd"),
    ],
    figure=LevelFigure(
        factor="resample", panels=("nysact-s", "nysact-g"), references=("foof", "sgd")
    ),
    published={"cifar10/resnet32": {"epochs": 100}, "cifar100/resnet110": {"epochs": 100}},
)

if __name__ == "__main__":
    main(STUDY)
