"""Faults on purpose: `python -m tests.faults SCENARIO --n N --seed S` breaks things and says what survived.

A scenario is a function of (how often, a seeded generator, an empty folder) that yields, for each try, what was
violated: nothing, if all is well. The invariants are in `invariants.py`, what fails and when in `injection.py`.
"""
