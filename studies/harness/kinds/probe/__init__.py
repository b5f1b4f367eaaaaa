"""Probes: networks that are trained in the driver's process while something inside them is measured.

`probe.py` is the literal, `folder.py` stores a network's arrays, `execute.py` trains and measures. A new measurement is
a parameter class in `probe.py` and a module such as `covariances.py` or `norms.py` with its five functions.
"""
