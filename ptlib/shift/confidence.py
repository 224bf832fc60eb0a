"""What confidence is worth in distribution and out of it: calibration, sets of answers, abstaining, accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ptlib import metrics as m
from ptlib import stats
from ptlib.errors import InputError
from ptlib.report import evaluate, group_labels
from ptlib.results import Estimate, Predictions

CALIBRATION = ("accuracy", "ece_debiased", "log_loss")


def tempered(p: Predictions, temperature: float) -> Predictions:
    """The predictions with their logits divided by a temperature: accuracy stays, confidence does not."""
    if not temperature > 0:
        raise InputError(f"temperature is {temperature}; it must be above 0")
    _one_label(p)
    return replace(p, scores=p.scores.astype(np.float64) / temperature)


def fitted_temperature(val: Predictions) -> float:
    """The temperature that suits val best (see `ptlib.metrics.fit_temperature`)."""
    _one_label(val)
    return m.fit_temperature(val.scores, val.targets)


def calibration(
    said: Mapping[str, Predictions], temperature: float = 1.0, resamples: int = 1000, seed: int = 0,
    groups: Mapping[str, str] | None = None,
) -> Any:  # fmt: skip
    """Accuracy, mean confidence, debiased calibration error and log loss of each set, as it is and tempered.

    A DataFrame of Estimates, a row for each set. `groups` names a column by set, where examples belong together.
    """
    import pandas as pd

    rows = {}
    for name, p in said.items():
        how: dict[str, Any] = {"resamples": resamples, "seed": seed, "groups": (groups or {}).get(name)}
        before = evaluate(p, metrics=CALIBRATION, **how)
        after = evaluate(tempered(p, temperature), metrics=CALIBRATION[1:], **how)
        rows[name] = {
            "accuracy": before["accuracy"], "confidence": float(p.probabilities.max(1).mean()),
            "error": before["ece_debiased"], "error, tempered": after["ece_debiased"],
            "log loss": before["log_loss"], "log loss, tempered": after["log_loss"],
        }  # fmt: skip
    return pd.DataFrame.from_dict(rows, orient="index")


def conformal(
    val: Predictions, said: Mapping[str, Predictions], alpha: float = 0.1, kind: m.Nonconformity = "lac",
    groups: Mapping[str, str] | None = None, resamples: int = 1000, seed: int = 0,
) -> Any:  # fmt: skip
    """Sets of classes that hold the truth in 1 - alpha of cases, by a threshold from val: their coverage on each set.

    A DataFrame: `coverage` with Wilson's interval; `promised from` and `to`, where it lies for 95 of 100 thresholds and
    sets of this size drawn from where val came from; whether it `holds`, which is not below that; and the mean `size`
    of the sets, below 1 where some are empty. `groups` names a column by set, where examples belong together: the
    interval then draws groups, and they count as the set's size. The promise needs val to be unlearned: what was chosen
    on it makes it a little too good. Where a set has some of the classes only, val is restricted to those for it.
    """
    import pandas as pd

    found = {}
    for name, p in said.items():
        of_val = _alike(val, p)
        own = m.nonconformity(of_val.probabilities, kind)[np.arange(len(of_val)), of_val.targets]
        inside = m.nonconformity(p.probabilities, kind) <= m.conformal_threshold(own, alpha)  # (N, C)
        held = inside[np.arange(len(p)), p.targets]
        labels = group_labels(p, (groups or {}).get(name))
        if labels is None:
            n, (low, high) = len(p), stats.wilson(int(held.sum()), len(p))
        else:
            n = len(np.unique(labels))
            drawn = stats.resample(np.arange(len(p)), resamples, seed, groups=labels,
                                   of=lambda w, held=held: w @ held / w.sum(1))  # type: ignore[misc]  # fmt: skip
            low, high = stats.percentile(np.concatenate(list(drawn)))
            if low == high:  # where all resamples agree they say nothing of its uncertainty
                low = high = float("nan")
        promised = m.promised_coverage(len(of_val), n, alpha)
        found[name] = {
            "coverage": held.mean(), "low": low, "high": high, "promised from": promised[0], "to": promised[1],
            "holds": held.mean() >= promised[0], "size": inside.sum(1).mean(),
        }  # fmt: skip
    return pd.DataFrame.from_dict(found, orient="index")


def selective_prediction(
    said: Mapping[str, Predictions], resamples: int = 1000, seed: int = 0, groups: Mapping[str, str] | None = None
) -> Any:
    """How well confidence tells right from wrong: a DataFrame with a row for each set.

    `aurc` (see `ptlib.metrics.aurc`) with its bootstrap, the error rate it would be without any order (`no order`) and
    what it would be if every error came last (`best order`), and the accuracy of the surer half.
    """
    import pandas as pd

    rows = {}
    for name, p in said.items():
        confidence, wrong = _confidence(p), (p.predicted != p.targets).astype(np.float64)
        labels = group_labels(p, (groups or {}).get(name))
        drawn = np.concatenate(list(stats.resample(
            np.arange(len(p)), resamples, seed, groups=labels, of=lambda w, c=confidence, e=wrong: m.aurc(c, e, w))))  # type: ignore[misc]  # fmt: skip
        low, high = stats.percentile(drawn)
        reason = "all resamples have this value" if low == high else None
        if reason:
            low = high = float("nan")
        surer = np.argsort(-confidence, kind="stable")[: max(1, len(p) // 2)]
        method = f"percentile bootstrap, {resamples:,} resamples"
        rows[name] = {
            "aurc": Estimate(float(m.aurc(confidence, wrong)), low, high, method, reason=reason),
            "no order": wrong.mean(), "best order": float(m.aurc(-wrong, wrong)),
            "accuracy of the surer half": 1 - wrong[surer].mean(),
        }  # fmt: skip
    return pd.DataFrame.from_dict(rows, orient="index")


def estimated_accuracy(val: Predictions, said: Mapping[str, Predictions]) -> Any:
    """The accuracy on each set as estimated from val and from the set's inputs alone, and what it is: a DataFrame.

    `as on val` is no change; `mean confidence` believes the model; `difference of confidences` (Guillory et al. 2021)
    and average thresholded confidence by confidence and by entropy (`ATC`; Garg et al. 2022) compare with val. Give
    tempered predictions: all of these lean on calibration. Where a set has some of the classes only, val is restricted
    to those for it.
    """
    import pandas as pd

    rows = {}
    for name, p in said.items():
        of_val = _alike(val, p)
        right, confidence = of_val.predicted == of_val.targets, p.probabilities.max(1)
        rows[name] = {
            "accuracy": float((p.predicted == p.targets).mean()),
            "as on val": float(right.mean()),
            "mean confidence": float(confidence.mean()),
            "difference of confidences": m.difference_of_confidences(
                of_val.probabilities.max(1), right, confidence),
            "ATC, confidence": m.thresholded_confidence(_confidence(of_val), right, _confidence(p)),
            "ATC, entropy": m.thresholded_confidence(_negative_entropy(of_val), right, _negative_entropy(p)),
        }  # fmt: skip
    return pd.DataFrame.from_dict(rows, orient="index")


def _confidence(p: Predictions) -> np.ndarray:
    """The log odds of the class it names: in the order of its probability, without ties where that rounds to 1."""
    _one_label(p)
    return np.asarray(p.log_odds.max(1))


def _alike(val: Predictions, p: Predictions) -> Predictions:
    """Predictions on val among the classes that `p` has."""
    _one_label(val)
    _one_label(p)
    return val.among(p.class_names)


def _negative_entropy(p: Predictions) -> np.ndarray:
    return np.asarray((p.probabilities * p.log_probabilities).sum(1))


def _one_label(p: Predictions) -> None:
    if p.multilabel:
        raise InputError("this is of one label an example; take predictions.one_vs_rest(<label>)")
