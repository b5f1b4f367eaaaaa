"""Statistics of plain arrays: intervals, tests, corrections, rank orders, times to a target.

Put a function here if it does not depend on folders, trials or papers. Functions take arrays, in
which nan is a missing value, and return arrays, numbers, small dataclasses or a table. Imports
numpy, pandas and SciPy, and no other room.
"""
