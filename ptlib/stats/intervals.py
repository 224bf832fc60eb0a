"""Intervals for what was measured on a sample, and the resamples some of them are made from."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from scipy.sparse import csr_matrix
from scipy.special import expit, logit, ndtr, ndtri
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


def delong(known: np.ndarray, unknown: np.ndarray) -> tuple[float, float, float]:
    """The chance that one of `unknown` (m,) scores above one of `known` (n,), ties half, and its 95 % interval.

    That is the area under the ROC curve; its variance by DeLong et al. (1988), the interval on the logit scale, so
    that it stays in 0..1. NaN ends where the two don't overlap: then nothing is seen of its uncertainty.
    """
    a, b = np.sort(np.asarray(known, dtype=np.float64)), np.sort(np.asarray(unknown, dtype=np.float64))
    if len(a) < 2 or len(b) < 2:
        raise ValueError(f"there are {len(a)} known and {len(b)} unknown scores; two of each are needed")
    above = (np.searchsorted(a, b, "left") + np.searchsorted(a, b, "right")) / (2 * len(a))
    below = 1 - (np.searchsorted(b, a, "left") + np.searchsorted(b, a, "right")) / (2 * len(b))
    area = float(above.mean())
    variance = above.var(ddof=1) / len(b) + below.var(ddof=1) / len(a)
    if not 0 < area < 1 or variance == 0:
        return area, np.nan, np.nan
    half = float(ndtri(0.975)) * np.sqrt(variance) / (area * (1 - area))
    low, high = expit(logit(area) + np.array([-half, half]))
    return area, float(low), float(high)


def false_alarms(
    known: np.ndarray, unknown: np.ndarray, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float, float]:
    """The share of `unknown` (m,) that passes where 95 % of `known` (n,) do, scores being the higher the stranger: the
    false positive rate at 95 % true positives; and its percentile bootstrap.

    The threshold is the least score that so many of the known don't exceed. Both samples are drawn anew. What a
    resample's order statistic and share come to has a law, a beta and a binomial one, so that is drawn instead.
    """
    a, b = np.sort(np.asarray(known, dtype=np.float64)), np.sort(np.asarray(unknown, dtype=np.float64))
    n, m, rng = len(a), len(b), np.random.default_rng(seed)
    k = int(np.ceil(n * 0.95 - 1e-9))
    passing = np.searchsorted(b, a, "right")  # of the unknown, at or below each known
    drawn = np.ceil(n * rng.beta(k, n - k + 1, resamples)).astype(int).clip(1, n) - 1
    shares = rng.binomial(m, passing[drawn] / m) / m
    return float(passing[k - 1]) / m, *percentile(shares)


def resample(
    rows: np.ndarray, n_resamples: int, seed: int, strata: np.ndarray | None = None, groups: np.ndarray | None = None,
    of: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Iterator[np.ndarray]:  # fmt: skip
    """How often each distinct row is drawn when examples are drawn with replacement: counts (r, K), chunk by chunk.

    `rows` (N,) says which of K rows an example shows: examples that no statistic tells apart may share one. Then their
    counts are multinomial, and are drawn at a cost that does not grow with N where K is small. `strata` (N,) keeps the
    number of examples of each stratum; `groups` (N,) draws whole groups (a patient, a video), so that n varies.

    With `of`, a function of such counts, its values are given instead, computed in threads.
    """
    k = int(rows.max()) + 1
    inside = None
    if groups is not None:
        if strata is not None:
            raise InputError("give strata or groups, not both: a group may lie in several strata")
        inside = rows_of_groups(groups, rows)
        if inside.shape[0] < 2:
            raise InputError("all examples are in one group; whole groups are drawn, so there must be at least two")
        rows = np.arange(inside.shape[0])

    def draw(rng: np.random.Generator, r: int) -> np.ndarray:
        counts = _draw(rows, r, rng, strata)
        return counts if inside is None else np.asarray(counts @ inside)

    return chunks(n_resamples, max(len(rows), k), seed, draw, of)


def rows_of_groups(groups: np.ndarray, rows: np.ndarray) -> csr_matrix:
    """How many examples of each row each group holds, sparse (G, K), from group and row of each example (N,)."""
    member = np.unique(groups, return_inverse=True)[1].ravel()
    return csr_matrix((np.ones(len(rows), np.int64), (member, rows)))


def chunks(
    n: int, width: int, seed: int, draw: Callable[[np.random.Generator, int], np.ndarray],
    of: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Iterator[np.ndarray]:  # fmt: skip
    """`of` of n drawn rows of some `width`, so many at a time as a processor likes, in threads; what is drawn itself
    where there is no `of`. Each chunk has a generator of its own, so the threads' number changes nothing."""
    size = int(np.clip(1_000_000 // width, 4, 1024))

    def chunk(start: int) -> np.ndarray:
        return draw(np.random.default_rng([seed, start]), min(size, n - start))

    starts = range(0, n, size)
    if of is None:
        return map(chunk, starts)
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        return iter(list(pool.map(lambda start: of(chunk(start)), starts)))


def _draw(rows: np.ndarray, r: int, rng: np.random.Generator, strata: np.ndarray | None) -> np.ndarray:
    n, k = len(rows), int(rows.max()) + 1
    if strata is None and 10 * k < n:
        return rng.multinomial(n, np.bincount(rows) / n, size=r)
    low, high = np.zeros(n, np.int64), np.full(n, n)
    if strata is not None:
        order = np.argsort(strata, kind="stable")
        first, number = np.unique(strata[order], return_index=True, return_counts=True)[1:]
        low, high, rows = np.repeat(first, number), np.repeat(first + number, number), rows[order]
    parts = []
    step = max(1, 80_000 // n)  # so that what is drawn stays in the processor's cache
    for begin in range(0, r, step):
        m = min(step, r - begin)
        drawn = rng.integers(0, n, (m, n)) if strata is None else rng.integers(low, high, (m, n))
        cells = rows[drawn]
        cells += (np.arange(m) * k)[:, None]
        parts.append(np.bincount(cells.ravel(), minlength=m * k).reshape(m, k))
    return np.concatenate(parts)


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
