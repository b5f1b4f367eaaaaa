"""NysAct, Section 5, Figure 2: norms of the activation covariances while SGD trains a network.

The proof of convergence requires the bounds of the claim (Assumption 5.3).
"""

from studies import Norms, Probe, main

PROBE = Probe(
    name="activation_norms",
    title="Norms of activation covariances during training",
    paper="NysAct",
    table="Section 5, Figure 2",
    measurement=Norms(),
    workload="digits/cnn",
    published={"cifar10/lenet5": {"epochs": 100}},
)

if __name__ == "__main__":
    main(PROBE)
