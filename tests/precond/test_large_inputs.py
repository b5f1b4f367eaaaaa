"""NysAct in float32 if one input is much larger than the others, compared with dense float64."""

from __future__ import annotations

import banks
import pytest
import torch
from reference import rows
from torch import Tensor, nn

import precond
from precond.parts import linalg
from precond.parts.sketches import ColumnSketch, Sketch

DECAY, DAMPING, WIDTH, RANK = 0.8, 0.5, 120, 8
LAYERS: dict[str, nn.Module] = {
    "linear": nn.Linear(WIDTH, 4),
    "convolution": nn.Conv2d(6, 4, 3, padding=1),
    "groups": nn.Conv2d(8, 4, 3, groups=2, bias=False),
}


def dense(sketch: Sketch, width: int) -> Tensor:
    """Return the test matrices `[L, p, r]` in float64."""
    if isinstance(sketch, ColumnSketch):
        return torch.eye(width, dtype=torch.float64)[:, sketch.columns].movedim(0, 1)
    return sketch.omega.double()


def inputs(layer: nn.Module, scale: float, channel: int, seed: int) -> Tensor:
    """Return inputs with different variances, and one channel multiplied by `scale`."""
    generator = torch.Generator().manual_seed(seed)
    if isinstance(layer, nn.Conv2d):
        x = torch.randn(16, layer.in_channels, 7, 7, generator=generator) + 0.3
    else:
        x = torch.randn(256, WIDTH, generator=generator) * torch.logspace(0.5, -1, WIDTH) + 0.3
    x[:, channel] *= scale
    return x


def difference(kind: str, sketch: str, scale: float, sampled: bool = True) -> float:
    """Return the relative difference between a direction after three updates and the exact one.

    With `sampled=False`, NysAct-S does not sample the large channel.
    """
    module = LAYERS[kind]
    optimizer = precond.NysAct(
        module, rank=RANK, sketch=sketch, damping=DAMPING, ema_decay=DECAY, cov_interval=1
    )
    [bank] = optimizer._banks
    width = bank.buffer.shape[2]
    omega = dense(bank.state.statistic.sketch, width)
    positions = 9 if isinstance(module, nn.Conv2d) else 1
    channels = omega[0, : positions * 4].abs().sum(1).view(4, -1).amax(1) > 0
    channel = int((channels == sampled).nonzero()[0])
    average = torch.zeros(len(omega), width, width).double()
    for seed in range(3):
        x = inputs(module, scale, channel, seed)
        banks.record(bank, bank.layers[0], x)
        bank.update(refresh=True)
        x = torch.stack([*rows(module, x)]).double()
        average = DECAY * average + (1 - DECAY) * x.mT @ x / x.shape[1]
    # The gradient is a combination of rows, as that of any loss.
    weights = torch.randn(4, x.shape[1], generator=torch.Generator().manual_seed(9)).double()
    bank.buffer.copy_(weights[: bank.buffer.shape[1]] @ x / x.shape[1])
    gradient = bank.buffer.double()
    bank.precondition(lr=1.0)
    a = average / (1 - DECAY**3)
    c = a @ omega
    nystrom = c @ torch.linalg.pinv(linalg.symmetrize(omega.mT @ c), hermitian=True) @ c.mT
    exact = gradient @ torch.linalg.inv(nystrom + DAMPING * torch.eye(width).double())
    return ((bank.buffer - exact).norm() / exact.norm()).item()


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("sketch", ["gaussian", "subcolumn"])
@pytest.mark.parametrize(
    ("scale", "tolerance"), [(1.0, 2e-6), (1e2, 1e-4), (1e3, 1e-3), (1e4, 1e-2)]
)
def test_the_direction_is_close_to_the_exact_one(scale, tolerance, sketch, kind):
    """With one shift for all inputs, the difference was 0.1 to 0.3 for a factor of 1000."""
    assert difference(kind, sketch, scale) < tolerance


@pytest.mark.parametrize("scale", [1e3, 1e4])
def test_the_large_input_may_be_a_column_that_is_not_sampled(scale):
    """Then all entries of its row of the sketch are large."""
    assert difference("linear", "subcolumn", scale, sampled=False) < 1e-6 * scale
