"""KFAC and Eva, compared with float64 references, dense inverses, symmetries and curvlinops."""

from __future__ import annotations

import dataclasses
import itertools

import banks
import pytest
import torch
import torch.nn.functional as F
from reference import kfac as reference
from reference.dense import to_dense
from reference.eva import Eva as ReferenceEva
from torch import Tensor, nn

import precond
from precond.algorithms.eva import rank_one_factors
from precond.algorithms.kfac import eigen_factors, factored_inverses
from precond.parts import linalg
from precond.parts.factors import Kronecker, KroneckerEigen, RankOne
from precond.parts.statistics import MovingAverage

STEPS = 20
SETTINGS = {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.01}
DECAY, DAMPING, CLIP = 0.8, 0.05, 1e-5
RULES, SHARING, SCALES = ["factored", "eigen"], ["expand", "reduce"], ["fisher", "official"]


class Net(nn.Module):
    """Two convolutions, two norms, tokens, and three layers of one shape.

    Of these three, `token2` has 9 positions per example, and the others have one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, stride=2, padding=1)
        self.batch_norm = nn.BatchNorm2d(4)
        self.grouped = nn.Conv2d(4, 4, 3, padding=1, groups=2, bias=False)
        self.token = nn.Linear(4, 5)
        self.layer_norm = nn.LayerNorm(5)
        self.token2 = nn.Linear(5, 5)
        self.first = nn.Linear(5, 5)
        self.second = nn.Linear(5, 5)
        self.head = nn.Linear(5, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.batch_norm(self.conv(x)))
        x = torch.tanh(self.grouped(x)).flatten(2).mT  # [batch, positions, features]
        x = torch.tanh(self.token2(self.layer_norm(torch.tanh(self.token(x)))))
        x = torch.tanh(self.second(torch.tanh(self.first(x.mean(1)))))
        return self.head(x)


def net() -> Net:
    torch.manual_seed(0)
    return Net().double()


def batches(steps: int = STEPS) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(steps, 8, 2, 6, 6, generator=generator, dtype=torch.float64)
    return list(zip(x, torch.randint(3, (steps, 8), generator=generator), strict=True))


def step(
    model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor, scale: float = 1.0
) -> None:
    optimizer.zero_grad()
    (scale * F.cross_entropy(model(x), y)).backward()
    optimizer.step()


def train_net(optimizer: type, **options) -> nn.Module:
    model = net()
    instance = optimizer(model, **SETTINGS, ema_decay=DECAY, **options)
    for x, y in batches():
        step(model, instance, x, y)
    return model


def weights(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def max_difference(model: nn.Module, other: nn.Module) -> float:
    return (weights(model) - weights(other)).abs().max().item()


def random_spd(d: int, seed: int, scale: float = 1.0) -> Tensor:
    x = torch.randn(2 * d, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return scale * x.T @ x / len(x)


def random_stacks(o: int = 3, p: int = 5, layers: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Return S `[L, o, o]`, A `[L, p, p]` and G `[L, o, p]`."""
    s = torch.stack([random_spd(o, seed) for seed in range(layers)])
    a = torch.stack([random_spd(p, 10 + seed, 3.0) for seed in range(layers)])
    generator = torch.Generator().manual_seed(5)
    return s, a, torch.randn(layers, o, p, generator=generator, dtype=torch.float64)


def assert_close(actual: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    atol = tolerance * expected.abs().max().item()
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=atol)


# ---------------------------------------------------------------------- literal references


@pytest.mark.parametrize("clip", [None, CLIP], ids=["unclipped", "clipped"])
@pytest.mark.parametrize("init", ["zero", "identity", "first"])
@pytest.mark.parametrize("g_scale", SCALES)
@pytest.mark.parametrize("sharing", SHARING)
@pytest.mark.parametrize("rule", RULES)
def test_kfac_equals_its_literal_reference(rule, sharing, g_scale, init, clip):
    """The reference computes the dense inverse of the damped Kronecker product."""
    intervals = {"cov_interval": 2, "inv_interval": 6}
    options = {"sharing": sharing, "g_scale": g_scale, "init": init}
    model = train_net(
        precond.KFAC, damping=DAMPING, damping_rule=rule, kl_clip=clip, **options, **intervals
    )
    expected = net()

    def make(p: int, o: int) -> reference.KFAC:
        return reference.KFAC(p, o, beta=DECAY, rho=DAMPING, rule=rule, **options)

    factors = reference.train(
        expected, F.cross_entropy, batches(), make, **SETTINGS, **intervals, kl_clip=clip
    )
    assert max_difference(model, expected) < 1e-9
    assert max_difference(expected, net()) > 1e-2, "nothing was trained"
    assert (min(factors) < 0.9) == (clip is not None), "the clip was not tested"


