"""Scores of what a model says of its own classes, (N, Z), against the labels of the task, (N,)."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from ptlib.arrays import as_array
from ptlib.errors import InputError
from ptlib.transferability.sample import CHUNK, classes_of, one_hot, sample


def leep(source_probabilities: Any, labels: Any) -> float:
    """LEEP: mean log sum_z P(y | z) theta(x)_z, in nats: the expected class given the source classes it is said to be.

    theta (N, Z) are probabilities of the source classes, P(y, z) the mean over examples of class y of theta_z, so
    P(y | z) = P(y, z) / P(z) (Nguyen et al. 2020, arXiv 2002.12462). The logarithm is inside the mean.

    At most 0 (a one-hot source that matches the labels), and -H(Y) for a uniform source; higher is better.
    Invariant to permutations of source classes. O(N Z C).
    """
    theta, y = _source(source_probabilities, labels)
    joint = one_hot(y).T @ theta / len(y)  # (C, Z)
    marginal = joint.sum(0)
    given = joint / np.where(marginal > 0, marginal, 1.0)
    rows = (slice(i, i + CHUNK) for i in range(0, len(y), CHUNK))
    expected = np.concatenate([(theta[r] * given[y[r]]).sum(1) for r in rows])
    return float(np.log(expected).mean())


def nce(source_probabilities: Any, labels: Any) -> float:
    """NCE: -H(Y | Z), the negative conditional entropy in nats of the labels given the source class most probable.

    Takes probabilities (N, Z), or the source classes themselves, integers (N,). H(Y | Z) = -sum p(y, z) log p(y | z)
    (Tran et al. 2019, arXiv 1908.08142): source first, labels second; the other way round is another number.

    From -H(Y) to 0, higher is better. Invariant to permutations of source classes. O(N).
    """
    said = as_array(source_probabilities)
    if said.ndim == 1 and said.dtype.kind in "iu":
        y, z = classes_of(labels, len(said)), np.unique(said, return_inverse=True)[1].ravel()
    else:
        theta, y = _source(said, labels)
        z = np.unique(theta.argmax(1), return_inverse=True)[1].ravel()
    joint = np.zeros((int(z.max()) + 1, int(y.max()) + 1))
    np.add.at(joint, (z, y), 1.0 / len(y))
    filled = joint > 0
    given = joint / joint.sum(1, keepdims=True)
    return float((joint[filled] * np.log(given[filled])).sum())


def nleep(
    features: Any, labels: Any = None, *, components_per_class: int = 5, energy: float = 0.8, seed: int = 0
) -> float:
    """NLEEP: `leep` with the components of a Gaussian mixture, fitted to the features, in place of source classes.

    Features are reduced to the principal components that hold `energy` of their variance; the mixture has
    `components_per_class` components a class, N / 2 at most, with diagonal covariances (Li et al. 2021, arXiv
    2011.11200). What is fitted depends on `seed`.

    At most 0, higher is better. Invariant to rotation, shifts and scaling of all features at once. O(N D^2) and, for
    each of up to 100 steps of EM, O(N M K) time and O(N M) memory with M components in K dimensions.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    x = sample(features, labels)
    if components_per_class < 1 or not 0 < energy <= 1:
        raise InputError(f"components_per_class is {components_per_class}, energy {energy}; they must be at least 1, "
                         "and above 0 and at most 1")  # fmt: skip
    variances = x.centred.s**2
    if not len(variances):
        raise InputError("features are the same for all examples; nleep finds no components in them")
    k = int(np.searchsorted(np.cumsum(variances), energy * variances.sum() * (1 - 1e-12))) + 1
    z = x.principal(min(k, len(variances)))
    z /= z.std()  # so that the mixture's own floor on variances is relative
    m = max(1, min(components_per_class * x.n_classes, x.n // 2))
    mixture = GaussianMixture(m, covariance_type="diag", random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        said = mixture.fit(z).predict_proba(z)
    return leep(said / said.sum(1, keepdims=True), x.labels)


def _source(source_probabilities: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    theta = as_array(source_probabilities)
    if theta.ndim != 2 or theta.shape[1] == 0 or theta.dtype.kind not in "fiub":
        raise InputError(
            f"source probabilities must be of shape (N, Z), a column for each source class, got {theta.dtype} of "
            f"shape {theta.shape}"
        )
    y = classes_of(labels, len(theta))
    theta = theta.astype(np.float64)
    total = theta.sum(1)
    wrong = np.flatnonzero(~((theta >= 0).all(1) & (np.abs(total - 1) <= 1e-3)))  # NaN is wrong too
    if len(wrong):
        raise InputError(
            f"source probabilities of row {wrong[0]} add up to {total[wrong[0]]:.4g}, or some are negative; they must "
            "be probabilities, not logits"
        )
    return theta / total[:, None], y
