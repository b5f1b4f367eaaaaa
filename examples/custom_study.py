"""Define a study and run it: `python examples/custom_study.py --seeds 3`.

It has the flags of the studies in `studies/`.
"""

from studies import Arm, LevelFigure, Study, grid, main

STUDY = Study(
    name="momentum",
    title="Momentum of NysAct",
    claim="NysAct is best at SGD's usual momentum of 0.9.",
    falsifier="Another level of the momentum is significantly better than 0.9.",
    arms=[*grid("nysact-s", momentum=[0.8, 0.9, 0.95]), Arm(optimizer="sgd")],
    figure=LevelFigure(factor="momentum", panels=("nysact-s",), references=("sgd",)),
)

if __name__ == "__main__":
    main(STUDY)