@pytest.mark.parametrize("clip", [None, CLIP], ids=["unclipped", "clipped"])
@pytest.mark.parametrize("init", ["zero", "first"])
@pytest.mark.parametrize("g_scale", SCALES)
def test_eva_equals_its_literal_reference(g_scale, init, clip):
    """The reference inverts the dense curvature at each update of the means, as Eva does."""
    model = train_net(
        precond.Eva, damping=DAMPING, kl_clip=clip, g_scale=g_scale, ema_init=init, cov_interval=3
    )
    expected = net()

    def make(p: int, o: int) -> ReferenceEva:
        return ReferenceEva(p, o, beta=DECAY, rho=DAMPING, g_scale=g_scale, init=init)

    intervals = {"cov_interval": 3, "inv_interval": 3}
    factors = reference.train(
        expected, F.cross_entropy, batches(), make, **SETTINGS, **intervals, kl_clip=clip
    )
    assert max_difference(model, expected) < 1e-9
    assert max_difference(expected, net()) > 1e-2, "nothing was trained"
    assert (min(factors) < 0.9) == (clip is not None), "the clip was not tested"


KFAC_OPTIONS = [
    {},
    {"damping_rule": "eigen"},
    {"sharing": "reduce"},
    {"g_scale": "official"},
    {"init": "identity"},
    {"init": "first"},
    {"kl_clip": CLIP},
]
EVA_OPTIONS = [{}, {"g_scale": "official"}, {"ema_init": "first"}, {"kl_clip": CLIP}]


@pytest.mark.parametrize(
    ("kind", "options"), [(precond.KFAC, KFAC_OPTIONS), (precond.Eva, EVA_OPTIONS)]
)
def test_every_option_changes_the_weights(kind, options):
    """Otherwise, the tests above could pass with options that have no effect."""
    common = {"kl_clip": None, "damping": DAMPING, "cov_interval": 2}
    common |= {"inv_interval": 6} if kind is precond.KFAC else {}
    models = [train_net(kind, **common | chosen) for chosen in options]
    for (i, model), (j, other) in itertools.combinations(enumerate(models), 2):
        assert max_difference(model, other) > 1e-4, f"{options[i]} and {options[j]} are the same"


# ---------------------------------------------------------------------- factors


def test_eigen_damping_equals_the_dense_inverse():
    """`solve` and `to_dense` agree with (S (x) A + rho I)^{-1} for row-major vec(G) and o != p."""
    s, a, gradients = random_stacks()
    factor = KroneckerEigen.identity(2, 3, 5, DAMPING, like=s)
    *factors, ok = eigen_factors(s, a, DAMPING)
    factor.store(ok, *factors)
    for layer in range(2):
        dense = torch.linalg.inv(torch.kron(s[layer], a[layer]) + DAMPING * torch.eye(15).double())
        assert_close(to_dense(factor)[layer], dense)
        assert_close(factor.solve(gradients)[layer].flatten(), dense @ gradients[layer].flatten())


def test_factored_damping_is_the_product_of_the_damped_inverses():
    """The result differs from that of eigen damping."""
    s, a, gradients = random_stacks()
    factor = Kronecker.identity(2, 3, 5, DAMPING, like=s)
    *inverses, outcome = factored_inverses(s, a, DAMPING)
    factor.store(outcome.ok, *inverses)
    for layer in range(2):
        pi = ((a[layer].trace() / 5) / (s[layer].trace() / 3)).sqrt()
        eyes = torch.eye(3).double(), torch.eye(5).double()
        damped = s[layer] + DAMPING**0.5 / pi * eyes[0], a[layer] + pi * DAMPING**0.5 * eyes[1]
        dense = torch.linalg.inv(torch.kron(*damped))
        assert_close(to_dense(factor)[layer], dense)
        assert_close(factor.solve(gradients)[layer].flatten(), dense @ gradients[layer].flatten())
    u, v, scale, _ = eigen_factors(s, a, DAMPING)
    factored, eigen = to_dense(factor), to_dense(KroneckerEigen(u, v, scale))
    assert (eigen - factored).norm() > 0.1 * factored.norm()


