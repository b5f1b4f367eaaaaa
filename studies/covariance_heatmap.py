"""NysAct, Section 1, Figure 1: activation covariances of a network, and their approximations.

In addition to the paper's sketch of columns, the probe measures a Gaussian sketch and the best
approximation of the same rank, whose error is the smallest possible.
"""

from studies import Covariances, Probe, main

PROBE = Probe(
    name="covariance_heatmap",
    title="Activation covariances and their Nystrom approximations",
    paper="NysAct",
    table="Section 1, Figure 1",
    measurement=Covariances(rank=10, draws=10),
    workload="digits/cnn",
    published={"cifar100/resnet32": {"epochs": 100}},
)

if __name__ == "__main__":
    main(PROBE)
