"""The algorithms, one file each.

The code follows the equations for one layer. Its tensors are stacks of all layers of one shape,
with a leading axis L (see `precond/algorithm.py`). Each file starts with the update equations, the
paper and the cost. `docs/algorithms.md` defines the symbols and lists the differences from the
released code.

An algorithm may import `precond.algorithm`, `precond.parts`, the hyperparameters, and another
algorithm that it extends, but never the optimizer, the banks or the hooks. `nysact_variants.py`
contains two options of NysAct. `sketchysgd.py` is a complete torch optimizer based on
`precond.hessian`, because its Hessian is that of all parameters together.
"""
