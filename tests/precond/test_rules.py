"""Update rules after a preconditioner, against torch's optimizers and exact computations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import precond
from precond.rules import orthogonal
from precond.rules.orthogonal import orthogonalised

WIDTH = 6


class Net(nn.Module):
    """A grouped convolution, a normalisation, and layers with and without a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, groups=2)
        self.norm = nn.LayerNorm(16)
        self.hidden = nn.Linear(16, WIDTH, bias=False)
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(torch.tanh(self.conv(x)).flatten(1))
        return self.head(torch.tanh(self.hidden(x)))


def make_model(dtype: torch.dtype = torch.float64) -> Net:
    torch.manual_seed(0)
    return Net().to(dtype)


def backward(model: nn.Module, number: int) -> None:
    generator = torch.Generator().manual_seed(number)
    x = torch.randn(24, 2, 4, 4, generator=generator, dtype=torch.float64)
    y = torch.randint(3, (24,), generator=generator)
    x = x.to(next(model.parameters()).dtype)
    F.cross_entropy(model(x), y).backward()


def train(model: nn.Module, *optimizers: Any, steps: int = 8) -> dict[str, Tensor]:
    for number in range(steps):
        model.zero_grad()
        for optimizer in optimizers:
            optimizer.zero_grad()
        backward(model, number)
        for optimizer in optimizers:
            optimizer.step()
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def split(model: Net) -> tuple[list[Tensor], list[Tensor]]:
    """Return the weights of layers, and all other parameters."""
    matrices: list[Tensor] = [model.conv.weight, model.hidden.weight, model.head.weight]
    return matrices, [p for p in model.parameters() if all(p is not m for m in matrices)]


