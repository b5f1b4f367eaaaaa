"""Tests that stay valid if seeds are added until the result is significant.

An e-process is a number that starts at 1 and is computed again after each seed. If there is no
effect, the probability that it ever exceeds 20 is at most 1/20, however often it is computed.

Sources: Perez-Ortiz et al., "E-statistics, group invariance and anytime-valid testing" (2024), for
the t statistic; Krichevsky and Trofimov (1981) for the mixture over a probability.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import special, stats

from studies.harness.statistics.paired import ROUNDING

PRIOR = 4.0  # the variance of the half-normal prior of the effect, which is mean / SD of the gains
PILOT = 8  # the number of gains from which their skewness and their grid are tested
SKEWED = 0.02  # the p-value below which gains are skewed
SHIFTS = 500  # the number of shifts that are tested for each end of a confidence sequence
HALVINGS = 40  # the number of halvings that make such an end exact
LARGEST = 1e300  # the largest e-value; a float cannot represent those of many seeds
MOST = 1000  # the largest number of seeds that is expected


class Anytime(NamedTuple):
    """Evidence that the mean gain is greater, or less, than 0, at any number of seeds.

    Attributes:
        p_greater: min(1, 1 / e_greater).
        p_less: min(1, 1 / e_less).
        e_greater: The largest value of the e-process for "greater" over the looks; nan if there
            are fewer than two gains.
        e_less: The same for "less".
    """

    p_greater: float
    p_less: float
    e_greater: float
    e_less: float


def anytime_p(gains: np.ndarray, step: float = 0.0) -> Anytime:
    """Return anytime-valid p-values of the gains, with a look after each seed from the second.

    Until the first infinite gain, the e-process is that of the t statistic; it assumes normal
    gains. From this seed on it is multiplied by the e-process of the signs, which assumes that
    positive and negative gains have the same probability. Both stay valid if the mean is below 0
    (or above 0 for "less"), because a shift of all gains can only lower e.

    Args:
        gains: [n] in the order of the seeds. nan is ignored; an infinite gain is a failure.
        step: The distance of two neighbouring values of the metric; 0 if it is continuous.
    """
    gains = gains[~np.isnan(gains)]
    if len(gains) < 2:
        return Anytime(np.nan, np.nan, np.nan, np.nan)
    greater, less = (float(e_process(side, step)[1:].max()) for side in (gains, -gains))
    return Anytime(min(1.0, 1 / greater), min(1.0, 1 / less), greater, less)


def e_process(gains: np.ndarray, step: float = 0.0) -> np.ndarray:
    """Return the e-process for "the mean gain is greater than 0" after each gain: [n] -> [n]."""
    failed = np.flatnonzero(np.isinf(gains))
    first = int(failed[0]) if len(failed) else len(gains)
    before = t_process(gains[:first], step)
    return np.concatenate([before, before[-1:].prod() * sign_process(gains[first:])])


def t_process(gains: np.ndarray, step: float = 0.0) -> np.ndarray:
    """Return the e-process of the t statistic: finite gains [..., n] -> [..., n].

    It is the Bayes factor of an effect (mean / SD) with a half-normal prior against no effect. The
    SD has the right-Haar prior, which makes the factor a martingale for every SD.
    """
    n = np.arange(1, gains.shape[-1] + 1)
    mean = np.cumsum(gains, axis=-1) / n
    squares = np.maximum(np.cumsum(gains**2, axis=-1) - n * mean**2, (n - 1) * step**2 / 6)
    shrunk = squares + n * mean**2 / (1 + n * PRIOR)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        both = (1 + n * PRIOR) ** -0.5 * ((squares + n * mean**2) / shrunk) ** (n / 2)
        # The posterior of the mean is a t distribution with n degrees of freedom.
        t = n * mean / np.sqrt(shrunk / n * (n + 1 / PRIOR))
    return np.where(shrunk > 0, 2 * np.minimum(both, LARGEST) * stats.t.cdf(t, n), 1.0)


def sign_process(gains: np.ndarray) -> np.ndarray:
    """Return the e-process of the signs of the gains: [..., n] -> [..., n]. It ignores ties.

    It is the Bayes factor of the probability of a positive gain, with the Beta(1/2, 1/2) prior
    on probabilities above 1/2, against 1/2.
    """
    wins = np.cumsum(gains > 0, axis=-1) + 0.5
    losses = np.cumsum(gains < 0, axis=-1) + 0.5
    mixture = special.betaln(wins, losses) - special.betaln(0.5, 0.5)
    above = special.betainc(losses, wins, 0.5)  # the probability of more than 1/2
    log_e = mixture + (wins + losses - 1) * np.log(2)
    return 2 * np.exp(np.minimum(log_e, np.log(LARGEST))) * above


# ---------------------------------------------------------------------- judgements


class Evidence(NamedTuple):
    """The e-processes of one comparison after each seed.

    Attributes:
        greater: [..., n] For "the mean gain is greater than 0".
        less: [..., n] For "the mean gain is less than 0".
    """

    greater: np.ndarray
    less: np.ndarray

    @property
    def two_sided(self) -> np.ndarray:
        """[..., n] The mean of both, an e-process for "the mean gain is not 0"."""
        return (self.greater + self.less) / 2

    @property
    def p(self) -> np.ndarray:
        """[..., n] The anytime-valid p-value of "the mean gain is 0"; it never rises."""
        largest = np.maximum.accumulate(self.two_sided, axis=-1)
        return 1 / np.maximum(largest, 1.0)


def evidence(
    gains: np.ndarray,
    step: float = 0.0,
    shift: float | np.ndarray = 0.0,
    first: int | None = None,
) -> Evidence:
    """Return the e-processes of `gains - shift`, those of the t statistic and then of the signs.

    Args:
        gains: [n] in the order of the seeds, without nan. An infinite gain is a failure: -inf of
            the candidate, +inf of the baseline.
        step: The distance of two neighbouring values of the metric; 0 if it is continuous.
        shift: A number, or numbers [..., 1], whose leading axes the result has.
        first: The first gain that is judged by its sign; `first_sign(gains, step)` if None.
    """
    first = first_sign(gains, step) if first is None else first
    shifted = gains - shift
    sides = []
    for side in (shifted, -shifted):
        before = t_process(side[..., :first], step)
        last = before[..., -1:] if first else np.ones((*before.shape[:-1], 1))
        with np.errstate(over="ignore"):  # the product of two large e-values
            after = np.minimum(last * sign_process(side[..., first:]), LARGEST)
        sides.append(np.concatenate([before, after], axis=-1))
    return Evidence(*sides)


def first_sign(gains: np.ndarray, step: float = 0.0) -> int:
    """Return the index of the first gain that is judged by its sign; len(gains) without one.

    It is the first failure, or the first gain after at least `PILOT` gains for which the t
    statistic is not suitable, because their skewness is significant or their SD is below one step.
    This depends on earlier gains only, so the product of the two e-processes is an e-process.
    """
    failures = np.flatnonzero(np.isinf(gains))
    end = int(failures[0]) if len(failures) else len(gains)
    for n in range(PILOT, end):
        spread = float(gains[:n].std(ddof=1))
        if spread <= ROUNDING * np.abs(gains[:n]).max():  # constant gains have no skewness
            continue
        if spread < step or stats.skewtest(gains[:n]).pvalue < SKEWED:
            return n
    return end


def confidence_sequence(
    gains: np.ndarray, level: float, step: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Return the lower and the upper end of a confidence sequence after each seed: [n], [n].

    The probability that the mean gain is ever outside is at most `level`. The interval contains the
    shifts whose two-sided e-process was always below 1 / level. It never widens, and is infinite
    while the seeds do not suffice. Where gains are judged by their signs, it is that of the median.

    Args:
        gains: As for `evidence`.
        level: The probability of an error.
        step: As for `evidence`.
    """
    first, finite = first_sign(gains, step), gains[np.isfinite(gains)]
    low, high = np.full(len(gains), -np.inf), np.full(len(gains), np.inf)
    if not len(finite):
        return low, high
    scale = float(np.ptp(finite)) or float(np.abs(finite).max()) or step or 1.0
    distances = np.concatenate([[0.0], scale * np.geomspace(1e-5, 1e3, SHIFTS)])
    for sign, ends in ((-1, low), (1, high)):
        shifts = float(np.median(finite)) + sign * distances
        outside = evidence(gains, step, shifts[:, None], first).p <= level
        # For each seed, the first of the shifts that are all outside; SHIFTS + 1 without one.
        place = len(shifts) - np.logical_and.accumulate(outside[::-1]).sum(axis=0)
        bounded = place < len(shifts)
        inside, beyond = shifts[np.maximum(place[bounded] - 1, 0)], shifts[place[bounded]]
        for _ in range(HALVINGS):
            middle = (inside + beyond) / 2
            p = evidence(gains, step, middle[:, None], first).p[:, bounded]
            excluded = np.diagonal(p) <= level
            inside = np.where(excluded, inside, middle)
            beyond = np.where(excluded, middle, beyond)
        ends[bounded] = beyond
    return low, high


