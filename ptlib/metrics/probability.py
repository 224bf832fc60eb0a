"""Metrics of stated probabilities: proper scores, calibration, and the temperature that mends it."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from scipy import sparse
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, ndtr

from ptlib.metrics.ranking import truth_of

Binning = Literal["width", "mass"]
BINS = 15  # Guo et al. 2017


def log_loss(targets: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """-ln of the probability given to the truth, in nats, for each example (N,); infinite where that was 0.

    `targets` are classes (N,) with `probabilities` (N, C), or labels 0/1 (N, L), whose losses are averaged over L.
    """
    targets, p = _checked(targets, probabilities)
    with np.errstate(divide="ignore"):
        if targets.ndim == 2:
            return np.asarray(-np.log(np.where(targets, p, 1 - p)).mean(1))
        return np.asarray(-np.log(np.take_along_axis(p, targets[:, None], axis=1)[:, 0]))


def brier(targets: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Squared distance between probabilities and truth, for each example (N,) (Brier 1950).

    Summed over classes, 0..2; for two classes the half of that, which is (p - y)², 0..1. Labels (N, L) are averaged.
    """
    targets, p = _checked(targets, probabilities)
    truth = targets if targets.ndim == 2 else np.eye(p.shape[1])[targets]
    squares = (p - truth) ** 2
    if targets.ndim == 2:
        return np.asarray(squares.mean(1))
    return np.asarray(squares.sum(1) / (2 if p.shape[1] == 2 else 1))


class Reliability(NamedTuple):
    """Bins of confidence: examples in each, and their mean confidence and accuracy; leading axes are samples."""

    n: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    def error(self) -> np.ndarray:
        """Expected calibration error: mean |accuracy - confidence| over examples (Naeini et al. 2015), 0..1."""
        return self._mean(np.abs(self.accuracy - self.confidence))

    def error_debiased(self) -> np.ndarray:
        """The same less what sampling noise alone adds, to first order (as in Kumar et al. 2019); may fall below 0.

        A bin's accuracy is noisy, and |accuracy - confidence| grows with noise. What a further draw of that noise
        would add, by the mean of a folded normal distribution, is what the first is estimated to have added.
        """
        gap = self.accuracy - self.confidence
        with np.errstate(divide="ignore", invalid="ignore"):
            sd = np.sqrt(self.accuracy * (1 - self.accuracy) / self.n)
            z = np.where(sd > 0, gap / sd, np.inf)
            density = np.exp(-(np.minimum(z, 1e9) ** 2) / 2) / np.sqrt(2 * np.pi)
            folded = np.where(sd > 0, 2 * sd * density + gap * (1 - 2 * ndtr(-z)), np.abs(gap))
        return np.asarray(2 * self.error() - self._mean(folded))

    def _mean(self, values: np.ndarray) -> np.ndarray:
        return np.asarray(np.where(self.n > 0, self.n * values, 0.0).sum(-1) / self.n.sum(-1))


def confidence_bins(confidence: np.ndarray, bins: int = BINS, by: Binning = "width") -> np.ndarray:
    """The bin of each confidence, (N,), 0 to bins - 1: intervals (a, b] of equal width or equal numbers.

    Equal confidences always share a bin, so the order of the examples changes nothing.
    """
    confidence = np.asarray(confidence, dtype=np.float64)
    if bins < 1 or len(confidence) == 0 or not ((confidence >= 0) & (confidence <= 1)).all():
        raise ValueError("confidences must lie in 0..1, and there must be at least one of them and one bin")
    if by == "width":
        edges = np.arange(1, bins) / bins
    elif by == "mass":
        edges = np.quantile(confidence, np.arange(1, bins) / bins, method="inverted_cdf")
    else:
        raise ValueError(f"by is {by!r}; bins are made by 'width' or by 'mass'")
    return np.searchsorted(edges, confidence, side="left")


def reliability(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS, by: Binning = "width") -> Reliability:
    """The reliability diagram of confidences and of whether each was right, (N,) both; NaN in an empty bin."""
    index = confidence_bins(confidence, bins, by)
    sums = [np.bincount(index, w, minlength=bins) for w in (np.ones(len(index)), confidence, correct)]
    return reliability_of(*sums)


def reliability_of(n: np.ndarray, confidence: np.ndarray, correct: np.ndarray) -> Reliability:
    """Reliability from sums over each bin (..., bins)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return Reliability(n, confidence / n, correct / n)


def calibration_error(
    confidence: np.ndarray, correct: np.ndarray, bins: int = BINS, by: Binning = "width", debiased: bool = False
) -> float:
    """Expected calibration error of confidences (N,) in 0..1 and of whether each was right (N,)."""
    curve = reliability(confidence, correct, bins, by)
    return float(curve.error_debiased() if debiased else curve.error())


def error_if_calibrated(
    confidence: np.ndarray, seed: int = 0, by: Binning = "width", debiased: bool = False, draws: int = 1000
) -> np.ndarray:
    """Calibration errors (draws,) of a model that is right exactly as often as it says, with these confidences (N,).

    Consistency resampling (Bröcker and Smith 2007): what sampling alone makes of a true error of 0.
    """
    n, rng = len(confidence), np.random.default_rng(seed)
    index = confidence_bins(confidence, BINS, by)
    onto = sparse.csr_matrix((np.ones(n), (index, np.arange(n))), shape=(BINS, n))
    step = max(1, 2_000_000 // n)
    right = [
        onto @ (rng.random((n, min(step, draws - start))) < confidence[:, None]).astype(np.float64)
        for start in range(0, draws, step)
    ]
    curve = reliability_of(onto @ np.ones(n), onto @ confidence, np.concatenate(right, axis=1).T)
    return curve.error_debiased() if debiased else curve.error()


def fit_temperature(logits: np.ndarray, targets: np.ndarray) -> float:
    """The T > 0 that minimises the log loss of softmax(logits / T) (Guo et al. 2017); fit it on val, never on test.

    One number cannot change which class is highest: accuracy stays. It lies in 0.01..100.
    """
    logits = np.asarray(logits, dtype=np.float64)
    truth_of(targets, logits.shape[1])

    def loss(log_t: float) -> float:
        said = log_softmax(logits / np.exp(log_t), axis=1)
        return float(-np.take_along_axis(said, np.asarray(targets)[:, None], axis=1).mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-4.605, 4.605), method="bounded", options={"xatol": 1e-6}).x))


def _checked(targets: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    targets, p = np.asarray(targets), np.asarray(probabilities, dtype=np.float64)
    if p.ndim != 2 or len(p) == 0 or targets.shape not in (p.shape, p.shape[:1]):
        raise ValueError(f"probabilities {p.shape} must be (N, C), not empty, with targets (N,), got {targets.shape}")
    if not ((p >= 0) & (p <= 1 + 1e-9)).all():
        raise ValueError("probabilities must lie in 0..1 and not be NaN")
    truth_of(targets, p.shape[1])
    return targets, np.minimum(p, 1.0)
