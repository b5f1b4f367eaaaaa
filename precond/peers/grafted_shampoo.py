"""Shampoo with grafting, a moving average of the statistics, and an interval between its roots."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from precond.algorithm import Card
from precond.hyperparameters import (
    Hyperparameters,
    choice,
    count,
    fractions,
    learning_rate,
    non_negative,
    positive,
)
from precond.peers.base import Peer, StartsAfterInitialisation, empty
from precond.standalone import NO_COMPLEX

GRAFTS = {"sgd": 1, "adagrad": 2, "rmsprop": 3}  # numbers of the package's LayerWiseGrafting
LISTS = {"statistics": "statistics", "roots": "pre_conditioners"}


@dataclass(frozen=True, kw_only=True)
class GraftedShampoo(Hyperparameters):
    """Hyperparameters of Shampoo with grafting.

    The direction of each parameter is Shampoo's, and its norm is that of the direction of `graft`.

    Attributes:
        lr: Learning rate.
        betas: Weights of the old values in the momentum and in the statistics. The momentum is a
            sum, the statistics are averages.
        eps: The statistics start at eps I, and eps is added to them before the roots.
        weight_decay: Each step shrinks the weights by the factor 1 - lr x weight_decay.
        interval: Steps between the computations of the roots.
        graft: The method whose direction determines the norm.
        block_size: Larger dimensions are split into blocks of at most this size. Parameters with at
            most this number of elements follow the method of graft alone.
    """

    lr: float | Tensor = learning_rate(0.1)
    betas: tuple[float, float] = fractions((0.9, 0.999))
    eps: float = positive(1e-6)
    weight_decay: float = non_negative(0.0)
    interval: int = count(10)
    graft: str = choice(*GRAFTS)
    block_size: int = count(512, low=2)


CARD = Card(
    paper="Anil et al. 2020",
    cost="2op(o+p) + ~22(o^3+p^3)/interval + 2op(o+p)",
    memory="2(o^2+p^2) + op",
    deviations="as in pytorch-optimizer: Nesterov's momentum; the method of graft alone until the "
    "first roots, and for parameters with at most block_size elements",
    unsupported=NO_COMPLEX,
)


def _tensors(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors in a parameter's state of objects, by name."""
    graft = state["graft"]
    tensors = {"momentum": state["momentum"], "graft_momentum": graft.momentum}
    if hasattr(graft, "statistics"):
        tensors["graft_statistics"] = graft.statistics
    for name, attribute in LISTS.items():
        values = getattr(state["pre_conditioner"], attribute)
        parts = [values] if isinstance(values, Tensor) else values
        tensors |= {f"{name}_{number}": part for number, part in enumerate(parts)}
    return tensors


def _restore(state: dict[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Put tensors into a parameter's new state of objects, and keep the dtypes of this state."""
    values = {name: tensors[name].to(value.dtype) for name, value in _tensors(state).items()}
    graft, conditioner = state["graft"], state["pre_conditioner"]
    state["momentum"], graft.momentum = values["momentum"], values["graft_momentum"]
    if hasattr(graft, "statistics"):
        graft.statistics = values["graft_statistics"]
    for name, attribute in LISTS.items():
        stacked = isinstance(getattr(conditioner, attribute), Tensor)
        parts = [value for key, value in values.items() if key.startswith(f"{name}_")]
        setattr(conditioner, attribute, parts[0] if stacked else parts)


def _define(package: Any) -> Any:
    class ShampooGraftPeer(StartsAfterInitialisation, package.ScalableShampoo):
        """The package's ScalableShampoo with a state of tensors instead of objects."""

        NAME = "Shampoo-Graft"
        LIBRARY = package.ScalableShampoo
        SUMS = "momentum"
        OWN_DTYPES = tuple(LISTS)

        FIXED = ("eps", "interval", "graft", "block_size")

        def __init__(self, params: Any, **hyperparameters: Any):
            settings = vars(GraftedShampoo(**hyperparameters))
            fixed = {name: settings[name] for name in self.FIXED}
            self._added_defaults = fixed
            options: dict[str, Any] = {
                "matrix_eps": fixed["eps"],
                "preconditioning_compute_steps": fixed["interval"],
                "graft_type": GRAFTS[fixed["graft"]],
                "block_size": fixed["block_size"],
                "decoupled_weight_decay": True,
                "start_preconditioning_step": 1,
                "use_svd": True,
            }
            options |= {name: value for name, value in settings.items() if name not in fixed}
            super().__init__(params, **options)

        def _unsupported_kind(self, parameter: Tensor) -> str | None:
            return super()._unsupported_kind(parameter) or empty(parameter)

        def _library_step(self, **arguments: Any) -> None:
            saved = {p: state for p, state in self.state.items() if state}
            self._saved = saved
            self.state.clear()  # `init_group` creates the objects
            try:
                super()._library_step(**arguments)
            finally:
                new = {p: _tensors(state) for p, state in self.state.items() if state}
                self.state.update(saved | new)
                del self._saved

        def init_group(self, group: dict[str, Any], **options: Any) -> None:
            super().init_group(group, **options)
            for p in group["params"]:
                if p.grad is not None and p in self._saved:
                    _restore(self.state[p], self._saved[p])

    return ShampooGraftPeer


PEER = Peer("Shampoo-Graft", GraftedShampoo, CARD, _define)
