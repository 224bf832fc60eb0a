"""Figures of several models: who leads, which differences hold, what they cost."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle
from typing import Any

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, MaxNLocator

from ptlib.comparison import Leaderboard
from ptlib.measures import lower_is_better
from ptlib.plots.base import LINES, PALETTE, axes, plain
from ptlib.stats import performance_profile


def leaders(board: Leaderboard, ax: Axes | None = None) -> Axes:
    """Each model's metric with its interval; filled where it can't be told apart from the best."""
    ax = axes(ax, 7, 0.9 + 0.3 * len(board.estimates))
    for i, (name, e) in enumerate(board.estimates.items()):
        face = PALETTE[0] if name == board.best or name in board.level else "white"
        ax.errorbar(
            e.value,
            i,
            xerr=np.maximum([[e.value - e.low], [e.high - e.value]], 0),
            fmt="o",
            capsize=3,
            color=PALETTE[0],
            mfc=face,
        )
    ax.set_yticks(range(len(board.estimates)), [plain(name) for name in board.estimates])
    ax.set(xlabel=f"{board.metric.replace('_', ' ')}, with 95 % interval (filled: level with the best)")
    ax.invert_yaxis()
    return ax


def differences(board: Leaderboard, ax: Axes | None = None) -> Axes:
    """Row less column, times 100; a star where the two can be told apart after Holm's correction."""
    gaps, p = 100 * board.matrix(), board.p_values()
    side = 2.6 + 0.5 * len(gaps)
    ax = axes(ax, side + 2, side)
    text = [[f"{d:+.1f}" + ("*" if q <= 0.05 else "") if d == d else "" for d, q in zip(r, s, strict=True)]
            for r, s in zip(gaps.to_numpy(), p.to_numpy(), strict=True)]  # fmt: skip
    names, limit = [plain(name) for name in gaps], float(np.nanmax(np.abs(gaps.to_numpy())))
    sns.heatmap(gaps.to_numpy(), ax=ax, cmap="PuOr", center=0, vmin=-limit, vmax=limit, annot=np.array(text), fmt="",
                annot_kws={"fontsize": 8}, xticklabels=names, yticklabels=names,
                cbar_kws={"label": "row less column, times 100"})  # fmt: skip
    ax.tick_params(labelsize=8)
    return ax


def pareto(frame: Any, cost: str, metric: str, best: str = "low", ax: Axes | None = None) -> Axes:
    """Metric with interval against a cost, and the front: models that none beats in both.

    `frame` has columns `cost`, `metric`, `low`, `high`; `best` says whether a low or a high cost is good.
    """
    ax = axes(ax, 4.2, 3.6)
    x, y = frame[cost].to_numpy(float), frame[metric].to_numpy(float)
    front = on_front(x if best == "low" else -x, -y if lower_is_better(metric) else y)
    order = np.argsort(x, kind="stable")
    keep = [i for i in order if front[i]]
    ax.plot(x[keep], y[keep], color="0.6", lw=1, drawstyle="steps-post" if best == "low" else "steps-pre")
    for i, name in enumerate(frame.index):
        err = np.maximum([[y[i] - frame["low"].iloc[i]], [frame["high"].iloc[i] - y[i]]], 0)
        ax.errorbar(x[i], y[i], yerr=err, fmt="o", capsize=3, color=PALETTE[0], mfc=PALETTE[0] if front[i] else "white")
        right = x[i] > np.sqrt(x.min() * x.max())
        at, side = (-5, "right") if right else (5, "left")
        ax.annotate(plain(str(name)), (x[i], y[i]), (at, 4), textcoords="offset points", fontsize=7, ha=side)
    ax.set(xlabel=cost.replace("_", " "), ylabel=metric.replace("_", " "))
    if x.max() > 10 * x.min():
        ax.set_xscale("log")
    else:
        ax.xaxis.set_major_locator(MaxNLocator(4))
        ax.xaxis.set_major_formatter(EngFormatter())
    ax.margins(x=0.2)
    return ax


def on_front(cost: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Which of the points no other beats in one of low cost and high value without losing in the other, bool (N,)."""
    better = (cost[:, None] <= cost) & (value[:, None] >= value) & ((cost[:, None] < cost) | (value[:, None] > value))
    return np.asarray(~better.any(0) & ~np.isnan(value))


def profiles(scores: Mapping[str, np.ndarray], thresholds: np.ndarray, ax: Axes | None = None) -> Axes:
    """Share of runs and tasks above each threshold: a curve that lies above another everywhere is better everywhere."""
    ax = axes(ax, 6, 3.2)
    for (name, s), color, line in zip(scores.items(), cycle(PALETTE), cycle(LINES), strict=False):
        ax.plot(thresholds, performance_profile(s, thresholds), color=color, linestyle=line, label=plain(name))
    ax.set(xlabel="threshold", ylabel="share of runs and tasks above it", ylim=(0, 1.02))
    ax.legend(frameon=False, fontsize=8)
    return ax
