"""EKFAC and STEVE, compared with float64 references, dense matrices, autograd and torch's Adam."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from reference import ekfac as reference_ekfac
from reference import steve as reference_steve
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

import precond
from precond.parts import linalg, pairs

STEPS, BATCH, INTERVAL = 20, 48, 5


class Net(nn.Module):
    """Two convolutions (one grouped), tokens, two layers of equal shape, one of them called twice.

    All layers have fewer inputs than a batch has examples.
    """

    def __init__(self, norm: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(4) if norm else nn.Identity()
        self.grouped = nn.Conv2d(4, 4, (2, 1), padding=(1, 0), groups=2, bias=False)
        self.tokens = nn.Linear(12, 5)
        self.hidden = nn.Linear(20, 6)
        self.twice = nn.Linear(6, 6)
        self.same = nn.Linear(6, 6)
        self.scale = nn.Parameter(torch.ones(6))
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.grouped(torch.tanh(self.norm(self.conv(x)))))
        x = torch.tanh(self.hidden(torch.tanh(self.tokens(x.flatten(2))).flatten(1)))
        x = torch.tanh(self.twice(torch.tanh(self.twice(x))))
        return self.head(torch.tanh(self.same(x)) * self.scale)


def net(**options: Any) -> nn.Module:
    torch.manual_seed(0)
    return Net(**options).double()


def batches(steps: int = STEPS, dtype: torch.dtype = torch.float64) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(steps, BATCH, 2, 6, 6, generator=generator, dtype=torch.float64)
    y = torch.randint(3, (steps, BATCH), generator=generator)
    return list(zip(x.to(dtype), y, strict=True))


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, data: list[tuple[Tensor, Tensor]]
) -> None:
    for x, y in data:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()


def assert_close(model: nn.Module, other: nn.Module, tolerance: float) -> None:
    for (name, p), q in zip(model.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(
            p, q, rtol=0, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}"
        )


def one_layer(o: int = 5, p: int = 4, seed: int = 0) -> tuple[nn.Linear, Tensor, Tensor]:
    """Return a layer with bias, its inputs, and an output gradient of the mean loss."""
    torch.manual_seed(seed)
    return nn.Linear(p, o).double(), torch.randn(32, p).double(), torch.randn(32, o).double() / 32


def update_bank(optimizer: Any, layer: nn.Linear, x: Tensor, g: Tensor) -> tuple[Any, Tensor]:
    """Run a forward, a backward and a refresh; return the bank and the gradient [dW, db]."""
    optimizer.zero_grad()
    layer(x).backward(g)
    [bank] = optimizer._banks
    bank.update(refresh=True)
    gradient = torch.cat([layer.weight.grad, layer.bias.grad.unsqueeze(1)], 1)
    bank.buffer.copy_(gradient.unsqueeze(0))
    return bank, gradient


# ---------------------------------------------------------------------- EKFAC


@pytest.mark.parametrize("second_moment", ["per_example", "running"])
@pytest.mark.parametrize("decay", [0.0, 0.7])
def test_ekfac_equals_its_literal_reference(second_moment, decay):
    """The 20 steps contain four refreshes."""
    model, expected = net(), net()
    settings = {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.01, "basis_interval": INTERVAL}
    settings |= {"second_moment": second_moment}
    train(model, precond.EKFAC(model, damping=0.1, ema_decay=decay, **settings), batches())
    reference_ekfac.train(expected, F.cross_entropy, batches(), beta=decay, rho=0.1, **settings)
    assert_close(model, expected, 1e-9)


def test_ekfac_with_products_of_eigenvalues_equals_kfac():
    """With S = l k^T, EKFAC equals KFAC with damping_rule=eigen, and the dense inverse."""
    layer, x, g = one_layer()
    directions = []
    for optimizer in (
        precond.EKFAC(layer, damping=0.05),
        precond.KFAC(layer, damping=0.05, damping_rule="eigen"),
    ):
        bank, gradient = update_bank(optimizer, layer, x, g)
        if isinstance(optimizer, precond.EKFAC):
            bank.state._pairs.clear()  # so that `precondition` does not change S
        bank.precondition(lr=0.1)
        directions.append(bank.buffer[0].clone())
    a, per_example = torch.cat([x, torch.ones(32, 1)], 1), 32 * g
    block = torch.kron(per_example.T @ per_example / 32, a.T @ a / 32)
    dense = torch.linalg.solve(block + 0.05 * torch.eye(25).double(), gradient.flatten()).view(5, 5)
    for direction in directions:
        torch.testing.assert_close(direction, dense, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("seed", range(10))
def test_the_error_of_ekfac_is_smaller_than_that_of_kfac(seed):
    """The error is the Frobenius norm of the difference to the layer's Fisher matrix."""
    layer, x, g = one_layer(o=3, p=5, seed=seed)
    optimizer = precond.EKFAC(layer, ema_decay=0.0)
    bank, _ = update_bank(optimizer, layer, x, g)
    products = bank.state.statistic.value[0].clone()
    bank.precondition(lr=0.1)
    a = torch.cat([x, torch.ones(32, 1)], 1)
    examples = torch.einsum("ni,nj->nij", 32 * g, a).flatten(1)
    fisher = examples.T @ examples / 32
    basis = torch.kron(bank.state.basis.output[0], bank.state.basis.input[0])
    errors = [
        (fisher - (basis * s.flatten()) @ basis.T).norm()
        for s in (bank.state.statistic.value[0], products)
    ]
    assert errors[0] < errors[1]


