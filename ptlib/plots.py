"""Figures: functions that take and return matplotlib Axes. Titles are the caller's: they state the finding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from ptlib.core import Task
from ptlib.models import Model, trainable_names
from ptlib.results import Predictions, Report
from ptlib.stages import Stage
from ptlib.train import History

PALETTE = sns.color_palette("colorblind")


def _axes(ax: Axes | None, width: float, height: float) -> Axes:
    return plt.subplots(figsize=(width, height), layout="constrained")[1] if ax is None else ax


def plain(text: str) -> str:
    """Text that matplotlib shows as it is: a dollar sign starts no formula."""
    return text.replace("$", r"\$")


def images(pixels: Tensor, labels: Sequence[str], columns: int = 9, ax: Axes | None = None) -> Axes:
    """A grid of images, uint8 (N, H, W, 3), each with its label above."""
    rows = -(-len(pixels) // columns)
    ax = _axes(ax, 1.15 * columns, 1.5 * rows)
    for i, (image, label) in enumerate(zip(pixels.numpy(), labels, strict=True)):
        row, column = divmod(i, columns)
        left, top = 1.1 * column, 1.4 * row
        ax.imshow(image, extent=(left, left + 1, top + 1, top), interpolation="nearest")
        ax.text(left + 0.5, top - 0.05, plain(label), ha="center", va="bottom", fontsize=7)
    ax.set(xlim=(-0.05, 1.1 * columns - 0.05), ylim=(1.4 * rows - 0.3, -0.35), aspect="equal")
    ax.axis("off")
    return ax


def class_counts(task: Task, ax: Axes | None = None) -> Axes:
    """Images of each class in each split, stacked."""
    ax = _axes(ax, 9, 2.8)
    bottom = np.zeros(task.n_classes)
    positions = np.arange(task.n_classes)
    for split, color in zip(task.splits, PALETTE, strict=False):
        counts = split.counts(task.n_classes)
        ax.bar(positions, counts, bottom=bottom, color=color, label=split.name)
        bottom += counts
    step = max(1, task.n_classes // 40)
    ax.set_xticks(positions[::step], [plain(n) for n in task.class_names[::step]], rotation=45, ha="right", fontsize=8)
    ax.set(ylabel="images", ylim=(0, 1.2 * bottom.max()))
    ax.legend(frameon=False, ncols=3, fontsize=8, loc="upper right")
    return ax


def learning_curves(histories: Mapping[str, History], metric: str = "accuracy", ax: Axes | None = None) -> Axes:
    """The val metric after each epoch of each history; dotted: a stage begins; ringed: what was kept."""
    ax = _axes(ax, 7, 3.4)
    for (name, history), color in zip(histories.items(), PALETTE, strict=False):
        values = [row[f"val_{metric}"] for row in history.rows]
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


def intervals(reports: Mapping[str, Report], ax: Axes | None = None) -> Axes:
    """Each metric of each report with its 95 % interval; what is undefined is left out."""
    ax = _axes(ax, 7, 2.6)
    metrics = list(next(iter(reports.values())))
    for k, ((name, report), color) in enumerate(zip(reports.items(), PALETTE, strict=False)):
        y = np.arange(len(metrics)) + 0.22 * (k - (len(reports) - 1) / 2)
        values = np.array([report[m].value for m in metrics])
        low, high = (np.array([getattr(report[m], side) for m in metrics]) for side in ("low", "high"))
        ax.errorbar(values, y, xerr=[values - low, high - values], fmt="o", capsize=3, color=color, label=plain(name))
    ax.set_yticks(range(len(metrics)), [m.replace("_", " ") for m in metrics])
    ax.set(xlabel="value, with 95 % interval", xlim=(0, 1.02))
    ax.invert_yaxis()
    ax.legend(frameon=False)
    return ax


def confusion(report: Report, ax: Axes | None = None) -> Axes:
    """Where each class's examples went, rows being targets; up to 20 classes the cells say how many per cent."""
    n = len(report.class_names)
    side = min(12.0, 2.5 + 0.3 * n)
    ax = _axes(ax, side + 1, side)
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


def mistakes(task: Task, predictions: Predictions, n: int = 18, columns: int = 6, ax: Axes | None = None) -> Axes:
    """The wrong predictions a model was surest of, on the split of `task` they were made on."""
    wrong = np.flatnonzero(predictions.predicted != predictions.targets)
    confidence = predictions.probabilities.max(axis=1)
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][:n]
    split = next(s for s in task.splits if s.name == predictions.split)
    names = task.class_names
    labels = [
        f"{names[predictions.targets[i]]}\nas {names[predictions.predicted[i]]} {confidence[i]:.2f}" for i in worst
    ]
    if not len(worst):
        ax = _axes(ax, 4, 1)
        ax.axis("off")
        return ax
    return images(split.inputs[worst], labels, columns=min(columns, len(worst)), ax=ax)


def seconds(spent: Mapping[str, float], ax: Axes | None = None) -> Axes:
    """Where the time went, in seconds."""
    ax = _axes(ax, 7, 0.6 + 0.3 * len(spent))
    ax.barh(list(spent), list(spent.values()), color=PALETTE[0])
    for i, value in enumerate(spent.values()):
        ax.text(value, i, f" {value:.1f}", va="center", fontsize=8)
    ax.set(xlabel="seconds")
    ax.invert_yaxis()
    return ax


def stage_table(model: Model, stages: Sequence[Stage]) -> Any:
    """What each stage trains, and how, as a pandas DataFrame."""
    import pandas as pd

    sizes = {name: p.numel() for name, p in model.named_parameters()}
    rows = []
    for stage in stages:
        trained = sum(sizes[name] for name in trainable_names(model, stage.trainable))
        exact = stage.optimizer == "lbfgs"
        rows.append(
            {
                "stage": stage.name,
                "trainable": f"{trained:,} of {sum(sizes.values()):,} parameters",
                "epochs": "to convergence" if exact else str(stage.epochs),
                "optimizer": stage.optimizer,
                "learning rate": "" if exact else f"{stage.lr:g}, times {stage.layer_decay:g} a layer down",
                "batch": "all" if exact else str(stage.batch_size),
            }
        )
    return pd.DataFrame(rows).set_index("stage")
