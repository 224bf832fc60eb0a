"""Curves over numbers of examples: what a value on one is worth on another, power laws, bias and variance."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import ndtr, ndtri, stdtrit

from ptlib.errors import InputError
from ptlib.stats.intervals import resample


def reaches(x: np.ndarray, curve: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Where `curve` (..., K) over increasing, positive `x` (K,) first reaches `value` (...): linear in log x.

    A curve that falls is taken to stay: more examples can be left aside. `x[0]` where it starts at the value or above,
    infinity where it never reaches it.
    """
    x, curve = np.asarray(x, dtype=np.float64), np.maximum.accumulate(np.asarray(curve, dtype=np.float64), axis=-1)
    if x.ndim != 1 or curve.shape[-1] != len(x) or not (x > 0).all() or not (np.diff(x) > 0).all():
        raise InputError(f"x must be positive and increasing, one for each point of the curve, got {x.tolist()}")
    value = np.asarray(value, dtype=np.float64)[..., None]
    above = curve >= value
    first = np.where(above.any(-1), above.argmax(-1), -1)
    after = np.clip(first, 1, max(len(x) - 1, 1)) if len(x) > 1 else np.zeros_like(first)
    left, right = (np.take_along_axis(curve, k[..., None], -1)[..., 0] for k in (np.maximum(after - 1, 0), after))
    share = np.clip((value[..., 0] - left) / np.where(right > left, right - left, 1), 0, 1)
    log = np.log(x)
    at = np.exp(log[np.maximum(after - 1, 0)] + share * (log[after] - log[np.maximum(after - 1, 0)]))
    return np.asarray(np.where(first < 0, np.inf, np.where(first == 0, x[0], at)))


class PowerLaw(NamedTuple):
    """error = scale * n ** -exponent, the exponent's interval, and the explained share of the log errors' variance."""

    scale: float
    exponent: float
    low: float
    high: float
    explained: float

    def __str__(self) -> str:
        interval = f"{-self.exponent:.3f} ({-self.high:.3f} to {-self.low:.3f})"
        return f"error = {self.scale:.3f} n^b with b = {interval}, {self.explained:.0%} explained"

    def __call__(self, n: np.ndarray | float) -> np.ndarray:
        return np.asarray(self.scale * np.asarray(n, dtype=np.float64) ** -self.exponent)


def power_law(n: np.ndarray, error: np.ndarray, level: float = 0.95) -> PowerLaw:
    """Least squares in the logarithms of `n` (K,) and `error` (K,), with Student's interval of the slope.

    No floor is fitted: a handful of points can't tell one from a smaller exponent, so don't extrapolate far. InputError
    for fewer than three points, or for what has no logarithm.
    """
    n, error = np.asarray(n, dtype=np.float64), np.asarray(error, dtype=np.float64)
    if n.shape != error.shape or n.ndim != 1 or len(np.unique(n)) < 3:
        raise InputError(f"a power law needs errors at three numbers of examples or more, got {np.unique(n).tolist()}")
    if not ((n > 0) & (error > 0)).all():
        raise InputError(f"a power law needs n and errors above 0, got {n.tolist()} and {error.tolist()}")
    x, y = np.log(n), np.log(error)
    dx = x - x.mean()
    slope = float(dx @ y / (dx @ dx))
    rest = y - y.mean() - slope * dx
    half = float(stdtrit(len(x) - 2, (1 + level) / 2)) * np.sqrt(float(rest @ rest) / (len(x) - 2) / float(dx @ dx))
    total = float(((y - y.mean()) ** 2).sum())
    explained = 1 - float(rest @ rest) / total if total > 0 else np.nan
    return PowerLaw(float(np.exp(y.mean() - slope * x.mean())), -slope, -slope - half, -slope + half, explained)


