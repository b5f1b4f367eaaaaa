"""SketchySGD against explicit Hessians and dense formulas in float64."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import precond
from precond import hessian
from precond.parts.sketches import GaussianSketch


def net() -> nn.Module:
    """Return a model of Linear and LayerNorm layers with 34 parameters."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 2)).double()


def batch(number: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(number)
    x = torch.randn(10, 3, generator=generator, dtype=torch.float64)
    return x, torch.randint(2, (10,), generator=generator)


def loss(model: nn.Module, number: int = 0) -> Tensor:
    x, y = batch(number)
    return F.cross_entropy(model(x), y)


def flat(tensors) -> Tensor:
    return torch.cat([t.flatten() for t in tensors])


def dense_hessian(model: nn.Module, number: int = 0) -> Tensor:
    """Return H, `[D, D]`, by `torch.autograd.functional.hessian` of the flat parameters."""
    names, sizes = zip(*[(n, p.shape) for n, p in model.named_parameters()], strict=True)
    x, y = batch(number)

    def flat_loss(vector: Tensor) -> Tensor:
        parts = vector.split([size.numel() for size in sizes])
        values = {n: part.view(size) for n, part, size in zip(names, parts, sizes, strict=True)}
        return F.cross_entropy(torch.func.functional_call(model, values, (x,)), y)

    result = torch.autograd.functional.hessian(flat_loss, flat(model.parameters()).detach())
    assert isinstance(result, Tensor)
    return result


def dense_direction(h: Tensor, g: Tensor, phi: Tensor, rho: float) -> Tensor:
    """Return the direction by the equations in `precond/algorithms/sketchysgd.py`."""
    y = h @ phi
    nu = max(8 * torch.finfo(y.dtype).eps * y.norm(), -2 * torch.linalg.eigvalsh(phi.T @ y)[0])
    core = phi.T @ (y + nu * phi)
    b = torch.linalg.solve_triangular(
        torch.linalg.cholesky((core + core.T) / 2), (y + nu * phi).T, upper=False
    ).T
    u, sigma, _ = torch.linalg.svd(b, full_matrices=False)
    s = (sigma**2 - nu).clamp(min=0)
    return u @ ((u.T @ g) / (s + rho)) + (g - u @ (u.T @ g)) / rho


def test_products_equal_those_of_the_explicit_hessian():
    """Several products use one graph. Gradients equal those of `loss.backward()`, and add up."""
    model, other = net(), net()
    parameters = list(model.parameters())
    h = dense_hessian(model)
    gradients = hessian.differentiate(loss(model), parameters)
    loss(other).backward()
    for p, q in zip(parameters, other.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad)
        assert p.grad.grad_fn is None
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        vectors = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]
        torch.testing.assert_close(
            flat(hessian.product(gradients, parameters, vectors)), h @ flat(vectors)
        )
    hessian.differentiate(loss(model), parameters)
    torch.testing.assert_close(
        flat([p.grad for p in parameters]), 2 * flat([q.grad for q in other.parameters()])
    )


def test_a_loss_linear_in_its_parameters_has_no_curvature():
    model = nn.Linear(3, 2).double()
    optimizer = precond.SketchySGD(model, rank=2, damping=0.5, lr=1.0, momentum=0.0)
    before = [p.detach().clone() for p in model.parameters()]
    optimizer.backward(model(batch()[0]).sum())
    optimizer.step()
    for p, old in zip(model.parameters(), before, strict=True):
        torch.testing.assert_close(p.detach(), old - p.grad / 0.5)


@pytest.mark.parametrize("rank", [1, 4, 34])
def test_steps_match_the_dense_formula(rank):
    """A step applies momentum, then the preconditioner of the last sketch, then weight decay.

    The sketch is recomputed every third step.
    """
    model = net()
    settings = {"lr": 0.05, "momentum": 0.8, "weight_decay": 0.1, "rank": rank, "damping": 0.3}
    optimizer = precond.SketchySGD(model, interval=3, seed=5, **settings)
    size = sum(p.numel() for p in model.parameters())
    m = torch.zeros(size, dtype=torch.float64)
    h = phi = m
    for step in range(8):
        w = flat(model.parameters()).detach()
        if step % 3 == 0:
            phi = GaussianSketch.draw([f"sketch {step // 3}"], size, rank, 5, m).omega[0]
            torch.testing.assert_close(phi.T @ phi, torch.eye(rank, dtype=torch.float64))
            h = dense_hessian(model, step)
        optimizer.zero_grad()
        precond.backward(loss(model, step), optimizer)
        m = 0.8 * m + flat([p.grad for p in model.parameters()])
        optimizer.step()
        d = dense_direction(h, m / (1 - 0.8 ** (step + 1)), phi, 0.3)
        expected = w - 0.05 * (d + 0.1 * w)
        torch.testing.assert_close(
            flat(model.parameters()).detach(), expected, rtol=1e-7, atol=1e-9
        )


