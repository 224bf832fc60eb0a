"""What a test accuracy does not say: corruption, other data, confidence, strangers, and what adapting does to them."""

from ptlib.shift.confidence import abstaining, calibration, conformal, fitted_temperature, guessed_accuracy, tempered
from ptlib.shift.robustness import (
    ALEXNET,
    Corrupted,
    effective_robustness,
    predict_corrupted,
    predict_second,
    with_light,
)
from ptlib.shift.sensitivity import probes_on_fewer, sensitivity
from ptlib.shift.unknown import outlier_scores, separation
from ptlib.shift.ways import WAYS, Ways, adapt_in_ways, along, of_run

__all__ = [
    "ALEXNET", "WAYS", "Corrupted", "Ways", "abstaining", "adapt_in_ways", "along", "calibration", "conformal",
    "effective_robustness", "fitted_temperature", "guessed_accuracy", "of_run", "outlier_scores",
    "predict_corrupted", "predict_second", "probes_on_fewer", "sensitivity", "separation", "tempered",
    "with_light",
]  # fmt: skip
