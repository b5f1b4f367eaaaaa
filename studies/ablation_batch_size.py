"""NysAct, Appendix C, Figure 5, last plot: test accuracy over the batch size.

The learning rate is not rescaled, and the last, smaller batch of an epoch is dropped. Digits have 1,197 images, and
smaller batches. Reconstructed: the levels (the text names none).
"""

from studies import Arm, LevelFigure, Study, grid, main


def arms(sizes: list[int]) -> list[Arm]:
    """What is compared, at some batch sizes."""
    released = [
        arm
        for name in ("kfac", "eva", "foof", "nysact-s")
        for arm in grid(name, as_released=True, batch_size=sizes)
    ]
    return [*released, *grid("nysact-s", batch_size=sizes)]


STUDY = Study(
    name="ablation_batch_size",
    title="Batch size",
    paper="NysAct",
    table="Appendix C, Figure 5",
    claim="Accuracy falls as batches grow, NysAct's moderately and less than that of KFAC, Eva and FOOF.",
    falsifier="NysAct losing more from the smallest batch to the largest than KFAC, Eva or FOOF.",
    arms=arms([64, 128, 256, 512, 1024]),
    arms_on={"digits": arms([16, 32, 64, 128, 256])},
    figure=LevelFigure(factor="batch_size", panels=("kfac", "eva", "foof", "nysact-s")),
    seeds=3,
    published={"cifar10/resnet32": {"epochs": 100}, "cifar100/resnet110": {"epochs": 100}},
    reconstructed=("the levels", "that the learning rate is not rescaled with the batch"),
)

if __name__ == "__main__":
    main(STUDY)
