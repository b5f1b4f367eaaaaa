"""NysAct, Tables 1, 3 and 6, Sections 1 and 2: time and memory of each optimizer, relative to SGD.

Run this study on a machine on which nothing else runs. It times the as-released and the corrected
variants, and compares the as-released variants with the published numbers. In the paper, NysAct
takes 1.40 times as long as SGD with ResNet-32, FOOF 1.52, Eva 1.77 and KFAC 2.29 times; the cost of
FOOF's inverse grows as p^3 for a layer with p inputs. The options for the configurations of the
paper are:

* Table 3: `--workload` cifar100/resnet32, cifar100/resnet110 or cifar100/densenet121
* Table 6: `--batch-size 1024 --workload` imagenet/resnet50 or imagenet/deit_s
* Sections 1 and 2, which compare more optimizers: `--workload cifar100/resnet110 --optimizers
  sgd,kfac,nysact-s,shampoo,adahessian,sketchysgd`
"""

from studies import CostStudy, main

COST = CostStudy(
    name="compare_cost",
    title="Time and memory relative to SGD",
    paper="NysAct",
    table="Tables 1, 3 and 6, Sections 1 and 2",
    workload="cifar10/resnet32",
    batch_size=128,
    optimizers=(
        "sgd",
        "nysact-s",
        "nysact-g",
        "eva",
        "foof",
        "kfac",
        "adam",
        "adamw",
        "steve",
        "ekfac",
    ),
)

if __name__ == "__main__":
    main(COST)
