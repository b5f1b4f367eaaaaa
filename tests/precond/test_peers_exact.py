"""The first-class peers equal the classes of their packages, and literal references, exactly."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import _muon

import precond
from precond.peers import base, hutchinson
from precond.peers.seeded import Generators
from tests.precond.test_peers import quadratic, value

package: Any = pytest.importorskip(base.PACKAGE)


class Net(nn.Module):
    """An embedding, a convolution, a normalisation, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.conv = nn.Conv2d(1, 2, 3, padding=1)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        image = self.embedding(x).view(-1, 1, 2, 2)
        return self.head(self.norm(torch.tanh(self.conv(image)).flatten(1)))


def make_model(dtype: torch.dtype = torch.float32) -> Net:
    torch.manual_seed(0)
    return Net().to(dtype)


def set_gradients(model: nn.Module, number: int) -> None:
    model.zero_grad()
    generator = torch.Generator().manual_seed(number)
    x = torch.randint(5, (6,), generator=generator)
    F.cross_entropy(model(x), torch.randint(4, (6,), generator=generator)).backward()


EXPECTED = {
    "lion": lambda params: package.Lion(params, lr=1e-3),
    "adopt": lambda params: package.ADOPT(params, weight_decouple=True),
    "psgd-kron": lambda params: package.Kron(params, lr=3e-3),
    "schedulefree-adamw": lambda params: package.ScheduleFreeAdamW(params),
    "shampoo-graft": lambda params: package.ScalableShampoo(
        params,
        lr=0.1,
        block_size=4,
        start_preconditioning_step=1,
        preconditioning_compute_steps=2,
        decoupled_weight_decay=True,
        graft_type=2,
        use_svd=True,
    ),
    "soap": lambda params: package.SOAP(params, precondition_frequency=2),
}
OPTIONS = {
    "soap": {"interval": 2},
    # The package preconditions only weights with more elements than a block.
    "shampoo-graft": {"interval": 2, "graft": "adagrad", "block_size": 4},
}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_peer_equals_the_class_of_the_package_bitwise(name):
    model, other = make_model(), make_model()
    optimizer = precond.build(name, model, **OPTIONS.get(name, {}))
    expected = EXPECTED[name](other.parameters())
    for number in range(5):
        set_gradients(model, number)
        optimizer.step()
        set_gradients(other, number)
        with Generators(0, number, []).exchanged():  # only PSGD-Kron draws random numbers
            expected.step()
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)
    assert not torch.equal(model.head.weight, make_model().head.weight)


def test_sophia_equals_the_class_of_the_package_with_the_same_signs():
    """The class is given z * (H z) at every second step; it ignores the estimate otherwise."""
    model, h = quadratic()
    other, _ = quadratic()
    optimizer = precond.build("sophia-h", model, interval=2)
    expected = package.SophiaH(other.parameters(), update_period=2)
    for step in range(4):
        optimizer.zero_grad()
        precond.backward(value(model, h), optimizer)
        optimizer.step()
        other.zero_grad()
        value(other, h).backward()
        signs = hutchinson.random_signs(list(other), 0, step)
        parts = h.split([p.numel() for p in other])
        pairs = zip(parts, other, signs, strict=True)
        estimate = [z * (part.view_as(p) * z) for part, p, z in pairs]
        expected.step(hessian=estimate if step % 2 == 0 else None)
    for p, q in zip(model, other, strict=True):
        assert torch.equal(p, q)


def test_sophia_on_a_quadratic_takes_clipped_newton_steps():
    """With H = diag(h), z * (H z) = h. Without momentum, the direction is clip(h w / h)."""
    model, h = quadratic()
    optimizer = precond.build("sophia-h", model, lr=0.5, betas=(0.0, 0.0), bound=0.3, interval=1)
    w = torch.cat([p.detach().flatten() for p in model])
    precond.backward(value(model, h), optimizer)
    optimizer.step()
    after = torch.cat([p.detach().flatten() for p in model])
    newton = h * w / h.clamp(min=1e-12)
    torch.testing.assert_close(after, w - 0.5 * newton.clamp(-0.3, 0.3))


