"""A comparison of the optimizers that the command names, of the registry or of a plugin.

    python studies/compare.py --optimizers adam,nysact-s --workload digits/cnn
    python studies/compare.py --plugin examples/custom_optimizer.py --optimizers signsgd,sgd

The study has one claim for each pair of optimizers, in the order of `--optimizers`: the first is
better than the second. If a claim is contradicted, the second optimizer of the pair is better.
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
