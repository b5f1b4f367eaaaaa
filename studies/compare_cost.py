"""NysAct, Tables 1, 3 and 6, sections 1 and 2: what each optimizer costs over SGD, in time and memory, on this machine.

The paper's ratios of time on ResNet-32: NysAct-S 1.40, FOOF 1.52, Eva 1.77, KFAC 2.29.

Run it on a machine that does nothing else. Ratios of co-located trials are never used. Published numbers
belong to the as-released variants, which are timed beside the corrected ones. The paper's configurations:
`--workload` cifar100/resnet32, cifar100/resnet110 or cifar100/densenet121 (Table 3), and imagenet/resnet50 or
imagenet/deit_s with `--batch-size 1024` (Table 6). Sections 1 and 2 of the paper also name peers:
`--workload cifar100/resnet110 --optimizers sgd,kfac,nysact-s,shampoo,adahessian,sketchysgd`.
"""

from studies import CostStudy, main

COST = CostStudy(
    name="compare_cost",
    title="Time and memory over SGD",
    paper="NysAct",
    table="Tables 1, 3 and 6, Sections 1 and 2",
    claim="NysAct costs almost nothing over SGD, less than KFAC, Eva and FOOF; it grows with p, FOOF's inverse as p^3.",
    falsifier="NysAct's interval lies above that of KFAC, Eva or FOOF, or its refresh grows as p^1.5 or faster.",
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
