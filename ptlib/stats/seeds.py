"""Several runs of one recipe: how much of the spread is the seed's, how much the test set's; and runs by tasks."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit
from scipy.stats import trim_mean

from ptlib.stats.intervals import Bounds, percentile


class Variance(NamedTuple):
    """A mean over runs and examples, and where its uncertainty comes from; all but `n_runs` in the metric's unit.

    `run_sd` is the spread between runs on an endless test set; `test_sd` the spread of one run between test sets of
    this size; `error` the standard error of the mean for new runs and a new test set, `low` and `high` its interval.
    """

    mean: float
    run_sd: float
    test_sd: float
    error: float
    low: float
    high: float
    n_runs: int

    def __str__(self) -> str:
        return f"{self.mean:.3f} ({self.low:.3f} to {self.high:.3f})"


def variance_of(values: np.ndarray, level: float = 0.95) -> Variance:
    """Split the variance of per-example values (S runs, N examples) into the runs' and the test set's.

    The random-effects analysis of two crossed factors: value = mean + run + example + rest. Mean squares give the
    three variances (Searle, Casella and McCulloch 1992, chapter 4; a negative one is 0), and the mean of S runs on N
    examples has variance run/S + example/N + rest/(SN). The interval takes Student's t, with the degrees of freedom of
    that sum by Satterthwaite (1946). NaN for the runs' part, and for the interval, of one run.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2 or values.shape[0] < 1 or values.shape[1] < 2:
        raise ValueError(f"values must be (runs, examples) with at least two examples, got {values.shape}")
    s, n = values.shape
    mean = float(values.mean())
    if s == 1:
        return Variance(mean, np.nan, float(values.std(ddof=1) / np.sqrt(n)), np.nan, np.nan, np.nan, 1)
    by_run, by_example = values.mean(1), values.mean(0)
    ms_run = n * by_run.var(ddof=1)
    ms_example = s * by_example.var(ddof=1)
    rest = values - by_run[:, None] - by_example + mean
    ms_rest = float((rest**2).sum()) / ((s - 1) * (n - 1))
    run, example = max(ms_run - ms_rest, 0.0) / n, max(ms_example - ms_rest, 0.0) / s
    parts = np.array([ms_run, ms_example, -ms_rest]) / (s * n)  # their sum is the variance of the mean
    variance = max(float(parts.sum()), ms_run / (s * n), ms_example / (s * n))
    freedom = variance**2 / float((parts**2 / [s - 1, n - 1, (s - 1) * (n - 1)]).sum()) if variance > 0 else np.inf
    half = float(stdtrit(freedom, (1 + level) / 2)) * np.sqrt(variance) if variance > 0 else 0.0
    test = np.sqrt((example + ms_rest) / n)
    return Variance(mean, float(np.sqrt(run)), float(test), float(np.sqrt(variance)), mean - half, mean + half, s)


def interquartile_mean(scores: np.ndarray) -> float:
    """Mean of the middle half of all runs on all tasks (runs, tasks) (Agarwal et al. 2021): robust as a median is."""
    scores = np.asarray(scores, dtype=np.float64).ravel()
    return float(trim_mean(scores[~np.isnan(scores)], 0.25))


def probability_of_improvement(a: np.ndarray, b: np.ndarray) -> float:
    """Chance that a run of A beats one of B on a task drawn at random, ties counting half; (runs, tasks) each."""
    a, b = np.asarray(a), np.asarray(b)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"scores must be (runs, tasks) over the same tasks, got {a.shape} and {b.shape}")
    known = ~(np.isnan(a).any(0) | np.isnan(b).any(0))  # a task without a score decides nothing
    a, b = a[:, known], b[:, known]
    beats = (a[:, None] > b[None]) + 0.5 * (a[:, None] == b[None])
    return float(beats.mean())


def performance_profile(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Share of runs (on all tasks) that score above each threshold, (T,), for scores (runs, tasks)."""
    scores = np.asarray(scores).ravel()
    return np.asarray((scores[~np.isnan(scores), None] > thresholds).mean(0))


def bootstrap_runs(
    scores: np.ndarray, statistic: Callable[[np.ndarray], float], n_resamples: int = 2000, seed: int = 0,
    level: float = 0.95,
) -> Bounds:  # fmt: skip
    """Percentile interval of a statistic of scores (runs, tasks), drawing runs anew within each task."""
    scores = np.asarray(scores)
    runs, tasks = scores.shape
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, runs, (n_resamples, runs, tasks))
    values = [statistic(scores[rows, np.arange(tasks)]) for rows in drawn]
    return percentile(np.array(values), level)