LAYERS = {
    "linear": (nn.Linear(5, 3), (5,)),
    "linear, positions": (nn.Linear(5, 7), (2, 5)),
    "linear, many positions": (nn.Linear(5, 3, bias=False), (4, 6, 5)),
    "conv": (nn.Conv2d(2, 6, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2)), (2, 3, 4)),
    "conv, many positions": (nn.Conv2d(2, 3, 3, padding=1), (2, 6, 6)),
    "conv, same": (nn.Conv2d(2, 3, 2, padding="same", padding_mode="circular"), (2, 5, 5)),
    "grouped conv": (nn.Conv2d(4, 6, 3, groups=2), (4, 5, 5)),
    "depthwise conv": (nn.Conv2d(4, 4, 3, groups=4, bias=False), (4, 3, 3)),
}


class Twice(nn.Module):
    """A layer that is called twice, with different numbers of positions."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(torch.tanh(self.layer(x))[:, :2])


def per_example_gradients(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return G_n = [dL_n/dW, dL_n/db], `[groups, B, o, p]`, computed by autograd."""

    def loss(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return (functional_call(model, parameters, (x.unsqueeze(0),)).squeeze(0) - y).square().sum()

    gradients = vmap(grad(loss), (None, 0, 0))(dict(model.named_parameters()), x, y)
    weight, *bias = gradients.values()
    matrix = weight.flatten(2)
    if bias:
        matrix = torch.cat([matrix, bias[0].unsqueeze(2)], 2)
    module = next(m for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d)))
    groups = module.groups if isinstance(module, nn.Conv2d) else 1
    return matrix.unflatten(1, (groups, -1)).transpose(0, 1)


@pytest.mark.parametrize("chunk", [1, 1 << 24])
@pytest.mark.parametrize("kind", [*LAYERS, "twice", "twice, positions"])
def test_second_moments_equal_those_of_autograd(kind, chunk, monkeypatch):
    """S = (1/B) sum_n (U^T G_n V)^.2 for all chunk sizes and both kinds of rotation."""
    monkeypatch.setattr(pairs, "CHUNK_ELEMENTS", chunk)
    torch.manual_seed(0)
    if kind.startswith("twice"):
        model, shape = Twice(), (3, 5)
    else:
        layer, shape = LAYERS[kind]
        model = nn.Sequential(copy.deepcopy(layer))
    model = model.double()
    x = torch.randn(6, *shape).double()
    y = torch.randn_like(model(x))
    optimizer = precond.EKFAC(model, ema_decay=0.0, lr=1e-300, momentum=0.0)
    (model(x) - y).square().flatten(1).sum(1).mean().backward()
    optimizer.step()
    state = optimizer._banks[0].state
    gradients = per_example_gradients(model, x, y)
    u, v = state.basis.output.unsqueeze(1), state.basis.input.unsqueeze(1)
    expected = (u.mT @ gradients @ v).square().mean(1)
    torch.testing.assert_close(state.statistic.mean(), expected, rtol=1e-10, atol=1e-12)


