"""Figures: functions that take and return matplotlib Axes. Titles are the caller's: they state the finding."""

from ptlib.plots.base import PALETTE, plain, row
from ptlib.plots.browse import browse
from ptlib.plots.data import class_counts, images, mistakes
from ptlib.plots.metrics import bands, confusion, cost_curves, intervals, reliability_curves, slices
from ptlib.plots.models import differences, leaders, on_front, pareto, profiles
from ptlib.plots.places import box_curves, boxes, class_bars, error_gains, overlays
from ptlib.plots.selection import against_truth, probe_against_cost, trusted
from ptlib.plots.shift import (
    accuracy_estimates,
    by_severity,
    costs,
    estimates,
    looks,
    on_the_line,
    picture_rows,
    risk_curves,
)
from ptlib.plots.training import learning_curves, seconds, stage_table
from ptlib.plots.transfer import by_layer, growth, label_curves, lines, paths, starts

__all__ = [
    "PALETTE", "accuracy_estimates", "against_truth", "bands", "box_curves", "boxes", "browse", "by_layer",
    "by_severity", "class_bars", "class_counts", "confusion", "cost_curves", "costs", "differences", "error_gains",
    "estimates", "growth", "images", "intervals", "label_curves", "leaders", "learning_curves", "lines", "looks",
    "mistakes", "on_front", "on_the_line", "overlays", "pareto", "paths", "picture_rows", "plain",
    "probe_against_cost", "profiles", "reliability_curves", "risk_curves", "row", "seconds", "slices",
    "stage_table", "starts", "trusted",
]  # fmt: skip
