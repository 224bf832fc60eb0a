"""Figures of a ranking: cost, what was foreseen against what came, and how far each predictor can be trusted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from ptlib.plots.base import PALETTE, axes, plain
from ptlib.plots.models import on_front
from ptlib.selection import Ranking, Trust

KINDS = ("pick", "probe", "score", "baseline")
MARKERS = "osD^vP*X<>hp"


def _mark(i: int) -> tuple[tuple[float, float, float], str]:
    """A colour and a marker; no pair comes twice in a hundred."""
    return PALETTE[i % len(PALETTE)], MARKERS[i % len(MARKERS)]


def _key(ax: Axes, names: Sequence[str]) -> None:
    handles = [Line2D([], [], ls="", marker=_mark(i)[1], color=_mark(i)[0], ms=5) for i in range(len(names))]
    shown = [plain(name) for name in names]
    ax.legend(handles, shown, frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))


def probe_against_cost(ranking: Ranking, cost: str = "flops", ax: Axes | None = None, key: bool = True) -> Axes:
    """The probe's accuracy with its interval against a cost, and the front: filled, none is better and cheaper."""
    ax = axes(ax, 6.5, 4)
    names = [n for n in ranking.names if ranking.rows[n].get("probe") is not None and ranking.rows[n].get(cost)]
    x, y, low, high = (ranking.column(c, names) for c in (cost, "probe", "probe_low", "probe_high"))
    front = on_front(-x if cost == "examples_per_s" else x, y)
    steps = "steps-pre" if cost == "examples_per_s" else "steps-post"
    line = [i for i in np.argsort(x, kind="stable") if front[i]]
    ax.plot(x[line], y[line], color="0.6", lw=1, drawstyle=steps)
    for i in range(len(names)):
        color, marker = _mark(i)
        up = np.maximum([[y[i] - low[i]], [high[i] - y[i]]], 0)
        ax.errorbar(x[i], y[i], yerr=up, fmt=marker, capsize=3, color=color, mfc=color if front[i] else "white")
    many = ranking.reads
    labels = {"flops": f"FLOPs of one {many[:-1]}", "examples_per_s": f"{many}/s"}
    labels["memory_mb"] = f"MB to train on 32 {many}"
    ax.set(xlabel=labels.get(cost, cost.replace("_", " ")), ylabel="accuracy of the probe on val", xscale="log")
    if key:
        _key(ax, names)
    return ax


def against_truth(
    rankings: Sequence[Ranking], predictor: str = "probe", ax: Axes | None = None, key: bool = True
) -> Axes:
    """Accuracy after fine-tuning against a column of the ranking, each with its 95 % interval where it has one.

    A mark for each candidate, or, of several rankings, for each target. What has seen the data is hollow.
    """
    ax = axes(ax, 6.5, 4.2)
    for i, r in enumerate(rankings):
        for j, (name, row) in enumerate(r.rows.items()):
            x, y = row.get(predictor), row.get("finetuned")
            if x is None or y is None or not np.isfinite(x):
                continue
            color, marker = _mark(i if len(rankings) > 1 else j)
            across = [[x - row.get(f"{predictor}_low", x)], [row.get(f"{predictor}_high", x) - x]]
            up = [[y - row["finetuned_low"]], [row["finetuned_high"] - y]]
            face = "white" if name in r.apart else color
            ax.errorbar(x, y, xerr=across, yerr=up, fmt=marker, color=color, mfc=face, ms=5, lw=0.8)
    what = "accuracy of the probe on val" if predictor == "probe" else predictor.replace("_", " ")
    ax.set(xlabel=what, ylabel="accuracy on test, fine-tuned")
    if key:
        _key(ax, [r.task for r in rankings] if len(rankings) > 1 else list(rankings[0].rows))
    return ax


def trusted(judged: Trust, ax: Axes | None = None) -> Axes:
    """Each predictor's weighted tau with its interval, best first; grey: up to what 19 of 20 random orders reach."""
    shown = {name: t for name, t in judged.predictors.items() if name != "random order"}
    ax = axes(ax, 8, 1 + 0.24 * len(shown))
    chance = ax.axvspan(-1.05, judged.chance, color="0.94", lw=0, label="19 of 20\nrandom orders")
    best = ax.axvline(judged.chance_of_best, color="0.5", lw=1, label="the best score\nby chance")
    ceiling = ax.axvline(judged.ceiling, color="0.5", ls=":", lw=1, label="the order on\nanother test set")
    for i, t in enumerate(shown.values()):
        color = PALETTE[KINDS.index(t.kind)]
        ax.errorbar(t.tau, i, xerr=np.maximum([[t.tau - t.low], [t.high - t.tau]], 0), fmt="o", capsize=2, color=color)
    ax.set_yticks(range(len(shown)), [plain(name) for name in shown], fontsize=8)
    keys = [k for k in KINDS if any(t.kind == k for t in shown.values())]
    handles = [Line2D([], [], ls="", marker="o", color=PALETTE[KINDS.index(k)], label=k) for k in keys]
    ax.legend(
        handles=[*handles, chance, best, ceiling], frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1)
    )
    ax.set(xlabel="weighted Kendall tau with accuracy after fine-tuning", xlim=(-1.05, 1.05))
    ax.invert_yaxis()
    return ax
