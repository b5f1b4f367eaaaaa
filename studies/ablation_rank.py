"""NysAct, Appendix C, Figure 7: test accuracy for each rank of the Nystrom approximation."""

from studies import Arm, LevelFigure, ResidualFigure, Study, grid, main

RANKS = [5, 10, 15, 20]
# The layers of the default workload have 17 to 129 inputs. A layer with at most 40 inputs is stored
# exactly at rank 40.
RANKS_ON_AUTOENCODER = [1, 2, 5, 10, 20, 40]


def arms(ranks: list[int]) -> list[Arm]:
    """Return an arm for each sketch and rank, and the references."""
    sketches = [arm for name in ("nysact-s", "nysact-g") for arm in grid(name, rank=ranks)]
    return [*sketches, Arm(optimizer="foof"), Arm(optimizer="sgd")]


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
    arms=arms(RANKS),
    arms_on={"digits/autoencoder": arms(RANKS_ON_AUTOENCODER)},
    figure=LevelFigure(factor="rank", panels=("nysact-g", "nysact-s"), references=("sgd", "foof")),
    seeds=3,
    published={"cifar10/resnet32": {"epochs": 100}, "cifar100/resnet110": {"epochs": 100}},
    # This figure tests Remark 5.6 and requires --diagnostics.
    extra_figures=[ResidualFigure(optimizers=("nysact-g", "nysact-s"))],
)

if __name__ == "__main__":
    main(STUDY)
