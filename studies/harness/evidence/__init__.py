"""What trials show: folders -> tables -> statistics -> verdicts.

`analysis.analyse` computes everything once, as `Evidence`; reports, the terminal, CSV, JSON and MLflow only print it.
Put an analysis here if it reads trial folders or their tables. Reads files and writes none; imports `published`,
`statistics` and `design`.
"""