@pytest.mark.parametrize("c", [1e-3, 1e3])
def test_pi_makes_factored_damping_invariant_if_a_scale_moves_from_s_to_a(c):
    """(S / c) (x) (c A) equals S (x) A, and must have the same damped inverse."""
    s, a, _ = random_stacks()
    scaled = (s, a), (s / c, c * a)
    dense = [to_dense(Kronecker(*factored_inverses(*pair, DAMPING)[:2])) for pair in scaled]
    assert_close(dense[1], dense[0], 1e-9)
    shifts = DAMPING**0.5 * torch.eye(3), DAMPING**0.5 * torch.eye(5)
    without_pi = []
    for pair in scaled:
        sides = [torch.linalg.inv(x + shift) for x, shift in zip(pair, shifts, strict=True)]
        without_pi.append(to_dense(Kronecker(*sides)))
    change = (without_pi[1] - without_pi[0]).norm()
    assert change > 0.1 * without_pi[0].norm(), "the test would pass with pi = 1"


def test_negative_eigenvalues_are_replaced_by_zero():
    """Negative eigenvalues of S and A are rounding errors.

    Otherwise, two of them would have a positive product, and one could cancel the damping.
    """
    s = torch.diag_embed(torch.tensor([[-1.0, 2.0]], dtype=torch.float64))
    a = torch.diag_embed(torch.tensor([[-3.0, 0.5, 4.0]], dtype=torch.float64))
    u, v, scale, ok = eigen_factors(s, a, 0.25)
    assert ok.all()
    expected = 1 / (torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0, 8.0]).double() + 0.25)
    assert_close(to_dense(KroneckerEigen(u, v, scale))[0], torch.diag(expected))


def test_pi_is_clamped_and_is_one_if_a_trace_is_zero():
    """The ratios of the traces are 1e20, 1e-20, and undefined because a trace is 0."""
    eye = torch.eye(2, dtype=torch.float64)
    a = torch.stack([1e20 * eye, 1e-20 * eye, eye, 0 * eye])
    s = torch.stack([eye, eye, 0 * eye, eye])
    left, right, (ok, _) = factored_inverses(s, a, 1.0)
    assert ok.all()
    pi = torch.tensor([1e4, 1e-4, 1.0, 1.0], dtype=torch.float64)
    assert_close(left[:, 0, 0], 1 / (s[:, 0, 0] + 1 / pi))
    assert_close(right[:, 0, 0], 1 / (a[:, 0, 0] + pi))


def test_pi_in_the_released_code_is_at_most_1e10_without_a_lower_bound():
    """The card states this deviation, which matters if the traces differ by a factor above 1e8."""
    a = torch.eye(3, dtype=torch.float64).unsqueeze(0)
    for ratio in (1e6, 1e12, 1e-12):
        s = a / ratio
        released = min((a[0].trace() / s[0].trace()).sqrt().item(), 1e10)
        expected = torch.linalg.inv(a + released * DAMPING**0.5 * a)
        difference = (factored_inverses(s, a, DAMPING)[1] - expected).norm() / expected.norm()
        assert difference < 1e-10 if ratio == 1e6 else difference > 1e-5
    assert "1e10" in precond.KFAC.algorithm_type.CARD.deviations


def test_eva_equals_the_dense_rank_one_inverse():
    """P is (v v^T + rho I)^{-1} with v = vec(m_g m_a^T).

    For a zero mean, P is I / rho. For a huge mean, P is a projection divided by rho.
    """
    generator = torch.Generator().manual_seed(3)
    m_g = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    m_a = torch.randn(3, 5, generator=generator, dtype=torch.float64)
    m_g[1] = 0
    factor = RankOne.identity(3, 3, 5, DAMPING, like=m_a)
    assert_close(to_dense(factor)[0], torch.eye(15).double() / DAMPING)
    for mean in (m_g + 1, m_g):
        *vectors, ok = rank_one_factors(mean, m_a, DAMPING)
        factor.store(ok, *vectors)
    gradients = torch.randn(3, 3, 5, generator=generator, dtype=torch.float64)
    for layer in range(3):
        v = torch.outer(m_g[layer], m_a[layer]).flatten()
        dense = torch.linalg.inv(torch.outer(v, v) + DAMPING * torch.eye(15).double())
        assert_close(to_dense(factor)[layer], dense)
        assert_close(factor.solve(gradients)[layer].flatten(), dense @ gradients[layer].flatten())
    u, v, ok = rank_one_factors(torch.full((1, 3), 1e30), torch.full((1, 5), 1e30), DAMPING)
    assert ok.all()
    assert_close(u * v[:, :1], torch.full((1, 3), 15**-0.5).double(), 1e-6)


