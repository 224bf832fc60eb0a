"""Scores that are relative to a pool of candidates: adding one changes the others' values."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import logsumexp

from ptlib.errors import InputError
from ptlib.transferability.sample import Sample, sample

Parts = tuple[float, ...]


def etran(pool: Sequence[Any], *, energy_weight: float = 0.15) -> np.ndarray:
    """ETran: energy of the features and mean posterior of each example's class, each scaled to 0..1 over the pool.

    The energy is the mean of log sum_d exp(f_d); the posterior that of regularised Fisher discriminants, weighted
    1 - `energy_weight` (Gholami et al. 2023, arXiv 2308.02027; the published code averages the lowest 0.5 % of
    energies). `pool` holds for each candidate (features, labels) or a `Sample`; their D may differ.

    From 0 to 1 each, (M,), higher is better. NaN for a candidate whose features do not vary within classes. Invariant
    to permutations of features; the energy is in their own units. O(N D^2) for each.
    """
    return combine_etran(_table([etran_parts(_of(x)) for x in pool]), energy_weight)


def etran_parts(x: Sample) -> Parts:
    """What of ETran belongs to one candidate: energy and posterior."""
    try:
        log_p, _ = x.discriminants
    except InputError:  # its energy must not stretch the others' scale
        return math.nan, math.nan
    posterior = float(np.exp(log_p[np.arange(x.n), x.labels]).mean())
    return sum(float(logsumexp(part, axis=1).sum()) for _, part in x.chunks()) / x.n, posterior


def combine_etran(scaled: np.ndarray, energy_weight: float = 0.15) -> np.ndarray:
    """ETran (M,) of its parts (M, 2), scaled over the pool."""
    return np.asarray(energy_weight * scaled[:, 0] + (1 - energy_weight) * scaled[:, 1])


def ncti(pool: Sequence[Any]) -> np.ndarray:
    """NCTI: how near features are to neural collapse: SELI + NCC - VC, each scaled to 0..1 over the pool.

    On 64 principal components at most, linear discriminants are fitted, their covariance shrunk by the exponential
    of minus the variance of the first 32. SELI is the nuclear norm of the centred discriminant features, NCC the mean
    posterior of each example's class, VC the logarithm of the sum over classes of the nuclear norm of the class's
    posteriors (Wang et al. 2023, ICCV, "How far pre-trained models are from neural collapse").

    From -1 to 2 each, (M,), higher is better. NaN where the features do not vary within classes. Invariant to rotation
    and shifts, not to scale. O(N (D + C)^2) for each.
    """
    return combine_ncti(_table([ncti_parts(_of(x)) for x in pool]))


def ncti_parts(x: Sample) -> Parts:
    """What of NCTI belongs to one candidate: SELI, NCC and VC."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    k = min(64, len(x.centred.s), x.n - x.n_classes)
    z = x.principal(max(k, 0))
    within = z - np.stack([z[x.labels == c].mean(0) for c in range(x.n_classes)])[x.labels]
    if k < 1 or not (within**2).sum() > 1e-24 * (z**2).sum():
        return math.nan, math.nan, math.nan
    shrinkage = max(math.exp(-float(z.var(0, ddof=1)[:32].sum())), 1e-10)
    how = {"solver": "svd"} if shrinkage == 1e-10 else {"solver": "eigen", "shrinkage": shrinkage}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of a class with one example
            lda = LinearDiscriminantAnalysis(**how).fit(z, x.labels)
    except (ValueError, IndexError, np.linalg.LinAlgError):  # hardly any variance within classes
        return math.nan, math.nan, math.nan
    low, said = lda.transform(z), lda.predict_proba(z)
    seli = float(np.linalg.norm(low - low.mean(0), ord="nuc"))
    ncc = float(said[np.arange(x.n), x.labels].mean())
    vc = math.log(sum(float(np.linalg.norm(said[x.labels == c], ord="nuc")) for c in range(x.n_classes)))
    return seli, ncc, vc


def combine_ncti(scaled: np.ndarray) -> np.ndarray:
    """NCTI (M,) of its parts (M, 3), scaled over the pool."""
    return np.asarray(scaled[:, 0] + scaled[:, 1] - scaled[:, 2])


def _of(candidate: Any) -> Sample:
    return candidate if isinstance(candidate, Sample) else sample(*candidate)


def _table(parts: Sequence[Parts]) -> np.ndarray:
    if not parts:
        raise InputError("the pool is empty; give at least one candidate")
    return scale(np.array(parts))


def scale(parts: np.ndarray) -> np.ndarray:
    """Each column of (M, P) to 0..1 over the candidates that have it; 0 where all are equal."""
    known = np.where(np.isnan(parts), np.inf, parts).min(0), np.where(np.isnan(parts), -np.inf, parts).max(0)
    low, width = known[0], known[1] - known[0]
    return np.asarray((parts - low) / np.where(width > 0, width, 1.0))