def test_the_layers_of_the_test_above_need_both_kinds_of_rotation():
    """For some shapes the rows are rotated, for others the gradients."""
    kinds = set()
    original = pairs._gradients

    def spy(*args: Any) -> Tensor:
        kinds.add(args[-1])
        return original(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pairs, "_gradients", spy)
        for layer, shape in LAYERS.values():
            model = nn.Sequential(copy.deepcopy(layer))
            optimizer = precond.EKFAC(model)
            model(torch.randn(6, *shape)).square().mean().backward()
            optimizer.step()
    assert kinds == {True, False}


def test_the_square_of_a_sum_over_positions_is_not_the_sum_of_squares():
    """The two moments differ clearly, so that the tests above distinguish them."""
    torch.manual_seed(0)
    a, g = torch.randn(6, 4, 5), torch.randn(6, 4, 3)
    exact = (g.mT @ a).square().mean(0)
    expanded = torch.einsum("nto,nti->oi", g.square(), a.square()) / 6
    assert (expanded - exact).norm() > 0.3 * exact.norm()


def test_the_second_moment_of_micro_batches_is_that_of_all_examples():
    """Examples of two backwards before a step are not added before they are squared."""
    moments = []
    for parts in (1, 2):
        layer, x, _ = one_layer()
        optimizer = precond.EKFAC(layer, ema_decay=0.0)
        for part in x.chunk(parts):
            layer(part).square().sum(1).mean().backward()
        optimizer.step()
        moments.append(optimizer._banks[0].state.statistic.mean())
    torch.testing.assert_close(moments[0], moments[1], rtol=1e-10, atol=1e-12)


def test_inputs_and_output_gradients_are_freed_at_the_end_of_a_step():
    """EKFAC, and STEVE with per-example moments, store them during a step."""
    model = net()
    for optimizer in (precond.EKFAC(model), precond.STEVE(model, second_moment="per_example")):
        train(model, optimizer, batches(1))
        assert all(not list(bank.state._pairs.passes()) for bank in optimizer._banks)


# ---------------------------------------------------------------------- STEVE

