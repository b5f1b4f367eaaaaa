"""The algorithms, one file each.

The code follows the equations for one layer. Its tensors are stacks of all layers of one shape,
with a leading axis L (see `precond/algorithm.py`). Each file starts with the update equations, the
paper and the cost. `docs/algorithms.md` defines the symbols and lists the differences from the
released code.

An algorithm may import `precond.algorithm`, `precond.parts`, the hyperparameters, and another
algorithm that it extends, but never the optimizer, the banks or the hooks. `nysact_variants.py`
contains two options of NysAct. Three files contain complete torch optimizers, because their
matrices are those of tensors or of all parameters together: `sketchysgd.py` is based on
`precond.hessian`, and `ggt.py` and `mfac.py` are based on `precond.windows`.
"""
