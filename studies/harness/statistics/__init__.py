"""Statistics of plain arrays: means with intervals, tests, corrections, orders, times to an event, the best of k.

Put a function here if it knows nothing of trials, tables or papers. Imports numpy, pandas and SciPy, and no other room.
"""
