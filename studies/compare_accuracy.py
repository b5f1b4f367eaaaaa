"""NysAct, Table 2, Figure 3 and Table 4: test accuracy and training curves of all optimizers.

The report compares published numbers with the as-released variants. If an optimizer's released
code does not depart from this project's definitions, both variants are the same trials. On CIFAR
and ImageNet, each arm is trained for 100 epochs and for 200 epochs. In the paper, Adam and AdamW
have the lowest accuracy on CIFAR, and NysAct is slightly less accurate than SGD with ResNet-50 on
ImageNet.
"""

from collections.abc import Sequence

from studies import Arm, CurveFigure, Study, grid, main

OPTIMIZERS = ("sgd", "adam", "adamw", "kfac", "eva", "foof", "nysact-g", "nysact-s")
# The default workload has additional arms for the optimizers of the STEVE paper and four others.
ON_AUTOENCODER = (
    *OPTIMIZERS,
    *("steve", "ekfac", "soap", "shampoo", "sketchysgd", "adahessian"),
)
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
    arms=arms(OPTIMIZERS),
    arms_on={
        "digits/autoencoder": [Arm(optimizer=name) for name in ON_AUTOENCODER],
        "cifar10": arms(OPTIMIZERS, epochs=[100, 200]),
        "cifar100": arms(OPTIMIZERS, epochs=[100, 200]),
        "imagenet": arms(ON_IMAGENET, epochs=[100, 200]),
    },
    figure=CurveFigure(references=("sgd",)),
    published={workload: {} for workload in (*CIFAR, "imagenet/resnet50", "imagenet/deit_s")},
)

if __name__ == "__main__":
    main(STUDY)
