"""The options `shift`, `resample`, `init` and `first_inverse`, and the options of the update rule.

The conventions of the released code are compared with a transcription of that code in
`tests/reference/released.py`, and the values of `resample` with their definitions. Most other tests
use only the default values of these options.
"""

from __future__ import annotations

import copy
import io
from dataclasses import dataclass
from statistics import fmean

import pytest
import torch
import torch.nn.functional as F
from reference import gradient_matrices, released, rows, train
from reference.dense import to_dense
from reference.foof import FOOF as ReferenceFOOF
from test_oracles import (
    DAMPING,
    DECAY,
    INTERVALS,
    SETTINGS,
    batches,
    largest_difference,
    net,
    omegas,
    random_covariance,
    train_with,
)
from torch import Tensor, nn

import precond
from precond.algorithm import LayerShape, Signals
from precond.algorithms.nysact import NysAct, SketchedState
from precond.algorithms.nysact_variants import official_factor
from precond.parts.factors import LowRank
from precond.parts.nystrom import low_rank_factor
from precond.parts.sketches import ColumnSketch, Draws, GaussianSketch, Sketch
from tests.states import by_name

SKETCHES = ["subcolumn", "gaussian"]


@dataclass
class Constant:
    """A replacement of the input rows of a layer, with exactly the covariance A."""

    A: Tensor
    count: int = 7

    def gram(self) -> Tensor:
        return self.count * self.A.unsqueeze(0)

    def sketch(self, test_matrix: Tensor) -> Tensor:
        return self.count * (self.A @ test_matrix)

    def sketch_columns(self, columns: Tensor) -> Tensor:
        return self.count * self.A[:, columns[0]].unsqueeze(0)


def start(A: Tensor, **options) -> tuple[NysAct, SketchedState]:
    """Return NysAct and its state for one layer."""
    algorithm = NysAct(**options)
    state = algorithm.new_state(LayerShape(4, len(A)), ["layer"], like=A)
    assert isinstance(state, SketchedState)
    return algorithm, state


def feed(algorithm: NysAct, state: SketchedState, A: Tensor, times: int = 1) -> None:
    """Update the statistics, without a refresh."""
    for _ in range(times):
        algorithm.accumulate(state, slice(0, 1), Signals(Constant(A)))
        algorithm.commit(state)


def dense(sketch: Sketch) -> Tensor:
    """Return Omega of the first slot, `[p, r]`."""
    if isinstance(sketch, GaussianSketch):
        return sketch.omega[0].clone()
    return torch.eye(sketch.width, dtype=torch.float64)[:, sketch.columns[0]]


def nystrom(C: Tensor, Omega: Tensor) -> Tensor:
    """Return C (Omega^T C)^+ C^T."""
    W = Omega.T @ C
    return C @ torch.linalg.pinv((W + W.T) / 2, hermitian=True) @ C.T


# ---------------------------------------------------------------------- shift


@pytest.mark.parametrize("rho", [1.0, 1e-3])
@pytest.mark.parametrize("power", [0.5, 6.0], ids=["well-conditioned", "ill-conditioned"])
@pytest.mark.parametrize("mixed", [False, True], ids=["one Omega", "C over several Omegas"])
@pytest.mark.parametrize("sketch", SKETCHES)
def test_the_official_factor_equals_the_released_code(sketch, mixed, power, rho):
    """`official_factor` gives the P of the released code, which uses a full SVD and an inverse.

    This holds even if W is indefinite.
    """
    p, r, L = 24, 6, 3
    generator = torch.Generator().manual_seed(3)
    A = torch.stack([random_covariance(p, power, seed) for seed in range(L)])
    draws = Draws.first("abc", 0)

    def draw() -> tuple[Tensor, Sketch]:
        if sketch == "gaussian":
            omega = torch.randn(L, p, r, generator=generator, dtype=A.dtype) / p**0.5
            return omega, GaussianSketch(omega, draws)
        columns = torch.stack([torch.randperm(p, generator=generator)[:r] for _ in range(L)])
        eye = torch.eye(p, dtype=A.dtype)
        return torch.stack([eye[:, ids] for ids in columns]), ColumnSketch(columns, p, draws)

    C = sum(A @ draw()[0] for _ in range(4)) / 5 if mixed else torch.zeros(())
    omega, last = draw()
    C = C + A @ omega / (5 if mixed else 1)
    z, (ok, _) = official_factor(C, last, rho)
    assert ok.all()
    expected = [released.update_inverse(c, o, rho) for c, o in zip(C, omega, strict=True)]
    P = to_dense(LowRank(z, rho))
    torch.testing.assert_close(P, torch.stack(expected), rtol=0, atol=1e-9 / rho)
    tropp, _ = low_rank_factor(C, last, rho)
    difference = (to_dense(LowRank(tropp, rho)) - P).norm()
    assert difference > 1e-3 / rho, "the shift has no effect in this case"


