"""From predictions to a report: each metric with its interval, and the sentences a notebook prints."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ptlib import metrics
from ptlib.results import Estimate, Predictions, Report
from ptlib.stats import bootstrap_confusion, wilson

RESAMPLES = 10_000
MANY_CLASSES = 200  # above which a tenth of them must do: their cost grows with the square of the classes


def evaluate(
    predictions: Predictions, selected_on: str = "nothing was selected", seed: int = 0, **provenance: Any
) -> Report:
    """Accuracy, macro precision, recall and F1, and the three by class, with 95 % intervals.

    Accuracy has Wilson's interval; so have precision and recall of a class, proportions with their own denominators;
    the others come from 10,000 resamples of the examples, drawn as the cells of the confusion matrix.
    """
    names = predictions.class_names
    confusion = metrics.confusion_matrix(predictions.targets, predictions.predicted, len(names))
    n = len(predictions)
    resamples = RESAMPLES if len(names) <= MANY_CLASSES else RESAMPLES // 10
    method = f"percentile bootstrap, {resamples:,} resamples"

    def statistic(cells: np.ndarray) -> np.ndarray:
        macro = [f(cells, "macro") for f in (metrics.precision, metrics.recall, metrics.f1)]
        return np.stack([*macro, *np.moveaxis(metrics.f1(cells, None), -1, 0)], axis=-1)

    bounds = bootstrap_confusion(confusion, statistic, resamples, seed=seed)
    values = statistic(confusion[None])[0]
    why = metrics.undefined_because(confusion, names)

    def estimate(k: int, reason: str) -> Estimate:
        value = float(values[k])
        if math.isnan(value):
            return Estimate(value, math.nan, math.nan, method, reason=reason)
        low, high = (float(b) for b in bounds[k])
        return Estimate(
            value, low, high, method, reason="undefined in over 5 % of resamples" if math.isnan(low) else None
        )

    right = int(np.trace(confusion))
    found = {
        "accuracy": Estimate(right / n, *wilson(right, n), "Wilson"),
        **{f"macro_{what}": estimate(k, why) for k, what in enumerate(("precision", "recall", "f1"))},
    }
    per_class = {}
    for c, name in enumerate(names):
        hits, seen, said = int(confusion[c, c]), int(confusion[c].sum()), int(confusion[:, c].sum())
        per_class[name] = {
            "precision": _proportion(hits, said, "it is never predicted"),
            "recall": _proportion(hits, seen, "it has no examples"),
            "f1": estimate(3 + c, "it is neither seen nor predicted"),
        }
    return Report(found, n, predictions.split, per_class, confusion, names, selected_on, dict(provenance))


def _proportion(hits: int, n: int, reason: str) -> Estimate:
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, "Wilson", reason=reason)
    return Estimate(hits / n, *wilson(hits, n), "Wilson")


def expect(name: str, value: float, expected: float, tolerance: float) -> None:
    """Print whether a number that matters came out as the text around it says.

    While `value` is within `tolerance` of `expected` the line does not change, so that it can be compared as text;
    otherwise it shows the value.
    """
    if abs(value - expected) <= tolerance:
        print(f"{name} {expected:g} ± {tolerance:g}: as expected")
    else:
        print(f"{name} {value:.3f}: the text describes a run with {expected:g} ± {tolerance:g}")
