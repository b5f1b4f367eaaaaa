"""Statistics of plain arrays: means with intervals, tests, corrections, orders, times to an event, the best of k.

Put a function here if it knows nothing of trials, tables or papers. Functions take and return arrays, numbers or small
dataclasses; nan is a missing value. Imports numpy, pandas and SciPy, and no other room.
"""
