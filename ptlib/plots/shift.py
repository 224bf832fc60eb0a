"""Figures of what holds up: under corruption, elsewhere, in confidence, before the unknown; and where a model looks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from scipy.special import ndtr, ndtri
from torch import Tensor

from ptlib.metrics import risk_coverage
from ptlib.plots.base import LINES, PALETTE, axes, plain
from ptlib.results import Estimate, Predictions


def picture_rows(rows: Mapping[str, Tensor | np.ndarray], columns: Sequence[str], ax: Axes | None = None) -> Axes:
    """A row of pictures, uint8 (K, H, W, 3), for each name, under the names of the columns."""
    lines = [np.concatenate(list(np.asarray(pictures)), axis=1) for pictures in rows.values()]
    sheet = np.concatenate(lines, axis=0)
    side = sheet.shape[0] / len(rows), sheet.shape[1] / len(columns)
    ax = axes(ax, 1.8 + 0.5 * len(columns), 0.5 + 0.5 * len(rows))
    ax.imshow(sheet, interpolation="nearest", aspect="auto")
    ax.set_yticks((np.arange(len(rows)) + 0.5) * side[0], [plain(name.replace("_", " ")) for name in rows], fontsize=8)
    ax.set_xticks((np.arange(len(columns)) + 0.5) * side[1], [plain(c) for c in columns], fontsize=8)
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return ax


def by_severity(table: Any, ax: Axes | None = None) -> Axes:
    """Accuracy of each corruption (row) at each severity (column) of `Corrupted.table`, in hundredths."""
    ax = axes(ax, 2.2 + 0.55 * len(table.columns), 0.9 + 0.24 * len(table))
    names = [name.replace("_", " ") for name in table.index]
    shown = table.rename(columns={"mean": "all"})
    sns.heatmap(100 * shown, ax=ax, cmap="cividis", vmin=0, vmax=100, annot=True, fmt=".0f", yticklabels=names,
                annot_kws={"fontsize": 8}, cbar_kws={"label": "accuracy, per cent"})  # fmt: skip
    ax.set(xlabel="severity, and mean of all", ylabel="")
    ax.tick_params(labelsize=8)
    return ax


def estimates(
    values: Mapping[str, Mapping[str, Estimate]], xlabel: str, reference: float | None = None, ax: Axes | None = None
) -> Axes:
    """For each row a value with its interval in each of several series; what is undefined is left out."""
    rows = list(next(iter(values.values())))
    ax = axes(ax, 6.5, 0.9 + 0.28 * len(rows) * max(1.0, 0.5 * len(values)))
    styles = zip(values.items(), cycle(PALETTE), cycle("osD^v"), strict=False)
    for k, ((name, series), color, marker) in enumerate(styles):
        y = np.arange(len(rows)) + 0.6 * (k - (len(values) - 1) / 2) / max(len(values), 2)
        x, low, high = (np.array([getattr(series[row], part) for row in rows]) for part in ("value", "low", "high"))
        known = ~np.isnan(low)
        error = np.maximum([x - low, high - x], 0)[:, known]
        ax.errorbar(x[known], y[known], xerr=error, fmt=marker, capsize=2, color=color, label=plain(name))
        ax.plot(x[~known], y[~known], marker, color=color, mfc="white")  # without an interval
    if reference is not None:
        ax.axvline(reference, color="0.6", linestyle=":", label="chance")
    ax.set_yticks(range(len(rows)), [plain(row) for row in rows])
    ax.set(xlabel=f"{xlabel}, with 95 % interval")
    ax.invert_yaxis()
    if len(values) > 1:
        ax.legend(frameon=False, fontsize=8)
    return ax


def on_the_line(frame: Any, ax: Axes | None = None) -> Axes:
    """Accuracy out of distribution against accuracy in it, of `effective_robustness`, both on the probit scale.

    The bars are of the distance to the line of the reference models: one that crosses it is not told from it.
    """
    ax = axes(ax, 5, 4.2)
    of_line = frame[frame["reference"]]
    slope, intercept = frame.attrs["line"]
    x = np.linspace(max(0.01, frame["inside"].min() - 0.03), min(0.995, frame["inside"].max() + 0.02), 100)
    ax.plot(x, ndtr(slope * ndtri(x) + intercept), color="0.6", linestyle="--", label="line of the reference models")
    ax.scatter(of_line["inside"], of_line["outside"], color="0.5", label="reference models")
    rest = frame[~frame["reference"]]
    for (name, row), color, marker in zip(rest.iterrows(), cycle(PALETTE), cycle("osD^v"), strict=False):
        ends = np.maximum([[row["effective"] - row["low"]], [row["high"] - row["effective"]]], 0)
        ax.errorbar(
            row["inside"], row["outside"], yerr=ends, fmt=marker, capsize=2, color=color, label=plain(str(name))
        )
    for scale in (ax.set_xscale, ax.set_yscale):
        scale("function", functions=(lambda p: ndtri(np.clip(p, 1e-6, 1 - 1e-6)), ndtr))
    ticks = np.array([0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99])
    low, high = min(frame["outside"].min(), 0.98), max(frame["outside"].max(), 0.02)
    ax.set(xticks=ticks[(ticks > x[0]) & (ticks < x[-1])], yticks=ticks)
    ax.set(xlim=(x[0], x[-1]), ylim=(max(0.01, low - 0.1), min(0.995, high + 0.12)))
    ax.set(xlabel="accuracy in distribution", ylabel="accuracy out of it; bars: 95 % interval off the line")
    ax.legend(frameon=False, fontsize=8)
    return ax


def risk_curves(said: Mapping[str, Predictions], ax: Axes | None = None) -> Axes:
    """Error rate among the examples that are answered, the surest first."""
    ax = axes(ax, 5, 4.2)
    for (name, p), color, line in zip(said.items(), cycle(PALETTE), cycle(LINES), strict=False):
        curve = risk_coverage(p.log_odds.max(1), p.predicted != p.targets)
        ax.plot(curve.coverage, curve.risk, color=color, linestyle=line, label=plain(name))
    ax.set(xlabel="share of examples answered", ylabel="share of these that is wrong", xlim=(0, 1.02), ylim=(0, None))
    ax.legend(frameon=False, fontsize=8)
    return ax


def accuracy_estimates(frame: Any, ax: Axes | None = None) -> Axes:
    """Estimated against true accuracy of `estimated_accuracy`, a marker for each way of estimating."""
    ax = axes(ax, 5, 4.2)
    ways = [column for column in frame.columns if column != "accuracy"]
    for name, color, marker in zip(ways, cycle(PALETTE), cycle("osD^v"), strict=False):
        ax.scatter(frame["accuracy"], frame[name], color=color, marker=marker, label=plain(name), s=24)
    low = min(frame.min().min(), 0.95) - 0.03
    ax.plot([low, 1], [low, 1], color="0.6", linestyle=":", label="estimate = truth")
    ax.set(xlabel="accuracy by the labels", ylabel="accuracy estimated without them", aspect="equal")
    ax.legend(frameon=False, fontsize=8)
    return ax


def costs(frame: Any, ax: Axes | None = None) -> Axes:
    """Points of accuracy that each change costs, of `sensitivity`, with intervals."""
    frame = frame.iloc[1:]
    ax = axes(ax, 7, 0.9 + 0.28 * len(frame))
    y = np.arange(len(frame))
    value, low, high = (frame[c].to_numpy() for c in ("points", "low", "high"))
    ax.errorbar(value, y, xerr=np.maximum([value - low, high - value], 0), fmt="o", capsize=3, color=PALETTE[0])
    ax.axvline(0, color="0.6", linestyle=":")
    ax.set_yticks(y, [plain(str(name)) for name in frame.index])
    ax.set(xlabel="change of test accuracy in points, with 95 % interval")
    ax.invert_yaxis()
    return ax


def looks(images: Tensor, maps: Mapping[str, np.ndarray], titles: Sequence[str], ax: Axes | None = None) -> Axes:
    """Images (N, H, W, 3), and below each the maps (N, H, W) of what counted, each scaled to its 99 % quantile."""
    pictures = np.asarray(images)
    rows: dict[str, Tensor | np.ndarray] = {"image": pictures}
    for name, found in maps.items():
        top = np.quantile(found.reshape(len(found), -1), 0.99, axis=1)[:, None, None]
        heat = np.clip(found / np.maximum(top, 1e-12), 0, 1)
        rows[name] = (255 * sns.color_palette("cividis", as_cmap=True)(heat)[..., :3]).astype(np.uint8)
    return picture_rows(rows, titles, axes(ax, 1.6 + 0.95 * len(pictures), 0.7 + 0.95 * len(rows)))
