"""The parts that algorithms are composed of: statistics, sketches, factors, and functions on stacks of matrices.

A part knows stacks of matrices `[L, ...]`, and neither layers, algorithms nor optimizers. It may import torch, the
standard library and other parts, and nothing else of precond.
"""
