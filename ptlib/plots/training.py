"""Figures of training: learning curves, where the time went, what each stage trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from ptlib.lora import adapted
from ptlib.models import Model, trainable_names
from ptlib.plots.base import PALETTE, axes, plain
from ptlib.stages import History, Stage


def learning_curves(histories: Mapping[str, History], metric: str = "accuracy", ax: Axes | None = None) -> Axes:
    """The val metric after each epoch of each history; dotted: a stage begins; ringed: what was kept."""
    ax = axes(ax, 7, 3.4)
    for (name, history), color in zip(histories.items(), cycle(PALETTE), strict=False):
        values = [row.get(f"val_{metric}", np.nan) for row in history.rows]
        exact = {stage.name for stage in history.stages if stage.optimizer == "lbfgs"}
        epochs = np.cumsum([row["stage"] not in exact for row in history.rows])
        ax.plot(epochs, values, marker="o", color=color, label=plain(name))
        kept = history.rows.index(history.best)
        ax.plot(epochs[kept], values[kept], marker="o", markersize=13, fillstyle="none", color=color)
        for i, row in enumerate(history.rows):
            if i and row["stage"] != history.rows[i - 1]["stage"]:
                ax.axvline(epochs[i] - 0.5, color=color, linestyle=":", linewidth=1)
                ax.text(epochs[i] - 0.45, 0.02, plain(row["stage"]), color=color, fontsize=8)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set(
        xlabel="epochs of training (0: the head alone, fitted to convergence)",
        ylabel=f"{metric} on val",
        ylim=(0, 1.02),
    )
    ax.legend(frameon=False, loc="best")
    return ax


def seconds(spent: Mapping[str, float], ax: Axes | None = None) -> Axes:
    """Where the time went, in seconds."""
    ax = axes(ax, 7, 0.6 + 0.3 * len(spent))
    ax.barh([plain(name) for name in spent], list(spent.values()), color=PALETTE[0])
    for i, value in enumerate(spent.values()):
        ax.text(value, i, f" {value:.1f}", va="center", fontsize=8)
    ax.set(xlabel="seconds")
    ax.invert_yaxis()
    return ax


def stage_table(model: Model, stages: Sequence[Stage]) -> Any:
    """What each stage trains, and how, as a pandas DataFrame."""
    import pandas as pd

    rows, whole = [], sum(p.numel() for p in model.parameters())
    for stage in stages:
        named = trainable_names(model, stage.trainable)
        with adapted(model, named, stage.lora, 0) as learning:
            trained = sum(p.numel() for name, p in model.named_parameters() if name in learning)
        exact = stage.optimizer == "lbfgs"
        rows.append(
            {
                "stage": stage.name,
                "trainable": f"{trained:,} of {whole:,} parameters",
                "epochs": "to convergence" if exact else str(stage.epochs),
                "optimizer": stage.optimizer,
                "learning rate": "" if exact else f"{stage.lr:g}, times {stage.layer_decay:g} a layer down",
                "batch": "all" if exact else str(stage.batch_size),
            }
        )
    return pd.DataFrame(rows).set_index("stage")