OPTIONS: list[dict[str, Any]] = [
    {},
    {"bias_correction": "paper"},
    {"second_moment": "per_example"},
    {"on_refresh": "rotate_m"},
    {"on_refresh": "rotate_mv"},
    {"on_refresh": "keep_v"},
    {"factor_ema": 0.9},
    {"fallback": "sgd"},
    {"weight_decay": 0.3},
    {"bias_correction": "paper", "second_moment": "per_example", "fallback": "sgd"},
    {"bias_correction": "paper", "on_refresh": "rotate_m", "factor_ema": 0.5, "betas": (0.8, 0.9)},
    {"second_moment": "per_example", "on_refresh": "rotate_mv", "factor_ema": 0.0},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_steve_equals_its_literal_reference(options):
    """The 20 steps contain four refreshes.

    The eps is large, because otherwise rounding errors could decide the signs of some steps.
    """
    model, expected = net(), net()
    settings = {"lr": 0.01, "eps": 1e-3, "basis_interval": INTERVAL, **options}
    train(model, precond.STEVE(model, **settings), batches())
    reference_steve.train(expected, F.cross_entropy, batches(), **settings)
    assert_close(model, expected, 1e-8)


@pytest.fixture
def fixed_basis(monkeypatch):
    """Replace all eigenbases by the identity, U = V = I."""

    def identity(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        values = torch.ones(matrix.shape[:2], dtype=torch.float64)
        eye = torch.eye(matrix.shape[-1], dtype=torch.float64).expand(matrix.shape)
        return values, eye, torch.ones(len(matrix), dtype=torch.bool)

    monkeypatch.setattr(linalg, "eigenbasis", identity)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_steve_with_identity_bases_is_bitwise_adam(fixed_basis, weight_decay):
    """The comparison has 200 float32 steps, without weight decay or with that of AdamW."""
    model, expected = net().float(), net().float()
    settings = {"lr": 3e-3, "weight_decay": weight_decay}
    data = batches(200, torch.float32)
    train(model, precond.STEVE(model, **settings), data)
    adam = torch.optim.AdamW if weight_decay else torch.optim.Adam
    train(expected, adam(expected.parameters(), foreach=False, **settings), data)
    for (name, p), q in zip(model.named_parameters(), expected.named_parameters(), strict=True):
        assert torch.equal(p, q[1]), name


def test_a_refresh_with_reset_is_bitwise_a_restart_of_adam(fixed_basis):
    model, expected = net(norm=False).float(), net(norm=False).float()
    for m in (model, expected):
        m.scale.requires_grad_(False)
    data = batches(100, torch.float32)
    train(model, precond.STEVE(model, lr=3e-3, basis_interval=20), data)
    for start in range(0, 100, 20):
        adam = torch.optim.Adam(
            [p for p in expected.parameters() if p.requires_grad], lr=3e-3, foreach=False
        )
        train(expected, adam, data[start : start + 20])
    for (name, p), q in zip(model.named_parameters(), expected.named_parameters(), strict=True):
        assert torch.equal(p, q[1]), name


@pytest.mark.parametrize("on_refresh", ["rotate_m", "rotate_mv", "keep_v", "reset"])
def test_a_new_basis_changes_the_moments_as_documented(on_refresh):
    """m is set to 0, or rotated so that U m V^T does not change.

    v becomes 0, stays the same, becomes the diagonal of the rotated old moment, or restarts at 0
    with one update by the mean gradient that m estimates.
    """
    layer, x, g = one_layer()
    optimizer = precond.STEVE(layer, on_refresh=on_refresh)
    bank, _ = update_bank(optimizer, layer, x, g)
    bank.precondition(lr=0.1)
    state = bank.state
    basis = torch.kron(state.basis.output[0], state.basis.input[0])
    m, v = state.basis.restore(state.m), state.v.clone()
    bank.recording = True
    torch.manual_seed(5)
    update_bank(optimizer, layer, torch.randn_like(x), torch.randn_like(g))
    new_basis = torch.kron(state.basis.output[0], state.basis.input[0])
    assert (new_basis - basis).norm() > 0.1
    if on_refresh == "reset":
        assert not state.m.any()
    else:
        torch.testing.assert_close(state.basis.restore(state.m), m, rtol=1e-12, atol=1e-14)
    moment = (basis * v.flatten()) @ basis.T
    rotated = (new_basis.T @ moment @ new_basis).diagonal().view_as(v)
    restarted = 1e-3 * (state.m / 0.1).square()
    expected = {"rotate_mv": rotated, "keep_v": v, "rotate_m": restarted, "reset": 0 * v}[
        on_refresh
    ]
    torch.testing.assert_close(state.v, expected, rtol=1e-10, atol=1e-14)
    counts = (0, 0) if on_refresh == "reset" else (1, 1)
    assert (state.m_count.item(), state.v_count.item()) == counts


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_a_bias_in_another_group_uses_the_learning_rate_of_its_group(scale):
    """The direction of a layer contains the lr of its weight, which must not affect its bias."""
    layer, x, g = one_layer()
    other = copy.deepcopy(layer)
    before = layer.bias.detach().clone()
    for model, lrs in ((layer, (1e-3, 1e-3)), (other, (1e-3 * scale, 1e-2))):
        groups = [{"params": [model.weight], "lr": lrs[0]}, {"params": [model.bias], "lr": lrs[1]}]
        optimizer = precond.STEVE(model, params=groups)
        model(x).backward(g)
        optimizer.step()
    torch.testing.assert_close(other.bias - before, 10 * (layer.bias - before))


def test_a_layer_that_is_never_called_follows_adam():
    """A function uses the layer's weight directly, as `nn.MultiheadAttention` does."""

    def loss(model: nn.Sequential, t: int) -> Tensor:
        return F.linear(torch.ones(1, 4) * t, model[0].weight, model[0].bias).square().sum()

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    expected = copy.deepcopy(model)
    optimizer, adam = precond.STEVE(model), torch.optim.Adam(expected.parameters(), foreach=False)
    for t in range(5):
        for net, stepper in ((model, optimizer), (expected, adam)):
            stepper.zero_grad()
            (loss(net, t) + net[1](torch.randn(8, 4)).square().mean()).backward()
            stepper.step()
    assert torch.equal(model[0].weight, expected[0].weight)
    assert torch.equal(model[0].bias, expected[0].bias)
    assert not torch.equal(model[1].weight, expected[1].weight)


# ---------------------------------------------------------------------- both

BOTH = [
    ("ekfac", {"damping": 0.1, "lr": 0.02}),
    ("ekfac", {"damping": 0.1, "lr": 0.02, "second_moment": "running"}),
    ("steve", {"lr": 0.01}),
    (
        "steve",
        {"lr": 0.01, "second_moment": "per_example", "on_refresh": "rotate_mv", "factor_ema": 0.9},
    ),
    ("steve", {"lr": 0.01, "on_refresh": "rotate_m", "bias_correction": "paper"}),
]


@pytest.mark.parametrize(("name", "options"), [*BOTH, ("adam", {})], ids=str)
def test_a_rotation_of_the_inputs_rotates_the_weights(name, options):
    """Inputs R x and initial weights W R^T give the weights W_t R^T, but not with Adam."""
    generator = torch.Generator().manual_seed(0)
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=generator).double()).Q
    x = torch.randn(STEPS, BATCH, 6, generator=generator).double()
    y = torch.randint(3, (STEPS, BATCH), generator=generator)
    nets = []
    for r in (torch.eye(6).double(), rotation):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 5, bias=False), nn.Tanh(), nn.Linear(5, 3)).double()
        with torch.no_grad():
            model[0].weight.copy_(model[0].weight @ r.T)
        interval = {} if name == "adam" else {"basis_interval": INTERVAL}
        optimizer = precond.build(name, model, **options, **interval)
        train(model, optimizer, list(zip(x @ r.T, y, strict=True)))
        nets.append(model)
    difference = (nets[0][0].weight @ rotation.T - nets[1][0].weight).norm()
    assert difference > 1e-3 if name == "adam" else difference < 1e-8


