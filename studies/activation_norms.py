"""NysAct, Section 5, Figure 2: norms of the activation covariances while SGD trains a network."""

from studies import Norms, Probe, main

PROBE = Probe(
    name="activation_norms",
    title="Norms of activation covariances during training",
    paper="NysAct",
    table="Section 5, Figure 2",
    claim=(
        "In every layer, the Frobenius norm of the activation covariance has natural lower "
        "and upper bounds, as Assumption 5.3 requires."
    ),
    falsifier=(
        "The norm of a layer reaches zero, or still grows by more than 10% over the last "
        "tenth of the training."
    ),
    measurement=Norms(),
    published={"cifar10/lenet5": {"epochs": 100}},
)

if __name__ == "__main__":
    main(PROBE)
