"""Preconditioned optimizers for PyTorch: torch and the standard library only.

>>> optimizer = precond.NysAct(model, lr=0.1, rank=10)

Each optimizer is a `torch.optim.Optimizer` built from the model. `algorithm.py` is the place to start reading.
"""

from precond.attention import separate_attention
from precond.diagnostics.observe import observe
from precond.hessian import backward
from precond.hyperparameters import HyperparameterError
from precond.registry import EKFAC, FOOF, KFAC, STEVE, Eva, NysAct, SketchySGD, available, build, check, defaults

__all__ = [
    "EKFAC",
    "FOOF",
    "KFAC",
    "STEVE",
    "Eva",
    "HyperparameterError",
    "NysAct",
    "SketchySGD",
    "available",
    "backward",
    "build",
    "check",
    "defaults",
    "observe",
    "separate_attention",
]
