"""The members of the reference family, and the hyperparameters that an optimizer declares.

`Conventions` has a field for each convention; `catalogue.py` explains the choices. To add a
convention, add a field, an entry of the catalogue, and the arithmetic in `reference.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

LINEAR, ADAPTIVE, SIGN, LION = "linear", "adaptive", "sign", "lion"


@dataclass(frozen=True, kw_only=True)
class Conventions:
    """A member of the reference family: a choice for each convention, and hyperparameters.

    Attributes:
        lr: Learning rate.
        beta1: Weight of the old value in the first moment.
        beta2: Weight of the old value in the second moment (Lion: in the buffer).
        eps: Added to the denominator.
        weight_decay: Coefficient of the weight decay.
        dampening: 1 - dampening is the weight of the gradient in a momentum of the form "sum".
        max_norm: Bound on the norm, or on each entry, of clipped gradients.
    """

    kind: str = LINEAR
    sense: str = "descent"
    gradient: str = "plain"
    decay: str = "gradient"
    momentum: str = "sum"
    first_buffer: str = "zero"
    nesterov: str = "no"
    lr_place: str = "outside"
    scale: str = "none"
    first_correction: str = "no"
    second_correction: str = "no"
    eps_place: str = "outside"
    amsgrad: str = "no"
    counter: str = "one"
    second_use: str = "new"
    second_start: str = "zero"
    second_of: str = "gradient"
    second_form: str = "average"
    order: str = "gradient"
    lr: float = 1e-3
    beta1: float = 0.0
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    dampening: float = 0.0
    max_norm: float = 1.0


VALUES = ("lr", "beta1", "beta2", "eps", "weight_decay", "dampening", "max_norm")
_SPELLINGS = {
    **{name: name for name in ("lr", "beta1", "beta2", "eps", "weight_decay", "dampening")},
    **{"learning_rate": "lr", "alpha": "beta2", "momentum": "beta1", "mu": "beta1"},
    **{"beta": "beta1", "epsilon": "eps", "wd": "weight_decay", "max_norm": "max_norm"},
}
_ADAM = Conventions(
    kind=ADAPTIVE,
    momentum="average",
    beta1=0.9,
    first_correction="yes",
    second_correction="yes",
)
FAMILIES: dict[str, Conventions] = {
    "SGD": Conventions(),
    "SGD of torch": Conventions(first_buffer="gradient"),
    "Adam": _ADAM,
    "AdamW": replace(_ADAM, decay="before"),
    "RMSprop": Conventions(kind=ADAPTIVE, order="ratio", beta2=0.99),
    "Adagrad": Conventions(kind=ADAPTIVE, second_form="sum", eps=1e-10),
    "Lion": Conventions(kind=LION, momentum="average", decay="before", beta1=0.9, beta2=0.99),
    "sign momentum": Conventions(kind=SIGN, momentum="average"),
}


def declared(settings: Mapping[str, Any]) -> dict[str, float]:
    """Return the fields of `Conventions` that the options of a parameter group declare."""
    values = {
        _SPELLINGS[name]: float(value)
        for name, value in settings.items()
        if name in _SPELLINGS and isinstance(value, int | float)
    }
    betas = settings.get("betas")
    if isinstance(betas, tuple | list):
        numbers = ((i, b) for i, b in enumerate(betas[:2], 1) if isinstance(b, int | float))
        values |= {f"beta{i}": float(value) for i, value in numbers}
    return values


def differences(a: Conventions, b: Conventions) -> list[str]:
    """Return the names of the fields with different values."""
    return [f.name for f in fields(a) if getattr(a, f.name) != getattr(b, f.name)]


def is_valid(conventions: Conventions) -> bool:
    """Return True if all hyperparameters are in their ranges."""
    fractions = (conventions.beta1, conventions.beta2, conventions.dampening)
    values = (getattr(conventions, name) for name in VALUES)
    return all(value < 1 for value in fractions) and all(value >= 0 for value in values)


def used_values(base: Conventions) -> list[str]:
    """Return the names of the hyperparameters that a member of the family uses."""
    unused = set()
    if base.kind in (LINEAR, SIGN):
        unused |= {"beta2"}
    if base.kind != ADAPTIVE:
        unused |= {"eps"}
    if base.kind == LION or base.momentum != "sum" or base.first_buffer != "gradient":
        unused |= {"dampening"}  # in a momentum that starts at zero, it only scales lr
    if not base.gradient.startswith("clipped"):
        unused |= {"max_norm"}
    return [name for name in VALUES if name not in unused]