def equivalence_p(gains: np.ndarray, margin: float, step: float = 0.0) -> np.ndarray:
    """Return the anytime-valid p-value of "the mean gain is within the margin" after each seed: [n].

    It is at most `level` if the `confidence_sequence` of this level is between -margin and margin,
    or on one side of both. It is 1 for a margin of 0.
    """
    if not margin:
        return np.ones(len(gains))
    return evidence(gains, step, np.array([[-margin], [margin]])).p.max(axis=0)


def share_of_error(before: int, count: int = 1) -> float:
    """Return the share of the error that is left for attempts after earlier attempts.

    Attempt k has the share 1 / (k (k + 1)). The shares of all attempts add up to 1, however many
    there will be, so the probability of an error in any of them is at most the error of a single
    test. `count` attempts at once have the sum of their shares.
    """
    return count / ((before + 1) * (before + count + 1))


def seeds_expected(
    gains: np.ndarray, level: float, margin: float = 0.0, step: float = 0.0
) -> int | None:
    """Return the number of seeds after which a decision is expected; None above `MOST`.

    It assumes that the next seeds repeat the observed gains.

    Args:
        gains: [n] as for `evidence`, with n >= 2.
        level: The largest p-value of a decision.
        margin: The margin of `equivalence_p`.
        step: As for `evidence`.
    """
    equal = repeated_equivalence_p(gains, margin, step)
    return first_below(np.minimum(repeated(gains, step).p, equal), level)


def repeated(gains: np.ndarray, step: float, shift: float | np.ndarray = 0.0) -> Evidence:
    """Return the `evidence` of `MOST` gains that repeat the n observed gains in their order.

    If all observed gains are judged by the t statistic, the repeated gains are, too.
    """
    first = first_sign(gains, step)
    tiled = np.tile(gains, -(-MOST // len(gains)))[:MOST]
    return evidence(tiled, step, shift, MOST if first == len(gains) else first)


def repeated_equivalence_p(gains: np.ndarray, margin: float, step: float) -> np.ndarray:
    """Return the `equivalence_p` of the `repeated` gains: [MOST]."""
    if not margin:
        return np.ones(MOST)
    return repeated(gains, step, np.array([[-margin], [margin]])).p.max(axis=0)


def first_below(p: np.ndarray, level: float) -> int | None:
    """Return the number of seeds after which p is at most the level: [n]; None without one."""
    reached = np.flatnonzero(p <= level)
    return int(reached[0]) + 1 if len(reached) else None
