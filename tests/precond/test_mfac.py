"""M-FAC against dense inverses of its Fisher matrix, in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import precond

WINDOW = 4


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 2)).double()


def flat(tensors) -> Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


def gradient(model: nn.Module, number: int) -> Tensor:
    """Set the gradients of a batch, and return them as a vector."""
    generator = torch.Generator().manual_seed(number)
    x = torch.randn(10, 3, generator=generator, dtype=torch.float64)
    model.zero_grad()
    F.cross_entropy(model(x), torch.randint(2, (10,), generator=generator)).backward()
    return flat(p.grad for p in model.parameters())


def solve(rows: list[Tensor], g: Tensor, damping: float) -> Tensor:
    """Return (damping I + (1/m) sum of g g^T)^(-1) g by a dense inverse."""
    fisher = damping * torch.eye(len(g), dtype=g.dtype)
    for row in rows:
        fisher += torch.outer(row, row) / WINDOW
    return torch.linalg.solve(fisher, g)


def recursion(rows: list[Tensor], g: Tensor, damping: float) -> Tensor:
    """Return the same by the Sherman-Morrison recursion over the rows."""
    inverse = torch.eye(len(g), dtype=g.dtype) / damping
    for row in rows:
        product = inverse @ row
        inverse -= torch.outer(product, product) / (WINDOW + row @ product)
    return inverse @ g


def layer_by_layer(rows: list[Tensor], g: Tensor, damping: float) -> Tensor:
    """Return the directions that a separate matrix for each tensor gives, which is not M-FAC."""
    sizes = [p.numel() for p in net().parameters()]
    parts = zip(*(row.split(sizes) for row in rows), strict=True)
    columns = zip(parts, g.split(sizes), strict=True)
    return torch.cat([solve(list(part), column, damping) for part, column in columns])


def train(oracle, damping: float = 0.01) -> tuple[Tensor, Tensor]:
    """Return the weights after 11 steps, and those that the oracle gives in each step."""
    model = net()
    settings = {"lr": 0.05, "momentum": 0.6, "weight_decay": 0.1, "damping": damping}
    optimizer = precond.MFAC(model, window=WINDOW, **settings)
    rows: list[Tensor] = []
    mean = torch.zeros_like(flat(model.parameters()))
    expected = mean
    for step in range(11):
        before = flat(model.parameters())
        g = gradient(model, step)
        optimizer.step()
        rows = [*rows, g][-WINDOW:]
        mean = 0.6 * mean + 0.4 * oracle(rows, g, damping)
        expected = (1 - 0.05 * 0.1) * before - 0.05 * mean
    return flat(model.parameters()), expected


@pytest.mark.parametrize("oracle", [solve, recursion])
def test_steps_equal_those_with_the_dense_fisher_matrix(oracle):
    """The divisor is the window, even while it is not full. The rows contain this gradient."""
    torch.testing.assert_close(*train(oracle), rtol=1e-9, atol=1e-11)


def test_the_fisher_matrix_is_that_of_all_parameters_together():
    """A separate matrix for each tensor gives other steps."""
    actual, expected = train(layer_by_layer)
    assert (actual - expected).norm() > 1e-3 * expected.norm()


def test_a_small_damping_does_not_amplify_rounding_errors():
    """The default damping is 1e-5; in float32, the direction has 6 digits."""
    directions = []
    for dtype in (torch.float32, torch.float64):
        model = net().to(dtype)
        optimizer = precond.MFAC(model, lr=1.0, momentum=0.0)
        for step in range(5):
            before = flat(model.parameters())
            x = torch.randn(10, 3, generator=torch.Generator().manual_seed(step))
            model.zero_grad()
            F.cross_entropy(model(x.to(dtype)), torch.arange(10) % 2).backward()
            optimizer.step()
            directions.append((before - flat(model.parameters())).double())
            with torch.no_grad():
                for p, q in zip(model.parameters(), net().parameters(), strict=True):
                    p.copy_(q)
    for single, double in zip(directions[:5], directions[5:], strict=True):
        torch.testing.assert_close(single, double, rtol=0, atol=1e-4 * double.norm().item())


def test_a_parameter_without_a_gradient_has_a_row_of_zeros():
    model = nn.ParameterList(
        [torch.ones(3, dtype=torch.float64), torch.ones(2, dtype=torch.float64)]
    )
    optimizer = precond.MFAC(model, lr=1.0, window=WINDOW, momentum=0.0, damping=0.1)
    rows = torch.randn(3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows[1, :3] = 0
    for row in rows:
        model[0].grad = row[:3].clone() if row[:3].any() else None
        model[1].grad = row[3:].clone()
        before = flat(model)
        optimizer.step()
    expected = before - solve(list(rows), rows[2], 0.1)
    torch.testing.assert_close(flat(model), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_products_of_a_loaded_state_belong_to_the_converted_rows(dtype):
    """A matrix that was stored in bfloat16 would not be accurate enough."""
    model = net().float()
    optimizer = precond.MFAC(model, window=WINDOW)
    for step in range(6):
        model.zero_grad()
        x = torch.randn(10, 3, generator=torch.Generator().manual_seed(step))
        F.cross_entropy(model(x), torch.arange(10) % 2).backward()
        optimizer.step()
    other = net().to(dtype)
    loaded = precond.MFAC(other, window=WINDOW)
    loaded.load_state_dict(optimizer.state_dict())
    other[0].weight.grad = torch.ones_like(other[0].weight)
    loaded.step()
    at_least_float32 = torch.promote_types(dtype, torch.float32)
    rows = torch.cat([loaded.state[p]["window"] for p in other.parameters()], 1)
    rows = rows.to(at_least_float32)
    torch.testing.assert_close(
        loaded.state[other[0].weight]["gram"], rows @ rows.T, rtol=1e-6, atol=1e-6
    )