@pytest.mark.parametrize("resample", ["fixed", "official"])
@pytest.mark.parametrize("sketch", SKETCHES)
def test_official_nysact_trains_like_the_released_code(sketch, resample):
    """The weights agree after 20 steps. Both use the test matrices that the optimizer draws."""
    model, expected = net(), net()
    common = {"ema_decay": DECAY, "damping": DAMPING}
    optimizer = precond.NysAct(
        model,
        **SETTINGS,
        **INTERVALS,
        **common,
        rank=6,
        sketch=sketch,
        resample=resample,
        shift="official",
    )
    drawn: dict[tuple[str, int], list[Tensor]] = {}
    for t, (x, y) in enumerate(batches()):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        if t % INTERVALS["cov_interval"] == 0:
            for name, matrices in omegas(optimizer).items():
                for group, matrix in enumerate(matrices):
                    drawn.setdefault((name, group), []).append(matrix.clone())
        loss.backward()
        optimizer.step()
    assert {name for name, _ in drawn} == {"0", "3", "6", "8", "10", "12"}
    for matrices in drawn.values():
        assert len(matrices) == 10
        assert (resample == "fixed") == all(torch.equal(matrix, matrices[0]) for matrix in matrices)

    train(
        expected,
        F.cross_entropy,
        batches(),
        lambda name, group, p: released.NysAct(drawn[name, group], beta=DECAY, rho=DAMPING),
        **SETTINGS,
        **INTERVALS,
    )
    assert largest_difference(model, expected) < 1e-9
    assert largest_difference(expected, net()) > 1e-2, "nothing was trained"


# ---------------------------------------------------------------------- resample


