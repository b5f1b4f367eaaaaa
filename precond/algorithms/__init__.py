"""The algorithms, one file each, written as mathematics on the stacked layers of one bank.

A file starts with the update equations, the paper, the cost and the deviations of the released code. It may import
`precond.algorithm`, `precond.parts`, the hyperparameters, and another algorithm that it extends; never the optimizer,
the banks or the hooks. `nysact_variants.py` has NysAct's options; `sketchysgd.py` is a whole torch optimizer on
`precond.hessian`, because its Hessian spans all parameters.
"""
