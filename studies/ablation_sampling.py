"""NysAct, Algorithm 1 and its released code: redrawn sketches, and the shift of the factor.

Algorithm 1 keeps one sketch (`fixed`, `tropp`). The released code (`official`) redraws the sketch
at every update of the statistics, so that its moving average mixes sketches, and inverts with the
last one. Two variants redraw without mixing: `window` redraws at each inverse and starts a new
average; `joint` redraws at every update and averages the sketch, too. No paper compares these
variants.
"""

from studies import Arm, LevelFigure, Study, grid, main

RESAMPLE, SHIFT = ["fixed", "window", "joint", "official"], ["tropp", "official"]

STUDY = Study(
    name="ablation_sampling",
    title="Effect of redrawn sketches and of the shift of the factor",
    paper="NysAct",
    table="Algorithm 1 and its released code",
    claim=(
        "The released code redraws the sketch within one moving average and shifts the "
        "factor differently. Neither difference from Algorithm 1 changes the accuracy."
    ),
    falsifier="A variant differs significantly from `fixed` with `tropp` and the same sketch.",
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
