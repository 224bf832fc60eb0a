"""Metrics of counted decisions: what was right, what was there, what was said. Undefined is NaN, never 0."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np

Average = Literal["macro", "micro", "weighted", "binary"]


class Counts(NamedTuple):
    """All that precision, recall and their kin need to know, by class or label; leading axes are samples.

    `hits`, `actual` and `said` are (..., C): examples of the class said to be it, examples of it, examples said to be
    it. `n` (...) is the number of examples. For one label an example, `actual` and `said` each sum to n.
    """

    hits: np.ndarray
    actual: np.ndarray
    said: np.ndarray
    n: np.ndarray


def confusion_matrix(targets: np.ndarray, predicted: np.ndarray, n_classes: int) -> np.ndarray:
    """Counts (C, C), int64, or int32 where there are over a million cells: row is the target, column the prediction.

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
    cells = targets.astype(np.int64) * n_classes + predicted.astype(np.int64)
    if n_classes**2 <= max(len(cells), 2**20):
        return np.bincount(cells, minlength=n_classes**2).reshape(n_classes, n_classes)
    matrix = np.zeros((n_classes, n_classes), np.int32 if len(cells) < 2**31 else np.int64)  # half of the memory
    found, counts = np.unique(cells, return_counts=True)
    matrix.reshape(-1)[found] = counts
    return matrix


def label_counts(targets: np.ndarray, predicted: np.ndarray) -> Counts:
    """Counts of a multilabel problem: targets and predictions are 0 or 1, (N, L)."""
    targets, predicted = np.asarray(targets), np.asarray(predicted)
    if targets.shape != predicted.shape or targets.ndim != 2 or len(targets) == 0:
        raise ValueError(f"targets and predictions must be (N, L), not empty, got {targets.shape}, {predicted.shape}")
    for name, labels in (("targets", targets), ("predictions", predicted)):
        if not np.isin(labels, (0, 1)).all():
            raise ValueError(f"{name} of a multilabel problem must be 0 or 1")
    yes, said = targets.astype(np.int64), predicted.astype(np.int64)
    return Counts((yes * said).sum(0), yes.sum(0), said.sum(0), np.asarray(len(yes)))


def counts_of(confusion: np.ndarray | Counts) -> Counts:
    """The margins of confusion matrices (..., C, C); counts pass through."""
    if isinstance(confusion, Counts):
        return confusion
    confusion = np.asarray(confusion)
    # A copy, as a view would hold the whole matrix in memory; and int32 is too narrow for products of counts.
    hits = np.diagonal(confusion, axis1=-2, axis2=-1).astype(np.result_type(confusion, np.int64))
    return Counts(hits, confusion.sum(-1), confusion.sum(-2), confusion.sum((-2, -1)))


def accuracy(confusion: np.ndarray | Counts) -> np.ndarray:
    """Share of examples whose one label was right, from matrices (..., C, C) to (...)."""
    c = counts_of(confusion)
    return ratio(c.hits.sum(-1), c.n)


def balanced_accuracy(confusion: np.ndarray | Counts) -> np.ndarray:
    """Mean recall of the classes, which is macro recall; NaN if a class has no examples."""
    return recall(confusion, "macro")


def precision(confusion: np.ndarray | Counts, average: Average | None) -> np.ndarray:
    """TP / (TP + FP) from (..., C, C): per class (..., C) if `average` is None, else averaged (...).

    `macro` counts classes alike, `weighted` by their examples, `micro` pools all decisions, `binary` is class 1 of 2.
    NaN for a class that is never predicted, and for an average that takes such a class in.
    """
    c = counts_of(confusion)
    return _averaged(c, c.hits, c.said, average)


def recall(confusion: np.ndarray | Counts, average: Average | None) -> np.ndarray:
    """TP / (TP + FN), averaged as in `precision`; NaN for a class without examples."""
    c = counts_of(confusion)
    return _averaged(c, c.hits, c.actual, average)


