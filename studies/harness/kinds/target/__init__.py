"""The time-to-target figure of a study, and its section of the report.

`figure.py` is the literal, `report.py` the section; the times are computed in `evidence.targets` and drawn in
`report.figures.targets`.
"""
