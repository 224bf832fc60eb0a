"""Metrics of how scores order examples, one class against the rest, for any number of weightings at once.

A weighting says how often each example counts. Between two neighbouring scores of a class's own examples it does not
matter how the others are ordered; so their weights are summed by gap, in one sparse product for all classes, and each
curve needs only as many points as the class has scores. Ten thousand bootstrap resamples are ten thousand weightings.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import sparse

from ptlib.metrics.counts import Average, ratio


class Curve(NamedTuple):
    """Counts at each distinct score, from the highest down: examples at or above it that are and are not of the class.

    `thresholds` (T,); `hits` and `alarms` (..., T); `positives` and `negatives` (...) are their totals.
    """

    thresholds: np.ndarray
    hits: np.ndarray
    alarms: np.ndarray
    positives: np.ndarray
    negatives: np.ndarray

    @property
    def recall(self) -> np.ndarray:
        """True positive rate, NaN without examples of the class."""
        return ratio(self.hits, self.positives[..., None])

    @property
    def false_alarm_rate(self) -> np.ndarray:
        """False positive rate, NaN without other examples."""
        return ratio(self.alarms, self.negatives[..., None])

    @property
    def precision(self) -> np.ndarray:
        return ratio(self.hits, self.hits + self.alarms)


def curve(is_class: np.ndarray, scores: np.ndarray, weights: np.ndarray | None = None) -> Curve:
    """What ROC and precision-recall curves are drawn from: `is_class` and `scores` (N,), `weights` (..., N) or none."""
    is_class, scores = np.asarray(is_class).astype(bool), np.asarray(scores, dtype=np.float64)
    _check_scores(is_class, scores)
    weights = np.ones(len(scores)) if weights is None else np.asarray(weights, dtype=np.float64)
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.r_[np.diff(scores[order]) != 0, True])  # ties are decided together
    hits = np.cumsum(weights[..., order] * is_class[order], axis=-1)[..., last]
    alarms = np.cumsum(weights[..., order] * ~is_class[order], axis=-1)[..., last]
    return Curve(scores[order][last], hits, alarms, hits[..., -1], alarms[..., -1])


class Ranking:
    """Scores of several classes sorted once, to be weighted many times.

    `truth` is bool (N, C), `scores` (N, C): what is the class, and how strongly each is said to be it.
    """

    def __init__(self, truth: np.ndarray, scores: np.ndarray):
        self.n, self.n_classes = scores.shape
        self.truth = truth
        rows, columns = [], []
        self.slices: list[tuple[slice, slice]] = []
        start = 0
        for k in range(self.n_classes):
            own, others = np.flatnonzero(truth[:, k]), np.flatnonzero(~truth[:, k])
            levels, level = np.unique(scores[own, k], return_inverse=True)
            u = len(levels)
            # Even gaps lie between two levels, odd ones on a level: ties count half.
            gap = np.searchsorted(levels, scores[others, k], "left") + np.searchsorted(
                levels, scores[others, k], "right"
            )
            rows += [start + level.ravel(), start + u + gap]
            columns += [own, others]
            self.slices.append((slice(start, start + u), slice(start + u, start + 3 * u + 1)))
            start += 3 * u + 1
        row, column = np.concatenate(rows), np.concatenate(columns)
        self.sums = sparse.csr_matrix((np.ones(len(row)), (row, column)), shape=(start, self.n))
        self.counts = self.sums.astype(np.float32)

    def values(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """AUROC, average precision and weight of each class, (R, C) each, for weights (R, N)."""
        whole = weights.dtype.kind in "iu" and weights.sum(1).max() < 2**24  # float32 then adds without rounding
        kind, table = (np.float32, self.counts) if whole else (np.float64, self.sums)
        sums = table @ np.ascontiguousarray(weights.T, dtype=kind)  # (3U + 1 of each class, R)
        auroc, precision, size = (np.full((len(weights), self.n_classes), np.nan) for _ in range(3))
        for k, (levels, gaps) in enumerate(self.slices):
            own, others = sums[levels].astype(np.float64), sums[gaps].astype(np.float64)
            positives, negatives = own.sum(0), others.sum(0)
            below = np.cumsum(others, axis=0)
            wins = (own * (below[:-1:2] + below[1::2])).sum(0) / 2  # others strictly below, and half of the tied
            auroc[:, k] = ratio(wins, positives * negatives)
            above = own[::-1].cumsum(0)[::-1]  # own examples at or above each level
            false = negatives - below[:-1:2]  # others at or above it
            found = ratio(above, above + false)
            precision[:, k] = ratio(np.where(own > 0, own * found, 0.0).sum(0), positives)
            size[:, k] = positives
        return auroc, precision, size

    def influence(self) -> tuple[np.ndarray, np.ndarray]:
        """How AUROC and average precision change with an example's weight, per unit of it: (N, C) each."""
        auroc, precision = np.zeros((self.n, self.n_classes)), np.zeros((self.n, self.n_classes))
        ones = np.ones(self.n)
        for k, (levels, gaps) in enumerate(self.slices):
            first, middle, last = levels.start, gaps.start, gaps.stop
            own, others = self.sums[first:middle] @ ones, self.sums[middle:last] @ ones
            p, n = own.sum(), others.sum()
            if p == 0 or n == 0:
                auroc[:, k] = np.nan
                precision[:, k] = np.nan if p == 0 else 0.0
                continue
            below = np.cumsum(others)
            beaten = (below[:-1:2] + below[1::2]) / 2
            area = (own * beaten).sum() / (p * n)
            above = own[::-1].cumsum()[::-1]
            beating = np.r_[np.repeat(above, 2), 0] - np.r_[np.stack([0 * own, own / 2], 1).ravel(), 0]
            slope = np.r_[(beaten / n - area) / p, (beating / p - area) / n]
            auroc[:, k] = self.sums[first:last].T @ slope
            false = n - below[:-1:2]
            found = above / (above + false)
            average = (own * found).sum() / p
            # A further example at or above a level moves the precision there, and at every level below it.
            more_own = np.cumsum(own * false / (above + false) ** 2)
            more_others = np.r_[0, np.cumsum(own * above / (above + false) ** 2)]
            gap_level = np.r_[np.repeat(np.arange(len(own)), 2), len(own)] + np.r_[np.tile([0, 1], len(own)), 0]
            slope = np.r_[(found + more_own - average) / p, -more_others[gap_level] / p]
            precision[:, k] = self.sums[first:last].T @ slope
        return auroc, precision