def test_a_full_rank_step_on_a_quadratic_is_a_newton_step():
    """With lr 1, the new parameters are w - (A + rho I)^{-1} (A w - b)."""
    torch.manual_seed(0)
    root = torch.randn(6, 6, dtype=torch.float64)
    a, b = root @ root.T + torch.eye(6), torch.randn(6, dtype=torch.float64)
    model = nn.ParameterList(
        [torch.randn(2, 2, dtype=torch.float64), torch.randn(2, dtype=torch.float64)]
    )
    optimizer = precond.SketchySGD(model, lr=1.0, momentum=0.0, damping=1e-3, rank=6)
    w = flat(model)
    optimizer.backward(w @ a @ w / 2 - b @ w)
    expected = w - torch.linalg.solve(a + 1e-3 * torch.eye(6), a @ w - b)
    optimizer.step()
    torch.testing.assert_close(flat(model).detach(), expected.detach(), rtol=1e-9, atol=1e-9)


def test_negative_curvature_counts_as_zero():
    """At full rank, H is projected onto the positive semi-definite matrices."""
    model = nn.ParameterList([torch.ones(4, dtype=torch.float64)])
    h = torch.tensor([3.0, 1.0, 0.0, -2.0], dtype=torch.float64)
    optimizer = precond.SketchySGD(model, lr=1.0, momentum=0.0, damping=0.5, rank=4)
    optimizer.backward((h * model[0].square()).sum() / 2)
    optimizer.step()
    torch.testing.assert_close(
        model[0].detach(), 1 - h / (h.clamp(min=0) + 0.5), rtol=1e-9, atol=1e-9
    )


def test_hessian_products_of_micro_batches_add_up():
    """Two halves of a batch, each with half of its loss, give the step of the whole batch."""
    (x, y), results = batch(), []
    for halves in (False, True):
        model = net()
        optimizer = precond.SketchySGD(model, rank=3)
        parts = [(x[:5], y[:5]), (x[5:], y[5:])] if halves else [(x, y)]
        for inputs, labels in parts:
            optimizer.backward(F.cross_entropy(model(inputs), labels) / len(parts))
        optimizer.step()
        results.append(flat(model.parameters()))
    torch.testing.assert_close(*results)


def test_a_step_without_hessian_products_is_an_error():
    """The error occurs only if a sketch is due; at other steps, `loss.backward()` is sufficient.

    Products that `zero_grad` has cleared do not count.
    """
    model = net()
    optimizer = precond.SketchySGD(model, rank=3, interval=2)
    loss(model).backward()
    with pytest.raises(
        RuntimeError,
        match=r"^SketchySGD .*: call optimizer.backward\(loss\), not loss.backward\(\)",
    ):
        optimizer.step()
    optimizer.backward(loss(model))
    optimizer.zero_grad()
    loss(model).backward()
    with pytest.raises(RuntimeError, match="call optimizer"):
        optimizer.step()
    optimizer.backward(loss(model))
    optimizer.step()
    optimizer.zero_grad()
    loss(model).backward()
    optimizer.step()


def test_the_graph_is_freed_by_backward():
    """No reference cycle keeps the graph alive until the next garbage collection."""
    model = net()
    optimizer = precond.SketchySGD(model, rank=3)
    gc.disable()
    try:
        value = loss(model)
        reference = weakref.ref(value)
        optimizer.backward(value)
        del value
        assert reference() is None
        assert all(p.grad.grad_fn is None for p in model.parameters())
    finally:
        gc.enable()


def test_the_rank_is_at_most_the_number_of_parameters():
    with pytest.raises(
        precond.HyperparameterError, match=r"rank = 35: the optimizer has 34 parameters, use 1..34"
    ):
        precond.SketchySGD(net(), rank=35)


def test_frozen_parameters_do_not_change():
    model = net()
    model[0].weight.requires_grad_(False)
    before = model[0].weight.clone()
    optimizer = precond.SketchySGD(model, params=[{"params": list(model.parameters())}], rank=3)
    for number in range(3):
        optimizer.zero_grad()
        optimizer.backward(loss(model, number))
        optimizer.step()
    assert torch.equal(model[0].weight, before)
