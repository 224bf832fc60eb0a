"""Scores of features (N, D) against labels (N,) by what a linear or Gaussian model makes of them."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from scipy.special import softmax

from ptlib.errors import InputError
from ptlib.transferability.sample import discriminants_of, means_of, sample

REFINEMENTS = 60  # each shrinks the bracket around LogME's maximum to 0.618 of its width


def log_me(features: Any, labels: Any = None) -> float:
    """LogME: how probable the labels are under Bayesian linear regression on the features, maximised over its priors.

    For each class, one against the rest, y = F w + noise with w ~ N(0, I / alpha) and noise ~ N(0, I / beta) has the
    log evidence N/2 log beta + D/2 log alpha - N/2 log 2 pi - beta/2 |F m - y|^2 - alpha/2 |m|^2 - 1/2 log |A|, with
    A = alpha I + beta F'F and m = beta A^-1 F'y. Its maximum over alpha and beta, divided by N, is averaged over the
    classes (You et al. 2021, arXiv 2102.11005). With t = alpha / beta the best beta is N / E(t) in closed form, which
    leaves one dimension: log evidence = N/2 (log(N / E(t)) - 1 - log 2 pi) + 1/2 sum log(t / (t + s_i^2)). So a single
    decomposition serves all classes, and the maximum is found as such, N below D included, where the usual
    fixed-point code reports other values.

    Any real number; higher is better. InputError where fewer than N directions give a class exactly (repeated
    examples where features outnumber them, or a feature that is the label): there is no maximum then. Invariant to
    rotation and to scaling of all features at once, not to shifts. O(N (D + C)^2) once, then O(D C) a step.
    """
    x = sample(features, labels)
    raw, n = x.raw, x.n
    energy, total = raw.projected**2, x.counts.astype(np.float64)
    if not len(raw.s):
        return float((0.5 * (np.log(n / total) - 1 - math.log(2 * math.pi))).mean())
    if len(raw.s) < n and (raw.rest == 0).any():
        raise InputError(f"{len(raw.s)} directions of the features give a class of {n} examples exactly, so evidence "
                         "has no maximum; leave out repeated examples, or features that say the class")  # fmt: skip
    spectrum = raw.s**2
    grid = np.arange(math.log(spectrum[-1]) - 70, math.log(spectrum[0]) + math.log(n) + 20, 0.25)
    share = _share(grid[:, None], spectrum)  # (T, K)
    values = _evidence(share @ energy + raw.rest, np.log(share).sum(1)[:, None], n)  # (T, C)
    best = values.argmax(0)
    low, high = grid[np.maximum(best - 1, 0)], grid[np.minimum(best + 1, len(grid) - 1)]
    ratio = (math.sqrt(5) - 1) / 2
    found = values.max(0)
    for _ in range(REFINEMENTS):  # golden section, all classes at once
        inner = np.stack([high - ratio * (high - low), low + ratio * (high - low)])  # (2, C)
        share = _share(inner[..., None], spectrum)  # (2, C, K)
        at = _evidence((share * energy.T).sum(-1) + raw.rest, np.log(share).sum(-1), n)
        found = np.maximum(found, at.max(0))
        left = at[0] >= at[1]
        low, high = np.where(left, low, inner[0]), np.where(left, inner[1], high)
        if (high - low).max() < 1e-7:
            break
    return float(found.mean())


def _share(log_t: np.ndarray, spectrum: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(np.log(spectrum) - log_t)))  # t / (t + s^2)


def _evidence(residual: np.ndarray, log_shares: np.ndarray, n: int) -> np.ndarray:
    return np.asarray(0.5 * (np.log(n / residual) - 1 - math.log(2 * math.pi)) + log_shares / (2 * n))


def h_score(features: Any, labels: Any = None, *, shrinkage: bool = False) -> float:
    """H-score: tr(cov(f)^-1 cov(E[f | y])), how much of the features' variance the classes explain (Bao et al. 2019,
    arXiv 2212.10082).

    With `shrinkage` the covariance is drawn towards its mean variance as Ledoit and Wolf (2004) estimate it, and the
    trace is scaled by 1 - alpha (Ibrahim et al. 2022, arXiv 2110.06893); as published, the classes' covariance then has
    the divisor N - 1 and the features' has N.

    From 0 to C - 1, with shrinkage N / (N - 1) times that; higher is better; 0 where the features are constant.
    Without shrinkage it is invariant to invertible affine maps, and it is C - 1 whatever the features where they span
    N - 1 dimensions: then it says nothing. With it, invariant to rotation, shifts and scaling of all features at once.
    O(N (D + C)^2).
    """
    x = sample(features, labels)
    s, seen, counts = x.centred.s, x.centred.projected, x.counts  # (K,), (K, C), (C,)
    if not shrinkage:
        return float((seen**2 / counts).sum())
    if not len(s):
        return 0.0
    d, variances = x.features.shape[1], s**2 / x.n
    mean, squares = variances.sum() / d, float((variances**2).sum())
    spread = squares / d - mean**2
    error = max(0.0, (x.fourth_moment - squares) / (d * x.n))
    alpha = min(error, spread) / spread if spread > 0 else 0.0
    shrunk = (1 - alpha) * variances + alpha * mean
    # cov(E[f|y]) in the axes of the features' own covariance is s U'y / n_c, squared and weighted by n_c / N.
    return float((1 - alpha) * ((seen**2 / counts).sum(1) * variances / shrunk).sum() * x.n / (x.n - 1))


def gbc(
    features: Any, labels: Any = None, *, covariance: Literal["diagonal", "spherical"] = "diagonal", floor: float = 1e-4
) -> float:
    """GBC: minus the sum of exp(-B) over ordered pairs of classes, B the Bhattacharyya distance of two Gaussians.

    Each class is a Gaussian with its mean and its variances by feature (`diagonal`) or their mean (`spherical`), none
    below `floor`: B = 1/8 sum d^2 / v + 1/2 sum log(v / sqrt(v_1 v_2)), v their mean (Pandy et al. 2022, arXiv
    2111.12780, who reduce features to 64 principal components first).

    From -C (C - 1) to 0, higher is better. Invariant to shifts, and to rotation if spherical; the floor is in the
    features' own units. O(N D + C^2 D).
    """
    x = sample(features, labels)
    if covariance not in ("diagonal", "spherical") or not floor > 0:
        raise InputError(f"covariance is {covariance!r}, floor {floor}: diagonal or spherical, and above 0")
    variances = x.class_variances
    if covariance == "spherical":
        variances = np.broadcast_to(variances.mean(1, keepdims=True), variances.shape)
    variances, total = np.maximum(variances, floor), 0.0
    logs = np.log(variances).sum(1)
    for c in range(x.n_classes - 1):
        between = (variances[c] + variances[c + 1 :]) / 2
        distance = ((x.class_means[c] - x.class_means[c + 1 :]) ** 2 / between).sum(1) / 8
        distance += (np.log(between).sum(1) - (logs[c] + logs[c + 1 :]) / 2) / 2
        total += 2 * float(np.exp(-distance).sum())
    return -total


def trans_rate(features: Any, labels: Any = None, *, eps: float = 1e-4, equal_weights: bool = False) -> float:
    """TransRate: R(Z) - sum_c n_c/N R(Z_c), the nats that knowing the class saves in coding the centred features Z.

    R(Z) = 1/2 log det(I + Z'Z / (n eps)) is the rate of coding n rows to a precision eps (Huang et al. 2022, arXiv
    2106.09362). `equal_weights` counts every class 1/C, as the published code does.

    At least 0 with the classes' own weights, higher is better. Invariant to rotation and shifts, not to scale.
    O(N D^2).
    """
    x = sample(features, labels)
    if not eps > 0:
        raise InputError(f"eps is {eps}; it must be above 0")
    weights = np.full(x.n_classes, 1 / x.n_classes) if equal_weights else x.counts / x.n
    inside = [_coding_rate(_singular_values(x.of_class(c)), int(n), eps) for c, n in enumerate(x.counts)]
    return _coding_rate(x.centred.s, x.n, eps) - float(weights @ np.array(inside))


def _singular_values(z: np.ndarray) -> np.ndarray:
    if max(z.shape) > 2 * min(z.shape):  # a tall matrix has those of its triangle
        z = np.asarray(np.linalg.qr(z if len(z) > z.shape[1] else z.T, mode="r"))
    return np.asarray(np.linalg.svd(z, compute_uv=False))


def _coding_rate(s: np.ndarray, n: int, eps: float) -> float:
    return float(0.5 * np.log1p(s**2 / (n * eps)).sum())


def sfda(features: Any, labels: Any = None) -> float:
    """SFDA: the mean log posterior, in nats, of each example's class by regularised Fisher discriminants, on features
    that were made harder to tell apart (Shao et al. 2022, arXiv 2207.03036).

    The within-class covariance S is shrunk, (1 - a) S + a tr(S)/D I with a = max(exp(-5 lambda_max(S)), 1e-10). Each
    example is then drawn towards the mean of the other classes' means, by 1 - p with p its softened posterior, and
    the discriminants are fitted anew with the same a. The published code reports the mean posterior instead, for
    fear of its logarithm, and changes its input.

    At most 0, higher is better. Invariant to rotation and shifts, not to scale. O(N D^2).
    """
    x = sample(features, labels)
    z, y, d = x.coordinates, x.labels, x.features.shape[1]
    log_p, shrinkage = x.discriminants
    own = np.take_along_axis(softmax(np.exp(log_p), axis=1), y[:, None], axis=1)  # (N, 1)
    means = means_of(z, y)
    others = (means.sum(0) - means) / (len(means) - 1)
    log_p, _ = discriminants_of(own * z + (1 - own) * others[y], y, d, shrinkage)
    return float(np.take_along_axis(log_p, y[:, None], axis=1).mean())
