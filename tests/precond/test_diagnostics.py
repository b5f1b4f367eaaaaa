"""Diagnostics: the measures equal those of dense float64 matrices, and training does not change."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import banks
import pytest
import torch
from reference.dense import to_dense
from test_contract import (
    PRECONDITIONED,
    assert_bitwise_equal,
    batch,
    copy_parameters,
    known_hyperparameters,
    make_model,
    train_steps,
)
from torch import Tensor, nn

import precond
from precond.diagnostics import monitor
from precond.diagnostics.measures import EVERY
from precond.diagnostics.monitor import COUNTS, MEASURES, PROBES, top_eigenvalue
from precond.registry import lookup

NYSACT = ["nysact-s", "nysact-g"]
Grams = list[dict[str, Tensor]]


def mlp(width: int = 40) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(width, 12), nn.Tanh(), nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, 3)
    ).double()


def inputs(number: int, width: int = 40) -> Tensor:
    """Return rows with a non-zero mean and a decaying spectrum, different in each batch."""
    generator = torch.Generator().manual_seed(number)
    x = torch.randn(64, width, generator=generator, dtype=torch.float64)
    return 0.5 + 0.1 * number + x / torch.arange(1, width + 1).roll(number).sqrt()


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, numbers: range, width: int = 40
) -> Grams:
    """Train, and return (1/N) X^T X of each step and layer; the last column of X is 1."""
    grams_by_step: Grams = []
    for number in numbers:
        x, grams = inputs(number, width), {}
        optimizer.zero_grad()
        out = x
        for name, module in model.named_children():
            if isinstance(module, nn.Linear):
                rows = torch.cat([out.detach(), torch.ones(len(out), 1, dtype=out.dtype)], 1)
                grams[name] = rows.T @ rows / len(rows)
            out = module(out)
        out.square().sum(1).mean().backward()
        optimizer.step()
        grams_by_step.append(grams)
    return grams_by_step


def average(grams: list[Tensor], decay: float) -> Tensor:
    """Return the bias-corrected moving average."""
    value, weight = torch.zeros_like(grams[0]), 0.0
    for gram in grams:
        value, weight = decay * value + (1 - decay) * gram, decay * weight + 1 - decay
    return value / weight


def fro_norm(matrix: Tensor) -> float:
    return torch.linalg.matrix_norm(matrix).item()


def largest_eigenvalue(matrix: Tensor) -> float:
    return torch.linalg.eigvalsh(matrix)[-1].item()


def build_monitored(name: str, model: nn.Module, **settings: Any) -> Any:
    optimizer = precond.build(name, model, **known_hyperparameters(name, **settings))
    optimizer.monitor()
    return optimizer


# ---------------------------------------------------------------------- the matrices


@pytest.mark.parametrize("name", ["foof", "kfac"])
def test_dense_spectra_and_staleness_are_exact(name):
    """The measures describe A at the last refresh, in step 8; staleness also uses A of step 4."""
    model = mlp()
    intervals = {"cov_interval": 1, "inv_interval": 4}
    optimizer = build_monitored(name, model, **intervals, ema_decay=0.8, damping=0.3, lr=0.01)
    grams_by_step = train(model, optimizer, range(11))
    for layer, row in optimizer.diagnostics().items():
        old, new = (
            average([grams[layer] for grams in grams_by_step[: at + 1]], 0.8) for at in (4, 8)
        )
        assert row["stable_rank"] == pytest.approx(
            new.trace().item() / largest_eigenvalue(new), rel=1e-6
        )
        assert row["staleness"] == pytest.approx(fro_norm(new - old) / fro_norm(new), rel=1e-9)
        assert row["residual"] is None
        if name == "foof":
            assert row["top_over_damping"] == pytest.approx(largest_eigenvalue(new) / 0.3, rel=1e-6)


@pytest.mark.parametrize("rule", ["factored", "eigen"])
def test_top_eigenvalue_of_kfac_is_that_of_the_kronecker_product(rule):
    model = mlp()
    optimizer = build_monitored(
        "kfac", model, cov_interval=1, inv_interval=1, damping=0.3, damping_rule=rule
    )
    train(model, optimizer, range(3))
    for layer, row in optimizer.diagnostics().items():
        bank = optimizer._bank_of[layer]
        statistic, slots = bank.state.statistic, bank.slots[layer]
        a, s = statistic.inputs.mean()[slots][0], statistic.outputs.mean()[slots][0]
        assert row["top_over_damping"] == pytest.approx(
            largest_eigenvalue(a) * largest_eigenvalue(s) / 0.3, rel=1e-6
        )
        if rule == "eigen":  # the factor contains 1 / (s a + rho)
            smallest = bank.state.factor.scale[bank.slots[layer]].min().item()
            assert row["top_over_damping"] == pytest.approx(1 / (0.3 * smallest) - 1, rel=1e-6)


def test_top_eigenvalue_of_eva_is_that_of_its_factor():
    """P has the eigenvalue 1 / (|v|^2 + rho) once; all others are 1 / rho."""
    model = mlp()
    optimizer = build_monitored("eva", model, cov_interval=1, damping=0.3)
    train(model, optimizer, range(3))
    row, factor = optimizer.diagnostics()["4"], optimizer._bank_of["4"].state.factor
    smallest = torch.linalg.eigvalsh(to_dense(factor)[0])[0].item()
    assert row["top_over_damping"] == pytest.approx((1 / smallest - 0.3) / 0.3, rel=1e-9)
    assert row["stable_rank"] is row["residual"] is row["staleness"] is None


def test_ekfac_and_steve_are_measured_at_their_refresh():
    """After a refresh of EKFAC, S = l k^T, and its largest entry is the top eigenvalue."""
    for name in ("ekfac", "steve"):
        model = mlp()
        optimizer = build_monitored(name, model, basis_interval=2, damping=0.3, ema_decay=0.999999)
        grams_by_step = train(model, optimizer, range(3))
        for layer, row in optimizer.diagnostics().items():
            a, old = grams_by_step[2][layer], grams_by_step[0][layer]
            assert row["stable_rank"] == pytest.approx(
                a.trace().item() / largest_eigenvalue(a), rel=1e-6
            )
            assert row["staleness"] == pytest.approx(fro_norm(a - old) / fro_norm(a), rel=1e-9)
            if name == "ekfac":
                bank = optimizer._bank_of[layer]
                moment = bank.state.statistic.mean()[bank.slots[layer]]
                assert row["top_over_damping"] == pytest.approx(moment.max().item() / 0.3, rel=1e-4)
            else:
                assert row["top_over_damping"] is None


def run_with_different_probes(
    name: str, seeds: int, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[dict], Tensor, Tensor, Tensor]:
    """Repeat a run with different random probes of the monitor.

    Returns:
        The diagnostics of the first layer in each run, its A at the last two refreshes, and the
        approximation A^ of the last A.
    """
    rows, original = [], monitor.seed_of
    settings = {"rank": 6, "cov_interval": 1, "inv_interval": 4}
    settings |= {"ema_decay": 0.8, "damping": 0.3, "lr": 0.01}
    for seed in range(seeds):
        monkeypatch.setattr(monitor, "seed_of", lambda _, *rest, seed=seed: original(seed, *rest))
        model = mlp()
        optimizer = build_monitored(name, model, **settings)
        grams_by_step = train(model, optimizer, range(6))
        rows.append(optimizer.diagnostics()["0"])
    old, new = (average([grams["0"] for grams in grams_by_step[: at + 1]], 0.8) for at in (0, 4))
    inverse = to_dense(optimizer._bank_of["0"].state.factor)[0]
    return rows, old, new, torch.linalg.inv(inverse) - 0.3 * torch.eye(len(inverse))


@pytest.mark.parametrize("name", NYSACT)
def test_low_rank_measures_are_unbiased_and_as_accurate_as_documented(name, monkeypatch):
    """A is 41 x 41 and has a sketch of 6 columns.

    Each estimate is within 4 standard deviations of the exact value, and their mean is closer.
    """
    rows, old, new, nystrom = run_with_different_probes(name, 25, monkeypatch)
    bound = (2 / PROBES) ** 0.5
    assert fro_norm(new - nystrom) > 0.02 * fro_norm(new)  # there is something to estimate
    for square in (
        [(row["residual"] * fro_norm(new) / fro_norm(new - nystrom)) ** 2 for row in rows],
        [(row["staleness"] * fro_norm(new) / fro_norm(new - old)) ** 2 for row in rows],
    ):
        ratios = torch.tensor(square)
        assert ratios.std() < bound
        assert (ratios - 1).abs().max() < 4 * bound
        assert abs(ratios.mean() - 1) < 3 * bound / len(rows) ** 0.5
    ranks = torch.tensor([row["stable_rank"] for row in rows])
    assert ranks.std() / ranks.mean() < 0.05
    assert ranks.mean().item() == pytest.approx(
        new.trace().item() / largest_eigenvalue(nystrom), rel=0.02
    )
    for row in rows:
        assert row["top_over_damping"] == pytest.approx(largest_eigenvalue(nystrom) / 0.3, rel=1e-6)
    assert largest_eigenvalue(nystrom) <= largest_eigenvalue(new) * (1 + 1e-6)


@pytest.mark.parametrize("name", NYSACT)
def test_the_residual_of_an_exact_nystrom_matrix_is_zero(name):
    """A^ equals A because the batch has fewer rows than the sketch has columns."""
    model = mlp()
    optimizer = build_monitored(name, model, rank=20, inv_interval=5)
    optimizer.zero_grad()
    model(inputs(0)[:3]).square().sum().backward()
    optimizer.step()
    assert 0 < optimizer.diagnostics()["0"]["residual"] < 1e-6


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("resample", "window"),
        ("resample", "joint"),
        ("resample", "official"),
        ("shift", "damped"),
        ("shift", "official"),
    ],
)
def test_the_residual_is_that_of_the_factor_in_use(option, value):
    """A^ is P^{-1} - rho I, also for options with which it approximates A poorly."""
    model = mlp()
    settings = {"rank": 6, "cov_interval": 1, "inv_interval": 4, "ema_decay": 0.8, "damping": 0.3}
    optimizer = build_monitored("nysact-g", model, **settings, **{option: value})
    grams_by_step = train(model, optimizer, range(6))
    a = average([grams["0"] for grams in grams_by_step[:5]], 0.8)
    inverse = to_dense(optimizer._bank_of["0"].state.factor)[0]
    used = torch.linalg.inv(inverse) - 0.3 * torch.eye(len(a))
    residual = optimizer.diagnostics()["0"]["residual"]
    assert residual == pytest.approx(fro_norm(a - used) / fro_norm(a), rel=0.5)


@pytest.mark.parametrize("width", [3, 8, 50])
def test_top_eigenvalue_agrees_with_eigvalsh(width):
    """The four matrices have a spectral gap, equal eigenvalues, rank one, and rank zero."""
    generator = torch.Generator().manual_seed(width)
    basis = torch.linalg.qr(torch.randn(width, width, generator=generator).double()).Q
    spectra = [
        torch.logspace(0, -3, width),
        torch.ones(width),
        torch.eye(width)[0],
        torch.zeros(width),
    ]
    stack = torch.stack([(basis * s.double()) @ basis.T for s in spectra])
    expected = torch.linalg.eigvalsh(stack)[:, -1]
    torch.testing.assert_close(top_eigenvalue(stack), expected, rtol=1e-6, atol=1e-12)


# ---------------------------------------------------------------------- directions and counts


def test_cosine_and_update_ratio_are_exact():
    """Without momentum and decay, the change of the weights is -lr D, so that it gives D."""
    model = mlp()
    optimizer = build_monitored(
        "foof", model, lr=0.1, momentum=0.0, weight_decay=0.0, cov_interval=1, inv_interval=1
    )
    cosines, ratios = [], []
    for number in range(EVERY + 3):
        before = [model[0].weight.detach().clone(), model[0].bias.detach().clone()]
        train(model, optimizer, range(number, number + 1))
        flat = torch.cat([p.detach().flatten() for p in (model[0].weight, model[0].bias)])
        start = torch.cat([p.flatten() for p in before])
        gradient = torch.cat([p.grad.flatten() for p in (model[0].weight, model[0].bias)])
        cosines.append(torch.cosine_similarity(start - flat, gradient, dim=0).item())
        ratios.append(((start - flat).norm() / start.norm()).item())
    row = optimizer.diagnostics()["0"]
    assert row["cosine"] == pytest.approx((cosines[0] + cosines[EVERY]) / 2, rel=1e-9)
    assert row["update_over_weight"] == pytest.approx((ratios[0] + ratios[EVERY]) / 2, rel=1e-9)
    train(model, optimizer, range(EVERY + 3, EVERY + 5))
    assert optimizer.diagnostics()["0"]["cosine"] is None  # a window without a measured step


def nonzero_counts(optimizer: Any, layer: str) -> dict[str, float | None]:
    """Return the non-zero counts of a layer; reading them starts a new window."""
    row = optimizer.diagnostics()[layer]
    return {name: row[name] for name in COUNTS if row[name]}


def test_failures_are_counted_by_window_and_layer():
    """Each of four kinds of failure increments one count of one layer; a read resets the counts."""
    model = nn.Sequential(nn.Linear(6, 6, bias=False), nn.Tanh(), nn.Linear(6, 6, bias=False))
    optimizer = precond.build("foof", model, cov_interval=1, inv_interval=1, damping=1e-12)
    bank = optimizer._bank_of["0"]

    def update(*inputs: Tensor) -> None:
        for layer, x in zip(optimizer._layers.values(), inputs, strict=False):
            banks.record(bank, layer, x)
        bank.update(refresh=True)

    def precondition() -> None:
        bank.buffer.fill_(1)
        bank.precondition(lr=0.1)

    good = torch.randn(32, 6, generator=torch.Generator().manual_seed(0))
    # The covariance of `massive` has no Cholesky factorisation in float32.
    massive = good * torch.tensor([1e6, 1, 1, 1, 1, 1]) + 1e6
    update(good, good)
    precondition()
    assert nonzero_counts(optimizer, "0") == {}
    update(torch.full_like(good, torch.inf), good)
    assert nonzero_counts(optimizer, "0") == {"dropped": 1}
    update(good, massive)
    assert nonzero_counts(optimizer, "2") == {"rescued": 1}
    bank.state.factor.inverse[1].fill_(torch.nan)
    precondition()
    assert nonzero_counts(optimizer, "2") == {"fallbacks": 1}
    bank.state.statistic.average.value[0, 0, 0] = torch.nan
    update()
    assert nonzero_counts(optimizer, "0") == {"failed": 1}
    assert nonzero_counts(optimizer, "0") == {}
    update(torch.full_like(good, torch.inf))
    assert nonzero_counts(optimizer, "2") == {"rescued": 1}  # its average still contains `massive`


def test_a_layer_without_gradient_does_not_count_as_fallback():
    model = mlp()
    optimizer = build_monitored("foof", model)
    train(model, optimizer, range(1))
    train_only_head = model[4](torch.ones(2, 12, dtype=torch.float64)).sum()
    optimizer.zero_grad()
    train_only_head.backward()
    optimizer.step()
    assert [row["fallbacks"] for row in optimizer.diagnostics().values()] == [0, 0, 0]


@pytest.mark.parametrize("name", NYSACT)
def test_an_indefinite_sketch_is_rescued_by_larger_shifts(name):
    """With C = -Omega, a shift as small as the rounding error does not make the core definite."""
    model = mlp()
    optimizer = precond.build(name, model, rank=6)
    train(model, optimizer, range(1))
    bank = optimizer._bank_of["0"]
    average, omega = bank.state.statistic.average, bank.state.statistic.sketch
    shift = -average.weight.unsqueeze(1).expand_as(average.value[:, :, 0])
    average.value.copy_(omega.add_to(torch.zeros_like(average.value), shift.to(average.value)))
    optimizer.diagnostics()
    bank.update(refresh=True)
    assert nonzero_counts(optimizer, "0") == {"rescued": 1}


# ---------------------------------------------------------------------- no effect on training


@pytest.mark.parametrize("name", PRECONDITIONED)
def test_a_monitor_does_not_change_the_training(name):
    """In the three runs, the monitor never starts, starts at once, or starts before step 5."""
    ends = []
    for start in (None, 0, 5):
        model = make_model()
        settings = known_hyperparameters(
            name, cov_interval=2, inv_interval=4, basis_interval=4, rank=4
        )
        optimizer = precond.build(name, model, **settings)
        for number in range(10):
            if number == start:
                optimizer.monitor()
            train_steps(model, optimizer, range(number, number + 1))
            if start is not None:
                optimizer.diagnostics()
        state = {key: value for key, value in optimizer.state_dict().items() if key != "monitor"}
        ends.append((copy_parameters(model), state, torch.get_rng_state()))
    for (values, state, random), (others, other_state, other_random) in itertools.pairwise(ends):
        assert_bitwise_equal(values, others)
        assert_bitwise_equal(state, other_state)
        assert random.equal(other_random)


@pytest.mark.parametrize("name", PRECONDITIONED)
def test_a_monitor_resumes_bitwise_from_a_saved_state(name):
    settings = known_hyperparameters(name, cov_interval=2, inv_interval=4, basis_interval=4, rank=4)
    model = make_model()
    uninterrupted = build_monitored(name, model, **settings)
    train_steps(model, uninterrupted, range(6))
    uninterrupted.diagnostics()
    saved_model = {key: value.clone() for key, value in model.state_dict().items()}
    saved = uninterrupted.state_dict()
    other = make_model()
    resumed = build_monitored(name, other, **settings)
    other.load_state_dict(saved_model)
    resumed.load_state_dict(saved)
    train_steps(other, resumed, range(6, 11))
    train_steps(model, uninterrupted, range(6, 11))
    assert uninterrupted.diagnostics() == resumed.diagnostics()


@pytest.mark.parametrize(
    "name", [n for n in PRECONDITIONED if "GradScaler" not in lookup(n).card.unsupported]
)
def test_a_step_that_a_scaler_skips_is_not_measured(name):
    """The scaler skips a step that the monitor would otherwise measure."""
    model = make_model()
    settings = known_hyperparameters(name, cov_interval=1, inv_interval=1, basis_interval=1, rank=4)
    optimizer = build_monitored(name, model, **settings)
    train_steps(model, optimizer, range(EVERY))
    optimizer.diagnostics()
    before = copy.deepcopy(optimizer.state_dict()["monitor"])
    optimizer.found_inf, optimizer.grad_output_scale = torch.ones(1), 1.0
    train_steps(model, optimizer, range(EVERY, EVERY + 1))
    after = optimizer.state_dict()["monitor"]
    for layer, tensors in before.items():
        # A refresh without new statistics still updates the staleness.
        for key in tensors.keys() - {"staleness"}:
            torch.testing.assert_close(after[layer][key], tensors[key], msg=f"{layer} {key}")
    counted = {"dropped"} if name in ("ekfac", "skfac", "steve") else set()
    for row in optimizer.diagnostics().values():
        assert all(row[count] == 0 for count in set(COUNTS) - counted)


def test_without_a_monitor_the_state_has_no_monitor_but_failures_are_counted():
    """The same holds after a monitor is turned off."""
    model = make_model()
    optimizer = precond.build("nysact-s", model, rank=4)
    train_steps(model, optimizer, range(2))
    assert "monitor" not in optimizer.state_dict()
    row = optimizer.diagnostics()["hidden"]
    assert all(row[name] is None for name in MEASURES) and row["dropped"] == 0
    optimizer.monitor()
    assert set(optimizer.state_dict()["monitor"]) == set(optimizer._layers)
    assert optimizer.monitor(on=False) is None
    assert "monitor" not in optimizer.state_dict()


def test_a_late_monitor_measures_from_the_next_refresh():
    model = mlp()
    optimizer = precond.build("nysact-g", model, rank=6, cov_interval=1, inv_interval=4)
    train(model, optimizer, range(3))
    optimizer.monitor()
    train(model, optimizer, range(3, 4))
    assert optimizer.diagnostics()["0"]["residual"] is None
    train(model, optimizer, range(4, 5))
    row = optimizer.diagnostics()["0"]
    assert row["residual"] is not None and row["staleness"] is None


def test_a_refresh_before_the_first_statistics_is_not_measured():
    """The monitor starts after the statistics of step 3, and the refresh is in step 4."""
    model = mlp()
    optimizer = precond.build("nysact-g", model, rank=6, cov_interval=3, inv_interval=4)
    train(model, optimizer, range(4))
    optimizer.monitor()
    train(model, optimizer, range(4, 5))
    row = optimizer.diagnostics()["0"]
    assert row["residual"] is row["stable_rank"] is row["top_over_damping"] is None


def test_the_groups_of_a_convolution_have_one_row_with_the_mean_of_their_measures():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 8, 3, groups=4), nn.Flatten(), nn.Linear(8 * 36, 3))
    optimizer = build_monitored("foof", model)
    x, y = batch()
    nn.functional.cross_entropy(model(x.repeat(1, 4, 1, 1)), y).backward()
    optimizer.step()
    row, bank = optimizer.diagnostics()["0"], optimizer._bank_of["0"]
    matrices = bank.state.statistic.average.mean()[bank.slots["0"]].double()
    ranks = [matrix.trace().item() / largest_eigenvalue(matrix) for matrix in matrices]
    assert len(ranks) == 4 and row["stable_rank"] == pytest.approx(sum(ranks) / 4, rel=1e-4)
    assert 0 < (row["cosine"] or 0) <= 1 and 0 < (row["update_over_weight"] or 0) < 1


def test_the_clock_measures_the_time_of_the_diagnostics():
    """`read` returns a positive number of seconds, and resets the clock."""
    model = make_model()
    optimizer = precond.build("nysact-g", model, rank=4)
    clock = optimizer.monitor()
    train_steps(model, optimizer, range(2))
    optimizer.diagnostics()
    assert 0 < clock.read() < 60
    assert clock.read() == 0
