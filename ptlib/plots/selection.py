"""Figures of a ranking: what was foreseen against what came, and how far each predictor can be trusted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from ptlib.plots.base import PALETTE, axes, plain
from ptlib.plots.models import pareto
from ptlib.selection import Ranking, Trust

KINDS = ("pick", "probe", "score", "baseline")


def against_truth(rankings: Sequence[Ranking], predictor: str = "probe", ax: Axes | None = None) -> Axes:
    """Accuracy after fine-tuning against a column of the ranking, each with its 95 % interval where it has one.

    A marker for each target; names are shown for a single one. What has seen the data is grey.
    """
    ax = axes(ax, 5, 4.2)
    for r, color, marker in zip(rankings, PALETTE * 9, "osD^vP*X<" * 9, strict=False):
        for name, row in r.rows.items():
            x, y = row.get(predictor), row.get("finetuned")
            if x is None or y is None or not np.isfinite(x):
                continue
            shade = "0.7" if row["seen"] else color
            low, high = row.get(f"{predictor}_low", x), row.get(f"{predictor}_high", x)
            across, up = [[x - low], [high - x]], [[y - row["finetuned_low"]], [row["finetuned_high"] - y]]
            ax.errorbar(x, y, xerr=across, yerr=up, fmt=marker, color=shade, ms=5, lw=0.8)
            if len(rankings) == 1:
                ax.annotate(plain(name), (x, y), (5, -9), textcoords="offset points", fontsize=7)
    if len(rankings) > 1:
        shown = [
            Line2D([], [], ls="", marker=m, color=c)
            for _, c, m in zip(rankings, PALETTE * 9, "osD^vP*X<" * 9, strict=False)
        ]
        ax.legend(shown, [plain(r.task) for r in rankings], frameon=False, fontsize=8)
    ax.set(xlabel="accuracy of the probe on val" if predictor == "probe" else predictor.replace("_", " "),
           ylabel="accuracy on test, fine-tuned")  # fmt: skip
    ax.margins(x=0.15)
    return ax


def trusted(judged: Trust, ax: Axes | None = None) -> Axes:
    """Each predictor's weighted tau with its interval, best first; grey: what 95 of 100 random orders reach."""
    shown = {name: t for name, t in judged.predictors.items() if name != "random order"}
    ax = axes(ax, 7, 1 + 0.24 * len(shown))
    ax.axvspan(-judged.chance, judged.chance, color="0.92", lw=0)
    ax.axvline(judged.ceiling, color="0.5", ls=":", lw=1)
    for i, t in enumerate(shown.values()):
        color = PALETTE[KINDS.index(t.kind)]
        ax.errorbar(t.tau, i, xerr=np.maximum([[t.tau - t.low], [t.high - t.tau]], 0), fmt="o", capsize=2, color=color)
    ax.set_yticks(range(len(shown)), [plain(name) for name in shown], fontsize=8)
    keys = [k for k in KINDS if any(t.kind == k for t in shown.values())]
    handles = [Line2D([], [], ls="", marker="o", color=PALETTE[KINDS.index(k)]) for k in keys]
    ax.legend(handles, keys, frameon=False, fontsize=8, loc="lower left")
    ax.set(xlabel="weighted Kendall tau with accuracy fine-tuned (grey: chance; dotted: another test set's own order)",
           xlim=(-1.05, 1.05))  # fmt: skip
    ax.invert_yaxis()
    return ax


def probe_against_cost(ranking: Ranking, cost: str = "flops", ax: Axes | None = None) -> Axes:
    """The probe's accuracy with its interval against a cost, and the front of those that none beats in both."""
    names = [n for n in ranking.names if ranking.rows[n].get("probe") is not None and ranking.rows[n].get(cost)]
    frame = ranking.frame().loc[names, [cost, "probe", "probe_low", "probe_high"]].astype(float)
    frame = frame.rename(columns={"probe_low": "low", "probe_high": "high"})
    ax = pareto(frame, cost, "probe", "high" if cost == "images_per_s" else "low", ax)
    ax.set_ylabel("accuracy of the probe on val")
    return ax
