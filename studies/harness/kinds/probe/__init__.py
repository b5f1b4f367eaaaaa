"""Probes, which train networks in the driver's process and measure the layers during the training.

`probe.py` has the classes of the literals, `plan.py` selects the networks, `execute.py` trains and
measures them, `folder.py` stores the results, and `report.py` writes the report. To add a
measurement, write a subclass of `Measurement` in `probe.py` and a module such as `norms.py`, with the
names that `Measurement` lists.
"""
