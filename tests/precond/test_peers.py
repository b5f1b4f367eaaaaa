"""The peers: cases with a known result, and the errors if pytorch-optimizer is not installed."""

from __future__ import annotations

import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import precond
from precond import peers
from precond.peers import hutchinson
from precond.registry import REGISTRY

PEERS = list(peers.PEERS)


def test_peers_are_registered_without_the_package(monkeypatch):
    """The defaults and checks work. `build` raises an error that contains the install command."""
    monkeypatch.setitem(sys.modules, peers.PACKAGE, None)
    assert set(PEERS) <= set(precond.available())
    for name in PEERS:
        assert precond.check(name, precond.defaults(name)) == []
        assert REGISTRY[name].package == peers.PACKAGE
        with pytest.raises(ModuleNotFoundError) as error:
            precond.build(name, nn.Linear(3, 2))
        [line] = str(error.value).splitlines()
        assert line.lower().startswith(
            f"{name} needs the package pytorch-optimizer: pip install .[peers]".lower()
        )
        with pytest.raises(precond.HyperparameterError, match="lr = -1: must be"):
            precond.build(name, nn.Linear(3, 2), lr=-1)


def quadratic() -> tuple[nn.ParameterList, torch.Tensor]:
    """Return three parameters and the diagonal of a diagonal Hessian.

    One parameter is three-dimensional, and the diagonal has values of both signs.
    """
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 2), (2, 2, 2), (4,)]
    model = nn.ParameterList(
        [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    )
    return model, torch.randn(18, generator=generator, dtype=torch.float64)


def value(model: nn.ParameterList, diagonal: torch.Tensor) -> torch.Tensor:
    w = torch.cat([p.flatten() for p in model])
    return (diagonal * w.square()).sum() / 2


def test_adahessian_estimates_a_diagonal_hessian_exactly():
    """With H = diag(h), z * (H z) = h for signs z, so the first step is lr w h / (|h| + eps)."""
    pytest.importorskip(peers.PACKAGE)
    model, h = quadratic()
    optimizer = precond.build("adahessian", model, lr=0.1, eps=1e-8)
    w = torch.cat([p.detach().flatten() for p in model])
    precond.backward(value(model, h), optimizer)
    optimizer.step()
    moments = [optimizer.state[p]["exp_hessian_diag_sq"].flatten() / (1 - 0.999) for p in model]
    torch.testing.assert_close(torch.cat(moments).sqrt(), h.abs())
    after = torch.cat([p.detach().flatten() for p in model])
    torch.testing.assert_close(after, w - 0.1 * w * h / (h.abs() + 1e-8))


def test_adahessian_signs_depend_on_seed_step_and_parameter():
    pytest.importorskip(peers.PACKAGE)
    parameters = [torch.zeros(50), torch.zeros(5, 5)]
    first, repeated = (
        hutchinson.random_signs(parameters, 3, 0),
        hutchinson.random_signs(parameters, 3, 0),
    )
    for p, z, same in zip(parameters, first, repeated, strict=True):
        assert z.shape == p.shape
        assert torch.equal(z, same)
        assert set(z.unique().tolist()) == {-1.0, 1.0}
    for other in (
        hutchinson.random_signs(parameters, 3, 1),
        hutchinson.random_signs(parameters, 4, 0),
    ):
        assert not torch.equal(other[0], first[0])
    assert not torch.equal(first[0][:25], first[1].flatten())


def test_adahessian_without_hessian_products_is_an_error():
    pytest.importorskip(peers.PACKAGE)
    model, h = quadratic()
    optimizer = precond.build("adahessian", model)
    value(model, h).backward()
    with pytest.raises(
        RuntimeError,
        match=r"^AdaHessian .*: call optimizer.backward\(loss\), not loss.backward\(\)",
    ):
        optimizer.step()


def test_shampoo_equals_the_formula_of_the_paper():
    """L^{-1/4} G R^{-1/4} with L = eps I + sum G G^T, R = eps I + sum G^T G."""
    pytest.importorskip(peers.PACKAGE)
    torch.manual_seed(0)
    model = nn.Linear(4, 3, bias=False).double()
    optimizer = precond.build("shampoo", model, lr=0.1, weight_decay=0.2, eps=1e-2)
    left, right = (1e-2 * torch.eye(n, dtype=torch.float64) for n in (3, 4))
    for _ in range(3):
        w = model.weight.detach().clone()
        optimizer.zero_grad()
        outputs = model(torch.randn(6, 4, dtype=torch.float64))
        F.mse_loss(outputs, torch.zeros_like(outputs)).backward()
        g = model.weight.grad
        left, right = left + g @ g.T, right + g.T @ g
        optimizer.step()
        expected = (1 - 0.1 * 0.2) * w - 0.1 * root(left) @ g @ root(right)
        torch.testing.assert_close(model.weight.detach(), expected)


def root(matrix: torch.Tensor) -> torch.Tensor:
    """Return the matrix to the power -1/4."""
    eigenvalues, basis = torch.linalg.eigh(matrix)
    return basis @ torch.diag(eigenvalues**-0.25) @ basis.T


def test_soap_on_a_vector_is_adam_after_the_first_step():
    """Vectors are not rotated, and the first step does not change the parameters."""
    pytest.importorskip(peers.PACKAGE)
    torch.manual_seed(0)
    start = torch.randn(5, dtype=torch.float64)
    actual, expected = nn.ParameterList([start.clone()]), nn.ParameterList([start.clone()])
    optimizer = precond.build("soap", actual, weight_decay=0.0)
    adam = torch.optim.Adam(expected.parameters(), lr=3e-3, betas=(0.95, 0.95), eps=1e-12)
    for step in range(5):
        gradient = torch.randn(5, dtype=torch.float64)
        actual[0].grad, expected[0].grad = gradient.clone(), gradient.clone()
        optimizer.step()
        if step == 0:
            assert torch.equal(actual[0], start)
        else:
            adam.step()
    torch.testing.assert_close(actual[0].detach(), expected[0].detach(), rtol=1e-7, atol=1e-10)
