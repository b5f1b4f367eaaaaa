"""The algorithms are compared with float64 reference implementations, and with identities."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from reference import train
from reference.dense import to_dense
from reference.foof import FOOF as ReferenceFOOF
from reference.nysact import NysAct as ReferenceNysAct
from torch import nn

import precond
from precond.algorithms import nysact
from precond.algorithms.nysact_variants import damped_factor
from precond.parts.factors import LowRank
from precond.parts.nystrom import low_rank_factor
from precond.parts.sketches import ColumnSketch, Draws, GaussianSketch
from tests.states import by_name

STEPS = 20
SETTINGS = {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.01}
INTERVALS = {"cov_interval": 2, "inv_interval": 6}
DECAY, DAMPING = 0.8, 0.1


def net(bias: bool = True) -> nn.Module:
    """Return a model with stride, padding, groups, batch norm, and two layers of equal shape."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1, bias=bias),
        nn.BatchNorm2d(4),
        nn.Tanh(),
        nn.Conv2d(4, 4, 3, padding=1, groups=2, bias=False),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(36, 8, bias=bias),
        nn.Tanh(),
        nn.Linear(8, 8, bias=bias),
        nn.Tanh(),
        nn.Linear(8, 8, bias=bias),
        nn.Tanh(),
        nn.Linear(8, 3, bias=bias),
    ).double()


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(STEPS, 16, 2, 6, 6, generator=generator, dtype=torch.float64)
    return list(zip(x, torch.randint(3, (STEPS, 16), generator=generator), strict=True))


