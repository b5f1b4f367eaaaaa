"""Training of a trial (a configuration and a seed): its data, model, loop and folder.

`train.epochs` trains a trial in the process that calls it: a Ray worker, `python -m trainables` or
a debugger. `team` shares a trial among several processes, `packing` measures how many trials fit
on a GPU, and `plugins` loads user-defined optimizers and workloads.

The package may import torch and `precond`. It imports other libraries only inside the functions
that need them, and Ray only in `ray_trainable`. It does not import `studies`.
"""
