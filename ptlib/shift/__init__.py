"""What a test accuracy does not say: corruption, other data, confidence, the unknown, what adapting does to them."""

from ptlib.shift.confidence import (
    calibration,
    conformal,
    estimated_accuracy,
    fitted_temperature,
    selective_prediction,
    tempered,
)
from ptlib.shift.robustness import (
    ALEXNET,
    Corrupted,
    effective_robustness,
    predict_corrupted,
    predict_second,
    with_length,
    with_light,
)
from ptlib.shift.sensitivity import probes_on_fewer, sensitivity
from ptlib.shift.unknown import outlier_scores, separation
from ptlib.shift.ways import WAYS, Ways, adapt_in_ways, of_run, weight_path

__all__ = [
    "ALEXNET", "WAYS", "Corrupted", "Ways", "selective_prediction", "adapt_in_ways", "calibration", "conformal",
    "effective_robustness", "fitted_temperature", "estimated_accuracy", "of_run", "outlier_scores",
    "predict_corrupted", "predict_second", "probes_on_fewer", "sensitivity", "separation", "tempered",
    "weight_path", "with_length", "with_light",
]  # fmt: skip
