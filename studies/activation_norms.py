"""NysAct, Section 5, Figure 2: the Frobenius norm of each layer's activation covariance while SGD trains a network."""

from studies import Norms, Probe, main

PROBE = Probe(
    name="activation_norms",
    title="Norms of activation covariances during training",
    paper="NysAct",
    table="Section 5, Figure 2",
    claim="The norms have natural lower and upper bounds in every layer, as Assumption 5.3 asks.",
    falsifier="A layer whose norm reaches zero, or still grows by more than a tenth over the last tenth of training.",
    measurement=Norms(),
    published={"cifar10/lenet5": {"epochs": 100}},
)

if __name__ == "__main__":
    main(PROBE)
