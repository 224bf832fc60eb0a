"""Whether a model notices what it has never seen: outlier scores from cached features, and how well they separate."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn

from ptlib import stats
from ptlib.core import Split
from ptlib.errors import InputError, did_you_mean
from ptlib.models import Model
from ptlib.outliers import OF_LOGITS, SCORES
from ptlib.prediction import features

Scores = dict[str, dict[str, np.ndarray]]


def outlier_scores(
    model: Model, train: Split, sets: Mapping[str, Split], names: Sequence[str] = tuple(SCORES), *,
    device: str = "auto", precision: str = "auto",
) -> Scores:  # fmt: skip
    """How strange each example of each set looks to a model, by score and set; features are computed once.

    See `ptlib.outliers` for the scores. InputError for a name that is none, and a head that is not linear.
    """
    for name in names:
        if name not in SCORES:
            raise InputError(f"there is no score {name!r}{did_you_mean(name, list(SCORES)) or ';'} there are "
                             f"{', '.join(SCORES)}")  # fmt: skip
    if not isinstance(model.head, nn.Linear):
        raise InputError(f"outlier scores need a linear head, this one is a {type(model.head).__name__}")
    of = {k: features(model, s, device, precision).cpu().double().numpy() for k, s in sets.items()}
    if not set(names) <= set(OF_LOGITS):
        seen = features(model, train, device, precision).cpu().double().numpy()
    else:
        seen = np.zeros((0, model.width))  # not asked for
    weight = model.head.weight.detach().cpu().double().numpy()
    bias = model.head.bias.detach().cpu().double().numpy() if model.head.bias is not None else np.zeros(len(weight))
    ends = np.cumsum([len(of[name]) for name in sets])[:-1]
    together = np.concatenate([of[name] for name in sets])  # one call a score: what it makes of train is made once
    y = train.targets.numpy()
    found = {name: np.split(SCORES[name](seen, y, together, weight, bias), ends) for name in names}
    return {name: dict(zip(sets, parts, strict=True)) for name, parts in found.items()}


def separation(scores: Scores, known: str, seed: int = 0) -> Any:
    """How well each score tells the set `known` from each other set: a DataFrame indexed by score and set.

    `auroc`, the chance that an unknown example scores above a known one, with DeLong's interval (`auroc low`, `high`);
    `fpr95`, the share of unknown ones that pass where 95 % of the known do, with its bootstrap (`fpr95 low`, `high`).
    """
    import pandas as pd

    rows = []
    for name, by_set in scores.items():
        if known not in by_set:
            raise InputError(f"there is no set {known!r}; there are {', '.join(by_set)}")
        for other, values in by_set.items():
            if other == known:
                continue
            if min(len(values), len(by_set[known])) < 2:
                raise InputError(
                    f"{other} has {len(values)} examples and {known} {len(by_set[known])}; it takes two of each"
                )
            area, low, high = stats.delong(by_set[known], values)
            passing, least, most = stats.false_alarms(by_set[known], values, seed=seed)
            if least == most:
                least = most = math.nan
            rows.append({"score": name, "set": other, "n": len(values), "auroc": area, "auroc low": low,
                         "auroc high": high, "fpr95": passing, "fpr95 low": least, "fpr95 high": most})  # fmt: skip
    return pd.DataFrame(rows).set_index(["score", "set"])
