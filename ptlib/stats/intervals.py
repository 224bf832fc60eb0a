"""Intervals for what was measured on a sample, and the resamples some of them are made from."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.sparse import csr_matrix
from scipy.special import ndtr, ndtri
from scipy.stats import beta

from ptlib.errors import InputError

Bounds = tuple[float, float]


def wilson(successes: int, n: int, level: float = 0.95) -> Bounds:
    """Wilson's score interval for a proportion (Wilson 1927; Brown, Cai and DasGupta 2001).

    >>> low, high = wilson(9, 10)
    >>> round(low, 4), round(high, 4)
    (0.5958, 0.9821)
    """
    _check_proportion(successes, n, level)
    z = float(ndtri((1 + level) / 2))
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    # At the ends rounding may leave an ulp between the bound and the proportion itself.
    low = 0.0 if successes == 0 else float(min(centre - half, p))
    high = 1.0 if successes == n else float(max(centre + half, p))
    return low, high


def clopper_pearson(successes: int, n: int, level: float = 0.95) -> Bounds:
    """The exact interval for a proportion (Clopper and Pearson 1934): never covers less than `level`, often more."""
    _check_proportion(successes, n, level)
    tail = (1 - level) / 2
    low = 0.0 if successes == 0 else float(beta.ppf(tail, successes, n - successes + 1))
    high = 1.0 if successes == n else float(beta.ppf(1 - tail, successes + 1, n - successes))
    return low, high


def resample(
    rows: np.ndarray, n_resamples: int, seed: int, strata: np.ndarray | None = None, groups: np.ndarray | None = None
) -> Iterator[np.ndarray]:
    """How often each distinct row is drawn when examples are drawn with replacement: counts (r, K), chunk by chunk.

    `rows` (N,) says which of K rows an example shows: examples that no statistic tells apart may share one. Then their
    counts are multinomial, and are drawn at a cost that does not grow with N where K is small. `strata` (N,) keeps the
    number of examples of each stratum; `groups` (N,) draws whole groups (a patient, a video), so that n varies.
    """
    n, k = len(rows), int(rows.max()) + 1
    rng = np.random.default_rng(seed)
    if strata is not None and groups is not None:
        raise InputError("give strata or groups, not both: a group may lie in several strata")
    if groups is not None:
        member = np.unique(groups, return_inverse=True)[1].ravel()
        n_groups = int(member.max()) + 1
        if n_groups < 2:
            raise InputError("all examples are in one group; whole groups are drawn, so there must be at least two")
        inside = csr_matrix((np.ones(n, np.int64), (member, rows)), shape=(n_groups, k))
        for drawn in resample(np.arange(n_groups), n_resamples, seed):
            for part in np.array_split(drawn, -(-len(drawn) * k // 4_000_000)):
                yield part @ inside
        return
    size = int(np.clip(1_000_000 // n, 4, 1024))
    low, high = np.zeros(n, np.int64), np.full(n, n, np.int64)
    shown = rows
    if strata is not None:
        order = np.argsort(strata, kind="stable")
        first, number = np.unique(strata[order], return_index=True, return_counts=True)[1:]
        low, high, shown = np.repeat(first, number), np.repeat(first + number, number), rows[order]
    counts = np.bincount(rows, minlength=k)
    for start in range(0, n_resamples, size):
        r = min(size, n_resamples - start)
        if strata is None and 10 * k < n:
            yield rng.multinomial(n, counts / n, size=r)
            continue
        parts = []
        step = max(1, 80_000 // n)  # so that what is drawn stays in the processor's cache
        for begin in range(0, r, step):
            m = min(step, r - begin)
            drawn = rng.integers(0, n, (m, n)) if strata is None else rng.integers(low, high, (m, n))
            cells = shown[drawn]
            cells += (np.arange(m) * k)[:, None]
            parts.append(np.bincount(cells.ravel(), minlength=m * k).reshape(m, k))
        yield np.concatenate(parts)


def percentile(resamples: np.ndarray, level: float = 0.95) -> Bounds:
    """The middle `level` of the resampled values (R,); NaN if over 5 % of them are undefined."""
    defined = resamples[~np.isnan(resamples)]
    if len(defined) < 0.95 * len(resamples):
        return np.nan, np.nan
    tail = (1 - level) / 2
    low, high = np.quantile(defined, [tail, 1 - tail])
    return float(low), float(high)


def pivotal(estimate: float, resamples: np.ndarray, around: float, level: float = 0.95) -> Bounds:
    """The estimate less the middle `level` of (resamples - around): for what is biased upwards, as a distance is.

    `around` is the true value in the world the resamples come from, the sample itself.
    """
    low, high = percentile(resamples - around, level)
    return estimate - high, estimate - low


def bca(
    estimate: float, resamples: np.ndarray, influence: np.ndarray, counts: np.ndarray, level: float = 0.95
) -> Bounds:
    """Bias-corrected and accelerated interval (Efron 1987), in O(N + R log R).

    The acceleration comes from the `influence` (K,) of an example of each distinct row, each counted `counts` (K,)
    times, instead of N leave-one-out values computed anew. NaN where the percentile interval would be, or where
    every resample lies on one side of the estimate.
    """
    defined = np.sort(resamples[~np.isnan(resamples)])
    squares = float((counts * influence**2).sum())
    below = (np.searchsorted(defined, estimate, "left") + np.searchsorted(defined, estimate, "right")) / 2
    if len(defined) < 0.95 * len(resamples) or not 0 < below < len(defined) or not squares > 0:
        return np.nan, np.nan
    bias = ndtri(below / len(defined))
    acceleration = float((counts * influence**3).sum()) / (6 * squares**1.5)
    z = ndtri(np.array([(1 - level) / 2, (1 + level) / 2])) + bias
    low, high = np.quantile(defined, ndtr(bias + z / (1 - acceleration * z)))
    return float(low), float(high)


def _check_proportion(successes: int, n: int, level: float) -> None:
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"a proportion needs 0 <= successes <= n and n >= 1, got {successes} of {n}")
    if not 0 < level < 1:
        raise ValueError(f"level is {level!r}; it must lie between 0 and 1, both excluded")
