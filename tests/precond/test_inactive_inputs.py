"""NysAct-G on layers some of whose inputs are always 0, such as those after dead ReLUs."""

from __future__ import annotations

import pytest
import torch

from precond.parts.nystrom import low_rank_factor
from precond.parts.sketches import GaussianSketch

WIDTH, RANK, EXAMPLES = 65, 40, 64


def active_inputs(active: int, scale: float, seed: int) -> torch.Tensor:
    """Return inputs `[EXAMPLES, WIDTH]`: `active` activations, zeros, and the input of the bias."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.zeros(EXAMPLES, WIDTH)
    x[:, :active] = scale * torch.randn(EXAMPLES, active, generator=generator).relu()
    x[:, -1] = 1
    return x


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("damping", [0.3, 1e-3, 1e-5])
@pytest.mark.parametrize("scale", [1e-3, 1e-2, 0.1, 1.0])
@pytest.mark.parametrize("active", [3, 10, 30, 38])
def test_a_rank_above_the_number_of_active_inputs_gives_the_exact_inverse(
    active: int, scale: float, damping: float, seed: int
):
    """The covariance has a rank below RANK, so its Nystrom approximation is exact.

    Without a lower bound of the shift, the errors were 0.9 to 1.2 at most scales.
    """
    x = active_inputs(active, scale, seed)
    omega = GaussianSketch.draw(["layer"], WIDTH, RANK, seed, x, orthonormal=True)
    sketch = (x.T @ (x @ omega.omega[0]) / EXAMPLES).unsqueeze(0)
    z, outcome = low_rank_factor(sketch, omega, damping)
    identity = torch.eye(WIDTH, dtype=torch.float64)
    inverse = identity / damping - z[0] @ z[0].T
    covariance = x.double().T @ x.double() / EXAMPLES
    exact = torch.linalg.inv(covariance + damping * identity)
    assert bool(outcome.ok) and not bool(outcome.retried)
    assert (inverse - exact).norm() < 3e-3 * exact.norm()