@pytest.mark.parametrize("sketch", SKETCHES)
def test_window_transfers_the_nystrom_matrix_to_the_new_omega(sketch):
    """With a constant A, C after a refresh is A_nys Omega for the new Omega."""
    A = random_covariance(20, power=1.0)
    algorithm, state = start(A, rank=5, sketch=sketch, resample="window", damping=0.1)
    for number in range(3):
        feed(algorithm, state, A)
        Omega, C = dense(state.statistic.sketch), state.statistic.average.mean()[0]
        assert state.statistic.sketch.draws.number.item() == number
        algorithm.refresh(state)
        A_nys = nystrom(C, Omega)
        Omega_new, C_new = dense(state.statistic.sketch), state.statistic.average.mean()[0]
        assert state.statistic.sketch.draws.number.item() == number + 1
        assert not torch.equal(Omega_new, Omega)
        torch.testing.assert_close(C_new, A_nys @ Omega_new, rtol=0, atol=1e-10)
        torch.testing.assert_close(nystrom(C_new, Omega_new), A_nys, rtol=0, atol=1e-8)
        # P is the damped inverse of A_nys, and so is P computed from the transferred sketch.
        expected = torch.linalg.inv(A_nys + 0.1 * torch.eye(20, dtype=A.dtype))
        torch.testing.assert_close(to_dense(state.factor)[0], expected, rtol=0, atol=1e-8)
        z, _ = low_rank_factor(state.statistic.average.mean(), state.statistic.sketch, 0.1)
        torch.testing.assert_close(to_dense(LowRank(z, 0.1))[0], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("sketch", SKETCHES)
def test_joint_averages_omega_with_the_sketch(sketch):
    """With a constant A, C = A Obar, where Obar is the moving average of the Omegas.

    P is the damped inverse of the Nystrom matrix of C and Obar.
    """
    A = random_covariance(20, power=1.0)
    algorithm, state = start(A, rank=5, sketch=sketch, resample="joint", damping=0.1, ema_decay=0.8)
    drawn = []
    for _ in range(6):
        feed(algorithm, state, A)
        drawn.append(dense(state.statistic.sketch))
    weights = 0.8 ** torch.arange(5, -1, -1, dtype=A.dtype)
    C, Obar = state.statistic.average.mean()[0].chunk(2)
    torch.testing.assert_close(
        Obar, torch.einsum("k,kpr->pr", weights / weights.sum(), torch.stack(drawn))
    )
    torch.testing.assert_close(C, A @ Obar, rtol=0, atol=1e-12)
    algorithm.refresh(state)
    expected = torch.linalg.inv(nystrom(C, Obar) + 0.1 * torch.eye(20, dtype=A.dtype))
    torch.testing.assert_close(to_dense(state.factor)[0], expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("sketch", SKETCHES)
def test_joint_is_consistent_only_for_a_constant_covariance(sketch):
    """If A changes, C is the average of A times that of Omega for `fixed`, but not for `joint`."""
    errors = {}
    for resample in ("fixed", "joint"):
        for change in (False, True):
            covariances = [random_covariance(20, seed=change * seed) for seed in range(6)]
            A = covariances[0]
            algorithm, state = start(A, rank=5, sketch=sketch, resample=resample, ema_decay=0.8)
            for covariance in covariances:
                feed(algorithm, state, covariance)
            weights = 0.8 ** torch.arange(5, -1, -1, dtype=A.dtype)
            mean = torch.einsum("k,kpq->pq", weights / weights.sum(), torch.stack(covariances))
            c, omega = state.statistic.mean()
            difference = mean @ dense(omega) - c[0]
            errors[resample, change] = (difference.norm() / c.norm()).item()
    assert errors.pop(("joint", True)) > 0.1
    assert max(errors.values()) < 1e-12


@pytest.mark.parametrize("sketch", SKETCHES)
@pytest.mark.parametrize("resample", ["fixed", "window", "joint", "official"])
def test_omega_is_redrawn_at_the_times_of_the_option(resample, sketch):
    """Omega is redrawn once per update (of one or more forwards), once per refresh, or never."""
    x, y = batches()[0]
    model = net()
    optimizer = precond.NysAct(
        model, **INTERVALS, lr=1e-3, rank=6, sketch=sketch, resample=resample
    )
    numbers = []
    for _ in range(13):
        optimizer.zero_grad()
        for part in (slice(0, 8), slice(8, 16)):
            F.cross_entropy(model(x[part]), y[part]).backward()
        optimizer.step()
        key, entries = "statistic.sketch.draws.number", by_name(optimizer.state_dict()).values()
        [number] = {n for entry in entries if key in entry for n in entry[key].tolist()}
        numbers.append(number)
    updates, refreshes = [t // 2 + 1 for t in range(13)], [t // 6 + 1 for t in range(13)]
    expected = {"fixed": [0] * 13, "window": refreshes, "joint": updates, "official": updates}
    assert numbers == expected[resample]


@pytest.mark.parametrize("sketch", SKETCHES)
@pytest.mark.parametrize("resample", ["window", "joint", "official"])
def test_a_run_with_a_redrawn_sketch_resumes_bitwise(resample, sketch):
    """The state contains Omega and its draw number; it is saved between a redraw and a refresh."""
    options = dict(
        **SETTINGS, **INTERVALS, rank=6, sketch=sketch, resample=resample, damping=DAMPING
    )
    model = net()
    optimizer = precond.NysAct(model, **options)

    def train_steps(model: nn.Module, optimizer: torch.optim.Optimizer, steps: slice) -> None:
        for x, y in batches()[steps]:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()

    train_steps(model, optimizer, slice(0, 9))
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    train_steps(model, optimizer, slice(9, 20))
    other = net()
    resumed = precond.NysAct(other, **options)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    key = "statistic.sketch.draws.number"
    numbers = [entry[key] for entry in by_name(saved["optimizer"]).values() if key in entry]
    assert len(numbers) == 6 and all((number > 0).all() for number in numbers)
    other.load_state_dict(saved["model"])
    resumed.load_state_dict(saved["optimizer"])
    train_steps(other, resumed, slice(9, 20))
    assert largest_difference(model, other) == 0


@pytest.mark.parametrize("sketch", SKETCHES)
def test_only_a_fixed_omega_gives_a_constant_factor(sketch):
    """With the same batch at each step, P is constant for `fixed` and changes for `official`."""
    x, y = batches()[0]
    changes = {}
    for resample in ("fixed", "official"):
        model = net()
        optimizer = precond.NysAct(
            model,
            lr=1e-300,
            cov_interval=1,
            inv_interval=1,
            rank=6,
            sketch=sketch,
            resample=resample,
            damping=DAMPING,
        )
        factors = []
        for _ in range(60):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            factors.append(
                copy.deepcopy([to_dense(bank.state.factor) for bank in optimizer._banks])
            )
        changes[resample] = max(
            (p - q).abs().max().item()
            for later in factors
            for p, q in zip(later, factors[0], strict=True)
        )
    assert changes["fixed"] < 1e-10 / DAMPING
    assert changes["official"] > 1e-2 / DAMPING


# ---------------------------------------------------------------------- gains of the variants
#
# `gain_of` defines the gain of a preconditioner P. The expected gains come from independent
# numerical experiments with the eigenvalues k^-2. The norm and the scale of A in those experiments
# are not known. The Frobenius norm and eigenvalues p k^-2 reproduce their gains: that of the best
# inverse of rank r is 0.510 here, and 0.513 there.

GAINS = {  # (resample, shift): gain with a Gaussian sketch, gain with a subcolumn sketch
    ("fixed", "tropp"): (0.442, 0.436),
    ("joint", "tropp"): (0.437, 0.435),
    ("fixed", "damped"): (0.260, 0.258),
    ("fixed", "official"): (0.181, 0.167),
    ("official", "official"): (0.076, 0.073),
}
BEST_RANK_R = 0.513


def scaled_covariance(seed: int, p: int = 145) -> Tensor:
    """Return a matrix A with eigenvalues p k^-2 in a random basis."""
    return p * random_covariance(p, power=2.0, seed=100 + seed)


def gain_of(P: Tensor, A: Tensor, rho: float = 1.0) -> float:
    """Return the gain of P over I / rho, as a fraction of the gain of the exact inverse.

    It is 1 - |P - P_exact| / |I / rho - P_exact| in the Frobenius norm.
    """
    eye = torch.eye(len(A), dtype=A.dtype)
    exact = torch.linalg.inv(A + rho * eye)
    return 1 - ((P - exact).norm() / (eye / rho - exact).norm()).item()


def mean_gain(sketch: str, resample: str, shift: str) -> float:
    """Return the mean gain over 8 bases and draws, after 60 updates and one refresh.

    The sizes are p = 145, r = 10 and rho = 1.
    """
    gains = []
    for seed in range(8):
        A = scaled_covariance(seed)
        algorithm, state = start(
            A, rank=10, damping=1.0, sketch=sketch, resample=resample, shift=shift, seed=seed
        )
        feed(algorithm, state, A, times=60)
        algorithm.refresh(state)
        gains.append(gain_of(to_dense(state.factor)[0], A))
    return fmean(gains)


def test_gain_of_the_best_low_rank_inverse():
    """The gain of the exact inverse is 1, and that of I / rho is 0."""
    A = scaled_covariance(0)
    eigenvalues, basis = torch.linalg.eigh(A)
    eye = torch.eye(145, dtype=A.dtype)
    largest = torch.cat([torch.zeros(135, dtype=A.dtype), eigenvalues[135:]])
    best = (basis / (largest + 1)) @ basis.mT
    assert gain_of(best, A) == pytest.approx(BEST_RANK_R, abs=0.005)
    assert gain_of(torch.linalg.inv(A + eye), A) == pytest.approx(1)
    assert gain_of(eye, A) == 0


@pytest.mark.parametrize("sketch", SKETCHES)
def test_gains_match_the_table(sketch):
    """Each gain is within 0.03 of the table, and the order of the variants is that of the table."""
    gains = {variant: mean_gain(sketch, *variant) for variant in GAINS}
    for variant, expected in GAINS.items():
        assert gains[variant] == pytest.approx(expected[sketch == "subcolumn"], abs=0.03), variant
    assert max(gains["fixed", "tropp"], gains["joint", "tropp"]) < BEST_RANK_R
    assert min(gains["fixed", "tropp"], gains["joint", "tropp"]) > gains["fixed", "damped"] + 0.1
    assert gains["fixed", "damped"] > gains["fixed", "official"] + 0.05
    assert gains["fixed", "official"] > gains["official", "official"] + 0.05


@pytest.mark.parametrize("sketch", SKETCHES)
def test_window_has_the_gain_of_fixed(sketch):
    """There are 60 updates as in `mean_gain`, but six refreshes, each of which redraws Omega."""
    gains = []
    for seed in range(8):
        A = scaled_covariance(seed)
        algorithm, state = start(
            A, rank=10, damping=1.0, sketch=sketch, resample="window", seed=seed
        )
        for _ in range(6):
            feed(algorithm, state, A, times=10)
            algorithm.refresh(state)
        gains.append(gain_of(to_dense(state.factor)[0], A))
    assert fmean(gains) == pytest.approx(GAINS["fixed", "tropp"][sketch == "subcolumn"], abs=0.03)


# ---------------------------------------------------------------------- options of FOOF and SGD


def test_official_foof_trains_like_the_released_code():
    """A starts at I without bias correction, and P is I until step `inv_interval`."""
    model, expected = net(), net()
    common = SETTINGS | INTERVALS
    options = {"ema_decay": DECAY, "damping": DAMPING, "init": "identity", "first_inverse": "skip"}
    train_with(precond.FOOF(model, **common, **options), model)
    train(
        expected,
        F.cross_entropy,
        batches(),
        lambda name, group, p: released.FOOF(p, beta=DECAY, rho=DAMPING),
        **common,
    )
    assert largest_difference(model, expected) < 1e-10
    default = net()
    train_with(precond.FOOF(default, **common, ema_decay=DECAY, damping=DAMPING), default)
    assert largest_difference(model, default) > 1e-2, "the options have no effect in this case"


@pytest.mark.parametrize("decoupled", [False, True], ids=["coupled", "decoupled"])
@pytest.mark.parametrize("nesterov", [False, True], ids=["heavy ball", "nesterov"])
def test_momentum_and_decay_follow_their_formulas(nesterov, decoupled):
    """w <- w - lr m, or w - lr (d + mu m) with Nesterov momentum, where m <- mu m + d.

    D is the preconditioned gradient. Coupled decay is d = D + wd w; decoupled decay is d = D after
    w <- (1 - lr wd) w. Neither is preconditioned.
    """
    lr, mu, wd = 0.05, 0.9, 0.1
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(72, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    expected = copy.deepcopy(model)
    step = {
        "lr": lr,
        "momentum": mu,
        "weight_decay": wd,
        "nesterov": nesterov,
        "decoupled": decoupled,
    }
    train_with(precond.FOOF(model, **step, **INTERVALS, ema_decay=DECAY, damping=DAMPING), model)

    layers = [expected[1], expected[3]]
    inputs: dict[nn.Module, Tensor] = {}
    for layer in layers:
        layer.register_forward_pre_hook(
            lambda module, args: inputs.update({module: args[0].detach()})
        )
    methods = [ReferenceFOOF(layer.in_features + 1, beta=DECAY, rho=DAMPING) for layer in layers]
    m = [
        torch.zeros(layer.out_features, layer.in_features + 1, dtype=torch.float64)
        for layer in layers
    ]
    for t, (x, y) in enumerate(batches()):
        expected.zero_grad()
        F.cross_entropy(expected(x), y).backward()
        for i, (layer, method) in enumerate(zip(layers, methods, strict=True)):
            if t % INTERVALS["cov_interval"] == 0:
                method.update(rows(layer, inputs[layer])[0])
            if t % INTERVALS["inv_interval"] == 0:
                method.invert()
            w = torch.cat([layer.weight.data, layer.bias.data.unsqueeze(1)], dim=1)
            D = gradient_matrices(layer)[0] @ method.P
            if decoupled:
                w = (1 - lr * wd) * w
                d = D
            else:
                d = D + wd * w
            m[i] = mu * m[i] + d
            w = w - lr * (d + mu * m[i] if nesterov else m[i])
            layer.weight.data, layer.bias.data = w[:, :-1].clone(), w[:, -1].clone()
    assert largest_difference(model, expected) < 1e-11


def test_nesterov_momentum_differs_from_the_released_code_only_in_the_first_step():
    """The released code has no look-ahead in its first step; torch and this package have it."""
    lr, mu, decay = 0.05, 0.9, 0.1
    torch.manual_seed(0)
    model = nn.ModuleDict({"norm": nn.LayerNorm(4), "layer": nn.Linear(4, 2)}).double()
    weight, other = model["norm"].weight, model["norm"].weight.detach().clone()
    optimizer = precond.NysAct(model, rank=2, lr=lr, momentum=mu, nesterov=True, weight_decay=decay)
    buffers: dict[str, Tensor] = {}
    for step in range(3):
        weight.grad = torch.randn(4, dtype=torch.float64)
        before = weight.detach().clone()
        expected = before.clone()
        released.nag_step(expected, weight.grad, buffers, lr, mu, decay)
        optimizer.step()
        look_ahead = lr * mu * (weight.grad + decay * other) if step == 0 else 0
        torch.testing.assert_close(weight.detach(), expected - look_ahead, rtol=0, atol=1e-14)