@pytest.mark.parametrize("kind", [Kronecker, KroneckerEigen, RankOne])
def test_initial_factors_are_the_identity_over_the_damping(kind):
    dense = to_dense(kind.identity(2, 3, 4, 0.25, like=torch.zeros(1)))
    assert_close(dense, 4 * torch.eye(12).expand(2, 12, 12), 1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_each_matrix_can_have_a_different_damping(dtype):
    """A stack with dampings `[L]` gives the inverses of the single matrices bitwise."""
    a = torch.stack(
        [random_spd(6, 0), 1e8 * random_spd(6, 1)[:, :1] @ random_spd(6, 1)[:1], random_spd(6, 2)]
    ).to(dtype)
    damping = torch.tensor([1e-1, 1e-3, 10.0], dtype=torch.float64)
    inverse, (ok, _) = linalg.damped_inverse(a, damping)
    assert ok.all()
    for matrix, rho, stacked in zip(a, damping, inverse, strict=True):
        single, _ = linalg.damped_inverse(matrix.unsqueeze(0), rho.item())
        assert torch.equal(single[0], stacked)


@pytest.mark.parametrize(
    ("name", "options"),
    [("kfac", {"damping_rule": "factored"}), ("kfac", {"damping_rule": "eigen"}), ("eva", {})],
)
def test_a_layer_with_invalid_statistics_keeps_its_last_factor(name, options):
    """Both sides of its factor stay the same; the other layers of the bank are updated."""
    model = net()
    optimizer = precond.build(name, model, **options)
    step(model, optimizer, *batches()[0])
    bank = optimizer._bank_of["first"]
    before = to_dense(bank.state.factor).clone()
    bank.state.statistic.outputs.value[1] = torch.nan
    bank.state.statistic.inputs.value *= 2
    bank.update(refresh=True)
    after = to_dense(bank.state.factor)
    assert torch.equal(after[1], before[1])
    assert not torch.allclose(after[[0, 2]], before[[0, 2]])
    assert after.isfinite().all()


@pytest.mark.parametrize("damping", [1e-12, 1.0])
@pytest.mark.parametrize("scale", [0.0, 1e-20, 1.0, 1e12, torch.inf])
@pytest.mark.parametrize(
    ("name", "options"), [("kfac", {"damping_rule": rule}) for rule in RULES] + [("eva", {})]
)
def test_degenerate_inputs_and_gradients_give_finite_steps(name, options, scale, damping):
    """Inputs and output gradients are zero, tiny, huge, infinite or of rank one."""
    layer = nn.Linear(6, 4)
    optimizer = precond.build(name, layer, damping=damping, **options)
    [bank] = optimizer._banks
    for number in range(3):
        x = torch.full((8, 6), scale) * torch.arange(8).view(-1, 1).clamp(max=number + 1)
        banks.record(bank, optimizer._layers[""], x=x.nan_to_num(posinf=torch.inf))
        banks.record(bank, optimizer._layers[""], gradient=torch.full((8, 4), scale))
        bank.update(refresh=True)
        generator = torch.Generator().manual_seed(number)
        bank.buffer.copy_(torch.randn(bank.buffer.shape, generator=generator))
        gradient = bank.buffer.clone()
        direction = bank.algorithm.precondition(bank.state, gradient, lr=0.1)
        assert direction.isfinite().all()
        assert to_dense(bank.state.factor).isfinite().all()
        if scale == torch.inf:
            assert_close(direction, gradient / damping, 1e-3)
    dropped = bank.state.statistic.inputs.dropped + bank.state.statistic.outputs.dropped
    assert dropped.item() == (6 if scale == torch.inf else 0)


# ---------------------------------------------------------------------- statistics

CONVOLUTIONS = [
    {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": (2, 3), "stride": (2, 1), "padding": (0, 2), "dilation": (1, 2), "bias": False},
    {"kernel_size": 3, "groups": 2, "padding": "same"},
    {"kernel_size": 3, "padding": 1, "padding_mode": "circular"},
]


def record_statistics(
    name: str, module: nn.Module, x: Tensor, **options
) -> tuple[Tensor, Tensor, Tensor]:
    """Run a forward and a backward.

    Returns:
        The statistics of the inputs and of the output gradients, and the gradient of the output.
    """
    optimizer = precond.build(name, module, **options)
    output = module(x)
    output.retain_grad()
    coefficients = torch.linspace(-1, 2, output.numel()).view_as(output)
    (output.square() * coefficients).sum().div(len(x)).backward()
    [bank] = optimizer._banks
    bank.update(refresh=True)
    statistic = bank.state.statistic
    return statistic.inputs.mean(), statistic.outputs.mean(), output.grad


@pytest.mark.parametrize("sharing", SHARING)
@pytest.mark.parametrize("geometry", CONVOLUTIONS, ids=str)
def test_statistics_of_convolutions_are_sums_over_positions(geometry, sharing):
    """A and S equal those of explicit patches and positions; S is not divided by T."""
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, **geometry).double()
    x = torch.randn(5, 4, 7, 6, dtype=torch.float64)
    a, s, gradient = record_statistics("kfac", conv, x, sharing=sharing)
    pairs = zip(reference.rows(conv, x), reference.output_rows(conv, gradient), strict=True)
    for group, (X, dY) in enumerate(pairs):
        X, g = X.reshape(*dY.shape[:2], -1), 5 * dY
        if sharing == "reduce":
            X, g = X.mean(1, keepdim=True), g.sum(1, keepdim=True)
        assert_close(a[group], torch.einsum("nti,ntj->ij", X, X) / X[..., 0].numel())
        assert_close(s[group], torch.einsum("nti,ntj->ij", g, g) / 5)


@pytest.mark.parametrize("geometry", CONVOLUTIONS, ids=str)
def test_the_means_of_eva_equal_those_of_explicit_patches(geometry):
    """m_a is the mean of the explicit patches, and m_g is the gradient of the bias."""
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, **geometry).double()
    x = torch.randn(5, 4, 7, 6, dtype=torch.float64)
    m_a, m_g, gradient = record_statistics("eva", conv, x)
    for group, X in enumerate(reference.rows(conv, x)):
        assert_close(m_a[group], X.mean(0))
    assert_close(m_g.flatten(), gradient.sum((0, 2, 3)))
    if conv.bias is not None:
        assert_close(m_g.flatten(), conv.bias.grad)


