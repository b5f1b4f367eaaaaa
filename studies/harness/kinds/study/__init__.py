"""Studies: arms by seeds, trained as one grid, with the figures that show them.

`study.py` is the literal, `plan.py` selects trials, `execute.py` trains them, `report.py` prints their evidence.
`figures.py` has the protocol of a figure: a new kind of figure is a subclass of `Figure`. `residuals.py` relates final
losses to the errors of approximations (Remark 5.6).
"""
