"""SKFAC against KFAC of one batch, and against dense inverses in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import precond
from precond.algorithms.skfac import inverse_covariances
from precond.parts.batches import Batch

DAMPING = 0.09
SETTINGS = {"lr": 0.05, "momentum": 0.0, "weight_decay": 0.0, "kl_clip": None, "damping": DAMPING}


class Net(nn.Module):
    """A grouped convolution, tokens, a layer that is called twice, and a narrow layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2)
        self.tokens = nn.Linear(4, 5)
        self.twice = nn.Linear(5, 5, bias=False)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.conv(x)).flatten(2).mT
        x = torch.tanh(self.twice(torch.tanh(self.tokens(x))))
        return self.head(torch.tanh(self.twice(x.mean(1))))


def net() -> Net:
    torch.manual_seed(0)
    return Net().double()


def batch(number: int, size: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(number)
    x = torch.randn(size, 2, 6, 6, generator=generator, dtype=torch.float64)
    return x, torch.randint(3, (size,), generator=generator)


def inverse(covariance: Tensor) -> Tensor:
    eye = torch.eye(len(covariance), dtype=covariance.dtype)
    return torch.linalg.inv(covariance + DAMPING**0.5 * eye)


def means_over_positions(x: Tensor, positions: int) -> Tensor:
    """Return `[B, p]` for rows `[B * positions, p]`, by a loop over the examples."""
    return torch.stack([rows.sum(0) / positions for rows in x.split(positions)])


def dense_direction(layer: nn.Linear, x: Tensor, dy: Tensor, official: bool) -> Tensor:
    """Return the direction of a layer with one call, from dense inverses.

    Args:
        layer: The layer.
        x: Its inputs, `[B, ..., d_in]`.
        dy: The gradients of the mean loss with respect to its outputs, `[B, ..., d_out]`.
        official: Use the scale of the released code.
    """
    size, positions = len(x), x[0].numel() // x.shape[-1]
    a = means_over_positions(x.reshape(-1, x.shape[-1]), positions)
    a = torch.cat([a, torch.ones(size, 1, dtype=a.dtype)], 1)
    g = means_over_positions(dy.reshape(-1, dy.shape[-1]), positions)
    g = g if official else g * size * positions
    assert layer.weight.grad is not None and layer.bias.grad is not None
    gradient = torch.cat([layer.weight.grad, layer.bias.grad.unsqueeze(1)], 1)
    return inverse(g.T @ g / size) @ gradient @ inverse(a.T @ a / size)


@pytest.mark.parametrize("official", [False, True])
@pytest.mark.parametrize("size", [3, 12])
def test_directions_equal_those_with_dense_inverses(size, official):
    """With 3 examples, the inverses of `tokens` are computed from products of examples."""
    model = net()
    g_scale = "official" if official else "fisher"
    optimizer = precond.SKFAC(model, inv_interval=1, g_scale=g_scale, **SETTINGS)
    layer, seen = model.tokens, {}

    def keep(module: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
        seen["x"], seen["y"] = args[0].detach(), output
        output.retain_grad()

    layer.register_forward_hook(keep)
    for number in range(3):
        x, y = batch(number, size)
        before = layer.weight.detach().clone(), layer.bias.detach().clone()
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        direction = dense_direction(layer, seen["x"], seen["y"].grad, official)
        optimizer.step()
        for old, new, d in zip(
            before, (layer.weight, layer.bias), (direction[:, :-1], direction[:, -1]), strict=True
        ):
            torch.testing.assert_close(new.detach(), old - 0.05 * d, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("size", [3, 40])
def test_skfac_equals_kfac_of_one_batch_with_equal_damping(size, monkeypatch):
    """KFAC with `reduce`, pi = 1 and no average; also for convolutions and shared layers."""
    monkeypatch.setattr("precond.algorithms.kfac.PI_RANGE", (1.0, 1.0))
    weights = []
    kfac = {"sharing": "reduce", "ema_decay": 0.0, "cov_interval": 2}
    for kind, options in ((precond.SKFAC, {}), (precond.KFAC, kfac)):
        model = net()
        optimizer = kind(model, inv_interval=2, **SETTINGS, **options)
        for number in range(5):
            x, y = batch(number, size)
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    torch.testing.assert_close(*weights, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("count", [2, 9])
def test_the_inverse_of_a_covariance_from_its_rows(count):
    """There are fewer and more rows than columns. A slot may have fewer rows than another."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(2, count, 5, generator=generator, dtype=torch.float64)
    rows[1, 1:] = 0
    counts = torch.tensor([count, 1])
    [(actual, outcome)] = inverse_covariances(Batch(rows, counts), damping=0.3)
    assert outcome.ok.all()
    for slot, (x, b) in enumerate(zip(rows, counts, strict=True)):
        dense = torch.linalg.inv(x.T @ x / b + 0.3 * torch.eye(5, dtype=torch.float64))
        torch.testing.assert_close(actual[slot], dense, rtol=1e-12, atol=1e-12)


def test_large_rows_in_float32_give_a_positive_definite_inverse():
    """The identity minus a projection loses digits, so it is computed in float64."""
    rows = 1e3 * torch.randn(1, 4, 20, generator=torch.Generator().manual_seed(0))
    [(actual, outcome)] = inverse_covariances(Batch(rows, torch.tensor([4])), damping=0.1)
    assert outcome.ok.all()
    x = rows[0].double()
    expected = torch.linalg.inv(x.T @ x / 4 + 0.1 * torch.eye(20, dtype=torch.float64))
    torch.testing.assert_close(actual[0], expected, rtol=0, atol=1e-6)
    assert torch.linalg.eigvalsh(actual[0]).min() > 0


def test_only_the_last_batch_counts():
    """The inverses do not depend on earlier batches."""
    states = []
    for first in (1, 2):
        model = net()
        optimizer = precond.SKFAC(model, inv_interval=1, **{**SETTINGS, "lr": 0.0})
        for number in (first, 3):
            x, y = batch(number, 4)
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        states.append([bank.state.factor for bank in optimizer._banks])
    for first, second in zip(*states, strict=True):
        assert torch.equal(first.input_inverse, second.input_inverse)
        assert torch.equal(first.output_inverse, second.output_inverse)
