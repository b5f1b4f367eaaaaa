"""Statistics of plain arrays: means with intervals, tests, corrections, orders, times to an event, the best of k.

Put a function here if it reads no folder and knows no trial and no paper. Functions take arrays and return arrays,
numbers, small dataclasses or a table; nan is a missing value. Imports numpy, pandas and SciPy, and no other room.
"""
