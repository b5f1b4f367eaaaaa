"""NysAct, Tables 3 and 6 and Table 1: what each optimizer costs over SGD, in time and memory, on this machine.

Claim: NysAct costs almost nothing over SGD (the paper: 1.40 times the time on ResNet-32 with column sketches, no more
memory) and less than KFAC (2.29), Eva (1.77) and FOOF (1.52); its cost grows with p, where FOOF's inverse grows as p^3.
Falsified by: an interval of NysAct's ratio that lies above that of KFAC, Eva or FOOF, or an exponent of NysAct's
refresh in p of 1.5 or more.

Run it on a machine that does nothing else. Ratios of co-located trials are never used.
"""

from studies.harness.cost import CostStudy, main

COST = CostStudy(
    name="compare_cost",
    title="Time and memory over SGD",
    paper="NysAct",
    table="Tables 3 and 6, Table 1",
    claim="NysAct costs almost nothing over SGD, less than KFAC, Eva and FOOF; it grows with p, FOOF's inverse as p^3.",
    falsifier="NysAct's interval lies above that of KFAC, Eva or FOOF, or its refresh grows as p^1.5 or faster.",
    workload="cifar10/resnet32",
    batch_size=128,
    optimizers=("sgd", "nysact-s", "nysact-g", "eva", "foof", "kfac", "adam", "steve"),
)

if __name__ == "__main__":
    main(COST)
