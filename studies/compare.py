"""A comparison of the optimizers that the command names, of the registry or of a plugin.

    python studies/compare.py --optimizers adam,nysact-s --workload digits/cnn
    python studies/compare.py --plugin examples/custom_optimizer.py --optimizers signsgd,sgd

The claims are about each pair of optimizers: that the first one, in the order of `--optimizers`, is
better. A contradicted claim states that the second one is better.
"""

from studies import Arm, CurveFigure, Study, main

STUDY = Study(
    name="compare",
    title="Comparison of optimizers",
    claimed_by_paper=False,
    arms=[Arm(optimizer=name) for name in ("nysact-s", "adam", "sgd")],
    any_optimizer=True,
    figure=CurveFigure(),
)

if __name__ == "__main__":
    main(STUDY)
