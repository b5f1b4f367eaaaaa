"""NysAct, Appendix C, Figure 7: test accuracy over the rank of the Nystrom approximation."""

from studies import Arm, LevelFigure, ResidualFigure, Study, grid, main

RANKS = [5, 10, 15, 20]

STUDY = Study(
    name="ablation_rank",
    title="Rank of the Nystrom approximation",
    paper="NysAct",
    table="Appendix C, Figure 7",
    claim="With either sketch NysAct beats SGD and follows FOOF, and rank 5 does as well as rank 20.",
    falsifier="A rank whose interval lies below SGD's or FOOF's, or intervals of ranks 5 and 20 that do not overlap.",
    arms=[
        *grid("nysact-s", rank=RANKS),
        *grid("nysact-g", rank=RANKS),
        Arm(optimizer="foof"),
        Arm(optimizer="sgd"),
    ],
    figure=LevelFigure(factor="rank", panels=("nysact-g", "nysact-s"), references=("sgd", "foof")),
    seeds=3,
    published={"cifar10/resnet32": {"epochs": 100}, "cifar100/resnet110": {"epochs": 100}},
    further=[
        ResidualFigure(optimizers=("nysact-g", "nysact-s"))
    ],  # Remark 5.6, of trials with --diagnostics
)

if __name__ == "__main__":
    main(STUDY)