def bias_variance(probabilities: np.ndarray, targets: np.ndarray) -> tuple[float, float]:
    """The Brier score's two parts over S runs: squared bias of the mean run, and variance between runs.

    `probabilities` (S, N, C) are those of runs that differ by chance alone, in their draw of train examples and in
    their training; `targets` (N,). Their sum is the mean Brier score of the runs. The variance is the unbiased one,
    what the mean of S runs still varies by is taken off the bias. With labels that are not certain the bias holds their
    noise too. InputError for fewer than two runs.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    if p.ndim != 3 or len(p) < 2:
        raise InputError(f"bias and variance need probabilities (S, N, C) of two runs or more, got {p.shape}")
    truth = np.eye(p.shape[2])[np.asarray(targets)]
    variance = float(p.var(axis=0, ddof=1).sum(-1).mean())
    return float(((p - truth) ** 2).sum(-1).mean()) - variance, variance


class OffTheLine(NamedTuple):
    """Effective robustness of M models, with the ends of its interval, (M,) each; the line's slope and intercept."""

    effective: np.ndarray
    low: np.ndarray
    high: np.ndarray
    slope: float
    intercept: float


def off_the_line(
    inside: np.ndarray, outside: np.ndarray, reference: np.ndarray, resamples: int = 2000, seed: int = 0,
    paired: bool = False,
) -> OffTheLine:  # fmt: skip
    """Effective robustness of each of M models: its accuracy out of distribution less what the line of the `reference`
    models gives at its accuracy in distribution (Taori et al. 2020). The line is fitted by least squares on the probit
    scale, where such lines are straight (Miller et al. 2021, arXiv 2107.04649).

    `inside` (M, N) and `outside` (M, N') are 1 where a model is right; `reference` names rows. The interval is that of
    2.5 to 97.5 % of resamples: of the examples of both sets (the same examples where they are `paired`), with the line
    fitted anew and, since models of one kind scatter about it, one of the reference models' own residuals, enlarged for
    the two parameters of the line. The models are taken as given. NaN where the reference models don't differ in
    distribution.
    """
    inside, outside = np.asarray(inside, dtype=np.float64), np.asarray(outside, dtype=np.float64)
    rng, k = np.random.default_rng(seed), len(reference)

    def shares(hits: np.ndarray, stream: int) -> np.ndarray:
        """Accuracies, the measured ones first and then of each resample, (1 + R, M), off 0 and 1 by half an example."""
        n = hits.shape[1]
        drawn = resample(np.arange(n), resamples, stream, of=lambda w: w @ hits.T / n)
        return np.asarray(np.clip(np.concatenate([hits.mean(1)[None], *drawn]), 0.5 / n, 1 - 0.5 / n))

    a, b = shares(inside, seed), shares(outside, seed if paired else seed + 1)
    x, y = ndtri(a), ndtri(b)
    dx, dy = (v[:, reference] - v[:, reference].mean(1, keepdims=True) for v in (x, y))
    with np.errstate(invalid="ignore", divide="ignore"):
        slope = (dx * dy).sum(1, keepdims=True) / (dx**2).sum(1, keepdims=True)
    slope[np.ptp(x[:, reference], axis=1) == 0] = np.nan  # where rounding leaves dx just off 0
    intercept = (y[:, reference] - slope * x[:, reference]).mean(1, keepdims=True)
    scatter = (dy - slope * dx) * np.sqrt(k / max(k - 2, 1))
    noise = np.take_along_axis(scatter, rng.integers(0, k, (len(x), x.shape[1])), 1)
    noise[0] = 0  # the measured ones
    found = b - ndtr(slope * x + intercept + noise)
    with np.errstate(invalid="ignore"):
        low, high = np.quantile(found[1:], [0.025, 0.975], axis=0)
    if np.isnan(found[1:]).mean() < 0.05:
        low, high = np.nanquantile(found[1:], [0.025, 0.975], axis=0)
    return OffTheLine(found[0], low, high, float(slope[0, 0]), float(intercept[0, 0]))
