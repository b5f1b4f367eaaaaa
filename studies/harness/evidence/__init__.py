"""What trials show: folders -> tables -> statistics.

`analysis.analyse` computes everything once, as `Evidence`; reports, the terminal, CSV and JSON only print it. Put an
analysis here if it reads trial folders, their tables or the benchmark's files; `metrics.py` formats values. Writes no
files. Imports `published`, `statistics` and `design`.
"""