def auroc(targets: np.ndarray, scores: np.ndarray, average: Average | None) -> np.ndarray:
    """Area under the ROC curve of each class against the rest; a tie counts half (Hanley and McNeil 1982).

    `targets` are classes (N,) or labels 0/1 (N, L), `scores` (N, C) or (N, L); for two classes `scores` may be those
    of class 1, (N,). Per class if `average` is None; `macro`, or `weighted` by the examples of each class. NaN for a
    class without examples, or without others.
    """
    return _one_vs_rest(targets, scores, average, 0)


def average_precision(targets: np.ndarray, scores: np.ndarray, average: Average | None) -> np.ndarray:
    """Mean over a class's examples of the precision at their score: sum of (R_n - R_{n-1}) P_n, not interpolated.

    Arguments as for `auroc`. Unlike the area under ROC it is not symmetric: for two classes name the one you mean.
    NaN for a class without examples.
    """
    return _one_vs_rest(targets, scores, average, 1)


def top_k(targets: np.ndarray, scores: np.ndarray, k: int) -> np.ndarray:
    """Whether the target is among the k highest scores, bool (N,); of equal scores the lower class stands first.

    Its mean is the top-k accuracy; k = 1 agrees with argmax, ties included.
    """
    if not 1 <= k <= scores.shape[1]:
        raise ValueError(f"k is {k}; with {scores.shape[1]} classes it must lie in 1..{scores.shape[1]}")
    truth_of(targets, scores.shape[1])
    own = np.take_along_axis(scores, targets[:, None], axis=1)
    earlier = np.arange(scores.shape[1]) < targets[:, None]
    rank = ((scores > own) | ((scores == own) & earlier)).sum(1)
    return np.asarray(rank < k)


def truth_of(targets: np.ndarray, n_classes: int) -> np.ndarray:
    """Which class or label each example has, bool (N, C)."""
    targets = np.asarray(targets)
    top = 1 if targets.ndim == 2 else n_classes - 1
    if len(targets) and not np.isin(targets, np.arange(top + 1)).all():
        raise ValueError(f"targets run from {targets.min()} to {targets.max()}; they must lie in 0..{top}")
    return targets.astype(bool) if targets.ndim == 2 else targets[:, None] == np.arange(n_classes)


def averaged(each: np.ndarray, actual: np.ndarray, average: Average | None) -> np.ndarray:
    """One-vs-rest values (..., C) averaged; `actual` (..., C) are the examples of each class."""
    if average is None:
        return each
    if average == "macro":
        return np.asarray(each.mean(-1))
    if average == "weighted":
        terms = np.where(actual > 0, actual * each, 0.0)
        return ratio(terms.sum(-1), actual.sum(-1))
    if average == "binary" and each.shape[-1] == 2:
        return np.asarray(each[..., 1])
    raise ValueError(f"unknown average {average!r}; use 'macro', 'weighted', None, or 'binary' for two classes")


def _one_vs_rest(targets: np.ndarray, scores: np.ndarray, average: Average | None, which: int) -> np.ndarray:
    targets, scores = np.asarray(targets), np.asarray(scores, dtype=np.float64)
    if scores.ndim == 1:
        scores = np.stack([-scores, scores], axis=1)
    truth = truth_of(targets, scores.shape[1])
    _check_scores(truth, scores)
    each = Ranking(truth, scores).values(np.ones((1, len(truth)), np.int64))[which][0]
    return averaged(each, truth.sum(0), average)[()]


def _check_scores(truth: np.ndarray, scores: np.ndarray) -> None:
    if truth.shape != scores.shape or len(scores) == 0:
        raise ValueError(f"targets {truth.shape} and scores {scores.shape} must be of one shape and not empty")
    if np.isnan(scores).any():
        raise ValueError(f"{int(np.isnan(scores).sum())} scores are NaN; a ranking needs numbers")
