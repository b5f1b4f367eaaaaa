"""A probe, as a literal: a measurement of networks during training, one network for each seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

from precond.hyperparameters import count, problems
from studies.harness.kinds.artefact import Artefact

if TYPE_CHECKING:
    from studies.harness.design.arms import Trial


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """A measurement; its fields are parameters that `--set` changes.

    To add one, write a subclass here, and a module with the functions `model_problems`, `measure`, `numbers`, `blocks`,
    `metrics` and `draw` of `norms.py`.
    """

    NUMERICS: ClassVar[int]  # increment it when the same parameters give different arrays

    problems = problems

    @property
    def code(self) -> Any:
        """The module that measures, named after the class; imported on first use because it needs torch."""
        return import_module(
            f"{type(self).__module__.rpartition('.')[0]}.{type(self).__name__.lower()}"
        )


@dataclass(frozen=True, kw_only=True)
class Covariances(Measurement):
    """A = (1/N) sum a a^T of each layer over the last epoch, and NysAct's approximations of rank `rank`.

    `draws` is the number of test matrices for each layer and kind of sketch.
    """

    NUMERICS: ClassVar[int] = 1

    rank: int = count(10)
    draws: int = count(10)


@dataclass(frozen=True, kw_only=True)
class Norms(Measurement):
    """Frobenius norm of each layer's activation covariance in every training batch."""

    NUMERICS: ClassVar[int] = 1


_RAY = "which trains few networks one after another, without Ray"
_ARMS = "which has no arms"


@dataclass(frozen=True, kw_only=True)
class Probe(Artefact):
    """A figure of what happens inside networks with seeds 0 ... seeds - 1 while an optimizer trains them."""

    KIND: ClassVar[str] = "probe"
    HELP: ClassVar[Mapping[str, str]] = {
        "smoke": "Two networks, two epochs on digits, in OUT/smoke.",
        "settings": "A parameter of the probe, a hyperparameter or a setting of the recipe.",
        "dry_run": "Print the plan and stop.",
    }
    REFUSED: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("optimizers", "only", "levels"), _ARMS),
        **dict.fromkeys(
            ("max_concurrent", "gpus_per_trial", "address", "workers_per_trial", "time_budget"),
            _RAY,
        ),
        **dict.fromkeys(("retry", "rerun", "commit_every"), "which keeps no trial folders"),
        "diagnostics": "which measures by itself",
    }

    measurement: Measurement
    optimizer: str = "sgd"
    seeds: int = 3

    def trials(
        self,
        workload: str | None = None,
        seeds: Sequence[int] | None = None,
        recipe: Mapping[str, Any] | None = None,
        overrides: Mapping[str, Any] | None = None,
    ) -> list[Trial]:
        """Return a trial for each network; the arguments replace the values of the probe and of its recipe.

        Raises:
            HyperparameterError: One line for each error, those in the measurement's parameters included.
        """
        return self.module("plan").trials(
            self, workload or self.workload, seeds, recipe or {}, overrides or {}
        )
