"""The decision on a candidate against a baseline, and the e-processes that it is based on."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import integrate, stats

from studies.harness.evidence.judgement import Rules, Verdict, judge
from studies.harness.evidence.scale import Scale
from studies.harness.statistics.paired import holm
from studies.harness.statistics.sequential import (
    PRIOR,
    confidence_sequence,
    equivalence_p,
    evidence,
    first_sign,
    seeds_expected,
    share_of_error,
    sign_process,
)

MSE = Scale("digits/autoencoder", "test/mse", ratio=False)
ACCURACY = Scale("digits/cnn", "test/accuracy", ratio=False)
LEVEL = 0.025  # of a single candidate in the first attempt


def normal(seeds: int, mean: float = 0.0, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=seeds) + mean


def table(**gains: np.ndarray) -> pd.DataFrame:
    """Return errors of candidates with these gains over a baseline, whose error is 10."""
    values = {name: 10.0 - values for name, values in gains.items()}
    return pd.DataFrame({**values, "base": 10.0}, index=range(len(next(iter(gains.values())))))


def verdict(gains: np.ndarray, scale: Scale = MSE, attempts_before: int = 0) -> Verdict:
    rules = Rules(attempts_before=attempts_before)
    return judge({scale: table(a=gains)}, ["a"], "base", rules)[0]


# ------------------------------------------------------------------------ e-processes


@pytest.mark.parametrize("mean", [0.0, 0.7, -2.0])
def test_t_statistic_has_the_bayes_factor_of_a_normal_prior(mean):
    gains = normal(6, mean)
    t = np.sqrt(6) * gains.mean() / gains.std(ddof=1)

    def weighted(effect):
        density = stats.nct.pdf(t, 5, effect * np.sqrt(6)) / stats.t.pdf(t, 5)
        return density * stats.norm.pdf(effect, scale=np.sqrt(PRIOR))

    factor = integrate.quad(weighted, -20, 20, points=[0], limit=200)[0]
    assert evidence(gains).two_sided[-1] == pytest.approx(factor, rel=1e-6)


def test_e_process_of_the_signs_is_multiplied_after_a_failure():
    gains = np.array([1.0, 2.0, -np.inf, 1.0, 3.0])
    sides = evidence(gains)
    before = evidence(gains[:2])
    signs = sign_process(gains[2:]), sign_process(-gains[2:])
    assert sides.greater[2:] == pytest.approx(before.greater[-1] * signs[0])
    assert sides.less[2:] == pytest.approx(before.less[-1] * signs[1])


@pytest.mark.parametrize("kind", ["normal", "failures", "skewed", "signs"])
def test_many_seeds_and_far_shifts_cause_no_overflow(kind):
    gains = normal(1200, 3.0)
    if kind == "failures":
        gains[[0, 400]] = np.inf
    elif kind == "skewed":
        gains = np.exp(gains)
    elif kind == "signs":
        gains = np.full(1200, np.inf)
    shifts = np.array([[-1e100], [-1e9], [0.0], [1e9], [1e100]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sides = evidence(gains, shift=shifts)
        p = sides.p
        finite_shift = np.isfinite(sides.two_sided).all()
    assert finite_shift and (p > 0).all() and (np.diff(p) <= 0).all()


def test_signs_replace_the_t_statistic_where_gains_are_skewed_or_below_the_step():
    skewed = np.array([0.1, 0.2, 0.0, 0.1, 0.3, 0.2, 0.1, 90.0, 0.1, 0.2])
    assert first_sign(skewed) == 8
    assert first_sign(normal(30)) == 30
    assert first_sign(np.array([0.0] * 8 + [1.0, 0.0]), 3.0) == 9
    assert first_sign(np.array([0.0, np.inf, 1.0])) == 1


def test_rounding_errors_of_a_constant_gain_are_not_skewed():
    gains = np.full(12, 0.1)
    gains[3] += 1e-17
    gains[5] = 0.3 - 0.2
    assert gains.std() > 0
    assert first_sign(gains) == 12


# ------------------------------------------------------------------------ intervals


def test_confidence_sequence_has_the_closed_form_of_the_t_statistic():
    gains = normal(20, 0.4, seed=3)
    assert first_sign(gains) == 20
    n = np.arange(1, 21)
    mean = np.cumsum(gains) / n
    squares = np.array([((gains[:k] - gains[:k].mean()) ** 2).sum() for k in n])
    c = (np.sqrt(1 + n * PRIOR) / LEVEL) ** (2 / n)
    rest = 1 - c / (1 + n * PRIOR)
    half = np.full(20, np.inf)
    bounded = rest > 0
    half[bounded] = np.sqrt((squares * (c - 1))[bounded] / (n * rest)[bounded])
    low, high = confidence_sequence(gains, LEVEL)
    assert low == pytest.approx(np.maximum.accumulate(mean - half), rel=1e-6)
    assert high == pytest.approx(np.minimum.accumulate(mean + half), rel=1e-6)


@pytest.mark.parametrize("failure", [None, -np.inf, np.inf])
@pytest.mark.parametrize("seed", range(4))
def test_decision_and_confidence_sequence_agree(seed, failure):
    gains = normal(24, [0.0, 0.9, -1.5, 0.3][seed], seed)
    if failure:
        gains[6] = failure
    for margin in (0.5, 2.0):
        low, high = confidence_sequence(gains, LEVEL)
        excluded = (low >= 0) | (high <= 0)
        assert (excluded == (evidence(gains).p <= LEVEL)).all()
        outside = [(low >= shift) | (high <= shift) for shift in (-margin, margin)]
        assert ((outside[0] & outside[1]) == (equivalence_p(gains, margin) <= LEVEL)).all()


def test_confidence_sequence_without_finite_gains_is_infinite():
    for gains in (np.array([]), np.array([np.inf, -np.inf]), np.array([1.0])):
        low, high = confidence_sequence(gains, LEVEL)
        assert (low == -np.inf).all() and (high == np.inf).all()


def test_confidence_sequence_covers_the_mean_and_shrinks_on_a_grid():
    gains = np.random.default_rng(2).integers(-2, 4, size=40) / 600
    low, high = confidence_sequence(gains, LEVEL, 1 / 600)
    assert (np.diff(low[1:][np.isfinite(low[1:])]) >= 0).all() and low[-1] < gains.mean() < high[-1]


# ------------------------------------------------------------------------ decisions


@pytest.mark.parametrize(("mean", "decision"), [(2.0, "better"), (-2.0, "worse")])
def test_large_effect_is_decided_and_later_seeds_change_nothing(mean, decision):
    gains = normal(30, mean)
    reference = verdict(gains)
    assert reference.decision == decision and 3 < reference.pairs < 15
    assert reference.e >= reference.threshold == pytest.approx(40)
    assert reference.expected is None
    for n in range(1, 12):
        prefix = verdict(np.concatenate([gains[:n], np.full(3, np.nan)]))
        if n < reference.pairs:
            assert prefix.decision == "inconclusive" and prefix.pairs == n
        else:
            assert (prefix.decision, prefix.pairs) == (decision, reference.pairs)
            assert (prefix.e_values == reference.e_values).all()
    opposite = np.concatenate([gains[: reference.pairs], normal(30, -20 * mean)])
    assert verdict(opposite).decision == decision


def test_a_pair_that_has_not_ended_stops_the_judgement_there():
    gains = normal(30, 2.0)
    gains[2] = np.nan
    assert (verdict(gains).decision, verdict(gains).pairs) == ("inconclusive", 2)


def test_difference_within_the_margin_is_equal():
    result = verdict(normal(60), MSE._replace(margin=2.0))
    low, high = result.effects[0].interval
    assert result.decision == "equal" and -2 <= low < high <= 2
    low, high = (
        verdict(normal(60)[: result.pairs - 1], MSE._replace(margin=2.0)).effects[0].interval
    )
    assert not -2 <= low < high <= 2


def test_equal_results_never_decide_without_a_margin():
    zeros = np.zeros(60)
    result = verdict(zeros, ACCURACY._replace(step=1 / 600))
    assert result.decision == "inconclusive" and result.expected is None and result.e == 1
    equal = verdict(zeros, ACCURACY._replace(step=1 / 600, margin=0.003))
    assert equal.decision == "equal" and equal.pairs < 20


def test_diverging_candidate_loses_and_common_failures_are_ties():
    result = verdict(np.full(30, -np.inf))
    assert result.decision == "worse" and result.effects[0].losses == result.pairs < 15
    assert verdict(np.full(30, np.inf)).decision == "better"
    both = pd.DataFrame({"a": np.inf, "base": np.inf}, index=range(30))
    tie = judge({MSE: both}, ["a"], "base", Rules())[0]
    assert tie.decision == "inconclusive" and tie.e == 1 and not tie.effects[0].losses


def test_gains_are_positive_if_the_candidate_is_better():
    better, worse = np.array([0.5]), np.array([1.0])
    assert MSE.gains(better, worse) == 0.5
    assert ACCURACY.gains(better, worse) == -0.5
    assert MSE._replace(ratio=True).gains(better, worse) == pytest.approx(np.log(2))
    assert MSE._replace(ratio=True).gains(np.array([np.inf]), worse) == -np.inf
    assert ACCURACY.gains(np.array([-np.inf]), worse) == -np.inf
    assert np.isnan(MSE.gains(np.array([np.nan]), worse))


# ------------------------------------------------------------------------ attempts


def test_shares_of_the_error_add_up_to_1():
    assert share_of_error(0) == 1 / 2
    assert sum(share_of_error(k) for k in range(10_000)) == pytest.approx(1, abs=1e-3)
    assert share_of_error(3, 4) == pytest.approx(sum(share_of_error(k) for k in range(3, 7)))


def test_attempt_7_needs_an_e_value_of_1120():
    first, late = verdict(normal(30, 2.0)), verdict(normal(30, 2.0), attempts_before=6)
    assert late.attempt == 7 and late.threshold == pytest.approx(20 * 56)
    assert late.e >= 1120 and late.pairs > first.pairs
    assert late.e_values[-2] < 1120


# ------------------------------------------------------------------------ several


def test_several_candidates_are_decided_by_holms_method():
    gains = {name: normal(40, mean, seed) for seed, (name, mean) in enumerate(MEANS.items())}
    verdicts = judge({MSE: table(**gains)}, list(gains), "base", Rules())
    p = {name: evidence(values).p for name, values in gains.items()}
    error = 0.05 * share_of_error(0, len(gains))
    pairs: dict[str, int] = {}
    for n in range(40):
        frozen = {name: p[name][pairs[name] - 1] if name in pairs else p[name][n] for name in p}
        corrected = holm(np.array(list(frozen.values())))
        for name, value in zip(p, corrected, strict=True):
            if value <= error:
                pairs.setdefault(name, n + 1)
    assert len(pairs) == 3
    assert {v.candidate: v.pairs for v in verdicts} == {"null": 40, **pairs}
    assert [v.attempt for v in verdicts] == [1, 2, 3, 4]
    decisions = ["better", "worse", "better", "inconclusive"]
    assert [v.decision for v in verdicts] == decisions


MEANS = {"large": 3.0, "negative": -1.5, "medium": 0.8, "null": 0.0}


def test_candidate_with_fewer_seeds_stops_the_rounds_of_the_others():
    gains = {"fast": normal(30, 0.9, 3), "slow": np.r_[normal(3), np.full(27, np.nan)]}
    fast, slow = judge({MSE: table(**gains)}, ["fast", "slow"], "base", Rules())
    assert slow.decision == fast.decision == "inconclusive"
    gains["slow"] = normal(30)
    assert judge({MSE: table(**gains)}, ["fast", "slow"], "base", Rules())[0].decision == "better"


def test_decided_candidate_is_frozen():
    gains = {"large": normal(30, 4.0), "null": normal(30, 0.0, 1)}
    before = judge({MSE: table(**gains)}, ["large", "null"], "base", Rules())[0]
    gains["large"][before.pairs :] = -100.0
    after = judge({MSE: table(**gains)}, ["large", "null"], "base", Rules())[0]
    assert after.decision == "better" and (after.e_values == before.e_values).all()


def test_margin_divides_the_error_by_the_number_of_candidates():
    """A candidate that was called different must not leave more error for a false "equal"."""
    gains = {"large": normal(60, 9.0), "null": normal(60, 0.0, 1)}
    scale = MSE._replace(margin=2.0)
    verdicts = judge({scale: table(**gains)}, ["large", "null"], "base", Rules())
    assert [v.decision for v in verdicts] == ["better", "equal"]
    assert [v.level for v in verdicts] == pytest.approx([0.05 * share_of_error(0, 2) / 2] * 2)


@pytest.mark.parametrize("combine", ["average", "product"])
def test_e_values_of_workloads_are_combined(combine):
    first, second = normal(30, 1.0), normal(30, 0.8, 1)
    tables = {MSE: table(a=first), MSE._replace(workload="digits/cnn"): table(a=second)}
    result = judge(tables, ["a"], "base", Rules(combine=combine))[0]
    parts = [evidence(first), evidence(second)]
    join = np.mean if combine == "average" else np.prod
    greater, less = (join([getattr(part, side) for part in parts], axis=0) for side in SIDES)
    assert result.decision == "better" and len(result.effects) == 2
    assert result.e_values == pytest.approx(((greater + less) / 2)[: result.pairs])


SIDES = ("greater", "less")


def test_product_of_large_e_values_is_finite():
    """The e-values of 300 constant gains are the largest ones."""
    constant = np.ones(300)
    scales = [MSE._replace(workload=name) for name in ("a", "b")]
    tables = {scale: table(a=constant) for scale in scales}
    rules = Rules(combine="product", attempts_before=10**160)
    result = judge(tables, ["a"], "base", rules)[0]
    assert np.isfinite(result.e_values).all()


# ------------------------------------------------------------------------ planning


def test_expected_number_of_seeds_is_near_the_median_of_simulations():
    effects = {0.8: 22, 1.0: 15, 1.5: 9}  # the medians of simulations at a level of 2.5%
    for effect, median in effects.items():
        gains = (stats.norm.ppf((np.arange(6) + 0.5) / 6))[[2, 5, 0, 4, 1, 3]]
        gains = gains / gains.std(ddof=1) + effect
        assert seeds_expected(gains, LEVEL) == pytest.approx(median, abs=0.35 * median)
    assert seeds_expected(np.array([1.0, -1.0]), LEVEL) is None
    assert seeds_expected(np.array([1.0, -1.0]), LEVEL, margin=2.0) is not None


def test_expected_number_of_seeds_is_that_of_the_combined_workloads():
    """One workload alone must exceed twice the threshold; an equality needs both workloads."""
    weak, equal = np.array([1.8, -0.6, 0.9, -0.1]), np.array([1.0, -1.0, 0.5, -0.5])
    scales = [MSE._replace(workload=name) for name in ("a", "b")]
    alone = judge({scales[0]: table(a=weak)}, ["a"], "base", Rules())[0]
    tables = {scales[0]: table(a=weak), scales[1]: table(a=equal)}
    both = judge(tables, ["a"], "base", Rules())[0]
    assert alone.decision == both.decision == "inconclusive"
    assert alone.expected and both.expected and both.expected > alone.expected
    margins = {scale._replace(margin=2.0): values for scale, values in tables.items()}
    second = scales[1]._replace(margin=2.0)
    within = judge({second: margins[second]}, ["a"], "base", Rules())[0]
    combined = judge(margins, ["a"], "base", Rules())[0]
    assert within.expected and within.expected < combined.expected <= both.expected
