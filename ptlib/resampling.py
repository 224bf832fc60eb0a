"""Resamples and shuffles of several models' predictions of the same examples, for any metric."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import sparse

from ptlib import stats
from ptlib.measures import OfImages, OfRanking, Statistic, prepare
from ptlib.results import Boxes, Examples

RANKING_WORK = 20_000_000_000  # resamples x examples x classes, above which AUROC's are fewer, but never below 1,000
BOXES_WORK = 200_000_000  # resamples x detections x metrics, above which those of boxes are fewer, likewise


def paired_bootstrap(
    parts: Sequence[Examples], metric: str, resamples: int, seed: int, groups: np.ndarray | None
) -> np.ndarray:
    """The metric of each part (R, M) on the same resampled examples."""
    statistics = [prepare([metric], [p])[0] for p in parts]
    kinds, rows = np.unique(np.stack([s.rows for s in statistics], 1), axis=0, return_inverse=True)
    onto = [_onto(kinds[:, m], s) for m, s in enumerate(statistics)]
    r = affordable(statistics[0], parts[0], resamples, len(parts))

    def each(drawn: np.ndarray) -> np.ndarray:
        return np.concatenate([s.values(drawn @ o) for s, o in zip(statistics, onto, strict=True)], axis=1)

    return np.concatenate(list(stats.resample(rows.ravel(), r, seed, groups=groups, of=each)))


def shuffles(pair: Sequence[Examples], metric: str, n: int, seed: int, groups: np.ndarray | None) -> np.ndarray:
    """Differences (R,) when a coin decides for each example, or group, which model's answer is called A's."""
    (statistic,) = prepare([metric], pair)
    kinds, rows = np.unique(statistic.rows.reshape(2, -1).T, axis=0, return_inverse=True)
    here, there = (_onto(kinds[:, m], statistic) for m in range(2))
    all_of = np.bincount(rows.ravel())
    inside = None if groups is None else stats.rows_of_groups(groups, rows.ravel())

    def swapped(rng: np.random.Generator, r: int) -> np.ndarray:
        """How many examples of each distinct row change sides: (r, K)."""
        if inside is not None:
            return np.asarray(rng.integers(0, 2, (r, inside.shape[0])) @ inside)
        if all_of.max() == 1:
            return rng.integers(0, 2, (r, len(all_of)))
        return rng.binomial(all_of, 0.5, (r, len(all_of)))

    def difference(swaps: np.ndarray) -> np.ndarray:
        a = (all_of - swaps) @ here + swaps @ there
        b = (all_of - swaps) @ there + swaps @ here
        return np.asarray(statistic.values(a)[:, 0] - statistic.values(b)[:, 0])

    r = affordable(statistic, pair[0], n, 4)
    return np.concatenate(list(stats.chunks(r, len(statistic.rows), seed, swapped, difference)))


def _onto(rows: np.ndarray, statistic: Statistic) -> sparse.csr_matrix:
    """From weights of kinds to weights of the statistic's own rows, (kinds, K)."""
    shape = (len(rows), int(statistic.rows.max()) + 1)
    return sparse.csr_matrix((np.ones(len(rows), np.int64), (np.arange(len(rows)), rows)), shape=shape)


def affordable(statistic: Statistic, p: Examples, resamples: int, times: int = 1) -> int:
    """How many resamples of so many evaluations each: all that are asked for, fewer where ranking takes minutes."""
    if isinstance(statistic, OfImages) and isinstance(p, Boxes):
        work, per_resample = BOXES_WORK, int((p.scores[..., 0] >= 0).sum()) * len(statistic.names)
    elif isinstance(statistic, OfRanking):
        work, per_resample = RANKING_WORK, p.scores.size
    else:
        return resamples
    return max(min(resamples, 1000), min(resamples, work // max(per_resample * times, 1)))
