"""The cost of optimizers in time and memory relative to SGD, measured on an otherwise idle machine.

`python -m trainables.cost` measures optimizers on a workload, with `--reference` also the authors'
released optimizers (`released.py`). `python -m trainables.cost.scaling` measures the parts of an
algorithm for several layer widths and ranks.

The times that trials record are not used here, because trials share a machine. This package imports
torch, `precond` and `trainables`, never pandas or scipy. The package `studies` imports `files` and
`intervals`, and checks arguments with `__main__.errors`.
"""
