"""Probes: networks that are trained in the driver's process while something inside them is measured.

`probe.py` is the literal, `plan.py` its trials, `folder.py` stores a network's arrays, `execute.py` trains and
measures, `report.py` presents. A new measurement is a parameter class in `probe.py` and a module such as `norms.py`
with the functions `model_problems`, `measure`, `numbers`, `blocks`, `metrics` and `draw`.
"""
