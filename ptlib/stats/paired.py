"""Two models on the same examples: exact and permutation tests, many of them at once, and what a test set can show."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri
from scipy.stats import binomtest

from ptlib.stats.intervals import Bounds, clopper_pearson


def mcnemar(only_a: int, only_b: int) -> float:
    """Exact two-sided p-value that A and B are right equally often (McNemar 1947).

    `only_a` examples only A got right, `only_b` only B; on those a coin decides if the two are equal.

    >>> round(mcnemar(1, 9), 4)
    0.0215
    """
    if min(only_a, only_b) < 0:
        raise ValueError(f"numbers of examples are not negative, got {only_a} and {only_b}")
    if only_a + only_b == 0:
        return 1.0
    return float(binomtest(only_a, only_a + only_b).pvalue)


def discordant_odds(only_a: int, only_b: int, level: float = 0.95) -> tuple[float, Bounds]:
    """How many times likelier, where just one is right, that it is A; with the exact interval of that odds ratio."""
    n = only_a + only_b
    if n == 0:
        return np.nan, (np.nan, np.nan)
    low, high = clopper_pearson(only_a, n, level)
    return _odds(only_a / n), (_odds(low), _odds(high))


def permutation_p(observed: float, shuffled: np.ndarray) -> tuple[float, int]:
    """Two-sided p-value, and how many shuffled differences (R,) were as large as the observed one.

    (1 + as large) / (1 + R): what was observed is one of the possible shuffles (Phipson and Smyth 2010). Differences
    within rounding of the observed count as large.
    """
    defined = shuffled[~np.isnan(shuffled)]
    if np.isnan(observed) or len(defined) < 0.95 * len(shuffled):
        return np.nan, 0
    as_large = int((np.abs(defined) >= abs(observed) - 1e-12 * max(1.0, abs(observed))).sum())
    return (1 + as_large) / (1 + len(defined)), as_large


def holm(p_values: np.ndarray) -> np.ndarray:
    """Holm's adjusted p-values (M,): rejecting those below 0.05 errs in any of the M with at most 5 % (Holm 1979).

    NaN stays NaN and is not counted.

    >>> holm(np.array([0.01, 0.04, 0.03])).round(3).tolist()
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=np.float64)
    adjusted = np.full(p.shape, np.nan)
    order = np.argsort(p, kind="stable")[: int((~np.isnan(p)).sum())]
    steps = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


class Power(NamedTuple):
    """What a paired comparison of accuracies can show at a rate of disagreement."""

    n: int
    disagreement: float
    smallest: float
    level: float
    power: float


def sample_size(difference: float, disagreement: float, power: float = 0.8, level: float = 0.95) -> int:
    """Examples needed to see a difference of accuracies with McNemar's test (Connor 1987).

    `disagreement` is the share of examples on which just one of the two is right, at least the difference.
    """
    d = abs(difference)
    if not 0 < d <= disagreement <= 1:
        raise ValueError(
            f"a difference of {difference} needs a disagreement between it and 1, got {disagreement}: models that "
            "differ by d must disagree on at least d of the examples"
        )
    root = ndtri((1 + level) / 2) * np.sqrt(disagreement) + ndtri(power) * np.sqrt(disagreement - d * d)
    return int(np.ceil((root / d) ** 2))


def smallest_difference(n: int, disagreement: float, power: float = 0.8, level: float = 0.95) -> Power:
    """The smallest difference of accuracies n examples show with that power; NaN if none up to the disagreement."""

    def shown(d: float) -> float:
        root = np.sqrt(n) * d - ndtri((1 + level) / 2) * np.sqrt(disagreement)
        spread = np.sqrt(max(disagreement - d * d, 1e-300))
        return float(ndtr(root / spread)) - power

    if not 0 < disagreement <= 1 or shown(disagreement) < 0:
        return Power(n, disagreement, np.nan, level, power)
    return Power(n, disagreement, float(brentq(shown, 0.0, disagreement)), level, power)


def _odds(p: float) -> float:
    return p / (1 - p) if p < 1 else np.inf
