"""Fault injection: `python -m tests.faults SCENARIO --n N --seed S` checks invariants after faults.

A scenario is a generator function. Its arguments are a number `n`, from which the number of tries
follows as its docstring says, a seeded random generator and an empty folder. For each try it yields
a list of the violated invariants, which is empty if the try passes. `invariants.py` describes the
invariants. `injection.py` makes file operations fail.
"""