def test_sophia_needs_the_hessian_only_at_its_interval():
    model, h = quadratic()
    optimizer = precond.build("sophia-h", model, interval=3)
    for step in range(7):
        optimizer.zero_grad()
        if step % 3 == 0:
            precond.backward(value(model, h), optimizer)
        else:
            value(model, h).backward()
        optimizer.step()
    optimizer.zero_grad()
    for _ in range(2):
        value(model, h).backward()
        optimizer.step()
    with pytest.raises(RuntimeError, match="Sophia-H needs the Hessian at this step"):
        optimizer.step()


def test_lion_equals_its_formula():
    model = make_model(torch.float64)
    optimizer = precond.build("lion", model, lr=0.01, betas=(0.8, 0.9), weight_decay=0.3)
    means = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for number in range(4):
        set_gradients(model, number)
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        optimizer.step()
        for name, p in model.named_parameters():
            g, m, w = p.grad, means[name], before[name]
            expected = (1 - 0.01 * 0.3) * w - 0.01 * (0.8 * m + 0.2 * g).sign()
            means[name] = 0.9 * m + 0.1 * g
            torch.testing.assert_close(p.detach(), expected, rtol=1e-12, atol=1e-12)


def test_adopt_equals_its_formula():
    """The first step only sets v; each later step divides by the old v before it is updated."""
    model = make_model(torch.float64)
    optimizer = precond.build(
        "adopt", model, lr=0.01, betas=(0.9, 0.99), eps=1e-6, weight_decay=0.3
    )
    m = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    v: dict[str, Tensor] = {}
    for step in range(1, 6):
        set_gradients(model, step)
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        optimizer.step()
        for name, p in model.named_parameters():
            g, w = p.grad, before[name]
            if step == 1:
                v[name] = g.square()
                assert torch.equal(p.detach(), w)
                continue
            ratio = (g / v[name].sqrt().clamp(min=1e-6)).clamp(-(step**0.25), step**0.25)
            m[name] = 0.9 * m[name] + 0.1 * ratio
            v[name] = 0.99 * v[name] + 0.01 * g.square()
            expected = (1 - 0.01 * 0.3) * w - 0.01 * m[name]
            torch.testing.assert_close(p.detach(), expected, rtol=1e-10, atol=1e-12)


def test_the_weight_decay_of_psgd_kron_shrinks_vectors_and_matrices_alike():
    changes = []
    for decay in (0.0, 0.5):
        model = make_model(torch.float64)
        optimizer = precond.build("psgd-kron", model, lr=0.01, weight_decay=decay)
        set_gradients(model, 0)
        optimizer.step()
        changes.append({name: p.detach() for name, p in model.named_parameters()})
    start = dict(make_model(torch.float64).named_parameters())
    for name, p in changes[0].items():
        expected = p - 0.01 * 0.5 * start[name].detach()
        torch.testing.assert_close(changes[1][name], expected, rtol=1e-6, atol=1e-7)


# ---------------------------------------------------------------------- Muon


MATRICES = ("conv.weight", "head.weight")


def test_the_matrices_of_muon_equal_torchs_muon_bitwise():
    model, other = make_model(), make_model()
    optimizer = precond.build("muon", model, lr=0.05, weight_decay=0.2, ns_steps=3)
    # torch's Muon accepts matrices only.
    flat = {n: nn.Parameter(other.get_parameter(n).detach().flatten(1)) for n in MATRICES}
    expected = torch.optim.Muon(flat.values(), lr=0.05, weight_decay=0.2, ns_steps=3)
    rest = [p for name, p in other.named_parameters() if name not in MATRICES]
    adamw = torch.optim.AdamW(rest, lr=3e-4, betas=(0.9, 0.95), weight_decay=0.2)
    for number in range(4):
        set_gradients(model, number)
        optimizer.step()
        set_gradients(other, number)
        for name, p in flat.items():
            p.grad = other.get_parameter(name).grad.flatten(1)
        expected.step()
        adamw.step()
        with torch.no_grad():
            for name, p in flat.items():
                other.get_parameter(name).copy_(p.view_as(other.get_parameter(name)))
    for name, p in model.named_parameters():
        assert torch.equal(p, other.get_parameter(name)), name


