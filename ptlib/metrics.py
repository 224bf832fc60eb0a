"""Metrics as pure functions on arrays. What is undefined is NaN, never 0; the averaging is always named."""

from __future__ import annotations

from typing import Literal

import numpy as np

Average = Literal["macro", "micro", "weighted"]


def confusion_matrix(targets: np.ndarray, predicted: np.ndarray, n_classes: int) -> np.ndarray:
    """Counts int64 (C, C): row is the target, column the prediction.

    ValueError if the lengths differ, an array is empty or not of integers, or a label lies outside 0..C-1.

    >>> confusion_matrix(np.array([0, 0, 1]), np.array([0, 1, 1]), 2)
    array([[1, 1],
           [0, 1]])
    """
    targets, predicted = np.asarray(targets), np.asarray(predicted)
    if targets.shape != predicted.shape or targets.ndim != 1 or len(targets) == 0:
        raise ValueError(
            f"targets and predictions must be 1-D, of one length and not empty, "
            f"got {targets.shape} and {predicted.shape}"
        )
    for name, labels in (("targets", targets), ("predictions", predicted)):
        if not np.issubdtype(labels.dtype, np.integer):
            raise ValueError(f"{name} must be integers, got {labels.dtype}")
        if labels.min() < 0 or labels.max() >= n_classes:
            raise ValueError(f"{name} run from {labels.min()} to {labels.max()}; they must lie in 0..{n_classes - 1}")
    cells = targets.astype(np.int64) * n_classes + predicted
    return np.bincount(cells, minlength=n_classes**2).reshape(n_classes, n_classes)


def accuracy(confusion: np.ndarray) -> np.ndarray:
    """Share of the diagonal, from matrices (..., C, C) to (...)."""
    return _ratio(_diagonal(confusion).sum(-1), confusion.sum((-2, -1)))


def precision(confusion: np.ndarray, average: Average | None) -> np.ndarray:
    """TP / (TP + FP) from (..., C, C): per class (..., C) if `average` is None, else averaged (...).

    NaN for a class that is never predicted, and for an average that takes such a class in.
    """
    return _averaged(confusion, _diagonal(confusion), confusion.sum(-2), average)


def recall(confusion: np.ndarray, average: Average | None) -> np.ndarray:
    """TP / (TP + FN); NaN for a class without examples. Macro recall is the balanced accuracy."""
    return _averaged(confusion, _diagonal(confusion), confusion.sum(-1), average)


def f1(confusion: np.ndarray, average: Average | None) -> np.ndarray:
    """2 TP / (2 TP + FP + FN), the harmonic mean of precision and recall; NaN for a class neither seen nor predicted.

    >>> f1(np.array([[1, 1], [0, 1]]), average="macro").round(4)
    np.float64(0.6667)
    """
    return _averaged(confusion, 2 * _diagonal(confusion), confusion.sum(-1) + confusion.sum(-2), average)


def undefined_because(confusion: np.ndarray, class_names: tuple[str, ...]) -> str:
    """Why a macro average over this matrix is NaN, in words; empty if it is not."""
    absent = [class_names[i] for i in np.flatnonzero(confusion.sum(1) == 0)]
    unpredicted = [class_names[i] for i in np.flatnonzero(confusion.sum(0) == 0)]
    parts = [
        f"{len(names)} of {len(class_names)} classes {what}, such as {names[0]!r}"
        for names, what in ((absent, "have no examples"), (unpredicted, "are never predicted"))
        if names
    ]
    return "; ".join(parts)


def _diagonal(confusion: np.ndarray) -> np.ndarray:
    return np.diagonal(confusion, axis1=-2, axis2=-1)


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    out = np.full(np.broadcast(numerator, denominator).shape, np.nan)
    np.divide(numerator, denominator, out=out, where=denominator > 0)
    return out[()]


def _averaged(
    confusion: np.ndarray, numerator: np.ndarray, denominator: np.ndarray, average: Average | None
) -> np.ndarray:
    if average is None:
        return _ratio(numerator, denominator)
    if average == "macro":
        return np.asarray(_ratio(numerator, denominator).mean(-1))[()]
    if average == "micro":
        return _ratio(numerator.sum(-1), denominator.sum(-1))
    if average == "weighted":
        support = confusion.sum(-1)  # (..., C)
        # A class without examples has no weight, so its undefined ratio takes no part.
        terms = np.where(support > 0, support * _ratio(numerator, denominator), 0.0)
        return _ratio(terms.sum(-1), support.sum(-1))
    raise ValueError(f"unknown average {average!r}; use 'macro', 'micro', 'weighted' or None")
