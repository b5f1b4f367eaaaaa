"""The cost of optimizers in time and memory relative to SGD, measured on an otherwise idle machine.

`python -m trainables.cost` measures optimizers on a workload and, on request, the optimizers of the
authors' checkout (`released.py`). `python -m trainables.cost.scaling` measures the parts of an
algorithm against width and rank.

The seconds of trials do not belong here, because trials share a machine. This room imports torch,
`precond` and `trainables`, never pandas or scipy. Studies read `files` and `intervals`, and check
arguments with `__main__.errors`.
"""
