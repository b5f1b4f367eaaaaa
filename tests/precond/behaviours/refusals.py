"""The behaviours that registered optimizers refuse, with the message of the error."""

from __future__ import annotations

from dataclasses import dataclass

from precond import peers
from precond.optimizer import Preconditioned
from precond.registry import REGISTRY
from tests.composed import COMPOSED

PRECONDITIONED = (
    *(
        name
        for name, entry in REGISTRY.items()
        if isinstance(entry.optimizer, type) and issubclass(entry.optimizer, Preconditioned)
    ),
    *COMPOSED,
)
USE_OUTPUT_GRADIENTS = ("kfac", "skfac", "eva", "ekfac", "steve", "kfac+orthogonal")
PEERS = (*peers.PEERS, "muon")
HESSIAN = ("sketchysgd", "adahessian", "sophia-h")
NO_EMPTY = {"shampoo": "Shampoo", "shampoo-graft": "Shampoo-Graft", "psgd-kron": "PSGD-Kron"}
WINDOW = ("ggt", "mfac")
CLOSURE = ("kbfgs", "kbfgs-l")


@dataclass(frozen=True)
class Refusal:
    """An error that says why an optimizer does not show a behaviour.

    Attributes:
        names: The optimizers that refuse it.
        behaviours: The behaviours that they refuse.
        message: A regular expression of the beginning of the error's message.
        at_construction: True if the constructor raises the error.
    """

    names: tuple[str, ...]
    behaviours: tuple[str, ...]
    message: str
    at_construction: bool = True


def _options(**behaviours: str) -> list[Refusal]:
    return [
        Refusal((*REGISTRY, *COMPOSED), (name,), f"{option}: unknown hyperparameter")
        for option, name in behaviours.items()
    ]


LIST = [
    *_options(
        maximize="the_loss_rises_with_maximize",
        foreach="foreach_and_the_for_loop_give_the_same_steps",
        fused="fused_gives_the_same_steps",
        differentiable="a_differentiable_step_has_a_gradient",
    ),
    Refusal(
        (*PRECONDITIONED, "sketchysgd", *WINDOW, *PEERS),
        ("a_group_can_be_maximized",),
        r"maximize = True in a parameter group: [\w-]+ has no such option",
    ),
    Refusal(
        PRECONDITIONED,
        ("parameters_without_layers_are_trained",),
        "the model has no trainable Linear or Conv2d layer, .* use a plain optimizer",
    ),
    Refusal(
        ("sketchysgd", *WINDOW, *PEERS),
        ("complex_parameters_are_trained",),
        r"[\w-]+ does not support complex parameters",
    ),
    *(
        Refusal(
            (name,),
            ("parameters_without_elements_are_allowed",),
            f"{label} does not support parameters without elements",
        )
        for name, label in NO_EMPTY.items()
    ),
    # Statistics that are due need the forward and the backward of their step.
    Refusal(
        PRECONDITIONED,
        ("gradients_can_be_used_twice",),
        "the weights have gradients, but no forward was recorded in this step",
        at_construction=False,
    ),
    Refusal(
        HESSIAN,
        ("gradients_can_be_used_twice",),
        r"[\w-]+ needs the Hessian at this step",
        at_construction=False,
    ),
    # The scale of the output gradients is not known after `unscale_`.
    Refusal(
        USE_OUTPUT_GRADIENTS,
        ("gradients_can_be_unscaled_and_clipped",),
        r"scaler.unscale_ was called before step\(\)",
        at_construction=False,
    ),
    Refusal(
        CLOSURE,
        ("a_step_without_a_closure_returns_none",),
        r"\w+ evaluates the model twice in each step: call optimizer.step\(closure\)",
        at_construction=False,
    ),
    Refusal(
        (*HESSIAN, *CLOSURE),
        (
            "a_scaler_does_not_change_the_training",
            "a_scaler_skips_a_step_with_an_infinite_gradient",
            "gradients_can_be_unscaled_and_clipped",
        ),
        r"[\w-]+ does not support GradScaler",
        at_construction=False,
    ),
]

REFUSALS = {
    (name, behaviour): refusal
    for refusal in LIST
    for name in refusal.names
    for behaviour in refusal.behaviours
}

# The mode of `precond.algorithm.MODES` that a behaviour tests. The other modes are tested in
# test_modes.py and test_distributed.py.
MODE_OF = {
    "the_loss_falls_with_accumulated_gradients": "accumulation",
    "the_loss_falls_under_autocast": "autocast",
    "a_scaler_does_not_change_the_training": "GradScaler",
    "a_scaler_skips_a_step_with_an_infinite_gradient": "GradScaler",
    "gradients_can_be_unscaled_and_clipped": "unscale_",
    "complex_parameters_are_trained": "complex parameters",
}
# The words in `precond.__main__.REFUSALS` for a refused behaviour that is not a mode.
WORDS_FOR = {
    "the_loss_rises_with_maximize": "no optimizer has the options `maximize`",
    "a_group_can_be_maximized": "no optimizer has the options `maximize`",
    "foreach_and_the_for_loop_give_the_same_steps": "`foreach`",
    "fused_gives_the_same_steps": "`fused`",
    "a_differentiable_step_has_a_gradient": "`differentiable`",
    "parameters_without_layers_are_trained": "refuse a model without Linear and Conv2d layers",
    "parameters_without_elements_are_allowed": "and PSGD-Kron refuse parameters without elements",
    "a_step_without_a_closure_returns_none": "`step()` without a closure",
    "gradients_can_be_used_twice": "a second step with the same gradients is an error",
}
