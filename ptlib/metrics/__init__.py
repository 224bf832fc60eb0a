"""Metrics as pure functions on arrays. What is undefined is NaN, never 0; the averaging is always named."""

from ptlib.metrics.confidence import (
    Nonconformity,
    RiskCoverage,
    aurc,
    conformal_threshold,
    difference_of_confidences,
    nonconformity,
    promised_coverage,
    risk_coverage,
    thresholded_confidence,
)
from ptlib.metrics.counts import (
    Average,
    Counts,
    accuracy,
    balanced_accuracy,
    cohen_kappa,
    confusion_matrix,
    counts_of,
    f1,
    f_beta,
    label_counts,
    matthews,
    precision,
    recall,
    undefined_because,
)
from ptlib.metrics.probability import (
    BINS,
    Binning,
    Reliability,
    brier,
    calibration_error,
    confidence_bins,
    error_if_calibrated,
    fit_temperature,
    log_loss,
    reliability,
    reliability_of,
)
from ptlib.metrics.ranking import Curve, Ranking, auroc, average_precision, averaged, curve, top_k, truth_of

__all__ = [
    "BINS", "Average", "Binning", "Counts", "Curve", "Nonconformity", "Ranking", "Reliability", "RiskCoverage",
    "accuracy", "aurc", "auroc", "average_precision", "averaged", "balanced_accuracy", "brier", "calibration_error",
    "cohen_kappa", "confidence_bins", "conformal_threshold", "confusion_matrix", "counts_of", "curve",
    "difference_of_confidences", "error_if_calibrated", "f1", "f_beta", "fit_temperature", "label_counts", "log_loss",
    "matthews", "nonconformity", "precision", "promised_coverage", "recall", "reliability", "reliability_of",
    "risk_coverage", "thresholded_confidence", "top_k", "truth_of", "undefined_because",
]  # fmt: skip
