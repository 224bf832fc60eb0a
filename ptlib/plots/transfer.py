"""Figures of transfer: what few labels give from each start, which layers it lies in, what lies between weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from ptlib.plots.base import LINES, PALETTE, axes, plain
from ptlib.stats import PowerLaw
from ptlib.transfers import Key, Transfers


def label_curves(few: Transfers, keys: Mapping[str, Key], ax: Axes | None = None) -> Axes:
    """Accuracy on test against labels of each class, with 95 % intervals over seeds and test examples."""
    ax = axes(ax, 7, 4)
    shift = np.linspace(0.96, 1.04, len(keys))  # so that bars don't hide one another
    for (name, key), color, line, by in zip(keys.items(), cycle(PALETTE), cycle(LINES), shift, strict=False):
        tried = sorted(few.said[key])
        found = [few.accuracy(*key, k) for k in tried]
        y = np.array([v.mean for v in found])
        bars = np.array([[v.mean - v.low, min(v.high, 1) - v.mean] for v in found]).T
        ax.errorbar(np.array(tried) * by, y, yerr=np.maximum(bars, 0), color=color, linestyle=line, marker="o", ms=4,
                    capsize=2, lw=1.4, label=plain(name))  # fmt: skip
    ticks = sorted({k for key in keys.values() for k in few.said[key]})
    ax.set(xscale="log", xlabel="labels of each class", ylabel="accuracy on test")
    ax.set_xticks(ticks, [str(k) for k in ticks])
    ax.minorticks_off()
    ax.legend(frameon=False, fontsize=8)
    return ax


def starts(few: Transfers, names: Sequence[str], labels: int, ax: Axes | None = None) -> Axes:
    """Each start's accuracy on test, by each of the ways it was tried with so many labels of each class."""
    ax = axes(ax, 6, 1 + 0.35 * len(names))
    ways = list(dict.fromkeys(way for (name, way), by in few.said.items() if name in names and labels in by))
    for i, (way, color) in enumerate(zip(ways, cycle(PALETTE), strict=False)):
        rows = [(j, few.accuracy(name, way, labels)) for j, name in enumerate(names) if labels in
                few.said.get((name, way), {})]  # fmt: skip
        y = np.array([j for j, _ in rows]) + 0.18 * (i - (len(ways) - 1) / 2)
        x = np.array([v.mean for _, v in rows])
        bars = np.array([[v.mean - v.low, min(v.high, 1) - v.mean] for _, v in rows]).T
        ax.errorbar(x, y, xerr=np.maximum(bars, 0), fmt="o", ms=4, capsize=2, color=color, label=way)
    ax.set_yticks(range(len(names)), [plain(name) for name in names])
    ax.invert_yaxis()
    ax.set(xlabel=f"accuracy on test, {labels} labels of each class")
    ax.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return ax


def growth(n: Sequence[int], error: Sequence[float], law: PowerLaw, ax: Axes | None = None) -> Axes:
    """Error on the target against the number of source images, and the power law fitted to it; both axes log."""
    ax = axes(ax, 5, 3.6)
    ax.plot(n, error, "o", color=PALETTE[0])
    ax.plot(n, law(np.array(n)), color="0.5", lw=1)
    ax.set(xscale="log", yscale="log", xlabel="source images", ylabel="error on test of the target, probe")
    ax.set_xticks(n, [f"{k:,}" for k in n], rotation=30)
    ticks = np.round(np.linspace(min(error), max(error), 4), 3)
    ax.set_yticks(ticks, [f"{t:.3f}" for t in ticks])
    ax.minorticks_off()
    return ax


def by_layer(found: Mapping[str, Transfers], labels: int, ax: Axes | None = None) -> Axes:
    """Accuracy after fine-tuning with layers frozen up to each, and with those from each on made random again."""
    ax = axes(ax, 5.5, 3.6)
    told = {"frozen": "frozen up to and with it", "random": "random again from it on"}
    depth = list(dict.fromkeys(start for part in found.values() for start, _ in part.said))  # the stem first
    for (part, few), color, line in zip(found.items(), PALETTE, LINES, strict=False):
        rows = [(depth.index(start), few.hits(start, way, labels).mean(1)) for start, way in few.said]
        ax.plot([i for i, _ in rows], [a.mean() for _, a in rows], color=color, ls=line, label=told.get(part, part))
        for i, each in rows:
            ax.plot([i] * len(each), each, "o", ms=3, color=color)
    ax.set_xticks(range(len(depth)), [plain(name) for name in depth])
    ax.set(xlabel="layer", ylabel=f"accuracy on test, {labels} labels of each class")
    ax.legend(frameon=False, fontsize=8)
    return ax


def lines(series: Mapping[str, Mapping[str, float]], xlabel: str, ylabel: str, ax: Axes | None = None) -> Axes:
    """Named series over the same names, such as layers, in their order."""
    ax = axes(ax, 5, 3.6)
    for (name, values), color, line in zip(series.items(), cycle(PALETTE), cycle(LINES), strict=False):
        places = [plain(x) if isinstance(x, str) else x for x in values]
        ax.plot(places, list(values.values()), color=color, ls=line, marker="o", ms=4, label=plain(name))
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.legend(frameon=False, fontsize=8)
    return ax


def paths(found: Mapping[str, Any], ax: Axes | None = None) -> Axes:
    """Loss on test along straight lines between weights (`ptlib.similarity.between`), 0 and 1 being the ends."""
    ax = axes(ax, 5.5, 3.6)
    for (name, path), color, line in zip(found.items(), cycle(PALETTE), cycle(LINES), strict=False):
        ax.plot(path["point"], path["loss"], color=color, ls=line, marker="o", ms=3, label=plain(name))
    ax.set(xlabel="share of the way from one end to the other", ylabel="loss on test (nats)")
    ax.legend(frameon=False, fontsize=8)
    return ax
