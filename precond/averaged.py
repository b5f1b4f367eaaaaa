"""The bases of algorithms that invert a damped moving average of the curvature."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeVar

from torch import Tensor

from precond.algorithm import Algorithm
from precond.hyperparameters import count, fraction, positive
from precond.parts.factors import Factor


class HasFactor(Protocol):
    """A state with a factor that maps gradients to directions."""

    @property
    def factor(self) -> Factor:
        """The factor."""
        ...


FactorState = TypeVar("FactorState", bound=HasFactor)


@dataclass(frozen=True, kw_only=True)
class AveragedAlgorithm(Algorithm[FactorState]):
    """A method that inverts a damped moving average of the curvature.

    By default, it computes a new factor after each update of the average.

    Attributes:
        ema_decay: Weight of the old value in the moving averages.
        damping: Added to every eigenvalue before inverting.
        cov_interval: Steps between updates of the statistics.
    """

    PER_GROUP: ClassVar[tuple[str, ...]] = ("damping",)

    ema_decay: float = fraction(0.95, symbol="beta_2")
    damping: float = positive(1.0, symbol="rho")
    cov_interval: int = count(5, symbol="tau_cov")

    def statistics_due(self, step: int) -> bool:
        """Return True every `cov_interval` steps."""
        return step % self.cov_interval == 0

    def refresh_due(self, step: int) -> bool:
        """Return True at the steps that update the statistics."""
        return self.statistics_due(step)

    def precondition(
        self, state: FactorState, gradients: Tensor, lr: float, overwrite: bool = False
    ) -> Tensor:
        """Apply the factor."""
        return state.factor.solve(gradients, overwrite)


@dataclass(frozen=True, kw_only=True)
class DampedAlgorithm(AveragedAlgorithm[FactorState]):
    """A method whose factor is too expensive to compute at each update of the average.

    Attributes:
        inv_interval: Steps between updates of the factors.
    """

    inv_interval: int = count(50, symbol="tau_inv")

    def problems(self) -> list[str]:
        """Return one line for each value out of range, and one for contradictory intervals."""
        errors = super().problems()
        if not errors and self.cov_interval > self.inv_interval:
            errors.append(
                f"cov_interval = {self.cov_interval} > inv_interval = {self.inv_interval}: the "
                "factor would be recomputed from unchanged statistics. "
                f"Set inv_interval >= {self.cov_interval}"
            )
        return errors

    def refresh_due(self, step: int) -> bool:
        """Return True every `inv_interval` steps."""
        return step % self.inv_interval == 0
