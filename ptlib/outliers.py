"""How unusual an example looks to a classifier, as pure functions of features and logits: the higher, the stranger.

`train` (N, D) are the features of the training examples, `features` (M, D) those to judge, `weight` (C, D) and `bias`
(C,) the head's; what is given back is float64 (M,). Which of them works is a matter of the network and of what is
strange: look at several.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.special import log_softmax, logsumexp

from ptlib.errors import InputError


def max_softmax(logits: np.ndarray) -> np.ndarray:
    """Minus the highest probability's logarithm (Hendrycks and Gimpel 2017): in the order of 1 less the probability,
    and distinct where that rounds to 0."""
    return np.asarray(-log_softmax(_two(logits), axis=1).max(1))


def max_logit(logits: np.ndarray) -> np.ndarray:
    """Minus the highest logit (Hendrycks et al. 2022)."""
    return np.asarray(-_two(logits).max(1))


def energy(logits: np.ndarray) -> np.ndarray:
    """Minus the logarithm of the sum of the exponentials of the logits (Liu et al. 2020)."""
    return np.asarray(-logsumexp(_two(logits), axis=1))


def mahalanobis(train: np.ndarray, targets: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Squared distance to the nearest class mean, by the covariance within classes (Lee et al. 2018).

    A ridge of 1e-6 of the mean variance keeps the covariance invertible: with fewer examples than features, what lies
    outside their span then counts a lot, and is not lost.
    """
    train, features, targets = _two(train), _two(features), np.asarray(targets)
    present = np.unique(targets)
    means = np.stack([train[targets == c].mean(0) for c in present])  # (K, D)
    within = train - means[np.searchsorted(present, targets)]
    covariance = within.T @ within / len(train)
    ridge = 1e-6 * np.trace(covariance) / len(covariance)
    if not ridge > 0:
        raise InputError("within their classes all training features are equal; there is no distance to measure by")
    factor = cho_factor(covariance + ridge * np.eye(len(covariance)))
    solved = cho_solve(factor, np.concatenate([features, means]).T).T
    of_features, of_means = solved[: len(features)], solved[len(features) :]
    squares = (features * of_features).sum(1)[:, None] - 2 * features @ of_means.T + (means * of_means).sum(1)
    return np.asarray(np.maximum(squares, 0).min(1))


def knn(train: np.ndarray, features: np.ndarray, k: int | None = None) -> np.ndarray:
    """Distance to the k-th nearest training example, features scaled to length 1 (Sun et al. 2022).

    k None stands for 50, or a tenth of the training examples if that is less.
    """
    a, b = (v / np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-12) for v in (_two(train), _two(features)))
    k = max(1, min(50, len(a) // 10)) if k is None else k
    if not 1 <= k <= len(a):
        raise InputError(f"k is {k}; there are {len(a)} training examples, take 1 to that many")
    step = max(1, 20_000_000 // len(a))
    near = [np.partition(b[i : i + step] @ a.T, len(a) - k, axis=1)[:, len(a) - k] for i in range(0, len(b), step)]
    return np.asarray(np.sqrt(np.maximum(2 - 2 * np.concatenate(near), 0)))


def vim(
    train: np.ndarray, features: np.ndarray, weight: np.ndarray, bias: np.ndarray, dimensions: int | None = None
) -> np.ndarray:
    """Virtual-logit matching (Wang et al. 2022): what of a feature lies outside the training features' principal space,
    as a logit beside the others, less the energy.

    `dimensions` of the principal space None stands for 1,000 of 2,048 features and more, 512 of 768 and more, else half
    of them; but no more than half of the training examples, so that something is left outside.
    """
    train, features, weight = _two(train), _two(features), _two(weight)
    bias, (n, d) = np.asarray(bias, dtype=np.float64), train.shape
    if dimensions is None:
        dimensions = max(1, min(1000 if d >= 2048 else 512 if d >= 768 else d // 2, n // 2))
    if not 1 <= dimensions < d:
        raise InputError(f"dimensions is {dimensions}; of {d} features the principal space takes 1 to {d - 1}")
    origin = -np.linalg.pinv(weight) @ bias
    values, vectors = np.linalg.eigh((train - origin).T @ (train - origin) / n)
    outside = vectors[:, np.argsort(values)[: d - dimensions]]  # (D, D - dimensions)

    def residual(x: np.ndarray) -> np.ndarray:
        return np.asarray(np.linalg.norm((x - origin) @ outside, axis=1))

    alpha = (train @ weight.T + bias).max(1).mean() / max(residual(train).mean(), 1e-12)
    return np.asarray(alpha * residual(features) - logsumexp(features @ weight.T + bias, axis=1))


def react(
    train: np.ndarray, features: np.ndarray, weight: np.ndarray, bias: np.ndarray, percentile: float = 90.0
) -> np.ndarray:
    """The energy after features were cut off at a percentile of all training activations (Sun, Guo and Li 2021)."""
    if not 0 < percentile <= 100:
        raise InputError(f"percentile is {percentile}; it must lie above 0, at most 100")
    top = np.percentile(_two(train), percentile)
    return energy(np.minimum(_two(features), top) @ _two(weight).T + np.asarray(bias, dtype=np.float64))


OF_LOGITS = ("maximum softmax", "maximum logit", "energy")  # these need no training features
# By name, what each takes of (train, targets, features, weight, bias).
Score = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]
SCORES: dict[str, Score] = {
    "maximum softmax": lambda train, y, x, w, b: max_softmax(x @ w.T + b),
    "maximum logit": lambda train, y, x, w, b: max_logit(x @ w.T + b),
    "energy": lambda train, y, x, w, b: energy(x @ w.T + b),
    "Mahalanobis": lambda train, y, x, w, b: mahalanobis(train, y, x),
    "k nearest": lambda train, y, x, w, b: knn(train, x, _within_a_class(y)),
    "ViM": lambda train, y, x, w, b: vim(train, x, w, b),
    "ReAct": lambda train, y, x, w, b: react(train, x, w, b),
}


def _within_a_class(targets: np.ndarray) -> int:
    """Half of the smallest class, 50 at most: a k-th neighbour further out is one of another class."""
    return max(1, min(50, int(np.unique(targets, return_counts=True)[1].min()) // 2))


def _two(x: np.ndarray) -> np.ndarray:
    x = np.asarray(x, dtype=np.float64)
    if x.ndim != 2 or len(x) == 0:
        raise InputError(f"features and logits are (N, D), not empty; got {x.shape}")
    if not np.isfinite(x).all():
        raise InputError(f"{int((~np.isfinite(x)).any(1).sum())} of {len(x)} rows hold NaN or infinity")
    return x