def assert_close(actual: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    for name, value in expected.items():
        assert value.isfinite().all()
        torch.testing.assert_close(
            actual[name], value, rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


# ---------------------------------------------------------------------- the limit of a large damping


class Muon:
    """torch's Muon for the weights as matrices, and AdamW for the other parameters."""

    def __init__(self, model: Net, lr: float, **options: Any):
        matrices, others = split(model)
        self._weights = matrices
        self._matrices = [nn.Parameter(w.detach().flatten(1).clone()) for w in matrices]
        self._parts: list[Any] = [
            torch.optim.Muon(self._matrices, lr=lr, weight_decay=0.1, **options),
            torch.optim.AdamW(others, lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1),
        ]

    def zero_grad(self) -> None:
        pass

    def step(self) -> None:
        for weight, matrix in zip(self._weights, self._matrices, strict=True):
            matrix.grad = None if weight.grad is None else weight.grad.flatten(1)
        for part in self._parts:
            part.step()
        for weight, matrix in zip(self._weights, self._matrices, strict=True):
            weight.data.copy_(matrix.detach().view_as(weight))


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("adjust_lr", ["original", "match_rms_adamw"])
@pytest.mark.parametrize("name", ["nysact-s", "foof"])
def test_orthogonal_with_large_damping_equals_torchs_muon(name, adjust_lr, nesterov):
    """The direction is G / damping, on whose length an orthogonal matrix does not depend.

    The damping is a power of two, so that the division is exact. Biases follow AdamW along G /
    damping, where eps is scaled.
    """
    damping = 2.0**40
    options = {"rank": 4} if name == "nysact-s" else {}
    model, expected = make_model(torch.float32), make_model(torch.float32)
    optimizer = precond.build(
        name, model, rule="orthogonal", lr=0.02, damping=damping, nesterov=nesterov,
        adjust_lr=adjust_lr, adam_eps=1e-8 / damping, **options,
    )  # fmt: skip
    reference = Muon(expected, lr=0.02, nesterov=nesterov, adjust_lr_fn=adjust_lr)
    # The gradients of the normalisation are not divided, so their eps differs by 1e-8 only.
    assert_close(train(model, optimizer, steps=20), train(expected, reference, steps=20), 2e-5)


def test_adam_with_large_damping_equals_torchs_adamw():
    """The eps is scaled with the directions; parameters outside the layers have the original eps."""
    damping = 2.0**40
    model, expected = make_model(), make_model()
    norm = [*model.norm.parameters()]
    layers = [p for p in model.parameters() if all(p is not q for q in norm)]
    groups = [{"params": layers, "eps": 1e-8 / damping}, {"params": norm}]
    optimizer = precond.FOOF(model, params=groups, rule="adam", lr=0.01, damping=damping)
    reference = torch.optim.AdamW(expected.parameters(), lr=0.01, weight_decay=0.05)
    assert_close(train(model, optimizer), train(expected, reference), 1e-9)


def test_sign_equals_signsgd():
    """With momentum 0 and a large damping, the signs are those of the gradients."""
    model, expected = make_model(), make_model()
    optimizer = precond.FOOF(
        model, rule="sign", lr=0.01, momentum=0.0, weight_decay=0.2, damping=1e12
    )
    for number in range(5):
        optimizer.zero_grad()
        expected.zero_grad()
        backward(model, number)
        backward(expected, number)
        optimizer.step()
        for p in expected.parameters():
            p.data = (1 - 0.01 * 0.2) * p.data - 0.01 * p.grad.sign()
    pairs = dict(model.named_parameters()), dict(expected.named_parameters())
    assert_close(*pairs, tolerance=1e-12)


def test_sign_averages_the_directions():
    """Signum: m <- momentum m + (1 - momentum) D, and each weight moves by lr."""
    model, expected = make_model(), make_model()
    optimizer = precond.FOOF(model, rule="sign", lr=0.01, weight_decay=0.0, damping=1e12)
    averages = [torch.zeros_like(p) for p in expected.parameters()]
    for number in range(5):
        optimizer.zero_grad()
        expected.zero_grad()
        backward(model, number)
        backward(expected, number)
        optimizer.step()
        for p, m in zip(expected.parameters(), averages, strict=True):
            m.mul_(0.9).add_(p.grad, alpha=0.1)
            p.data -= 0.01 * m.sign()
    pairs = dict(model.named_parameters()), dict(expected.named_parameters())
    assert_close(*pairs, tolerance=1e-12)


def test_sgd_is_the_default_rule():
    weights = []
    for options in ({}, {"rule": "sgd"}):
        model = make_model()
        optimizer = precond.NysAct(model, lr=0.1, rank=4, **options)
        assert "rule" not in optimizer.param_groups[0]
        weights.append(train(model, optimizer))
    assert all(torch.equal(weights[0][key], value) for key, value in weights[1].items())


# ---------------------------------------------------------------------- the orthogonal matrix


def polar(matrix: Tensor) -> Tensor:
    """Return U V^T of the singular value decomposition U S V^T."""
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    return u @ v


@pytest.mark.parametrize("shape", [(3, 7), (7, 3), (5, 5)])
def test_newton_schulz_steps_converge_to_the_polar_factor(shape):
    """With the coefficients of the cubic iteration, which converge."""
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    result = orthogonalised(matrix, 60, (1.5, -0.5, 0.0))
    torch.testing.assert_close(result, polar(matrix), rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(3, 7), (7, 3), (5, 5)])
def test_newton_schulz_steps_equal_those_of_torch(shape):
    from torch.optim._muon import _zeropower_via_newtonschulz

    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    expected = _zeropower_via_newtonschulz(matrix, orthogonal.COEFFICIENTS, 5, 1e-7)
    assert torch.equal(orthogonalised(matrix, 5), expected)
    assert torch.equal(orthogonalised(2.0**-60 * matrix, 5), expected)
    double = orthogonalised(matrix.double(), 5)
    torch.testing.assert_close(expected.double(), double, rtol=0, atol=0.06)
    assert torch.equal(orthogonalised(torch.zeros(shape), 5), torch.zeros(shape).bfloat16())


def exact(matrix: Tensor, steps: int) -> Tensor:
    return polar(matrix)


def test_rank_p_equals_foof_and_the_polar_factor_of_its_directions(monkeypatch):
    """NysAct of full rank is FOOF, whose direction is G (A + damping I)^-1."""
    monkeypatch.setattr(orthogonal, "orthogonalised", exact)
    torch.manual_seed(0)
    x = torch.randn(32, 8, dtype=torch.float64)
    results = []
    for name, options in (("nysact-g", {"rank": 8}), ("foof", {})):
        torch.manual_seed(1)
        layer = nn.Linear(8, 5, bias=False).double()
        start = layer.weight.detach().clone()
        optimizer = precond.build(
            name, layer, rule="orthogonal", lr=0.1, weight_decay=0.0, damping=0.1, **options
        )
        (layer(x).tanh() ** 2).mean().backward()
        gradient = layer.weight.grad.clone()
        optimizer.step()
        results.append((layer.weight.detach() - start) / -0.1)
    inverse = torch.linalg.inv(x.T @ x / 32 + 0.1 * torch.eye(8, dtype=torch.float64))
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=1e-10)
    torch.testing.assert_close(results[1], polar(gradient @ inverse), rtol=0, atol=1e-10)


def test_the_kl_clip_precedes_the_rule():
    """The clip scales the directions of all layers, so orthogonal steps do not depend on it."""
    weights = []
    for clip in (1e-12, None):
        model = make_model()
        optimizer = precond.KFAC(model, rule="orthogonal", kl_clip=clip, damping=0.3)
        layers, _ = split(model)
        train(model, optimizer, steps=1)
        weights.append([w.detach().clone() for w in layers])
    for clipped, plain in zip(*weights, strict=True):
        torch.testing.assert_close(clipped, plain, rtol=0, atol=1e-9)


def test_a_scheduler_scales_the_lr_of_adamw():
    """At a tenth of its initial value, `lr` makes the steps of biases a tenth as long, too."""
    steps = []
    for factor in (1.0, 0.1):
        model = make_model()
        before = model.head.bias.detach().clone()
        optimizer = precond.NysAct(model, rule="orthogonal", rank=4, weight_decay=0.0)
        for group in optimizer.param_groups:
            group["lr"] *= factor
        train(model, optimizer, steps=1)
        steps.append(model.head.bias.detach() - before)
    torch.testing.assert_close(steps[1], 0.1 * steps[0], rtol=1e-12, atol=0)
