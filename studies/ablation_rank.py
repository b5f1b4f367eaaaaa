"""NysAct, Appendix C, Figure 7: test accuracy for each rank of the Nystrom approximation."""

from studies import (
    Arm,
    Better,
    Equivalent,
    LevelFigure,
    NotWorse,
    ResidualFigure,
    Study,
    grid,
    main,
)

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
    claims=[
        Better("nysact-* rank=5", than="sgd"),
        Better("nysact-* rank=20", than="sgd"),
        # In Table 2, NysAct "follows closely" with up to 1.4 points less than FOOF.
        NotWorse("nysact-* rank=5", than="foof", points=0.014),
        NotWorse("nysact-* rank=20", than="foof", points=0.014),
        Equivalent("nysact-* rank=5", to="nysact-* rank=20"),
        Better("nysact-* rank=20", than="nysact-* rank=5"),  # "a subtle trend"
        Equivalent("nysact-g rank=*", to="nysact-s rank=*"),
    ],
    undecidable=(
        "the accuracy varies more between runs with Gaussian sketches than with sampled columns: a "
        "claim compares means, and a few seeds do not estimate a variance",
        "a smaller approximation error gives faster convergence (Remark 5.6): this is a statement "
        "about an upper bound; with `--diagnostics`, a figure shows the losses over the errors",
    ),
    arms=arms(RANKS),
    arms_on={"digits/autoencoder": arms(RANKS_ON_AUTOENCODER)},
    figure=LevelFigure(factor="rank", panels=("nysact-g", "nysact-s"), references=("sgd", "foof")),
    published={"cifar10/resnet32": {"epochs": 100}, "cifar100/resnet110": {"epochs": 100}},
    # This figure tests Remark 5.6 and requires --diagnostics.
    extra_figures=[ResidualFigure(optimizers=("nysact-g", "nysact-s"))],
)

if __name__ == "__main__":
    main(STUDY)
