"""Comparisons of all pairs of arms of a table."""

from __future__ import annotations

import numpy as np

from studies.harness.statistics.paired import holm, mean_test


def all_pairs_p(values: np.ndarray, step: float = 0.0) -> np.ndarray:
    """Return adjusted two-sided p-values of all pairs of arms: [..., seeds, arms] -> [..., pairs].

    Args:
        values: Results by seed; nan is a seed without a result, an infinite value is a failure.
        step: The distance of two neighbouring values of the metric; 0 if it is continuous.

    Returns:
        One p-value for each pair, in the order of `np.triu_indices(arms, 1)`; nan below two seeds.
    """
    first, second = np.triu_indices(values.shape[-1], 1)
    gains = np.swapaxes(values[..., first] - values[..., second], -1, -2)
    test = mean_test(gains, step)
    return holm(np.minimum(1.0, 2 * np.minimum(test.p_greater, test.p_less)))
