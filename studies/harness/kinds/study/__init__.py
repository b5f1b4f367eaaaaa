"""Studies, which train each configuration (arm) with several seeds, and their figures.

`study.py` has the class of the literals, `plan.py` selects the trials, `execute.py` trains them,
and `report.py` writes the report. `figures.py` has the classes of the figures: a new kind of figure
is a subclass of `Figure`. `residuals.py` relates the final losses to the approximation errors
(Remark 5.6 of the NysAct paper).
"""
