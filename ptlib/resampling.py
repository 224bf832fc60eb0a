"""Resamples and shuffles of several models' predictions of the same examples, for any metric."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy import sparse

from ptlib import stats
from ptlib.measures import OfRanking, Statistic, prepare
from ptlib.results import Predictions

RANKING_WORK = 20_000_000_000  # resamples x examples x classes, above which AUROC's are fewer, but never below 1,000


def paired_bootstrap(
    parts: list[Predictions], metric: str, resamples: int, seed: int, groups: np.ndarray | None
) -> np.ndarray:
    """The metric of each part (R, M) on the same resampled examples."""
    statistics = [prepare([metric], [p])[0] for p in parts]
    kinds, rows = np.unique(np.stack([s.rows for s in statistics], 1), axis=0, return_inverse=True)
    onto = [_onto(kinds[:, m], s) for m, s in enumerate(statistics)]
    r = affordable(statistics[0], parts[0], resamples, len(parts))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.concatenate([
            np.concatenate([s.values(drawn @ o) for s, o in zip(statistics, onto, strict=True)], axis=1)
            for drawn in stats.resample(rows.ravel(), r, seed, groups=groups)
        ])  # fmt: skip


def shuffles(pair: list[Predictions], metric: str, n: int, seed: int, groups: np.ndarray | None) -> np.ndarray:
    """Differences (R,) when a coin decides for each example, or group, which model's answer is called A's."""
    (statistic,) = prepare([metric], pair)
    kinds, rows = np.unique(statistic.rows.reshape(2, -1).T, axis=0, return_inverse=True)
    here, there = (_onto(kinds[:, m], statistic) for m in range(2))
    all_of = np.bincount(rows.ravel())
    differences = []
    with np.errstate(invalid="ignore", divide="ignore"):
        for swapped in _swaps(rows.ravel(), all_of, affordable(statistic, pair[0], n, 4), seed, groups):
            a = (all_of - swapped) @ here + swapped @ there
            b = (all_of - swapped) @ there + swapped @ here
            differences.append(statistic.values(a)[:, 0] - statistic.values(b)[:, 0])
    return np.concatenate(differences)


def _swaps(rows: np.ndarray, counts: np.ndarray, n: int, seed: int, groups: np.ndarray | None) -> Iterator[np.ndarray]:
    """How many examples of each distinct row change sides: (r, K), chunk by chunk."""
    rng = np.random.default_rng(seed)
    size = int(np.clip(1_000_000 // len(counts), 4, 1024))
    inside = None
    if groups is not None:
        member = np.unique(groups, return_inverse=True)[1].ravel()
        inside = sparse.csr_matrix((np.ones(len(rows), np.int64), (member, rows)))
    for start in range(0, n, size):
        r = min(size, n - start)
        if inside is None and counts.max() == 1:
            yield rng.integers(0, 2, (r, len(counts)))
        elif inside is None:
            yield rng.binomial(counts, 0.5, (r, len(counts)))
        else:
            yield rng.integers(0, 2, (r, inside.shape[0])) @ inside


def _onto(rows: np.ndarray, statistic: Statistic) -> sparse.csr_matrix:
    """From weights of kinds to weights of the statistic's own rows, (kinds, K)."""
    shape = (len(rows), int(statistic.rows.max()) + 1)
    return sparse.csr_matrix((np.ones(len(rows), np.int64), (np.arange(len(rows)), rows)), shape=shape)


def affordable(statistic: Statistic, p: Predictions, resamples: int, times: int = 1) -> int:
    """How many resamples of so many evaluations each: all that are asked for, fewer where ranking takes minutes."""
    if not isinstance(statistic, OfRanking):
        return resamples
    return max(min(resamples, 1000), min(resamples, RANKING_WORK // (p.scores.size * times)))