@pytest.mark.parametrize("options", [{"sharing": "expand"}, {"sharing": "reduce"}], ids=str)
def test_a_pointwise_convolution_is_a_linear_layer_over_tokens(options):
    """A, S and the directions are equal."""
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 5, 1).double()
    linear = nn.Linear(3, 5).double()
    linear.load_state_dict({"weight": conv.weight.detach().flatten(1), "bias": conv.bias.detach()})
    x = torch.randn(6, 3, 4, 2, dtype=torch.float64)
    target = torch.randn(6, 8, 5, dtype=torch.float64)
    for name in ("kfac", "eva"):
        modules = {"conv": conv, "linear": linear}
        results = {}
        for key, module in modules.items():
            module.zero_grad()
            sharing = options if name == "kfac" else {}
            optimizer = precond.build(name, module, lr=0.1, **sharing)
            output = module(x).flatten(2).mT if key == "conv" else module(x.flatten(2).mT)
            (output - target).square().sum().div(6).backward()
            bank = optimizer._banks[0]
            bank.update(refresh=True)
            clip = optimizer.algorithm.clip
            optimizer._directions.compute(optimizer.param_groups, clip, scale=None)
            statistic = bank.state.statistic
            results[key] = [statistic.inputs.mean(), statistic.outputs.mean(), bank.buffer.clone()]
        for actual, expected in zip(results["conv"], results["linear"], strict=True):
            assert_close(actual, expected, 1e-12)


