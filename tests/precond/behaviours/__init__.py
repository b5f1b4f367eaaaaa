"""The behaviours that users of `torch.optim` rely on, for every registered optimizer.

A behaviour is a function that builds a subject's optimizer, uses it, and asserts what happens. The
subjects are the registered optimizers, and SGD and AdamW of torch as controls: a behaviour that a
control does not show is written incorrectly. `refusals.py` lists the behaviours that an optimizer
refuses, with the message.

The list follows the generic tests of optimizers in PyTorch (`test/test_optim.py`). All backward
passes call `precond.backward(loss, optimizer)`.
"""

from tests.precond.behaviours import (
    copies,
    gradients,
    groups,
    hooks,
    models,
    precision,
    schedulers,
    states,
    training,
)
from tests.precond.behaviours.subject import BEHAVIOURS, CONTROLS, NAMES, Subject

__all__ = [
    "BEHAVIOURS", "CONTROLS", "NAMES", "Subject",
    "copies", "gradients", "groups", "hooks", "models", "precision", "schedulers", "states",
    "training",
]  # fmt: skip
