"""Probes: measurements of the layers of networks while the driver's process trains the networks.

`probe.py` has the classes of the literals, `plan.py` selects the trials, `execute.py` trains and
measures, `folder.py` stores the arrays of a network, and `report.py` writes the report. To add a
measurement, write a subclass of `Measurement` in `probe.py` and a module such as `norms.py` with
the functions `model_problems`, `measure`, `numbers`, `blocks`, `metrics` and `draw`.
"""
