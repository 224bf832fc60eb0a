"""Intervals for what was measured on a sample. Pure NumPy and SciPy; randomness is an argument."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.special import ndtri


def wilson(successes: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval for a proportion (Wilson 1927; Brown, Cai and DasGupta 2001).

    >>> low, high = wilson(9, 10)
    >>> round(low, 4), round(high, 4)
    (0.5958, 0.9821)
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"a proportion needs 0 <= successes <= n and n >= 1, got {successes} of {n}")
    if not 0 < level < 1:
        raise ValueError(f"level is {level!r}; it must lie between 0 and 1, both excluded")
    z = float(ndtri((1 + level) / 2))
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    # At the ends rounding may leave an ulp between the bound and the proportion itself.
    low = 0.0 if successes == 0 else float(min(centre - half, p))
    high = 1.0 if successes == n else float(max(centre + half, p))
    return low, high


def bootstrap_confusion(
    confusion: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray],
    n_resamples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> np.ndarray:
    """Percentile intervals of statistics of a confusion matrix, (K, 2), NaN where over 5 % of resamples have none.

    Resampling examples with replacement makes the cells of the confusion matrix multinomial with the observed
    frequencies; so the cells are drawn, not the examples, at a cost that does not grow with their number.
    `statistic` maps matrices (R, C, C) to values (R, K).
    """
    confusion = np.asarray(confusion, dtype=np.int64)
    n = int(confusion.sum())
    if n < 1:
        raise ValueError("the confusion matrix is empty; there is nothing to resample")
    rng = np.random.default_rng(seed)
    filled = np.flatnonzero(confusion)
    size = confusion.shape[0]
    chunk = max(1, 4_000_000 // confusion.size)  # 32 MB of cells at a time
    parts = []
    for start in range(0, n_resamples, chunk):
        rows = min(chunk, n_resamples - start)
        cells = np.zeros((rows, confusion.size), dtype=np.int64)
        cells[:, filled] = rng.multinomial(n, confusion.ravel()[filled] / n, size=rows)
        parts.append(statistic(cells.reshape(rows, size, size)))
    values = np.concatenate(parts)  # (R, K)
    tail = (1 - level) / 2
    bounds = np.full((values.shape[1], 2), np.nan)
    for k, column in enumerate(values.T):
        defined = column[~np.isnan(column)]
        if len(defined) >= 0.95 * n_resamples:
            bounds[k] = np.quantile(defined, [tail, 1 - tail])
    return bounds
