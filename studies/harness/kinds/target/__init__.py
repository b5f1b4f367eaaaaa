"""The time-to-target figure of a study, and its section of the report.

`figure.py` has the class of the figure, and `report.py` writes the section. `evidence.targets`
computes the times, and `report.figures.targets` draws them.
"""
