"""NysAct, Section 1, Figure 1: activation covariances of a network trained with SGD, and their approximations.

Beside the paper's column sketch stand the Gaussian one and the best matrix of the same rank, which no method can beat.
"""

from studies import Covariances, Probe, main

PROBE = Probe(
    name="covariance_heatmap",
    title="Activation covariances and their Nystrom approximations",
    paper="NysAct",
    table="Section 1, Figure 1",
    claim="The Nystrom method recovers the whole covariance from a randomly sampled subset of its columns.",
    falsifier="A layer of which the column sketch loses more than half of the Frobenius norm.",
    measurement=Covariances(rank=10, draws=10),
    published={"cifar100/resnet32": {"epochs": 100}},
)

if __name__ == "__main__":
    main(PROBE)
