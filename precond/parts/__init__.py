"""The parts of algorithms: statistics, sketches, factors, and functions on stacks of matrices.

A part works on tensors and on stacks of matrices `[L, ...]`, where L is the number of slots of a
bank (see `precond/algorithm.py`). It does not depend on layers, algorithms or optimizers. `rows.py`
and `correlations.py` describe the inputs of a layer as a matrix, and `collectives.py` sums over
ranks. A part may import torch, the standard library and other parts, but nothing else from precond.
"""
