"""NysAct, Section 1, Figure 1: activation covariances of a network, and their approximations.

The figure also shows the Gaussian sketch, and the best approximation of the same rank, whose error
is the smallest possible.
"""

from studies import Covariances, Probe, main

PROBE = Probe(
    name="covariance_heatmap",
    title="Activation covariances and their Nystrom approximations",
    paper="NysAct",
    table="Section 1, Figure 1",
    claim=(
        "The Nystrom method recovers the whole covariance from a randomly sampled subset of "
        "its columns."
    ),
    falsifier=(
        "In some layer, the relative Frobenius error of the column sketch is above one half."
    ),
    measurement=Covariances(rank=10, draws=10),
    published={"cifar100/resnet32": {"epochs": 100}},
)

if __name__ == "__main__":
    main(PROBE)