def f_beta(confusion: np.ndarray | Counts, beta: float, average: Average | None) -> np.ndarray:
    """(1 + b²) TP / ((1 + b²) TP + b² FN + FP): recall counts `beta` times as much as precision (van Rijsbergen 1979).

    NaN for a class neither seen nor predicted; 0 for one that is seen or predicted but never both.
    """
    if not beta > 0 or not math.isfinite(beta):
        raise ValueError(f"beta is {beta!r}; it must be a positive number")
    c = counts_of(confusion)
    b = float(beta) ** 2
    return _averaged(c, (1 + b) * c.hits, b * c.actual + c.said, average)


def f1(confusion: np.ndarray | Counts, average: Average | None) -> np.ndarray:
    """2 TP / (2 TP + FP + FN), the harmonic mean of precision and recall; NaN for a class neither seen nor predicted.

    >>> f1(np.array([[1, 1], [0, 1]]), average="macro").round(4)
    np.float64(0.6667)
    """
    return f_beta(confusion, 1.0, average)


def matthews(confusion: np.ndarray | Counts) -> np.ndarray:
    """Correlation of targets and predictions, -1..1, for C classes (Gorodkin 2004); NaN if either is of one class."""
    c = counts_of(confusion)
    hits, actual, said, n = (np.asarray(v, dtype=np.float64) for v in c)
    covariance = hits.sum(-1) * n - (actual * said).sum(-1)
    spread = (n**2 - (actual**2).sum(-1)) * (n**2 - (said**2).sum(-1))
    return ratio(covariance, np.sqrt(np.maximum(spread, 0)))


def cohen_kappa(confusion: np.ndarray | Counts) -> np.ndarray:
    """(p_o - p_e) / (1 - p_e): agreement beyond chance (Cohen 1960); NaN if chance alone would always agree."""
    c = counts_of(confusion)
    hits, actual, said, n = (np.asarray(v, dtype=np.float64) for v in c)
    by_chance = (actual * said).sum(-1)
    return ratio(n * hits.sum(-1) - by_chance, n**2 - by_chance)


def undefined_because(confusion: np.ndarray | Counts, class_names: tuple[str, ...], metric: str = "") -> str:
    """Why an average of precision, recall or F over these counts is NaN, in words; empty if it is not."""
    c = counts_of(confusion)
    absent, unpredicted = c.actual == 0, c.said == 0
    if "recall" in metric or "accuracy" in metric:
        unpredicted = unpredicted & False
    elif "precision" in metric:
        absent = absent & False
    elif metric:  # an F score has a value for what is seen or predicted
        absent, unpredicted = absent & unpredicted, unpredicted & False
    parts = [
        f"{int(mask.sum())} of {len(class_names)} classes {what}, such as {class_names[int(mask.argmax())]!r}"
        for mask, what in ((absent, "have no examples"), (unpredicted, "are never predicted"))
        if mask.any()
    ]
    return "; ".join(parts)


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Their quotient, NaN where there is nothing to divide by."""
    out = np.full(np.broadcast(numerator, denominator).shape, np.nan)
    np.divide(numerator, denominator, out=out, where=np.asarray(denominator) > 0)
    return out[()]


def _averaged(counts: Counts, numerator: np.ndarray, denominator: np.ndarray, average: Average | None) -> np.ndarray:
    if average is None:
        return ratio(numerator, denominator)
    if average == "macro":
        return np.asarray(ratio(numerator, denominator).mean(-1))[()]
    if average == "micro":
        return ratio(numerator.sum(-1), denominator.sum(-1))
    if average == "weighted":
        # A class without examples has no weight, so its undefined ratio takes no part.
        terms = np.where(counts.actual > 0, counts.actual * ratio(numerator, denominator), 0.0)
        return ratio(terms.sum(-1), counts.actual.sum(-1))
    if average == "binary":
        if counts.actual.shape[-1] != 2:
            raise ValueError(f"average 'binary' is for two classes, this is a problem of {counts.actual.shape[-1]}")
        return ratio(numerator, denominator)[..., 1]
    raise ValueError(f"unknown average {average!r}; use 'macro', 'micro', 'weighted', 'binary' or None")
