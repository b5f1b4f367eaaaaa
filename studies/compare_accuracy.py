"""NysAct, Table 2, Figure 3 and Table 4: the test accuracy of all optimizers, and how they get there.

On ImageNet the paper has NysAct a little below SGD with ResNet-50 and above it with DeiT-S.

The as-released variants, which the published numbers belong to, and the corrected ones; they are
the same trials where the released code has no conventions of its own. CIFAR trains for 100 and for 200 epochs.
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
    """Every optimizer's as-released variant, then every one's corrected variant."""
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
    claim="On CIFAR FOOF is best, NysAct second, Adam and AdamW last; for 200 epochs of DeiT-S KFAC and FOOF fail.",
    falsifier="NysAct told to be worse than SGD, KFAC or Eva on CIFAR; KFAC or FOOF completing 200 epochs of DeiT-S.",
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
