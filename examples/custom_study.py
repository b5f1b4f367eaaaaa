"""Define a study and run it: `python examples/custom_study.py --seeds 3`.

It has the flags of the studies in `studies/`.
"""

from studies import Arm, Better, LevelFigure, NotWorse, Study, grid, main

STUDY = Study(
    name="momentum",
    title="Momentum of NysAct",
    claims=[
        Better("nysact-s momentum=*", than="sgd"),
        NotWorse("nysact-s momentum=0.9", than="nysact-s momentum=*"),
    ],
    arms=[*grid("nysact-s", momentum=[0.8, 0.9, 0.95]), Arm(optimizer="sgd")],
    figure=LevelFigure(factor="momentum", panels=("nysact-s",), references=("sgd",)),
)

if __name__ == "__main__":
    main(STUDY)
