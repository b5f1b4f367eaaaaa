"""The catalogue of conventions: how implementations of one method differ.

`Conventions` has a field for each convention. `CATALOGUE` has an entry for each of these fields,
with a sentence for each choice. To add a convention, add a field, an entry, and the arithmetic in
`reference.py`.

In the sentences, g is the gradient, w are the weights, m is the first moment (or momentum buffer),
v is the second moment, and t is the number of the step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
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
        max_norm: The bound of clipped gradients.
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


Condition = Callable[[Conventions], bool]


def _always(base: Conventions) -> bool:
    return True


def _is_weighted(base: Conventions) -> bool:
    """Return True if the momentum multiplies each gradient by a factor below 1."""
    return base.momentum == "average" or base.dampening != 0


def _is_adaptive(base: Conventions) -> bool:
    return base.kind == ADAPTIVE


def _is_corrected(base: Conventions) -> bool:
    """Return True if the second moment is corrected."""
    return base.second_correction == "yes"


@dataclass(frozen=True)
class Convention:
    """An entry of the catalogue.

    Attributes:
        title: The name of the convention.
        choices: A sentence for each choice.
        kinds: The kinds of updates that have the convention.
        needs: The hyperparameter that must not be zero, or the convention has no effect.
        applies: Returns True if the choices differ, given all other conventions.
        limited: Choices that differ from the others only if the function returns True.
    """

    title: str
    choices: Mapping[str, str]
    kinds: tuple[str, ...] = (LINEAR, ADAPTIVE, SIGN, LION)
    needs: str = "lr"
    applies: Condition = _always
    limited: Mapping[str, Condition] = field(default_factory=dict)

    def differing(self, base: Conventions) -> list[str]:
        """Return the choices that differ by definition, given the other conventions."""
        if base.kind not in self.kinds or not self.applies(base):
            return []
        return [c for c in self.choices if c not in self.limited or self.limited[c](base)]


_BUFFER = (LINEAR, ADAPTIVE, SIGN)
_ADAPTIVE = (ADAPTIVE,)

CATALOGUE: dict[str, Convention] = {
    "kind": Convention(
        "kind of update",
        {
            LINEAR: "the update is linear in m, as in SGD",
            ADAPTIVE: "the update is divided by the root of v, as in Adam and RMSprop",
            SIGN: "the update is the sign of m",
            LION: "the update is the sign of beta1 m + (1 - beta1) g with the m of the last step",
        },
    ),
    "sense": Convention(
        "sign of the update",
        {"descent": "the loss is minimised", "ascent": "the loss is maximised"},
    ),
    "gradient": Convention(
        "clipping of the gradient",
        {
            "plain": "the gradient is used as it is",
            "clipped": "the norm of all gradients is clipped at max_norm, as by clip_grad_norm_",
            "clipped exactly": "the norm of all gradients is clipped at max_norm, without the "
            "1e-6 that clip_grad_norm_ adds to the norm",
            "clipped by value": "each entry of the gradient is clipped at max_norm",
            "normalised": "the gradient is divided by the norm of all gradients",
            "normalised by tensor": "each tensor's gradient is divided by its norm",
        },
    ),
    "decay": Convention(
        "weight decay",
        {
            "gradient": "coupled: weight_decay w is added to g",
            "first moment": "weight_decay w is added to g in m, but not in v",
            "before": "decoupled: w is multiplied by 1 - lr weight_decay before the step",
            "after": "decoupled: w is multiplied by 1 - lr weight_decay after the step",
            "without lr": "decoupled, not scaled by lr: w is multiplied by 1 - weight_decay before "
            "the step",
            "without lr, after": "decoupled, not scaled by lr: w is multiplied by 1 - weight_decay "
            "after the step",
        },
        needs="weight_decay",
        limited={"first moment": _is_adaptive},
    ),
    "momentum": Convention(
        "form of the momentum",
        {
            "sum": "heavy ball: m = beta1 m + g, or (1 - dampening) g",
            "average": "moving average: m = beta1 m + (1 - beta1) g",
        },
        _BUFFER,
        "beta1",
    ),
    "first_buffer": Convention(
        "first value of the momentum",
        {
            "zero": "m starts at zero, so the first g is weighted like the later ones",
            "gradient": "m starts at the first g",
        },
        _BUFFER,
        "beta1",
        _is_weighted,
    ),
    "nesterov": Convention(
        "Nesterov momentum",
        {
            "no": "the step follows m",
            "yes": "the step follows beta1 m plus the weighted g",
            "plain g": "the step follows beta1 m + g, with g not weighted by 1 - beta1",
            "from step 2": "the step follows beta1 m plus the weighted g, but m in step 1",
        },
        _BUFFER,
        "beta1",
        limited={"plain g": _is_weighted},
    ),
    "lr_place": Convention(
        "place of the learning rate",
        {
            "outside": "the momentum does not contain lr: w = w - lr m",
            "inside": "the momentum contains lr: m = beta1 m + lr g, w = w - m",
        },
        (LINEAR,),
        "beta1",
    ),
    "scale": Convention(
        "scale of the learning rate by tensor",
        {
            "none": "all tensors have the same learning rate",
            "0.2 root of the larger side": "lr is multiplied by 0.2 sqrt(max(rows, columns))",
            "root of the aspect": "lr is multiplied by sqrt(max(1, rows / columns))",
            "root of rows over columns": "lr is multiplied by sqrt(rows / columns)",
            "root of the entries": "lr is divided by the root of the number of entries",
            "trust ratio": "lr is multiplied by the norm of w divided by that of the direction",
        },
    ),
    "first_correction": Convention(
        "bias correction of the first moment",
        {"yes": "m is divided by 1 - beta1^t", "no": "m is not corrected"},
        (LINEAR, ADAPTIVE),
        "beta1",
    ),
    "second_correction": Convention(
        "bias correction of the second moment",
        {"yes": "v is divided by 1 - beta2^t", "no": "v is not corrected"},
        _ADAPTIVE,
        "beta2",
        lambda base: base.second_form == "average",
    ),
    "eps_place": Convention(
        "place of eps",
        {
            "outside": "eps is outside the root, after the bias correction: sqrt(v) + eps",
            "outside, not corrected": "eps is outside the root, before the bias correction "
            "(the eps-hat of Adam's paper)",
            "inside": "eps is inside the root, after the bias correction: sqrt(v + eps)",
            "inside, not corrected": "eps is inside the root, before the bias correction",
            "inside, squared": "the square of eps is inside the root: sqrt(v + eps^2)",
            "squares": "eps is added to each square of a gradient, before the average",
            "maximum": "the denominator is the larger one of sqrt(v) and eps",
        },
        _ADAPTIVE,
        "eps",
        limited={"outside, not corrected": _is_corrected, "inside, not corrected": _is_corrected},
    ),
    "amsgrad": Convention(
        "AMSGrad",
        {
            "no": "v is used as it is",
            "uncorrected": "the largest v so far is used, and then corrected",
            "corrected": "the largest corrected v so far is used",
        },
        _ADAPTIVE,
        limited={"corrected": _is_corrected},
    ),
    "counter": Convention(
        "step counter",
        {
            "one": "t is 1 in the first step",
            "two": "t is 2 in the first step",
            "zero": "t is 0 in the first step, which is not corrected",
        },
        (LINEAR, ADAPTIVE),
        applies=lambda base: "yes" in (base.first_correction, base.second_correction),
    ),
    "second_use": Convention(
        "use of the second moment",
        {"new": "v is updated before its use", "old": "v is updated after its use"},
        _ADAPTIVE,
    ),
    "second_start": Convention(
        "first value of the second moment",
        {
            "zero": "v starts at zero",
            "square": "v starts at the first square of g",
            "one": "v starts at one",
        },
        _ADAPTIVE,
    ),
    "second_of": Convention(
        "content of the second moment",
        {
            "gradient": "v is of g",
            "deviation": "v is of g - m, as in AdaBelief",
        },
        _ADAPTIVE,
    ),
    "second_form": Convention(
        "form of the second moment",
        {
            "average": "v = beta2 v + (1 - beta2) g^2",
            "decayed sum": "v = beta2 v + g^2",
            "sum": "v = v + g^2, as in Adagrad",
        },
        _ADAPTIVE,
    ),
    "order": Convention(
        "order of momentum and division",
        {
            "gradient": "m is of g, and the step is m divided by the root of v",
            "ratio": "m is of g divided by the root of v",
        },
        _ADAPTIVE,
        "beta1",
    ),
}

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
    """Return the hyperparameters that the options of a parameter group declare."""
    values = {
        _SPELLINGS[name]: float(value)
        for name, value in settings.items()
        if name in _SPELLINGS and isinstance(value, int | float)
    }
    betas = settings.get("betas")
    if isinstance(betas, tuple | list):
        values |= {f"beta{i}": float(value) for i, value in enumerate(betas[:2], 1)}
    return values


def differences(a: Conventions, b: Conventions) -> list[str]:
    """Return the names of the fields with different values."""
    return [f.name for f in fields(a) if getattr(a, f.name) != getattr(b, f.name)]


def alternatives(
    base: Conventions, suggestions: Mapping[str, float]
) -> Iterator[tuple[str, str | float]]:
    """Yield single changes of `base`: other choices, and other values worth trying.

    Args:
        base: The conventions to change.
        suggestions: Values that the other optimizer declares.
    """
    for name, convention in CATALOGUE.items():
        current = getattr(base, name)
        yield from ((name, choice) for choice in convention.differing(base) if choice != current)
    for name in used_values(base):
        value = getattr(base, name)
        options = {suggestions.get(name, value)}
        if name.startswith("beta"):
            options |= {1 - value if value else value, 0.0}
        if name == "weight_decay":
            options |= {0.0}
        yield from ((name, option) for option in sorted(options) if option != value)


def used_values(base: Conventions) -> list[str]:
    """Return the names of the hyperparameters that a member of the family uses."""
    unused = set()
    if base.kind in (LINEAR, SIGN):
        unused |= {"beta2"}
    if base.kind != ADAPTIVE:
        unused |= {"eps"}
    if base.momentum != "sum" or base.kind == LION:
        unused |= {"dampening"}
    if not base.gradient.startswith("clipped"):
        unused |= {"max_norm"}
    return [name for name in VALUES if name not in unused]
