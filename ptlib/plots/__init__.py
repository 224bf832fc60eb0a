"""Figures: functions that take and return matplotlib Axes. Titles are the caller's: they state the finding."""

from ptlib.plots.base import PALETTE, plain, row
from ptlib.plots.data import class_counts, images, mistakes
from ptlib.plots.metrics import bands, confusion, cost_curves, intervals, reliability_curves, slices
from ptlib.plots.models import differences, leaders, on_front, pareto, profiles
from ptlib.plots.selection import against_truth, probe_against_cost, trusted
from ptlib.plots.training import learning_curves, seconds, stage_table

__all__ = [
    "PALETTE", "against_truth", "bands", "class_counts", "confusion", "cost_curves", "differences", "images",
    "intervals", "leaders", "learning_curves", "mistakes", "on_front", "pareto", "plain", "probe_against_cost",
    "profiles", "reliability_curves", "row", "seconds", "slices", "stage_table", "trusted",
]  # fmt: skip
