"""The classes of a probe and of its measurements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from precond.hyperparameters import count, problems
from studies.harness.kinds.artefact import Artefact, Plan, only_per_trial

if TYPE_CHECKING:
    import pandas as pd

    from studies.harness.design.arms import Trial


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """A measurement of a network. Its fields are parameters, which `--set` can change.

    To add a measurement, write a subclass in this file, and a module with the functions of
    `norms.py`: `model_problems`, `measure`, `numbers`, `labels`, `values`, `blocks`, `metrics` and
    `draw`; and `METRIC`, the metric of the values that claims compare.

    Attributes:
        NUMERICS: The version of the computation. Increment it when a change of the code gives other
            arrays for the same parameters, so that existing results are not used.
    """

    NUMERICS: ClassVar[int]

    problems = problems  # a method that returns the errors in the fields

    @property
    def code(self) -> Any:
        """The module of the measurement. Its name is the class name in lower case.

        The module needs torch, so it is imported on first use.
        """
        package = type(self).__module__.rpartition(".")[0]
        return import_module(f"{package}.{type(self).__name__.lower()}")


@dataclass(frozen=True, kw_only=True)
class Covariances(Measurement):
    """The activation covariance of each layer in the last epoch, and NysAct's approximations.

    The covariance is A = (1/N) sum a a^T over the N inputs a of the layer in the epoch.

    Attributes:
        rank: The rank of the approximations.
        draws: The number of test matrices for each layer and kind of sketch.
    """

    NUMERICS: ClassVar[int] = 1

    rank: int = count(10)
    draws: int = count(10)


@dataclass(frozen=True, kw_only=True)
class Norms(Measurement):
    """The Frobenius norm of each layer's activation covariance in every training batch."""

    NUMERICS: ClassVar[int] = 1


_NO_RAY = "which trains its networks one after another, without Ray"
_NO_ARMS = "which has no arms"


@dataclass(frozen=True, kw_only=True)
class Probe(Artefact):
    """A measurement of networks during their training.

    Attributes:
        measurement: The measurement and its parameters.
        optimizer: The optimizer that trains the networks.
        seeds: The number of networks. The seeds are 0 ... seeds - 1.
    """

    KIND: ClassVar[str] = "probe"
    HELP: ClassVar[Mapping[str, str]] = {
        "smoke": "Train two networks for two epochs on digits, in OUT/smoke.",
        "settings": "Set a parameter of the probe, a hyperparameter or a setting of the recipe.",
        "dry_run": "Print the plan and exit; with --json, print a line of JSON for each network to "
        "train.",
    }
    REFUSED: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("optimizers", "only", "levels"), _NO_ARMS),
        **dict.fromkeys(
            (
                "max_concurrent",
                "gpus_per_trial",
                "address",
                "send_environment",
                "workers_per_trial",
                "time_budget",
            ),
            _NO_RAY,
        ),
        **dict.fromkeys(("retry", "rerun", "commit_every"), "which keeps no trial folders"),
        "diagnostics": "which makes its own measurements",
    }

    measurement: Measurement
    optimizer: str = "sgd"
    seeds: int = 3

    def reported(self, plan: Any) -> Any:
        """Return the plan with the networks that were measured with other seeds."""
        return self.module("plan").reported(plan)

    def results(self, plan: Any) -> list[str]:
        """Return the networks with a result."""
        return self.module("plan").results(plan)

    def trials(
        self,
        workload: str | None = None,
        seeds: Sequence[int] | None = None,
        recipe: Mapping[str, Any] | None = None,
        overrides: Mapping[str, Any] | None = None,
    ) -> list[Trial]:
        """Return a trial for each network.

        The arguments replace the values of the probe and of the workload's recipe.

        Raises:
            HyperparameterError: One line for each error, including those in the parameters of the
                measurement.
        """
        return self.module("plan").trials(
            self, workload or self.workload, seeds, recipe or {}, overrides or {}
        )

    def frame(self, plan: Plan, per: Literal["trial", "epoch"]) -> pd.DataFrame:
        """Return the measured numbers, as in `numbers.csv` (see `Artefact.frame`)."""
        only_per_trial(self, per)
        return self.module("report").numbers(plan)
