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

PRIOR = 4.0  # the variance of the half-normal prior of the effect, which is mean / SD of the gains


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
    with np.errstate(divide="ignore", invalid="ignore"):
        both = (1 + n * PRIOR) ** -0.5 * ((squares + n * mean**2) / shrunk) ** (n / 2)
        # The posterior of the mean is a t distribution with n degrees of freedom.
        t = n * mean / np.sqrt(shrunk / n * (n + 1 / PRIOR))
    return np.where(shrunk > 0, 2 * both * stats.t.cdf(t, n), 1.0)


def sign_process(gains: np.ndarray) -> np.ndarray:
    """Return the e-process of the signs of the gains: [..., n] -> [..., n]. It ignores ties.

    It is the Bayes factor of the probability of a positive gain, with the Beta(1/2, 1/2) prior
    on probabilities above 1/2, against 1/2.
    """
    wins = np.cumsum(gains > 0, axis=-1) + 0.5
    losses = np.cumsum(gains < 0, axis=-1) + 0.5
    mixture = special.betaln(wins, losses) - special.betaln(0.5, 0.5)
    above = special.betainc(losses, wins, 0.5)  # the probability of more than 1/2
    return 2 * np.exp(mixture + (wins + losses - 1) * np.log(2)) * above
