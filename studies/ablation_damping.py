"""NysAct, Appendix C, Figure 5, third plot: test accuracy over the damping.

KFAC's and Eva's recipe has a damping that is none of the levels; it is added, being the trial that all ablations share.
Reconstructed: the level 1 (the text names 0.01, 0.1 and 10).
"""

from studies import LevelFigure, Study, grid, main

DAMPINGS = [0.01, 0.1, 1.0, 10.0]

STUDY = Study(
    name="ablation_damping",
    title="Damping",
    paper="NysAct",
    table="Appendix C, Figure 5",
    claim="NysAct rises from 0.1 to 10; at 0.01 FOOF and NysAct dip; at 10 KFAC declines and varies much.",
    falsifier="NysAct at 10 below NysAct at 0.1, or KFAC at 10 not below KFAC at its best.",
    arms=[
        *(
            arm
            for name in ("kfac", "eva", "foof", "nysact-s")
            for arm in grid(name, as_released=True, damping=DAMPINGS)
        ),
        *grid("nysact-s", damping=DAMPINGS),
    ],
    figure=LevelFigure(factor="damping", panels=("kfac", "eva", "foof", "nysact-s")),
    seeds=3,
    published={"cifar10/resnet32": {"epochs": 100}, "cifar100/resnet110": {"epochs": 100}},
    reconstructed=("the level 1, between those it names",),
)

if __name__ == "__main__":
    main(STUDY)
