"""Fault injection: `python -m tests.faults SCENARIO --n N --seed S` causes faults and checks what follows.

A scenario is a generator function of the number of tries, a seeded random generator and an empty
folder. For each try it yields the list of violations, which is empty if the try passes.
`invariants.py` describes the invariants. `injection.py` lets a file operation fail.
"""