class Twice(nn.Module):
    """One layer that is called on two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.layer(x)) * self.layer(x + 1)


@pytest.mark.parametrize("together", [True, False], ids=["one call", "two calls"])
def test_the_calls_of_a_shared_layer_count_as_positions(together):
    """Two calls give the statistics of one call with two positions; m_g is the bias's gradient."""
    torch.manual_seed(0)
    module = Twice().double()
    x = torch.randn(6, 3, dtype=torch.float64)
    for name in ("kfac", "eva"):
        module.zero_grad()
        optimizer = precond.build(name, module)
        if together:
            first, second = module.layer(torch.stack([x, x + 1], 1)).unbind(1)
            (torch.tanh(first) * second).square().sum().div(6).backward()
        else:
            module(x).square().sum().div(6).backward()
        optimizer._banks[0].update(refresh=True)
        statistic = optimizer._banks[0].state.statistic
        if name == "eva":
            assert_close(statistic.outputs.mean()[0], module.layer.bias.grad)
            continue
        outputs = [module.layer(z).detach().requires_grad_() for z in (x, x + 1)]
        (torch.tanh(outputs[0]) * outputs[1]).square().sum().backward()
        assert_close(statistic.outputs.mean()[0], sum(z.grad.T @ z.grad for z in outputs) / 6)
        rows = torch.cat([torch.cat([x, x + 1]), torch.ones(12, 1).double()], 1)
        assert_close(statistic.inputs.mean()[0], rows.T @ rows / 12)


@pytest.mark.parametrize("name", ["kfac", "eva"])
def test_two_half_batches_equal_one_batch(name):
    """Forwards and backwards of two half batches give one update, with the sums over both."""
    x, y = batches()[0]
    statistics = []
    for parts in (1, 2):
        model = net().eval()  # in training mode, batch norm would normalise the halves
        optimizer = precond.build(name, model)
        for part, labels in zip(x.chunk(parts), y.chunk(parts), strict=True):
            F.cross_entropy(model(part), labels).backward()
        averages = []
        for bank in optimizer._banks:
            bank.update(refresh=False)
            averages += [bank.state.statistic.inputs, bank.state.statistic.outputs]
        for average in averages:
            assert_close(average.weight, torch.full_like(average.weight, 0.05))
        statistics.append([average.mean() for average in averages])
    for batch, halves in zip(*statistics, strict=True):
        assert_close(halves, batch, 1e-12)


@pytest.mark.parametrize("sharing", SHARING)
def test_g_scale_official_gives_the_scales_of_the_released_code(sharing):
    """Compared with `fisher`, S is divided by B^2 T (reduce: B^2 T^2), and m_g of Eva by B T."""
    torch.manual_seed(0)
    x = torch.randn(4, 7, 3, dtype=torch.float64)  # B = 4, T = 7
    linear = nn.Linear(3, 2).double()
    _, fisher, _ = record_statistics("kfac", linear, x, sharing=sharing)
    _, official, _ = record_statistics("kfac", linear, x, sharing=sharing, g_scale="official")
    assert_close(official, fisher / (4**2 * (7 if sharing == "expand" else 49)))
    _, fisher, _ = record_statistics("eva", linear, x)
    _, official, _ = record_statistics("eva", linear, x, g_scale="official")
    assert_close(official, fisher / 28)


def test_copy_first_gives_the_first_finite_update_the_weight_1():
    average = MovingAverage.zeros(2, 3, like=torch.zeros(1))
    bad, good = torch.full((1, 3), torch.nan), torch.full((1, 3), 4.0)
    for number, second in enumerate([bad, good, torch.zeros(1, 3)]):
        average.add(slice(0, 1), torch.full((1, 3), 2.0 * number), 2)
        average.add(slice(1, 2), second, 2)
        average.commit(0.75, copy_first=True)
    assert average.weight.tolist() == [1, 1]
    assert average.dropped.tolist() == [0, 1]
    assert average.mean().tolist() == [[0.6875] * 3, [1.5] * 3]


# ---------------------------------------------------------------------- the KL-clip


