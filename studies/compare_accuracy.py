"""NysAct, Table 2, Figure 3 and Table 4: test accuracy and training curves of all optimizers.

Published numbers are compared with the as-released variants. Where the released code has no
own conventions, the as-released and the corrected variant are the same trials. Trials on
CIFAR and ImageNet train for 100 and for 200 epochs.
"""

from collections.abc import Sequence

from studies import Arm, CurveFigure, Study, grid, main

OPTIMIZERS = ("sgd", "adam", "adamw", "kfac", "eva", "foof", "nysact-g", "nysact-s")
ON_IMAGENET = ("sgd", "adamw", "kfac", "eva", "foof", "nysact-s")
CIFAR = [
    f"{data}/{model}"
    for data in ("cifar10", "cifar100")
    for model in ("resnet32", "resnet110", "densenet121")
]


def arms(optimizers: Sequence[str], **levels: list[int]) -> list[Arm]:
    """Return the as-released variant of every optimizer, then every corrected variant."""
    return [
        arm
        for as_released in (True, False)
        for name in optimizers
        for arm in grid(name, as_released=as_released, **levels)
    ]


STUDY = Study(
    name="compare_accuracy",
    title="Accuracy of all optimizers",
    paper="NysAct",
    table="Table 2, Figure 3 and Table 4",
    claim=(
        "On CIFAR, FOOF is the most accurate, NysAct is second, and Adam and AdamW are last. "
        "On ImageNet, NysAct is slightly less accurate than SGD with ResNet-50 and more "
        "accurate with DeiT-S, where KFAC and FOOF fail to complete 200 epochs."
    ),
    falsifier=(
        "NysAct is significantly worse than SGD, KFAC or Eva on CIFAR, or than SGD with "
        "DeiT-S, or KFAC or FOOF completes 200 epochs of DeiT-S."
    ),
    arms=arms(OPTIMIZERS),
    arms_on={
        "cifar10": arms(OPTIMIZERS, epochs=[100, 200]),
        "cifar100": arms(OPTIMIZERS, epochs=[100, 200]),
        "imagenet": arms(ON_IMAGENET, epochs=[100, 200]),
    },
    figure=CurveFigure(references=("sgd",)),
    published={workload: {} for workload in (*CIFAR, "imagenet/resnet50", "imagenet/deit_s")},
)

if __name__ == "__main__":
    main(STUDY)
