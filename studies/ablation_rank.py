"""NysAct, Appendix C, Figure 7: test accuracy for each rank of the Nystrom approximation."""

from studies import Arm, LevelFigure, ResidualFigure, Study, grid, main

RANKS = [5, 10, 15, 20]

STUDY = Study(
    name="ablation_rank",
    title="Effect of the rank of the Nystrom approximation",
    paper="NysAct",
    table="Appendix C, Figure 7",
    claim=(
        "With either sketch (columns or Gaussian), NysAct is more accurate than SGD and nearly as "
        "accurate as FOOF, and rank 5 is as accurate as rank 20."
    ),
    falsifier=(
        "The 95% interval of some rank's accuracy lies below that of SGD or FOOF, or the "
        "intervals of ranks 5 and 20 do not overlap."
    ),
    arms=[
        *grid("nysact-s", rank=RANKS),
        *grid("nysact-g", rank=RANKS),
        Arm(optimizer="foof"),
        Arm(optimizer="sgd"),
    ],
    figure=LevelFigure(factor="rank", panels=("nysact-g", "nysact-s"), references=("sgd", "foof")),
    seeds=3,
    published={"cifar10/resnet32": {"epochs": 100}, "cifar100/resnet110": {"epochs": 100}},
    # This figure tests Remark 5.6 and requires --diagnostics.
    extra_figures=[ResidualFigure(optimizers=("nysact-g", "nysact-s"))],
)

if __name__ == "__main__":
    main(STUDY)
