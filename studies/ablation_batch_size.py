"""NysAct, Appendix C, Figure 5, last plot: test accuracy for each batch size.

In the paper, the accuracy falls as the batch size grows, and NysAct's accuracy falls least.
Training drops the last batch of an epoch if it is incomplete. Digits has only 1,197 training
images, so the study uses smaller batches on this dataset.
"""

from studies import Arm, Better, Change, Claim, LevelFigure, Study, grid, main


def arms(sizes: list[int]) -> list[Arm]:
    """Return an arm for each optimizer, variant and batch size."""
    released = [
        arm
        for name in ("kfac", "eva", "foof", "nysact-s")
        for arm in grid(name, as_released=True, batch_size=sizes)
    ]
    return [*released, *grid("nysact-s", batch_size=sizes)]


def claims(small: int, large: int, on: str) -> list[Claim]:
    """Return the claims about the smallest and the largest batch size of some workloads."""
    kfac, eva, foof, nysact = (
        Change(f"{name} as-released batch_size={large}", f"{name} as-released batch_size={small}")
        for name in ("kfac", "eva", "foof", "nysact-s")
    )
    return [
        Better(
            f"* as-released batch_size={small}", than=f"* as-released batch_size={large}", on=(on,)
        ),
        *(Better(nysact, than=change, on=(on,)) for change in (kfac, eva, foof)),
    ]


STUDY = Study(
    name="ablation_batch_size",
    title="Effect of the batch size",
    paper="NysAct",
    table="Appendix C, Figure 5",
    claims=[*claims(64, 1024, on="cifar*"), *claims(16, 256, on="digits/*")],
    arms=arms([64, 128, 256, 512, 1024]),
    arms_on={"digits": arms([16, 32, 64, 128, 256])},
    figure=LevelFigure(factor="batch_size", panels=("kfac", "eva", "foof", "nysact-s")),
    published={"cifar10/resnet32": {"epochs": 100}, "cifar100/resnet110": {"epochs": 100}},
    reconstructed=("the levels", "the learning rate, which is not rescaled with the batch size"),
)

if __name__ == "__main__":
    main(STUDY)