@pytest.mark.parametrize(("name", "options"), BOTH, ids=str)
def test_training_resumes_bitwise_from_a_state_within_an_interval(name, options):
    """The state is saved after eight steps, between two refreshes."""
    model = net()
    optimizer = precond.build(name, model, basis_interval=INTERVAL, **options)
    train(model, optimizer, batches()[:8])
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    train(model, optimizer, batches()[8:])
    other = Net().double()
    resumed = precond.build(name, other, basis_interval=INTERVAL, **options)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    other.load_state_dict(saved["model"])
    resumed.load_state_dict(saved["optimizer"])
    train(other, resumed, batches()[8:])
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)


def copy_state(optimizer: Any) -> dict[str, Tensor]:
    """Return the algorithm's tensors by layer and name."""
    return {
        f"{name}/{key}": value.clone()
        for name, layer in optimizer._layers.items()
        for key, value in optimizer._bank_of[name].layer_state(layer).items()
        if isinstance(value, Tensor) and "dropped" not in key
    }


@pytest.mark.parametrize("step", [4, 5])
@pytest.mark.parametrize(("name", "options"), BOTH, ids=str)
def test_a_batch_that_is_not_finite_does_not_change_the_state(name, options, step):
    """The batch is between two refreshes or at a refresh; later steps are finite."""
    model = net()
    optimizer = precond.build(name, model, basis_interval=INTERVAL, **options)
    data = batches()
    train(model, optimizer, data[:step])
    before = copy_state(optimizer)
    saved = copy.deepcopy(model.state_dict())
    bad = data[step][0].clone()
    bad[0, 0, 0, 0] = torch.inf
    train(model, optimizer, [(bad, data[step][1])])
    for key, value in copy_state(optimizer).items():
        assert torch.equal(value, before[key]), key
    with torch.no_grad():  # undo the step, because its gradients were nan
        model.load_state_dict(saved)
        for buffers in optimizer.state.values():
            for buffer in buffers.values():
                if isinstance(buffer, Tensor):
                    buffer.nan_to_num_(0.0)
    train(model, optimizer, data[step + 1 :])
    assert all(p.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(("name", "options"), BOTH, ids=str)
def test_a_layer_without_gradient_keeps_its_state(name, options):
    """Only the layer `same` has a gradient; `twice`, in the same bank, does not change."""
    model = net()
    optimizer = precond.build(name, model, basis_interval=INTERVAL, **options)
    data = batches()
    train(model, optimizer, data[:2])
    before = copy_state(optimizer)
    optimizer.zero_grad()
    model.same(torch.randn(BATCH, 6).double()).square().mean().backward()
    weights = copy.deepcopy(model.state_dict())
    optimizer.step()
    states, parameters = copy_state(optimizer), model.state_dict()
    changed_states = {key for key in states if not torch.equal(states[key], before[key])}
    changed = {key for key in parameters if not torch.equal(parameters[key], weights[key])}
    assert {key.split("/")[0] for key in changed_states} == {"same"}
    assert {key.split(".")[0] for key in changed} == {"same"}


@pytest.mark.parametrize("name", ["ekfac", "steve"])
def test_a_finite_gradient_whose_square_overflows_gives_a_finite_step(name):
    """If the square of the gradient overflows, STEVE makes the step lr G; EKFAC drops the new S."""
    layer, x, g = one_layer()
    layer.float()
    momentum = {"momentum": 0.0} if name == "ekfac" else {}
    optimizer = precond.build(name, layer, lr=0.1, basis_interval=INTERVAL, **momentum)
    for scale in (1.0, 1e25):
        optimizer.zero_grad()
        before = layer.weight.detach().clone()
        layer(x.float()).backward(scale * g.float())
        optimizer.step()
    assert layer.weight.isfinite().all()
    assert not torch.equal(layer.weight, before)
    state = optimizer._banks[0].state
    if name == "steve":
        torch.testing.assert_close(layer.weight.detach(), before - 0.1 * layer.weight.grad)
        assert state.m_count.item() == 1
    assert (state.v if name == "steve" else state.statistic.value).isfinite().all()


def test_eigenvectors_have_a_fixed_sign():
    """The entry with the largest absolute value is positive, so that states are reproducible."""
    torch.manual_seed(0)
    a = torch.randn(3, 7, 5)
    values, vectors, ok = linalg.eigenbasis(a.mT @ a)
    assert ok.all()
    assert vectors.dtype == torch.float64
    assert (vectors.gather(-2, vectors.abs().argmax(-2, keepdim=True)) > 0).all()
    torch.testing.assert_close(
        (vectors * values.unsqueeze(-2)) @ vectors.mT, (a.mT @ a).double(), rtol=1e-5, atol=1e-5
    )
    bad = torch.stack([torch.eye(3), torch.full((3, 3), torch.nan)])
    assert linalg.eigenbasis(bad)[2].tolist() == [True, False]
