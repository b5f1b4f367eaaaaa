"""GGT against the dense pseudo-inverse square root, in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import precond

WINDOW = 4


def net() -> nn.Module:
    """Return a model whose tensors have 1 to 12 elements, fewer and more than the window."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 1)).double()


def gradients(model: nn.Module, number: int, scale: float = 1.0) -> list[Tensor]:
    """Set the gradients of a batch, and return copies."""
    generator = torch.Generator().manual_seed(number)
    x = torch.randn(10, 3, generator=generator, dtype=torch.float64)
    y = torch.randn(10, 1, generator=generator, dtype=torch.float64)
    model.zero_grad()
    (scale * F.mse_loss(model(x), y)).backward()
    return [p.grad.clone().flatten() for p in model.parameters() if p.grad is not None]


def dense_direction(history: list[Tensor], m: Tensor, decay: float, eps: float) -> Tensor:
    """Return (sum of decay^age g g^T)^(-1/2) m, where eigenvalues <= eps x the largest count as 0."""
    recent = history[::-1][:WINDOW]
    matrix = sum(decay**age * torch.outer(g, g) for age, g in enumerate(recent))
    assert isinstance(matrix, Tensor)
    values, vectors = torch.linalg.eigh(matrix)
    kept = values > eps * values[-1]
    return vectors[:, kept] @ ((vectors[:, kept].T @ m) / values[kept].sqrt())


@pytest.mark.parametrize("decay", [1.0, 0.7])
def test_steps_equal_those_with_the_dense_pseudo_inverse_square_root(decay):
    """The 11 steps fill the window, and then replace each row at least once."""
    model = net()
    settings = {"lr": 0.05, "momentum": 0.6, "weight_decay": 0.1, "eps": 1e-3}
    optimizer = precond.GGT(model, window=WINDOW, decay=decay, **settings)
    histories: list[list[Tensor]] = [[] for _ in model.parameters()]
    means = [torch.zeros_like(p).flatten() for p in model.parameters()]
    for step in range(11):
        before = [p.detach().clone().flatten() for p in model.parameters()]
        current = gradients(model, step)
        optimizer.step()
        for number, p in enumerate(model.parameters()):
            histories[number].append(current[number])
            means[number] = 0.6 * means[number] + current[number]
            d = dense_direction(histories[number], means[number], decay, eps=1e-3)
            expected = (1 - 0.05 * 0.1) * before[number] - 0.05 * d
            torch.testing.assert_close(p.detach().flatten(), expected, rtol=1e-9, atol=1e-11)


def test_scaling_all_gradients_does_not_change_the_steps():
    weights = []
    for scale in (1.0, 1e4):
        model = net()
        optimizer = precond.GGT(model, lr=0.05, window=WINDOW)
        for step in range(8):
            gradients(model, step, scale)
            optimizer.step()
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    torch.testing.assert_close(*weights, rtol=1e-9, atol=1e-11)


def test_a_large_gradient_is_forgotten_after_the_window():
    """A gradient before the window, however large, does not change the direction."""
    steps = []
    for factor in (1.0, 100.0):
        model = net()
        optimizer = precond.GGT(model, lr=0.0, window=WINDOW, momentum=0.0)
        for step in range(WINDOW + 1):
            gradients(model, step, factor if step == 0 else 1.0)
            optimizer.param_groups[0]["lr"] = 0.05 if step == WINDOW else 0.0
            optimizer.step()
        steps.append([p.detach().clone() for p in model.parameters()])
    for first, second in zip(*steps, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-12, atol=1e-14)


def test_a_tensor_without_a_gradient_has_a_row_of_zeros():
    """Its later steps use the gradients of the window, in which the missing gradient is zero."""
    model = nn.ParameterList(
        [torch.ones(3, dtype=torch.float64), torch.ones(2, dtype=torch.float64)]
    )
    optimizer = precond.GGT(model, lr=1.0, window=2, momentum=0.0)
    rows = torch.tensor([[1.0, 2.0, 0.0], [0.0, 0.0, 0.0], [0.0, 1.0, 3.0]], dtype=torch.float64)
    for row in rows:
        model[0].grad = row.clone() if row.any() else None
        model[1].grad = torch.ones(2, dtype=torch.float64)
        before = model[0].detach().clone()
        optimizer.step()
    torch.testing.assert_close(model[0].detach(), before - rows[2] / rows[2].norm())
