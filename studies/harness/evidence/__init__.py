"""Analyses of trials: trial folders -> tables -> statistics.

`analysis.analyse` computes everything once, as an `Evidence`; reports, the terminal, CSV and JSON
only print it. Put an analysis here if it reads trial folders, their tables or the files of the cost
benchmark; `metrics.py` formats values. Writes no files. Imports `published`, `statistics` and
`design`.
"""
