"""NysAct, Section 5, Figure 2: norms of the activation covariances while SGD trains a network.

The proof of convergence requires that these norms are bounded (Assumption 5.3). The claim is that
they no longer change at the end of the training.
"""

from studies import Equivalent, Norms, Probe, main

PROBE = Probe(
    name="activation_norms",
    title="Norms of activation covariances during training",
    paper="NysAct",
    table="Section 5, Figure 2",
    # A norm that neither grows nor falls at the end of the training is taken to be bounded.
    claims=[Equivalent("layer * in the last tenth", to="layer * in the previous tenth", share=0.1)],
    undecidable=(
        "the norms and eigenvalues are bounded in every iteration (Assumption 5.3): a training of "
        "finite length shows the smallest and the largest norm so far",
        "NysAct converges at the rate of Theorem 5.5: this is a proof",
    ),
    measurement=Norms(),
    workload="digits/cnn",
    published={"cifar10/lenet5": {"epochs": 100}},
)

if __name__ == "__main__":
    main(PROBE)
