"""Simulated tables of results in which all arms have the same distribution or the same mean.

All functions return [tables, seeds, arms].
"""

from __future__ import annotations

import numpy as np
from scipy import stats

IMAGES = 600
STEP = 1 / IMAGES


def noisy(
    rng: np.random.Generator, size: tuple[int, int, int], kind: str, shared: float
) -> np.ndarray:
    """Return results with the mean 0, of which all arms share a part under the same seed.

    Args:
        rng: The generator.
        size: (tables, seeds, arms).
        kind: `normal`, `exponential`, `collapsing` (with the probability 0.2 a result is worse by
            20 SDs), or a kind of `spreads`.
        shared: The share of the variance that all arms have in common under one seed.
    """
    tables, seeds, arms = size
    noise = rng.exponential(size=size) - 1 if kind == "exponential" else rng.normal(size=size)
    seed_effect = rng.normal(size=(tables, seeds, 1))
    values = np.sqrt(shared) * seed_effect + np.sqrt(1 - shared) * noise
    if kind == "collapsing":
        values = values - 20 * (rng.random(size) < 0.2)
    return spreads(kind, arms) * values


def spreads(kind: str, arms: int) -> np.ndarray:
    """Return the SD of each arm; 1 if the kind does not say that they differ."""
    if kind == "one SD of 8":
        return np.where(np.arange(arms) == 0, 8.0, 1.0)
    ratio = {"SDs from 1 to 8": 8.0, "variances from 1 to 8": 8**0.5}
    return np.geomspace(1, ratio.get(kind, 1.0), arms)


def accuracies(
    rng: np.random.Generator, size: tuple[int, int, int], accuracy: float, spread: float = 0.0
) -> np.ndarray:
    """Return accuracies on 600 images.

    Args:
        rng: The generator.
        size: (tables, seeds, arms).
        accuracy: The expected accuracy.
        spread: The variance of the number of errors that the probability of an error causes,
            because it differs between seeds, relative to the variance of binomial counts.
    """
    errors = np.full(size, 1 - accuracy)
    if spread:
        shape = IMAGES * (1 - accuracy) / spread
        errors = np.minimum(rng.gamma(shape, (1 - accuracy) / shape, size), 1.0)
    return 1 - rng.binomial(IMAGES, errors) / IMAGES


def failing(
    rng: np.random.Generator, size: tuple[int, int, int], failures: float, shared: float
) -> np.ndarray:
    """Return normal results that are -inf with a probability.

    Arms share a part of their noise under one seed, and a part of the risk to fail.
    """
    risk = noisy(rng, size, "normal", shared)
    return np.where(risk < stats.norm.ppf(failures), -np.inf, noisy(rng, size, "normal", shared))