def second_step(
    name: str, kl_clip: float | None, scale: float = 1.0
) -> tuple[Tensor, Tensor, float]:
    """Take a step without clip, and a second step with the same factor and with `kl_clip`.

    The loss of the second step is multiplied by `scale`.

    Returns:
        The change of the layers and of the norms in the second step, and s = lr^2 <D, G> over the
        layers, which is -lr <change, G>.
    """
    model = net()
    settings = {"lr": 0.1, "momentum": 0.0, "weight_decay": 0.0}
    settings |= {"damping": DAMPING, "cov_interval": 5, "kl_clip": None}
    optimizer = precond.build(name, model, **settings)
    step(model, optimizer, *batches()[0])
    optimizer.algorithm = dataclasses.replace(optimizer.algorithm, kl_clip=kl_clip)
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    step(model, optimizer, *batches()[1], scale=scale)
    layers, norms = [], []
    s = 0.0
    for key, p in model.named_parameters():
        change = (p.detach() - before[key]).flatten()
        (norms if "norm" in key else layers).append(change)
        s -= 0.0 if "norm" in key else 0.1 * (change @ p.grad.flatten()).item()
    return torch.cat(layers), torch.cat(norms), s


@pytest.mark.parametrize("name", ["kfac", "eva"])
def test_the_kl_clip_bounds_lr2_D_G(name):
    """The layers' step is multiplied by min(1, sqrt(kappa / s)); norms are not clipped."""
    unclipped, unclipped_norms, s = second_step(name, None)
    assert s > 0
    for kappa in (0.5 * s, 2 * s):
        clipped, norms, _ = second_step(name, kappa)
        assert_close(clipped, min(1, (kappa / s) ** 0.5) * unclipped)
        assert_close(norms, unclipped_norms)


@pytest.mark.parametrize("name", ["kfac", "eva"])
def test_a_clipped_step_does_not_depend_on_the_scale_of_the_loss(name):
    """With the same factor, a loss times c multiplies D and G by c, and the clip divides by c.

    An unclipped step is multiplied by c.
    """
    layers, norms, s = second_step(name, 1e-6)
    scaled_layers, scaled_norms, _ = second_step(name, 1e-6, 8.0)
    assert s > 0
    assert_close(scaled_layers, layers)
    assert_close(scaled_norms, 8 * norms)
    assert_close(second_step(name, None, 8.0)[0], 8 * second_step(name, None)[0])


@pytest.mark.parametrize("name", ["kfac", "eva"])
def test_zero_gradients_change_no_parameter(name):
    """For s = 0, the factor of the clip is 1 and no parameter changes."""
    change, _, s = second_step(name, 1e-3, 0.0)
    assert s == 0
    assert torch.equal(change, torch.zeros_like(change))


# ---------------------------------------------------------------------- symmetries


def rotated_training(rotation: Tensor, build) -> tuple[Tensor, list[Tensor]]:
    """Train on rotated inputs; return the first weight, rotated back, and all other parameters."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    with torch.no_grad():
        model[0].weight.copy_(model[0].weight @ rotation.T)
    optimizer = build(model)
    generator = torch.Generator().manual_seed(2)
    for _ in range(15):
        x = torch.randn(12, 6, generator=generator, dtype=torch.float64)
        step(model, optimizer, x @ rotation.T, torch.randint(3, (12,), generator=generator))
    first, *others = [p.detach() for p in model.parameters()]
    return first @ rotation, others


@pytest.mark.parametrize(
    ("name", "options", "invariant"),
    [
        ("kfac", {"damping_rule": "factored"}, True),
        ("kfac", {"damping_rule": "eigen"}, True),
        ("eva", {}, True),
        ("foof", {}, True),
        ("nysact-s", {"rank": 3}, False),
        ("adam", {}, False),
    ],
)
def test_a_rotation_of_the_inputs_rotates_the_weights(name, options, invariant):
    """Inputs R x with initial weights W_0 R^T give W_t R^T for the invariant methods only."""
    generator = torch.Generator().manual_seed(9)
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=generator).double()).Q
    settings = {"damping": DAMPING, "cov_interval": 2, "inv_interval": 4}
    settings = {key: value for key, value in settings.items() if key in precond.defaults(name)}

    def build(model: nn.Module) -> torch.optim.Optimizer:
        return precond.build(name, model, **settings, **options)

    first, others = rotated_training(torch.eye(6).double(), build)
    rotated, rotated_others = rotated_training(rotation, build)
    pairs = zip([first, *others], [rotated, *rotated_others], strict=True)
    gap = max((a - b).abs().max().item() for a, b in pairs)
    assert gap < 1e-8 if invariant else gap > 1e-3


def test_nysact_g_is_invariant_to_rotations_if_omega_is_rotated_too():
    """A Gaussian Omega is multiplied by R, except in its bias row."""
    generator = torch.Generator().manual_seed(9)
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=generator).double()).Q
    settings = {"sketch": "gaussian", "rank": 3, "damping": DAMPING}
    settings |= {"cov_interval": 2, "inv_interval": 4}
    weights_of = []
    for matrix in (torch.eye(6).double(), rotation):

        def build(model: nn.Module, matrix: Tensor = matrix) -> torch.optim.Optimizer:
            optimizer = precond.NysAct(model, **settings)
            omega = optimizer._bank_of["0"].state.statistic.sketch.omega
            omega[:, :6] = matrix @ omega[:, :6]
            return optimizer

        first, others = rotated_training(matrix, build)
        weights_of.append(torch.cat([w.flatten() for w in (first, *others)]))
    assert (weights_of[0] - weights_of[1]).abs().max() < 1e-8


# ---------------------------------------------------------------------- curvlinops


class Tokens(nn.Module):
    """A Linear layer over positions, one after pooling, and a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3, stride=2, padding=1)
        self.token = nn.Linear(3, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.conv(x)).flatten(2).mT
        return self.head(torch.tanh(self.token(x)).mean(1))


