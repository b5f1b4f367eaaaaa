"""NysAct, Appendix C, Figure 5, last plot: test accuracy over the batch size.

The last, incomplete batch of an epoch is dropped. The study uses smaller batches on digits, which
has only 1,197 training images.
"""

from studies import Arm, LevelFigure, Study, grid, main


def arms(sizes: list[int]) -> list[Arm]:
    """Return the arms for some batch sizes."""
    released = [
        arm
        for name in ("kfac", "eva", "foof", "nysact-s")
        for arm in grid(name, as_released=True, batch_size=sizes)
    ]
    return [*released, *grid("nysact-s", batch_size=sizes)]


STUDY = Study(
    name="ablation_batch_size",
    title="Effect of the batch size",
    paper="NysAct",
    table="Appendix C, Figure 5",
    claim=(
        "Accuracy falls as the batch size grows. NysAct's accuracy falls moderately, and "
        "less than that of KFAC, Eva and FOOF."
    ),
    falsifier=(
        "From the smallest to the largest batch size, NysAct loses more accuracy than KFAC, "
        "Eva or FOOF."
    ),
    arms=arms([64, 128, 256, 512, 1024]),
    arms_on={"digits": arms([16, 32, 64, 128, 256])},
    figure=LevelFigure(factor="batch_size", panels=("kfac", "eva", "foof", "nysact-s")),
    seeds=3,
    published={"cifar10/resnet32": {"epochs": 100}, "cifar100/resnet110": {"epochs": 100}},
    reconstructed=("the levels", "the learning rate, which is not rescaled with the batch size"),
)

if __name__ == "__main__":
    main(STUDY)
