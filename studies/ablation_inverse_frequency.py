"""NysAct, Appendix C, Figure 6: test accuracy and time for each number of steps between inverses.

Eva computes no inverse and is a reference.
"""

from studies import Arm, Better, LevelFigure, NotWorse, Study, grid, main

INTERVALS = [5, 10, 50, 100]

STUDY = Study(
    name="ablation_inverse_frequency",
    title="Effect of the number of steps between inverses",
    paper="NysAct",
    table="Appendix C, Figure 6",
    claims=[
        NotWorse("nysact-s as-released inv_interval=*", than="nysact-s as-released inv_interval=5"),
        # From 10 steps on, the accuracy of NysAct is second to that of FOOF.
        Better("foof as-released inv_interval=*0", than="nysact-s as-released inv_interval=*0"),
        Better("nysact-s as-released inv_interval=*0", than="kfac as-released inv_interval=*0"),
        Better("nysact-s as-released inv_interval=*0", than="eva as-released"),
    ],
    undecidable=(
        "NysAct is the fastest optimizer from 10 steps on, and Eva at 5 steps: trials that run "
        "concurrently slow each other down, so the report takes the seconds from `compare_cost`",
        "KFAC often fails to invert its factors at 5 steps: here a failed inversion keeps the old "
        "factor and does not end the trial; `--diagnostics` counts the failures",
    ),
    arms=[
        *(
            arm
            for name in ("kfac", "foof", "nysact-s")
            for arm in grid(name, as_released=True, inv_interval=INTERVALS)
        ),
        *grid("nysact-s", inv_interval=INTERVALS),
        Arm(optimizer="eva", as_released=True),
    ],
    figure=LevelFigure(
        factor="inv_interval", panels=("kfac", "foof", "nysact-s"), references=("eva",)
    ),
    timed=True,
    published={"cifar10/resnet32": {"epochs": 100}, "cifar100/resnet110": {"epochs": 100}},
)

if __name__ == "__main__":
    main(STUDY)