@pytest.mark.parametrize("adjust", ["original", "match_rms_adamw"])
def test_muon_equals_its_formula(adjust):
    """The Newton-Schulz iteration is bfloat16; everything else is compared in float64."""
    model = make_model(torch.float64)
    optimizer = precond.build("muon", model, lr=0.05, nesterov=False, adjust_lr=adjust)
    buffers = {name: torch.zeros_like(model.get_parameter(name)) for name in MATRICES}
    for number in range(3):
        set_gradients(model, number)
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        optimizer.step()
        for name in MATRICES:
            p = model.get_parameter(name)
            buffers[name] = 0.95 * buffers[name] + 0.05 * p.grad
            matrix = buffers[name].flatten(1)
            rows, columns = matrix.shape
            factor = max(1, rows / columns) ** 0.5
            factor = factor if adjust == "original" else 0.2 * max(rows, columns) ** 0.5
            sign = newton_schulz(matrix).double().view_as(p)
            expected = (1 - 0.05 * 0.1) * before[name] - 0.05 * factor * sign
            torch.testing.assert_close(p.detach(), expected, rtol=1e-12, atol=1e-12)


def newton_schulz(matrix: Tensor) -> Tensor:
    """Return the result of five iterations X <- a X + (b A + c A A) X with A = X X^T."""
    x = matrix.to(torch.bfloat16)
    tall = x.size(0) > x.size(1)
    x = x.mT if tall else x
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(5):
        a = x @ x.mT
        b = torch.addmm(a, a, a, beta=_muon.DEFAULT_B, alpha=_muon.DEFAULT_C)
        x = torch.addmm(x, b, x, beta=_muon.DEFAULT_A)
    return x.mT if tall else x


def test_an_embedding_that_shares_the_weight_of_a_layer_follows_adamw():
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5, bias=False))
    model[1].weight = model[0].weight
    optimizer = precond.build("muon", model)
    model(torch.tensor([1, 2])).sum().backward()
    optimizer.step()
    assert set(optimizer.state[model[0].weight]) == {"step", "exp_avg", "exp_avg_sq"}


def test_a_scheduler_and_the_lr_of_a_group_scale_the_lr_of_adamw():
    steps = []
    for group_lr, gamma in ((0.02, 1.0), (0.04, 1.0), (0.02, 0.5)):
        model = make_model(torch.float64)
        groups = [{"params": model.parameters(), "lr": group_lr}]
        optimizer = precond.build("muon", model, params=groups, weight_decay=0.0)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _, gamma=gamma: gamma)
        set_gradients(model, 0)
        optimizer.step()
        scheduler.step()
        start = make_model(torch.float64)
        steps.append(
            [
                p.detach() - q.detach()
                for p, q in zip(model.parameters(), start.parameters(), strict=True)
            ]
        )
    for first, doubled, halved in zip(*steps, strict=True):
        torch.testing.assert_close(doubled, 2 * first, rtol=1e-6, atol=1e-12)
        torch.testing.assert_close(halved, 0.5 * first, rtol=1e-6, atol=1e-12)


def test_the_memory_format_of_a_convolution_does_not_change_its_steps_by_muon():
    results = []
    for layout in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(0)
        model = nn.Conv2d(2, 3, 3).to(memory_format=layout)
        optimizer = precond.build("muon", model, lr=0.5)
        for number in range(2):
            optimizer.zero_grad()
            x = torch.randn(2, 2, 5, 5, generator=torch.Generator().manual_seed(number))
            model(x).square().mean().backward()
            optimizer.step()
        results.append(model.weight.detach().clone(memory_format=torch.contiguous_format))
    torch.testing.assert_close(results[0], results[1], rtol=0.02, atol=0.02)
