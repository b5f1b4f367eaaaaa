"""The catalogue of conventions, in which implementations of one method can differ.

`CATALOGUE` has an entry for each convention of `Conventions`, with a sentence for each choice. In
the sentences, g is the gradient, w are the weights, m is the first moment (or momentum buffer), v
is the second moment, and t is the number of the step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from precond.auditing.conventions import ADAPTIVE, LINEAR, LION, SIGN, Conventions, used_values

Condition = Callable[[Conventions], bool]


def _always(base: Conventions) -> bool:
    return True


def _is_weighted(base: Conventions) -> bool:
    """Return True if the momentum multiplies each gradient by a factor below 1."""
    return base.momentum == "average" or base.dampening != 0


def _is_adaptive(base: Conventions) -> bool:
    return base.kind == ADAPTIVE


def _depends_on_size(base: Conventions) -> bool:
    """Return True if the size of a direction, not only its sign, has an effect."""
    return base.kind in (LINEAR, ADAPTIVE)


def _is_average(base: Conventions) -> bool:
    """Return True if the second moment is a moving average."""
    return base.second_form == "average"


def _is_corrected(base: Conventions) -> bool:
    """Return True if the second moment is corrected."""
    return base.second_correction == "yes" and _is_average(base)


@dataclass(frozen=True)
class Convention:
    """An entry of the catalogue.

    Attributes:
        title: The name of the convention.
        choices: A sentence for each choice.
        kinds: The kinds of updates that have the convention.
        needs: A hyperparameter. If it is zero, the convention has no effect.
        applies: Returns True if the choices differ, given all other conventions.
        limited: For a choice that does not always differ from the others, a function that returns
            True if it does.
    """

    title: str
    choices: Mapping[str, str]
    kinds: tuple[str, ...] = (LINEAR, ADAPTIVE, SIGN, LION)
    needs: str = "lr"
    applies: Condition = _always
    limited: Mapping[str, Condition] = field(default_factory=dict)

    def differing(self, base: Conventions) -> list[str]:
        """Return the choices that are defined differently, given the other conventions."""
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
            LION: "the update is the sign of beta1 m + (1 - beta1) g with the m of the previous step",
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
        limited={"clipped exactly": _depends_on_size},
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
        (LINEAR, ADAPTIVE),
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
        limited={"plain g": _is_weighted, "from step 2": _depends_on_size},
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
        _is_average,
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
            "maximum": "the denominator is the larger of sqrt(v) and eps",
        },
        _ADAPTIVE,
        "eps",
        limited={
            "outside, not corrected": _is_corrected,
            "inside, not corrected": _is_corrected,
            "squares": lambda base: not _is_corrected(base),  # else the same as "inside"
        },
    ),
    "amsgrad": Convention(
        "AMSGrad",
        {
            "no": "v is used as it is",
            "uncorrected": "the largest v so far is used, and then corrected",
            "corrected": "the largest corrected v so far is used",
        },
        _ADAPTIVE,
        applies=lambda base: base.second_form != "sum",  # which never decreases
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
        limited={"square": _is_average},
    ),
    "second_of": Convention(
        "content of the second moment",
        {
            "gradient": "v is computed from g",
            "deviation": "v is computed from g - m, as in AdaBelief",
        },
        _ADAPTIVE,
        limited={"deviation": lambda base: base.order == "gradient"},
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
            "gradient": "m is computed from g, and the step is m divided by the root of v",
            "ratio": "m is computed from g divided by the root of v",
        },
        _ADAPTIVE,
        "beta1",
    ),
}


def alternatives(
    base: Conventions, suggestions: Mapping[str, float]
) -> Iterator[tuple[str, str | float]]:
    """Yield single changes of `base`: other choices, and other plausible values.

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
