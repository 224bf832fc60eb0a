"""From scores to decisions: curves of one class against the rest with bands, and thresholds that cost least."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ptlib import stats
from ptlib.errors import InputError
from ptlib.metrics import Curve, curve
from ptlib.metrics.boxes import best_threshold
from ptlib.report import group_labels
from ptlib.results import Boxes, Estimate, Predictions

GRID = np.linspace(0, 1, 201)


class Band(NamedTuple):
    """A curve on a grid of x, and the pointwise 95 % band of resampled curves."""

    x: np.ndarray
    y: np.ndarray
    low: np.ndarray
    high: np.ndarray
    x_label: str
    y_label: str


class CostCurve(NamedTuple):
    """Mean cost an example of saying "it is" from each threshold up; the first threshold says it of nothing."""

    thresholds: np.ndarray
    cost: np.ndarray

    @property
    def cheapest(self) -> float:
        """The threshold of least cost, midway to the next score below it; infinite if "never" is cheapest."""
        k = int(self.cost.argmin())
        below = self.thresholds[k + 1] if k + 1 < len(self.thresholds) else 0.0
        return float("inf") if k == 0 else (float(self.thresholds[k]) + float(below)) / 2


def roc(
    predictions: Predictions, class_name: str, resamples: int = 1000, seed: int = 0, groups: str | None = None
) -> Band:
    """True positive rate at each false positive rate, interpolated between the points of the data."""
    labels = ("false positive rate", "true positive rate")
    return _band(predictions, class_name, resamples, seed, groups, _roc_on_grid, labels)


def precision_recall(
    predictions: Predictions, class_name: str, resamples: int = 1000, seed: int = 0, groups: str | None = None
) -> Band:
    """Precision at each recall: that of the highest threshold which reaches it, not interpolated."""
    return _band(predictions, class_name, resamples, seed, groups, _precision_on_grid, ("recall", "precision"))


def cost_curve(predictions: Predictions, class_name: str, miss: float, alarm: float) -> CostCurve:
    """(miss * false negatives + alarm * false positives) / N at every threshold on the class's probability."""
    _check_costs(miss, alarm)
    is_class, score = _one_class(predictions, class_name)
    c = curve(is_class, score)
    cost = (miss * (c.positives - c.hits) + alarm * c.alarms) / len(score)
    return CostCurve(np.r_[np.inf, c.thresholds], np.r_[miss * c.positives / len(score), cost])


def cost_at(
    predictions: Predictions, class_name: str, threshold: float, miss: float, alarm: float, resamples: int = 10_000,
    seed: int = 0, groups: str | None = None,
) -> Estimate:  # fmt: skip
    """The mean cost an example at a threshold that was chosen elsewhere, with its percentile bootstrap."""
    _check_costs(miss, alarm)
    is_class, score = _one_class(predictions, class_name)
    kinds = 2 * is_class + (score >= threshold)  # 0 right no, 1 false alarm, 2 miss, 3 found
    price = np.array([0, alarm, miss, 0.0])
    labels = group_labels(predictions, groups)
    prices = price[: kinds.max() + 1]
    drawn = stats.resample(kinds, resamples, seed, groups=labels, of=lambda w: w @ prices / w.sum(1))
    value, (low, high) = float(price[kinds].mean()), stats.percentile(np.concatenate(list(drawn)))
    reason = None
    if low == high:
        low, high, reason = np.nan, np.nan, "all resamples have this value"
    return Estimate(value, low, high, f"percentile bootstrap, {resamples:,} resamples", reason=reason)


def _one_class(p: Predictions, name: str) -> tuple[np.ndarray, np.ndarray]:
    if name not in p.class_names:
        raise InputError(f"there is no class {name!r}; there are {', '.join(p.class_names[:20])}")
    k = p.class_names.index(name)
    truth = p.targets[:, k] == 1 if p.multilabel else p.targets == k
    if truth.all() or not truth.any():
        raise InputError(f"{'all' if truth.all() else 'none'} of the examples are {name!r}; some must be, some not")
    return truth, p.probabilities[:, k]


def _check_costs(miss: float, alarm: float) -> None:
    if not (miss > 0 and alarm > 0 and np.isfinite(miss + alarm)):
        raise InputError(f"the costs of a miss and of a false alarm are {miss} and {alarm}; both must be above 0")


def _band(
    p: Predictions, name: str, resamples: int, seed: int, groups: str | None, on_grid: Callable[[Curve], np.ndarray],
    labels: tuple[str, str],
) -> Band:  # fmt: skip
    is_class, score = _one_class(p, name)
    drawn = stats.resample(
        np.arange(len(p)), resamples, seed, groups=group_labels(p, groups),
        of=lambda w: on_grid(curve(is_class, score, w)),
    )  # fmt: skip
    low, high = np.nanquantile(np.concatenate(list(drawn)), [0.025, 0.975], axis=0)
    return Band(GRID, on_grid(curve(is_class, score, np.ones((1, len(p)))))[0], low, high, *labels)


def _roc_on_grid(c: Curve) -> np.ndarray:
    x, y = np.insert(c.false_alarm_rate, 0, 0, -1), np.insert(c.recall, 0, 0, -1)
    rows = np.stack([np.interp(GRID, a, b) for a, b in zip(x, y, strict=True)])
    return np.where(((c.positives > 0) & (c.negatives > 0))[:, None], rows, np.nan)


def _precision_on_grid(c: Curve) -> np.ndarray:
    reached = [np.searchsorted(r, GRID - 1e-12).clip(max=len(r) - 1) for r in c.recall]
    rows = np.stack([row[k] for row, k in zip(c.precision, reached, strict=True)])
    return np.where((c.positives > 0)[:, None], rows, np.nan)


def box_threshold(predictions: Boxes, iou: float = 0.5) -> float:
    """The score from which on boxes are to be shown: it gives the highest F1 over all classes at one IoU.

    Choose it on val: on the examples it is chosen on it looks better than it is. InputError if no box was found.
    """
    found = best_threshold(predictions.targets, predictions.scores, len(predictions.class_names), iou)[0]
    if np.isnan(found):
        raise InputError(
            f"no box was found on {predictions.split!r}, so no score can be chosen from which to show boxes"
        )
    return found
