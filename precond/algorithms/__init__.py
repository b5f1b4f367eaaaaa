"""The algorithms, one file each, written as mathematics on the stacked layers of one bank.

Each file starts with the update equations, the paper and the cost, and refers to the differences
from the released code. It may import `precond.algorithm`, `precond.parts`, the hyperparameters, and
another algorithm that it extends, but never the optimizer, the banks or the hooks.
`nysact_variants.py` contains the options of NysAct. `sketchysgd.py` is a complete torch optimizer
based on `precond.hessian`, because its Hessian spans all parameters.
"""
