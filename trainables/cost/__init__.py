"""The cost of optimizers in time and memory: contestants, races against SGD, footprints and the files of the results.

`python -m trainables.cost` measures optimizers on a workload; `python -m trainables.cost.scaling` measures the parts of
an algorithm against width and rank, `released` times the optimizers of the authors' checkout. All measurements need an
idle machine; seconds of trials do not belong here. Imports torch, `precond` and `trainables`, never pandas or scipy.
Studies read `files` and `intervals`, and check arguments by `__main__.errors`.
"""
