"""How well one order agrees with another, weighted towards the top; many pairs of orders at once."""

from __future__ import annotations

import numpy as np


def weighted_tau(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Kendall's tau of x and y, (..., M) each, in which a pair counts by how high it stands: (...).

    A pair of places r and s from the top (0, 1, ...) has the weight 1 / (1 + r) + 1 / (1 + s); the mean of tau with
    places by x (ties by y) and by y (ties by x), as SciPy's `weightedtau` (Vigna 2015), here for many rows at once.
    A place where either is NaN is left out. NaN where x or y is constant.

    >>> weighted_tau(np.array([1.0, 2, 3, 4]), np.array([1.0, 2, 4, 3])).round(4).item()
    0.52
    """
    x, y = np.broadcast_arrays(np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64))
    out = np.isnan(x) | np.isnan(y)
    x, y = np.where(out, np.nan, x), np.where(out, np.nan, y)
    right, up = (np.nan_to_num(np.sign(v[..., :, None] - v[..., None, :])) for v in (x, y))  # (..., M, M)
    earlier = np.arange(x.shape[-1])[:, None] > np.arange(x.shape[-1])
    taus = []
    for first, second in ((right, up), (up, right)):
        ahead = (first < 0) | ((first == 0) & ((second < 0) | ((second == 0) & earlier)))  # column before row
        ahead &= ~out[..., None, :]
        weight = 1 / (1 + ahead.sum(-1))
        weight = weight[..., :, None] + weight[..., None, :]
        pairs = (weight * right * up).sum((-2, -1))
        with np.errstate(invalid="ignore"):
            taus.append(pairs / np.sqrt((weight * right**2).sum((-2, -1)) * (weight * up**2).sum((-2, -1))))
    return np.asarray((taus[0] + taus[1]) / 2)
