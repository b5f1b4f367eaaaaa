"""NysAct, Algorithm 1 and its released code: redrawn and shifted sketches.

Algorithm 1 keeps the same sketch (`resample="fixed"`). The released code (`"official"`) redraws the
sketch at every update of the statistics, so its moving average mixes products with different
sketches, but it computes the inverse with the last sketch only. Two other variants redraw the
sketch without this mismatch: `"window"` redraws after each inverse and converts the average to the
new sketch; `"joint"` redraws at every update and averages the sketches, too.

For numerical stability, Algorithm 1 and the released code add a shift to the sketch before they
compute the inverse. The shift of Algorithm 1 (`shift="tropp"`) is as small as the rounding error,
and that of the released code (`"official"`) is at least the damping. docs/algorithms.md has the
formulas. No paper compares these variants, so the claims are this project's.
"""

from studies import Arm, Equivalent, LevelFigure, Study, grid, main

RESAMPLE, SHIFT = ["fixed", "window", "joint", "official"], ["tropp", "official"]

STUDY = Study(
    name="ablation_sampling",
    title="Effect of redrawn and shifted sketches",
    paper="NysAct",
    table="Algorithm 1 and its released code",
    claims=[
        Equivalent("nysact-* resample=* shift=tropp", to="nysact-* resample=fixed shift=tropp"),
        Equivalent("nysact-* resample=fixed shift=*", to="nysact-* resample=fixed shift=tropp"),
        # The released code against Algorithm 1.
        Equivalent(
            "nysact-* resample=official shift=official", to="nysact-* resample=fixed shift=tropp"
        ),
    ],
    claimed_by_paper=False,
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
