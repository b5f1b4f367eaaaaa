"""Preconditioned optimizers for PyTorch: torch and the standard library only.

>>> optimizer = precond.NysAct(model, lr=0.1, rank=10)

Each optimizer is a `torch.optim.Optimizer` built from the model. `algorithm.py` is the place to start reading.
"""

from precond.hyperparameters import HyperparameterError
from precond.registry import FOOF, NysAct, available, build, check, defaults

__all__ = ["FOOF", "HyperparameterError", "NysAct", "available", "build", "check", "defaults"]
