"""What confidence is good for: abstaining, sets of answers, and estimating accuracy where there are no labels."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from scipy.special import digamma
from scipy.stats import betabinom

Nonconformity = Literal["lac", "aps"]


class RiskCoverage(NamedTuple):
    """Share of examples answered, and of those the share that is wrong, from the most confident on; (T,) each."""

    coverage: np.ndarray
    risk: np.ndarray


def risk_coverage(confidence: np.ndarray, wrong: np.ndarray) -> RiskCoverage:
    """The risk of answering only what one is at least so sure of, at each distinct confidence (El-Yaniv and Wiener
    2010); `confidence` and `wrong` are (N,)."""
    _, g, e = _from_the_surest(confidence, wrong, np.ones(len(np.asarray(confidence))))
    return RiskCoverage(g.cumsum() / g.sum(), e.cumsum() / g.cumsum())


def aurc(confidence: np.ndarray, wrong: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Area under the risk-coverage curve: the mean over k of the risk among the k surest (Geifman, Uziel and El-Yaniv
    2019), 0..1; the lower the better.

    Equal confidences are taken in every order, in the mean. Without any order it is the error rate. `weights` (..., N)
    count examples several times, in whole numbers, and give (...).
    """
    n = len(np.asarray(confidence))
    weights = np.ones(n) if weights is None else np.asarray(weights, dtype=np.float64)
    _, g, e = _from_the_surest(confidence, wrong, weights)
    a, errors = g.cumsum(-1) - g, e.cumsum(-1) - e  # before each group
    with np.errstate(invalid="ignore", divide="ignore"):
        # The sum over t = 1..g of (E + e t / g) / (A + t): what k examples risk when the t-th of a group is the last.
        total = e + (errors - e * a / g) * (digamma(a + g + 1) - digamma(a + 1))
        return np.asarray(np.where(g > 0, total, 0.0).sum(-1) / g.sum(-1))


def _from_the_surest(
    confidence: np.ndarray, wrong: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct confidences from the highest down, and the weight and the errors at each, (T,), (..., T), (..., T)."""
    confidence, wrong = np.asarray(confidence, dtype=np.float64), np.asarray(wrong, dtype=np.float64)
    if confidence.ndim != 1 or confidence.shape != wrong.shape or len(confidence) == 0:
        raise ValueError(f"confidence {confidence.shape} and wrong {wrong.shape} must be (N,), alike and not empty")
    if np.isnan(confidence).any():
        raise ValueError(f"{int(np.isnan(confidence).sum())} confidences are NaN; an order needs numbers")
    order = np.argsort(-confidence, kind="stable")
    first = np.flatnonzero(np.r_[True, np.diff(confidence[order]) != 0])
    w = weights[..., order]
    return confidence[order][first], np.add.reduceat(w, first, -1), np.add.reduceat(w * wrong[order], first, -1)


def nonconformity(probabilities: np.ndarray, kind: Nonconformity = "lac") -> np.ndarray:
    """How badly each class fits each example, (N, C): what a conformal threshold is laid on.

    `lac`: 1 less the class's probability (Sadinle, Lei and Wasserman 2019), whose sets are the smallest on average if
    probabilities are right. `aps`: the probability of all classes at least as likely (Romano, Sesia and Candès 2020,
    without randomisation), whose sets adapt to how hard an example is.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    if kind == "lac":
        return 1 - p
    if kind != "aps":
        raise ValueError(f"kind is {kind!r}; it must be lac or aps")
    order = np.argsort(-p, axis=1, kind="stable")
    found = np.empty_like(p)
    np.put_along_axis(found, order, np.take_along_axis(p, order, 1).cumsum(1), 1)
    return found


def conformal_threshold(scores: np.ndarray, alpha: float) -> float:
    """The threshold on nonconformity such that sets of classes at or below it hold the truth of a further example in at
    least 1 - alpha of cases, if it comes from where these did (Vovk et al. 2005; Papadopoulos et al. 2002).

    `scores` (n,) are those of the true classes of examples the model has not learned from. Infinite, so that sets hold
    every class, where n is below 1 / alpha - 1.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha is {alpha}; it must lie between 0 and 1, both excluded")
    scores = np.sort(np.asarray(scores, dtype=np.float64))
    k = rank_of_threshold(len(scores), alpha)
    return float(scores[k - 1]) if k <= len(scores) else np.inf


def rank_of_threshold(n: int, alpha: float) -> int:
    """Which of n sorted scores, from 1 on, is the threshold; n + 1 stands for infinity."""
    return int(np.ceil((n + 1) * (1 - alpha) - 1e-9))


def promised_coverage(n: int, m: int, alpha: float) -> tuple[float, float]:
    """Where the coverage on m further examples lies in 95 of 100 cases, of a threshold from n of the same source.

    A beta-binomial law (Vovk 2012): the threshold is itself a draw. Outside of it the source is another, but for five
    cases of 100.
    """
    k = rank_of_threshold(n, alpha)
    if k > n:
        return 1.0, 1.0
    low, high = betabinom.ppf([0.025, 0.975], m, k, n + 1 - k)
    return float(low) / m, float(high) / m


def thresholded_confidence(scores: np.ndarray, right: np.ndarray, elsewhere: np.ndarray) -> float:
    """Average thresholded confidence (Garg et al. 2022, arXiv 2201.04234): the accuracy to expect where there are no
    labels.

    The threshold is where as many labelled examples lie below as were wrong; the estimate is the share of the others at
    or above it. `scores` and `right` (n,) are of labelled examples, `elsewhere` (m,) scores of unlabelled ones.
    """
    ordered, errors = np.sort(np.asarray(scores, dtype=np.float64)), int((~np.asarray(right, dtype=bool)).sum())
    threshold = ordered[errors] if errors < len(ordered) else np.inf
    return float((np.asarray(elsewhere) >= threshold).mean())


def difference_of_confidences(confidence: np.ndarray, right: np.ndarray, elsewhere: np.ndarray) -> float:
    """Accuracy less what mean confidence fell by (Guillory et al. 2021, arXiv 2107.03315), kept in 0..1.

    `confidence` and `right` (n,) are of labelled examples, `elsewhere` (m,) confidences of unlabelled ones.
    """
    fell = float(np.mean(confidence) - np.mean(elsewhere))
    return float(np.clip(np.mean(right) - fell, 0, 1))
