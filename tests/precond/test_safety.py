"""Numerical failures raise no error, and the state stays finite.

A failure in one layer does not affect the other layers of its bank.
"""

from __future__ import annotations

import banks
import pytest
import torch
import torch.nn.functional as F
from reference.dense import to_dense
from torch import Tensor, nn

import precond
from precond.parts import linalg, nystrom
from precond.parts.factors import Dense, LowRank
from precond.parts.sketches import ColumnSketch, GaussianSketch
from tests.states import by_name

NAMES = ["foof", "nysact-s", "nysact-g"]


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(20, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 16)
    )


def inputs(number: int = 0) -> Tensor:
    return torch.randn(32, 20, generator=torch.Generator().manual_seed(number))


def step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor) -> None:
    optimizer.zero_grad()
    model(x).square().mean().backward()
    optimizer.step()


def tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return copies of the statistics and factors by layer and name."""
    return {
        f"{name}/{key}": value.clone()
        for name, entry in by_name(optimizer.state_dict()).items()
        for key, value in entry.items()
        if key.startswith(("statistic", "factor"))
    }


def covariance(eigenvalues: Tensor, seed: int = 0) -> Tensor:
    """Return a symmetric float64 matrix with these eigenvalues in a random basis."""
    generator = torch.Generator().manual_seed(seed)
    size = len(eigenvalues)
    basis = torch.linalg.qr(torch.randn(size, size, generator=generator).double()).Q
    return linalg.symmetrize((basis * eigenvalues.double()) @ basis.T)


# ---------------------------------------------------------------------- statistics


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
@pytest.mark.parametrize("name", NAMES)
def test_nonfinite_activations_do_not_change_the_statistics(name, value):
    """Only the layer with these inputs drops and counts the batch; the parameters stay finite."""
    model, expected = net(), net()
    optimizer, other = (
        precond.build(name, m, cov_interval=1, inv_interval=1) for m in (model, expected)
    )
    for number in range(2):
        step(model, optimizer, inputs(number))
        step(expected, other, inputs(number))
    before = tensors(optimizer)
    nonfinite = inputs(2)
    nonfinite[3, 4] = value
    layer = next(iter(optimizer._layers.values()))
    with optimizer.paused():
        optimizer.zero_grad()
        model(inputs(2)).square().mean().backward()
    banks.record(optimizer._bank_of[layer.name], layer, nonfinite)
    optimizer.step()
    for key, tensor in tensors(optimizer).items():
        if key == "0/statistic.average.dropped":
            assert (tensor, before[key]) == (torch.ones(1), torch.zeros(1))
        else:
            torch.testing.assert_close(
                tensor, before[key], rtol=1e-6, atol=1e-7, msg=f"{key} changed"
            )
    assert all(p.isfinite().all() for p in model.parameters())
    step(model, optimizer, inputs(3))
    assert all(tensor.isfinite().all() for tensor in tensors(optimizer).values())


@pytest.mark.parametrize("name", NAMES)
def test_a_nonfinite_batch_of_one_layer_does_not_affect_other_layers(name):
    """Two layers share a bank; with inf in one layer, the statistics of the other are updated."""
    model = net()
    optimizer = precond.build(name, model, cov_interval=1, ema_decay=0.5)
    second, third = list(optimizer._layers.values())[1:]
    bank = optimizer._bank_of[second.name]
    assert bank is optimizer._bank_of[third.name]
    banks.record(bank, second, torch.full((4, 16), torch.inf))
    banks.record(bank, third, torch.ones(4, 16))
    bank.update(refresh=True)
    assert bank.state.statistic.average.weight.tolist() == [0.0, 0.5]
    assert bank.state.statistic.average.dropped.tolist() == [1, 0]
    factors = to_dense(bank.state.factor)
    torch.testing.assert_close(factors[0], torch.eye(17))  # the initial factor
    ones = torch.ones(17)
    expected = ones / (17 + 1)  # a / (|a|^2 + rho)
    torch.testing.assert_close(factors[1] @ ones, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_nonfinite_direction_is_replaced_by_the_gradient(name):
    """Only that layer and that step are affected."""
    model = net()
    optimizer = precond.build(name, model, lr=0.1, momentum=0.0, weight_decay=0.0)
    step(model, optimizer, inputs())
    factor = optimizer._bank_of["2"].state.factor
    (factor.inverse if isinstance(factor, Dense) else factor.z)[0].fill_(torch.nan)
    optimizer.zero_grad()
    model(inputs(1)).square().mean().backward()
    weights = [model[2].weight, model[4].weight]
    sgd_steps = [weight.detach() - 0.1 * weight.grad for weight in weights]
    optimizer.step()
    torch.testing.assert_close(weights[0].detach(), sgd_steps[0])
    assert not torch.allclose(weights[1].detach(), sgd_steps[1], rtol=1e-3)
    assert all(p.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    "rows", ["rank one", "zero", "huge", "tiny", "dead columns", "duplicated columns"]
)
@pytest.mark.parametrize("name", NAMES)
def test_degenerate_inputs_give_finite_factors_and_directions(name, rows):
    """This holds even for a nearly singular float32 covariance with damping 1e-12."""
    x = {
        "rank one": torch.ones(8, 20),
        "zero": torch.zeros(8, 20),
        "huge": 1e15 * inputs(),
        "tiny": 1e-20 * inputs(),
        "dead columns": inputs() * (torch.arange(20) % 3 == 0),
        "duplicated columns": inputs()[:, :1].expand(-1, 20),
    }[rows]
    for damping in (1e-12, 1.0):
        model = nn.Sequential(nn.Linear(20, 4), nn.Linear(4, 4, bias=False))
        optimizer = precond.build(name, model, cov_interval=1, inv_interval=1, damping=damping)
        for number in range(3):
            bank = optimizer._bank_of["0"]
            banks.record(bank, next(iter(optimizer._layers.values())), x)
            bank.update(refresh=True)
            generator = torch.Generator().manual_seed(number)
            bank.buffer.copy_(torch.randn(bank.buffer.shape, generator=generator))
            bank.precondition(lr=0.1)
            assert bank.buffer.isfinite().all()
            assert to_dense(bank.state.factor).isfinite().all()


# ---------------------------------------------------------------------- dense inverses


def test_a_nonfinite_matrix_does_not_affect_the_rest_of_its_stack():
    """The matrices with nan and inf fail; the inverses of the finite matrices are correct."""
    finite = [covariance(torch.logspace(0, -4, 6), seed) for seed in range(3)]
    nan = torch.full((6, 6), torch.nan, dtype=torch.float64)
    inf = torch.full((6, 6), torch.inf, dtype=torch.float64)
    stack = torch.stack([finite[0], nan, finite[1], inf, finite[2]])
    copied = stack.clone()
    inverse, (ok, _) = linalg.damped_inverse(stack, 0.1)
    assert ok.tolist() == [True, False, True, False, True]
    assert torch.equal(stack.nan_to_num(), copied.nan_to_num()), "the statistic was changed"
    for index, matrix in zip((0, 2, 4), finite, strict=True):
        expected = torch.linalg.inv(matrix + 0.1 * torch.eye(6, dtype=matrix.dtype))
        torch.testing.assert_close(inverse[index], expected, rtol=1e-10, atol=1e-10)


def massive(p: int = 48) -> Tensor:
    """Return a covariance with one massive eigenvalue.

    Float32 rounding changes the sign of some of its small eigenvalues.
    """
    eigenvalues = torch.ones(p).double()
    eigenvalues[0] = 1e9
    return covariance(eigenvalues).float()


def test_massive_activations_are_inverted_in_float64():
    """If the float32 Cholesky factorisation fails, the float64 fallback gives a correct inverse."""
    matrix, damping = massive(), 1.0
    _, info = torch.linalg.cholesky_ex(matrix + damping * torch.eye(len(matrix)))
    assert info > 0, "in this case, the float32 factorisation must fail"
    inverse, (ok, _) = linalg.damped_inverse(matrix.unsqueeze(0), damping)
    assert ok.all()
    eigenvalues, basis = torch.linalg.eigh(matrix.double())
    expected = (basis / (eigenvalues.clamp(min=0) + damping)) @ basis.T
    torch.testing.assert_close(inverse[0].double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scale", [1e6, 1e7, 3e7, 1e8, 1e9, 1e10])
def test_the_inverse_is_bounded_by_one_over_the_damping(scale):
    """0 <= P <= I / damping, up to rounding errors.

    A float32 Cholesky factorisation can succeed by chance although the inverse is far too large.
    """
    p, damping = 48, 1.0
    stack = []
    for seed in range(200):
        eigenvalues = torch.ones(p) * 0.01
        eigenvalues[0] = scale
        stack.append(covariance(eigenvalues, seed).float())
    inverse, (ok, _) = linalg.damped_inverse(torch.stack(stack), damping)
    assert ok.all()
    eigenvalues = torch.linalg.eigvalsh(linalg.symmetrize(inverse.double()))
    assert eigenvalues.max() < 4 / damping, f"gain {eigenvalues.max():.3g} / damping"
    assert eigenvalues.min() > -1e-3 / damping


def test_a_failed_refresh_keeps_the_last_factor():
    """A failure in one layer does not affect the factors of the other layers."""
    new, ok = torch.full((2, 3, 3), 5.0), torch.tensor([True, False])
    dense = Dense.identity(2, 3, 0.5, new)
    dense.store(ok, new)
    assert torch.equal(to_dense(dense)[0], new[0])
    assert torch.equal(to_dense(dense)[1], 2 * torch.eye(3))
    z = torch.full((2, 3, 2), torch.nan)
    low_rank = LowRank.identity(2, 3, 2, 0.5, new)
    low_rank.store(torch.tensor([False, False]), z)
    assert torch.equal(to_dense(low_rank), 2 * torch.eye(3).repeat(2, 1, 1))


# ---------------------------------------------------------------------- the fallbacks of NysAct


def sketches(dtype: torch.dtype) -> list[ColumnSketch | GaussianSketch]:
    like = torch.zeros(2, 10, 10, dtype=dtype)
    return [
        kind.draw(["a", "b"], 10, 4, seed=0, like=like) for kind in (ColumnSketch, GaussianSketch)
    ]


def omega_of(sketch: ColumnSketch | GaussianSketch, dtype: torch.dtype) -> Tensor:
    return sketch.add_to(torch.zeros(2, 10, 4, dtype=dtype), torch.ones(2, 10, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", [0, 1], ids=["columns", "gaussian"])
@pytest.mark.parametrize("negative", [1e-6, 1e-2, 1.0])
def test_an_indefinite_core_gives_a_bounded_factor(negative, kind, dtype):
    """Even if C is not the sketch of a covariance, 0 <= P <= I / rho.

    The factor of the other layer in the stack does not change.
    """
    rho = 0.1
    sketch = sketches(dtype)[kind]
    omega = omega_of(sketch, dtype)
    C = covariance(torch.logspace(0, -2, 10)).to(dtype) @ omega
    core = linalg.symmetrize(omega.mT @ C)
    eigenvalues, basis = torch.linalg.eigh(core[1])
    # Change the smallest eigenvalue of the second layer's core to -negative.
    shift = -(eigenvalues[0] + negative) * torch.outer(basis[:, 0], basis[:, 0])
    C[1] += omega[1] @ torch.linalg.inv(omega[1].T @ omega[1]) @ shift
    assert torch.linalg.eigvalsh(linalg.symmetrize(omega.mT @ C)[1]).min() < -negative / 2
    unchanged = C[:1].repeat(2, 1, 1)
    C_before = C.clone()
    z, (ok, _) = nystrom.low_rank_factor(C, sketch, rho)
    assert torch.equal(C, C_before), "the statistic was changed"
    assert ok.all()
    P = to_dense(LowRank(z, rho))
    gains = torch.linalg.eigvalsh(P)
    assert gains.min() > -1e-9 / rho
    assert gains.max() < (1 + 1e-9) / rho
    z, _ = nystrom.low_rank_factor(unchanged, sketch, rho)
    torch.testing.assert_close(P[0], to_dense(LowRank(z, rho))[0], rtol=1e-9, atol=1e-9)


def test_a_nonfinite_sketch_fails_without_affecting_its_stack():
    """The eigenvalue solvers raise no error."""
    for sketch in sketches(torch.float64):
        omega = omega_of(sketch, torch.float64)
        C = covariance(torch.logspace(0, -2, 10)) @ omega
        expected, _ = nystrom.low_rank_factor(C, sketch, 0.1)
        C[1, 2, 3] = torch.nan
        z, (ok, _) = nystrom.low_rank_factor(C, sketch, 0.1)
        assert ok.tolist() == [True, False]
        torch.testing.assert_close(z[0] @ z[0].T, expected[0] @ expected[0].T, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_training_with_massive_activations_stays_finite(name):
    """One feature is 1e5 times as large as the others, as in vision transformers."""
    model = net()
    optimizer = precond.build(name, model, lr=0.01, damping=0.1, cov_interval=1, inv_interval=2)
    for number in range(6):
        x = inputs(number)
        x[:, 3] *= 1e5
        optimizer.zero_grad()
        F.smooth_l1_loss(model(x), torch.ones(32, 16)).backward()
        optimizer.step()
    assert all(p.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", ["foof", "kfac", "nysact-s"])
def test_layers_of_a_vision_transformer_train_where_a_plain_cholesky_fails(name):
    """The layer has the inputs of the second MLP layer of DeiT-S, p = 1537.

    The paper reports that FOOF and KFAC fail in such cases.
    """
    torch.manual_seed(0)
    model = nn.Linear(1536, 16)
    settings = {"lr": 0.1, "kl_clip": None, "weight_decay": 0.0, "damping": 1.0}
    known = precond.defaults(name)
    optimizer = precond.build(name, model, **{k: v for k, v in settings.items() if k in known})
    x = F.gelu(torch.randn(64, 8, 1536, generator=torch.Generator().manual_seed(1)))
    # The first token of every image has massive activations, as in trained transformers. The loss
    # does not depend on this token.
    x[:, 0] += 3e4 * torch.randn(1536, generator=torch.Generator().manual_seed(3))
    target = torch.randn(64, 8, 16, generator=torch.Generator().manual_seed(2))
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = F.smooth_l1_loss(model(x)[:, 1:], target[:, 1:])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    covariance = (x.flatten(0, 1).T @ x.flatten(0, 1)) / 512
    _, info = torch.linalg.cholesky_ex(covariance + torch.eye(1536))
    assert info > 0, "in this case, the float32 factorisation of the released code must fail"
    assert all(p.isfinite().all() for p in model.parameters())
    assert losses[-1] < losses[0]
