"""Figures of one model's metrics, each with its uncertainty."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle
from typing import Any

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes

from ptlib.decisions import Band, CostCurve
from ptlib.errors import InputError
from ptlib.metrics import BINS, Reliability, reliability
from ptlib.plots.base import LINES, PALETTE, axes, plain
from ptlib.results import Predictions, Report
from ptlib.stats import wilson


def intervals(reports: Mapping[str, Report], ax: Axes | None = None) -> Axes:
    """Each metric of each report with its 95 % interval; what is undefined is left out."""
    ax = axes(ax, 7, 2.6)
    metrics = list(next(iter(reports.values())))
    for k, ((name, report), color) in enumerate(zip(reports.items(), cycle(PALETTE), strict=False)):
        y = np.arange(len(metrics)) + 0.22 * (k - (len(reports) - 1) / 2)
        values = np.array([report[m].value for m in metrics])
        low, high = (np.array([getattr(report[m], side) for m in metrics]) for side in ("low", "high"))
        ax.errorbar(
            values,
            y,
            xerr=np.maximum([values - low, high - values], 0),
            fmt="o",
            capsize=3,
            color=color,
            label=plain(name),
        )
    ax.set_yticks(range(len(metrics)), [m.replace("_", " ") for m in metrics])
    ends = [e for r in reports.values() for m in metrics for e in (r[m].value, r[m].low, r[m].high) if e == e]
    ax.set(xlabel="value, with 95 % interval", xlim=(min([0, *ends]), max([1, *ends]) * 1.02))
    ax.invert_yaxis()
    if len(reports) > 1:
        ax.legend(frameon=False)
    return ax


def confusion(report: Report, ax: Axes | None = None) -> Axes:
    """Where each class's examples went, rows being targets; up to 20 classes the cells say how many per cent."""
    if report.confusion.ndim > 2:
        raise InputError(
            "with several labels an example there is a confusion matrix for each; look at report.per_class"
        )
    n = len(report.class_names)
    side = min(12.0, 2.5 + 0.3 * n)
    ax = axes(ax, side + 1, side)
    shares = report.confusion / np.maximum(report.confusion.sum(1, keepdims=True), 1)
    names = [plain(name) for name in report.class_names] if n <= 40 else False
    text = np.where(report.confusion > 0, np.char.mod("%.0f", 100 * shares), "")
    shown = text if n <= 20 else False
    bar = {"label": "share of the target's examples"}
    sns.heatmap(shares, ax=ax, cmap="cividis", vmin=0, vmax=1, square=True, xticklabels=names, yticklabels=names,
                annot=shown, fmt="", annot_kws={"fontsize": 6}, cbar_kws=bar)  # fmt: skip
    ax.set(xlabel="predicted", ylabel="target")
    ax.tick_params(labelsize=8)
    return ax


def reliability_curves(said: Mapping[str, Predictions], ax: Axes | None = None) -> Axes:
    """Accuracy against confidence in bins of equal numbers of examples, Wilson's interval on each, and the diagonal."""
    if any(p.multilabel for p in said.values()):
        raise InputError("reliability curves are of one label an example; take predictions.one_vs_rest(<label>)")
    ax = axes(ax, 5, 4.2)
    ax.plot([0, 1], [0, 1], color="0.6", linestyle=":", label="as right as it is sure")
    for (name, p), color, marker in zip(said.items(), cycle(PALETTE), cycle("osD^v"), strict=False):
        curve: Reliability = reliability(p.probabilities.max(1), p.predicted == p.targets, BINS, "mass")
        full = curve.n > 0
        x, y, n = curve.confidence[full], curve.accuracy[full], curve.n[full]
        bounds = np.array([wilson(round(a * k), int(k)) for a, k in zip(y, n, strict=True)]).T
        ax.errorbar(x, y, yerr=np.abs(bounds - y), fmt=f"{marker}-", capsize=2, lw=1, color=color, label=plain(name))
    ax.set(xlabel="confidence: probability of the class it names", ylabel="share that was right", xlim=(0, 1.02),
           ylim=(0, 1.02))  # fmt: skip
    ax.legend(frameon=False, fontsize=8, loc="upper left")
    return ax


def bands(curves: Mapping[str, Band], ax: Axes | None = None) -> Axes:
    """Curves with pointwise 95 % bands; their axes say what they are."""
    ax = axes(ax, 5, 4.2)
    for (name, band), color, line in zip(curves.items(), cycle(PALETTE), cycle(LINES), strict=False):
        ax.plot(band.x, band.y, color=color, linestyle=line, label=plain(name))
        ax.fill_between(band.x, band.low, band.high, color=color, alpha=0.2, lw=0)
        ax.set(xlabel=band.x_label, ylabel=band.y_label)
    ax.set(xlim=(-0.02, 1.02), ylim=(0, 1.02))
    ax.legend(frameon=False, fontsize=8, loc="best")
    return ax


def cost_curves(curves: Mapping[str, CostCurve], chosen: float, ax: Axes | None = None) -> Axes:
    """Cost an example against the threshold, and the threshold that was chosen."""
    ax = axes(ax, 5, 4.2)
    for (name, c), color, line in zip(curves.items(), cycle(PALETTE), cycle(LINES), strict=False):
        ax.plot(
            np.minimum(c.thresholds, 1), c.cost, color=color, linestyle=line, drawstyle="steps-post", label=plain(name)
        )
    ax.axvline(min(chosen, 1), color="0.3", linestyle=":", label=f"chosen: {chosen:.2f}")
    ax.set(xlabel="threshold on the probability", ylabel="cost an example", xlim=(-0.02, 1.02), ylim=(0, None))
    ax.legend(frameon=False, fontsize=8)
    return ax


def slices(frame: Any, overall: float, ax: Axes | None = None) -> Axes:
    """Accuracy of each slice of `by_slice` with its interval; those that stand out after correction are filled."""
    frame = frame.head(30)
    ax = axes(ax, 7, 0.9 + 0.22 * len(frame))
    y = np.arange(len(frame))
    value, low, high = (frame[c].to_numpy() for c in ("accuracy", "low", "high"))
    ax.errorbar(value, y, xerr=np.maximum([value - low, high - value], 0), fmt="none", capsize=2, color=PALETTE[0])
    odd = (frame["p"] <= 0.05).to_numpy()
    ax.scatter(value[odd], y[odd], color=PALETTE[1], zorder=3, label="differs from the rest (Holm p at most 0.05)")
    ax.scatter(value[~odd], y[~odd], facecolor="white", edgecolor=PALETTE[0], zorder=3, label="within chance")
    ax.axvline(overall, color="0.6", linestyle=":", label=f"all: {overall:.2f}")
    ax.set_yticks(y, [f"{plain(str(name))} ({n})" for name, n in zip(frame.index, frame["n"], strict=True)], fontsize=8)
    ax.set(xlabel="accuracy, with 95 % interval", xlim=(0, 1.02))
    ax.invert_yaxis()
    ax.legend(frameon=False, fontsize=8, loc="lower left")
    return ax
