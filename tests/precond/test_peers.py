"""The peers: their arithmetic where it is known, and what happens without the package."""

from __future__ import annotations

import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import precond
from precond import peers
from precond.registry import REGISTRY

PEERS = ["shampoo", "soap", "adahessian"]


def test_the_names_are_there_without_the_package(monkeypatch):
    """Listed, with defaults and checks; building says in one line what to install."""
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
    """Three parameters, one of them three-dimensional, and the diagonal of a diagonal Hessian, of both signs."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 2), (2, 2, 2), (4,)]
    model = nn.ParameterList(
        [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    )
    return model, torch.randn(18, generator=generator, dtype=torch.float64)


def value(model: nn.ParameterList, diagonal: torch.Tensor) -> torch.Tensor:
    w = torch.cat([p.flatten() for p in model])
    return (diagonal * w.square()).sum() / 2


def test_adahessian_finds_a_diagonal_hessian():
    """z * (H z) = h whatever the signs z, so the first step is lr g / (|h| + eps) = lr w h / (|h| + eps)."""
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


def test_adahessian_draws_other_signs_each_step_and_the_same_again():
    pytest.importorskip(peers.PACKAGE)
    parameters = [torch.zeros(50), torch.zeros(5, 5)]
    first, again = peers._signs(parameters, 3, 0), peers._signs(parameters, 3, 0)
    for p, z, same in zip(parameters, first, again, strict=True):
        assert z.shape == p.shape
        assert torch.equal(z, same)
        assert set(z.unique().tolist()) == {-1.0, 1.0}
    for other in (peers._signs(parameters, 3, 1), peers._signs(parameters, 4, 0)):
        assert not torch.equal(other[0], first[0])
    assert not torch.equal(first[0][:25], first[1].flatten())


def test_adahessian_without_the_graph_says_what_to_call():
    pytest.importorskip(peers.PACKAGE)
    model, h = quadratic()
    optimizer = precond.build("adahessian", model)
    value(model, h).backward()
    with pytest.raises(
        RuntimeError,
        match=r"^AdaHessian .*: call optimizer.backward\(loss\), not loss.backward\(\)$",
    ):
        optimizer.step()


def test_shampoo_is_the_papers():
    """L^{-1/4} G R^{-1/4} with L = eps I + sum G G^T, R = eps I + sum G^T G."""
    pytest.importorskip(peers.PACKAGE)
    torch.manual_seed(0)
    model = nn.Linear(4, 3, bias=False).double()
    optimizer = precond.build("shampoo", model, lr=0.1, weight_decay=0.2, eps=1e-2)
    left, right = (1e-2 * torch.eye(n, dtype=torch.float64) for n in (3, 4))
    for _ in range(3):
        w = model.weight.detach().clone()
        optimizer.zero_grad()
        F.mse_loss(
            model(torch.randn(6, 4, dtype=torch.float64)), torch.zeros(6, 3, dtype=torch.float64)
        ).backward()
        g = model.weight.grad
        left, right = left + g @ g.T, right + g.T @ g
        optimizer.step()
        expected = (1 - 0.1 * 0.2) * w - 0.1 * root(left) @ g @ root(right)
        torch.testing.assert_close(model.weight.detach(), expected)


def root(matrix: torch.Tensor) -> torch.Tensor:
    """The power -1/4."""
    eigenvalues, basis = torch.linalg.eigh(matrix)
    return basis @ torch.diag(eigenvalues**-0.25) @ basis.T


def test_soap_in_one_dimension_is_adam_after_its_first_step():
    """Vectors are not rotated; the first step moves nothing."""
    pytest.importorskip(peers.PACKAGE)
    torch.manual_seed(0)
    start = torch.randn(5, dtype=torch.float64)
    ours, theirs = nn.ParameterList([start.clone()]), nn.ParameterList([start.clone()])
    optimizer = precond.build("soap", ours, weight_decay=0.0)
    adam = torch.optim.Adam(theirs.parameters(), lr=3e-3, betas=(0.95, 0.95), eps=1e-12)
    for step in range(5):
        gradient = torch.randn(5, dtype=torch.float64)
        for model, stepper in ((ours, optimizer), (theirs, adam)):
            model[0].grad = gradient.clone()
            if step or stepper is optimizer:
                stepper.step()
        if step == 0:
            assert torch.equal(ours[0], start)
    torch.testing.assert_close(ours[0].detach(), theirs[0].detach(), rtol=1e-7, atol=1e-10)
