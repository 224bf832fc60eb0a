"""Transferability: how well a model's features suit a task, from features and labels alone, before any fine-tuning.

Pure functions of `(features, labels)` or `(source_probabilities, labels)`, in float64, that change nothing they are
given. Each docstring has the formula, its source, range, invariances and cost. What they are worth as predictors is
another question, and `ptlib.selection` asks it.
"""

from collections.abc import Callable
from functools import partial

import numpy as np

from ptlib.transferability.classification import gbc, h_score, log_me, sfda, trans_rate
from ptlib.transferability.neighbours import linear_probe, nearest_neighbours, parc
from ptlib.transferability.pool import combine_etran, combine_ncti, etran, etran_parts, ncti, ncti_parts, scale
from ptlib.transferability.sample import Sample, sample
from ptlib.transferability.source import leep, nce, nleep

# By name: scores of a sample, of source probabilities and labels, and of a pool from each candidate's parts.
FEATURE_SCORES: dict[str, Callable[[Sample], float]] = {
    "log_me": log_me,
    "h_score": h_score,
    "h_score_shrunk": partial(h_score, shrinkage=True),
    "gbc": gbc,
    "trans_rate": trans_rate,
    "sfda": sfda,
    "parc": parc,
    "nearest_neighbours": nearest_neighbours,
    "nleep": nleep,
    "linear_probe": linear_probe,
}
SOURCE_SCORES: dict[str, Callable[..., float]] = {"leep": leep, "nce": nce}
POOL_SCORES: dict[str, tuple[Callable[[Sample], tuple[float, ...]], Callable[[np.ndarray], np.ndarray]]] = {
    "etran": (etran_parts, combine_etran),
    "ncti": (ncti_parts, combine_ncti),
}

__all__ = [
    "FEATURE_SCORES", "POOL_SCORES", "SOURCE_SCORES", "Sample", "etran", "etran_parts", "gbc", "h_score", "leep",
    "linear_probe", "log_me", "nce", "ncti", "ncti_parts", "nearest_neighbours", "nleep", "parc", "sample", "scale",
    "sfda", "trans_rate",
]  # fmt: skip
