"""NysAct, Section 1, Figure 1: activation covariances of a network, and their approximations.

In addition to the paper's sketch of columns, the probe measures a Gaussian sketch and the best
approximation of the same rank, whose error is the smallest possible.
"""

from studies import Better, Covariances, NotWorse, Probe, main

PROBE = Probe(
    name="covariance_heatmap",
    title="Activation covariances and their Nystrom approximations",
    paper="NysAct",
    table="Section 1, Figure 1",
    claims=[
        Better("column sketch of layer *", than="half of the norm"),
        # Section 1 compares the two sketches: sampled columns are similar or better.
        NotWorse("column sketch of layer *", than="Gaussian sketch of layer *"),
    ],
    undecidable=(
        "the sampled columns recover the whole covariance: the paper states no error; the limit in "
        "the first claim, a relative error of one half in every layer, is this project's",
    ),
    measurement=Covariances(rank=10, draws=10),
    workload="digits/cnn",
    published={"cifar100/resnet32": {"epochs": 100}},
)

if __name__ == "__main__":
    main(PROBE)
