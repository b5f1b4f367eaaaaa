"""Agreement of orders."""

from __future__ import annotations

import numpy as np


def kendall(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return Kendall's tau-b of x [n] with each y [..., n]; nan if all values of either are tied."""
    first, second = np.triu_indices(len(x), 1)
    of_x, of_y = np.sign(x[first] - x[second]), np.sign(y[..., first] - y[..., second])
    with np.errstate(invalid="ignore"):
        return (of_x * of_y).sum(axis=-1) / np.sqrt((of_x**2).sum() * (of_y**2).sum(axis=-1))