@pytest.mark.parametrize("sharing", SHARING)
@pytest.mark.parametrize("loss", ["squared error, summed", "cross-entropy, averaged"])
def test_factors_products_and_inverses_of_kfac_equal_curvlinops(loss, sharing):
    curvlinops = pytest.importorskip("curvlinops")
    torch.manual_seed(0)
    model = Tokens().double()
    x = torch.randn(6, 2, 5, 5, dtype=torch.float64)
    summed = loss.startswith("squared")
    y = torch.randn(6, 3, dtype=torch.float64) if summed else torch.randint(3, (6,))
    criterion = nn.MSELoss(reduction="sum") if summed else nn.CrossEntropyLoss()
    parameters = list(model.parameters())
    curvlinops_kfac = curvlinops.KFACLinearOperator(
        model,
        criterion,
        parameters,
        [(x, y)],
        fisher_type="empirical",
        kfac_approx=sharing,
        separate_weight_and_bias=False,
        check_deterministic=False,
        num_per_example_loss_terms=1,
    )
    curvlinops_kfac.compute_kronecker_factors()

    # The curvature of a sum over examples is B times that of their mean, and this project assumes
    # that the loss is a mean.
    scale = len(x) if summed else 1
    settings = {"damping": DAMPING, "sharing": sharing, "kl_clip": None}
    optimizers = {rule: precond.KFAC(model, damping_rule=rule, **settings) for rule in RULES}
    model.zero_grad()
    (criterion(model(x), y) / scale).backward()
    gradients = [p.grad.clone() for p in parameters]
    for name in ("conv", "token", "head"):
        bank = optimizers["eigen"]._bank_of[name]
        state = bank.state
        bank.update(refresh=True)
        assert_close(state.statistic.inputs.mean()[0], curvlinops_kfac._input_covariances[name])
        assert_close(
            scale * state.statistic.outputs.mean()[0], curvlinops_kfac._gradient_covariances[name]
        )
    product = curvlinops_kfac @ gradients
    flags = {"factored": {"use_heuristic_damping": True}, "eigen": {"use_exact_damping": True}}
    inverses = {
        rule: curvlinops.KFACInverseLinearOperator(curvlinops_kfac, damping=scale * DAMPING, **flag)
        for rule, flag in flags.items()
    }
    for rule, optimizer in optimizers.items():
        for bank in optimizer._banks:
            bank.update(refresh=True)
        optimizer._directions.compute(optimizer.param_groups, optimizer.algorithm.clip, scale=None)
        directions = dict(zip(model.state_dict(), inverses[rule] @ gradients, strict=True))
        for key, parameter in model.named_parameters():
            assert_close(optimizer._directions.views[parameter], scale * directions[key], 1e-9)
    for index, (key, parameter) in enumerate(model.named_parameters()):
        if key.endswith("weight"):
            state = optimizers["eigen"]._bank_of[key.removesuffix(".weight")].state
            matrix = torch.cat([gradients[index].flatten(1), gradients[index + 1].unsqueeze(1)], 1)
            ours = state.statistic.outputs.mean()[0] @ matrix @ state.statistic.inputs.mean()[0]
            assert_close(scale * ours[:, :-1].reshape(parameter.shape), product[index])