def train_with(optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
    for x, y in batches():
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()


def largest_difference(model: nn.Module, other: nn.Module) -> float:
    pairs = zip(model.parameters(), other.parameters(), strict=True)
    return max((p - q).abs().max().item() for p, q in pairs)


def omegas(optimizer: precond.NysAct) -> dict[str, list[torch.Tensor]]:
    """Return the test matrix of every group of every sketched layer, from the optimizer's state."""
    matrices = {}
    for name, entry in by_name(optimizer.state_dict()).items():
        if "statistic.sketch.columns" in entry:
            eye = torch.eye(entry["factor.z"].shape[1], dtype=torch.float64)
            matrices[name] = [eye[:, ids] for ids in entry["statistic.sketch.columns"]]
        elif "statistic.sketch.omega" in entry:
            matrices[name] = list(entry["statistic.sketch.omega"].clone())
    return matrices


def random_covariance(p: int, power: float = 1.0, seed: int = 0) -> torch.Tensor:
    """Return a covariance with eigenvalues k^-power in a random basis."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(p, p, generator=generator, dtype=torch.float64)).Q
    return (basis * torch.arange(1, p + 1, dtype=torch.float64) ** -power) @ basis.T


@pytest.mark.parametrize("bias", [True, False])
def test_foof_equals_its_reference(bias):
    """The weights agree after 20 steps.

    This checks the normalisation and bias correction of the average, the intervals, the layout of
    the gradient matrix, the momentum, and the place of the weight decay.
    """
    model, expected = net(bias), net(bias)
    train_with(
        precond.FOOF(model, **SETTINGS, **INTERVALS, ema_decay=DECAY, damping=DAMPING), model
    )
    train(
        expected,
        F.cross_entropy,
        batches(),
        lambda name, group, p: ReferenceFOOF(p, beta=DECAY, rho=DAMPING),
        **SETTINGS,
        **INTERVALS,
    )
    assert largest_difference(model, expected) < 1e-10
    assert largest_difference(expected, net(bias)) > 1e-2, "nothing was trained"


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rank", [6, 12], ids=["sketched", "narrow layers exact"])
@pytest.mark.parametrize("sketch", ["subcolumn", "gaussian"])
def test_nysact_equals_its_reference(sketch, rank, bias):
    """The reference computes P explicitly, with a full SVD, as Algorithm 1 of the paper does.

    Layers with p <= r use the exact inverse.
    """
    model, expected = net(bias), net(bias)
    optimizer = precond.NysAct(
        model, **SETTINGS, **INTERVALS, ema_decay=DECAY, damping=DAMPING, rank=rank, sketch=sketch
    )
    matrices = omegas(optimizer)
    sketched_narrow_layers = {"8", "10", "12"} & matrices.keys()
    assert bool(sketched_narrow_layers) == (rank == 6), "at rank 12, only wide layers are sketched"
    train_with(optimizer, model)

    def build_reference(name, group, p):
        if name not in matrices:
            return ReferenceFOOF(p, beta=DECAY, rho=DAMPING)
        return ReferenceNysAct(matrices[name][group], beta=DECAY, rho=DAMPING)

    train(expected, F.cross_entropy, batches(), build_reference, **SETTINGS, **INTERVALS)
    assert largest_difference(model, expected) < 1e-8


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("sketch", ["subcolumn", "gaussian"])
def test_nysact_at_full_rank_equals_foof(monkeypatch, sketch, bias):
    """A sketch of all columns is exact: 20 steps with low-rank factors give FOOF's weights."""
    common = dict(**SETTINGS, **INTERVALS, ema_decay=DECAY, damping=DAMPING)
    model, expected = net(bias), net(bias)
    train_with(precond.FOOF(expected, **common), expected)
    monkeypatch.setattr(nysact.NysAct, "for_shape", lambda self, shape: self)
    optimizer = precond.NysAct(model, **common, rank=36 + bias, sketch=sketch)
    assert len(omegas(optimizer)) == 6, "a layer uses the exact inverse"
    train_with(optimizer, model)
    assert largest_difference(model, expected) < 1e-6


@pytest.mark.parametrize("kind", ["gaussian, not orthonormal", "columns"])
def test_the_low_rank_factor_equals_the_nystrom_formula(kind):
    """The direction from the factor Z equals that from the explicit C_nu W^{-1} C_nu^T.

    Solving with the Cholesky factor L of W instead of L^T gives a different direction.
    """
    p, r, rho, L = 12, 5, 1e-3, 2
    A = torch.stack([random_covariance(p, seed=seed) for seed in range(L)])
    generator = torch.Generator().manual_seed(7)
    if kind == "columns":
        columns = torch.stack([torch.randperm(p, generator=generator)[:r] for _ in range(L)])
        sketch = ColumnSketch(columns, p, Draws.first("ab", 0))
        omega = torch.stack([torch.eye(p, dtype=A.dtype)[:, ids] for ids in columns])
    else:
        omega = torch.randn(L, p, r, generator=generator, dtype=A.dtype)
        sketch = GaussianSketch(omega, Draws.first("ab", 0))
    C = A @ omega
    z, (ok, _) = low_rank_factor(C, sketch, rho)
    assert ok.all()

    # The gradients are in the span of C. Outside of it, P is I / rho for every variant.
    gradients = torch.randn(L, 3, r, generator=generator, dtype=A.dtype) @ C.mT
    direction = LowRank(z, rho).solve(gradients)
    nu = (8 * torch.finfo(C.dtype).eps * torch.linalg.matrix_norm(C)).view(L, 1, 1)
    C_nu = C + nu * omega
    W = omega.mT @ C_nu

    def explicit(nystrom):
        eigenvalues, basis = torch.linalg.eigh((nystrom + nystrom.mT) / 2)
        lam = (eigenvalues - nu.view(L, 1)).clamp(min=0)
        return gradients @ (basis / (lam + rho).unsqueeze(1)) @ basis.mT

    expected = explicit(C_nu @ torch.linalg.inv(W) @ C_nu.mT)
    torch.testing.assert_close(
        direction, expected, rtol=1e-8, atol=1e-8 * expected.abs().max().item()
    )
    X = C_nu @ torch.linalg.inv(torch.linalg.cholesky(W))  # the transpose of L is missing
    transposed = explicit(X @ X.mT)
    assert (transposed - expected).norm() > 0.01 * expected.norm()


@pytest.mark.parametrize("power", [0.5, 2.0])
@pytest.mark.parametrize("kind", [ColumnSketch, GaussianSketch])
def test_the_preconditioner_is_between_the_inverse_and_the_scaled_identity(kind, power):
    """0 <= P <= I / rho, and P >= (A + rho I)^{-1}.

    This holds because a Nystrom matrix never exceeds A, and because the shift is subtracted.
    """
    p, r, rho = 24, 6, 0.1
    A = random_covariance(p, power).unsqueeze(0)
    sketch = kind.draw(["layer"], p, r, seed=0, like=A)
    omega = sketch.add_to(A.new_zeros(1, p, r), A.new_ones(1, p))
    z, (ok, _) = low_rank_factor(A @ omega, sketch, rho)
    assert ok.all()
    eye = torch.eye(p, dtype=A.dtype)
    P = to_dense(LowRank(z, rho))
    assert torch.linalg.eigvalsh(P).min() > 0
    assert torch.linalg.eigvalsh(eye / rho - P).min() > -1e-10
    assert torch.linalg.eigvalsh(P - torch.linalg.inv(A + rho * eye)).min() > -1e-10
    captured = torch.linalg.eigvalsh(eye / rho - P) > 1e-3
    assert captured.sum() == r, "P must differ from I / rho in r directions"


@pytest.mark.parametrize("kind", [ColumnSketch, GaussianSketch])
def test_the_shift_is_subtracted(kind):
    """At r = p, the result is (A + rho I)^{-1} even with the shift nu = rho.

    nu is added to the sketch and to the core, and is then subtracted from the eigenvalues.
    """
    p, rho = 8, 0.1
    A = random_covariance(p).unsqueeze(0)
    sketch = kind.draw(["layer"], p, p, seed=0, like=A)
    omega = sketch.add_to(A.new_zeros(1, p, p), A.new_ones(1, p))
    z, (ok, _) = damped_factor(A @ omega, sketch, rho)
    assert ok.all()
    expected = torch.linalg.inv(A + rho * torch.eye(p, dtype=A.dtype))
    torch.testing.assert_close(to_dense(LowRank(z, rho)), expected, rtol=1e-10, atol=1e-10)


def test_repeating_a_batch_does_not_change_the_factor():
    """With the same batch at each step, the factors after one update and after five are equal.

    This requires the bias correction to count updates, and Omega to be fixed.
    """
    x, y = batches()[0]
    for name in ("foof", "nysact-s", "nysact-g"):
        model = net()
        optimizer = precond.build(
            name, model, lr=1e-300, cov_interval=1, inv_interval=1, damping=DAMPING
        )
        factors = []
        for _ in range(5):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            factors.append(
                copy.deepcopy([to_dense(bank.state.factor) for bank in optimizer._banks])
            )
        for first, last in zip(factors[0], factors[-1], strict=True):
            torch.testing.assert_close(last, first, rtol=1e-10, atol=1e-10)
