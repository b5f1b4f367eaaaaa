"""The parts that algorithms are composed of: statistics, sketches, factors, and functions on stacks of matrices.

A part knows tensors and stacks of matrices `[L, ...]`, and no `Layer`, algorithm or optimizer. `rows.py` and
`correlations.py` describe a layer's inputs as matrices, `collectives.py` sums over ranks. It may import torch, the
standard library and other parts, and nothing else of precond.
"""
