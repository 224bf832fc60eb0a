"""Scores of features (N, D) against labels (N,) by distances, and by a classifier that is really fitted."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from scipy.stats import rankdata

from ptlib.errors import InputError
from ptlib.transferability.sample import Sample, sample

PENALTIES = (1.0, 0.1, 0.01, 0.001)


def nearest_neighbours(features: Any, labels: Any = None, *, k: int = 5, memory: int = 2**28) -> float:
    """Accuracy of k nearest neighbours (Cover and Hart 1967) by Euclidean distance, each example classified by all
    the others.

    All that are as near as the k-th vote; between classes with equally many votes the one with the nearest member is
    taken, and where that is equal too the example counts by its chance. So neither the order of the examples nor that
    of the classes matters.

    From 0 to 1, higher is better. Invariant to rotation, shifts and scaling of all features at once. O(N^2 D) time;
    `memory` bounds the bytes of distances held at once.
    """
    x = sample(features, labels)
    if not 1 <= k < x.n:
        raise InputError(f"k is {k}; with {x.n} examples it must lie between 1 and {x.n - 1}")
    order = np.argsort(x.labels, kind="stable")  # classes side by side, so that votes are sums of slices
    z, y = x.coordinates[order], x.labels[order]
    first = np.concatenate([[0], np.cumsum(x.counts)[:-1]])
    squares = (z**2).sum(1)
    right = 0.0
    step = max(1, memory // (24 * x.n))
    for start in range(0, x.n, step):
        rows = np.arange(start, min(start + step, x.n))
        distance = squares[rows, None] + squares - 2 * (z[rows] @ z.T)
        distance[np.arange(len(rows)), rows] = np.inf  # no example is its own neighbour
        furthest = np.partition(distance, k - 1, axis=1)[:, k - 1 : k]
        slack = 1e-12 * (squares[rows, None] + furthest)  # rounding of distances so large between points so far out
        furthest = furthest + slack
        votes = np.add.reduceat((distance <= furthest).astype(np.int32), first, axis=1)  # (B, C)
        nearest = np.minimum.reduceat(distance, first, axis=1)
        leading = votes == votes.max(1, keepdims=True)
        nearest = np.where(leading, nearest, np.inf)
        leading &= nearest <= nearest.min(1, keepdims=True) + slack
        right += float((leading[np.arange(len(rows)), y[rows]] / leading.sum(1)).sum())
    return right / x.n


def parc(features: Any, labels: Any = None, *, n_max: int = 2000) -> float:
    """PARC: Spearman's correlation, over pairs of examples, of 1 - correlation of their features (each standardised
    over the examples) with 1 - correlation of their one-hot labels (Bolya et al. 2021, arXiv 2111.06977).

    The second takes two values, so what counts is how the distances within classes rank among all. Of more than
    `n_max` examples about so many are taken, evenly in the order given, at least two of a class, and of too many
    classes only some: pairs grow with the square.

    From -1 to 1 (published times 100), higher is better. Invariant to shifts and scaling of each feature, not to
    rotation. An example whose standardised features are constant has no correlation; it counts as 0. O(n_max^2 D).
    """
    x = sample(features, labels)
    rows = _thinned(x.labels, n_max)
    z, y = x.features[rows].astype(np.float64), x.labels[rows]
    if len(np.unique(y)) < 2 or len(y) < 3:
        raise InputError(f"parc compares pairs within classes with pairs across; {len(y)} examples have too few")
    std = np.where(z.min(0) < z.max(0), z.std(0), 0.0)
    z = (z - z.mean(0)) / np.where(std > 0, std, np.inf)
    z -= z.mean(1, keepdims=True)
    length = np.linalg.norm(z, axis=1, keepdims=True)
    z /= np.where(length > 1e-12 * length.max(initial=0.0), length, np.inf)
    i, j = np.triu_indices(len(y), 1)
    near = (z @ z.T)[i, j]
    ranks = rankdata(-near.round(12))  # what repeats is tied, in spite of rounding
    other = (y[i] != y[j]).astype(np.float64)
    if other.min() == other.max() or ranks.min() == ranks.max():
        raise InputError("parc is undefined: all pairs of examples are alike, in their classes or in their features")
    return float(np.corrcoef(ranks, other)[0, 1])  # ranks of two values are those values, scaled


def linear_probe(
    features: Any, labels: Any = None, *, folds: int = 5, penalties: tuple[float, ...] = PENALTIES
) -> float:
    """Accuracy of multinomial logistic regression on features, by stratified cross-validation (a linear classifier
    probe; Alain and Bengio 2016, arXiv 1610.01644). Features are standardised over all examples, without labels.

    Each class is dealt to the folds in the order given. The penalty, of penalty / 2 |W|^2 beside the mean
    cross-entropy, is the one of `penalties`, from the strongest on until the log loss over all folds rises, with the
    least of it; so the accuracy is that of a choice among a few. A class with one example can't be learned when it is
    left out, and counts as wrong.

    From 0 to 1, higher is better. Invariant to shifts and scaling of each feature. Costs `folds` times
    `len(penalties)` fits, each some hundred passes over (N, min(N, D)) numbers.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    x = sample(features, labels)
    if not 2 <= folds <= x.n or not penalties or min(penalties) <= 0:
        raise InputError(f"folds is {folds}, penalties {penalties}: 2 to {x.n} folds, penalties above 0")
    fold = np.empty(x.n, dtype=np.int64)
    start = 0
    for c in range(x.n_classes):
        members = np.flatnonzero(x.labels == c)
        fold[members] = (start + np.arange(len(members))) % folds
        start += len(members)
    z, parts = _standardised(x), [fold == f for f in range(folds)]
    if any(len(np.unique(x.labels[~out])) < 2 for out in parts):
        raise InputError("a probe needs two classes to learn from in every fold; give more examples of each class")
    models = [LogisticRegression(max_iter=300, tol=1e-4, warm_start=True) for _ in parts]
    best = (np.inf, 0.0)
    for penalty in sorted(penalties, reverse=True):  # each from the stronger one's fit
        loss, hits = 0.0, 0
        for out, model in zip(parts, models, strict=True):
            model.C = 1 / (penalty * int((~out).sum()))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # 300 steps are near enough for an accuracy
                model.fit(z[~out], x.labels[~out])
            p = np.full((int(out.sum()), x.n_classes), 1e-12)
            p[:, model.classes_] = np.maximum(model.predict_proba(z[out]), 1e-12)
            loss -= float(np.log(p[np.arange(len(p)), x.labels[out]]).sum())
            hits += int((p.argmax(1) == x.labels[out]).sum())
        if loss >= best[0]:
            break
        best = (loss, hits / x.n)
    return best[1]


def _standardised(x: Sample) -> np.ndarray:
    """Features of variance 1, rotated into N dimensions where there are more: what penalises weights can't tell."""
    z = np.concatenate([part for _, part in x.chunks(x.mean)])
    std = z.std(0)
    z /= np.where(std > 0, std, np.inf)
    if z.shape[1] <= len(z):
        return z
    u, s, _ = np.linalg.svd(z, full_matrices=False)
    return np.asarray(u * s)


def _thinned(labels: np.ndarray, n_max: int) -> np.ndarray:
    """Rows of about `n_max` examples: two of a class at least, classes thinned evenly, and some left out where there
    are more than `n_max` / 2."""
    if len(labels) <= n_max:
        return np.arange(len(labels))
    classes = np.arange(int(labels.max()) + 1)
    if 2 * len(classes) > n_max:
        classes = classes[np.linspace(0, len(classes) - 1, max(2, n_max // 2)).round().astype(int)]
    kept = []
    for c in classes:
        members = np.flatnonzero(labels == c)
        keep = min(len(members), max(2, round(len(members) * n_max / len(labels))))
        kept.append(members[np.linspace(0, len(members) - 1, keep).round().astype(int)])
    return np.sort(np.concatenate(kept))
