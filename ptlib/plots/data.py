"""Figures of data: images, class sizes, and the images a model got wrong."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

from ptlib.core import Task
from ptlib.plots.base import PALETTE, axes, plain
from ptlib.results import Predictions


def images(pixels: Tensor, labels: Sequence[str], columns: int = 9, ax: Axes | None = None) -> Axes:
    """A grid of images, uint8 (N, H, W, 3), each with its label above."""
    rows = -(-len(pixels) // columns)
    ax = axes(ax, 1.15 * columns, 1.5 * rows)
    for i, (image, label) in enumerate(zip(pixels.numpy(), labels, strict=True)):
        row, column = divmod(i, columns)
        left, top = 1.1 * column, 1.4 * row
        ax.imshow(image, extent=(left, left + 1, top + 1, top), interpolation="nearest")
        ax.text(left + 0.5, top - 0.05, plain(label), ha="center", va="bottom", fontsize=7)
    ax.set(xlim=(-0.05, 1.1 * columns - 0.05), ylim=(1.4 * rows - 0.3, -0.35), aspect="equal")
    ax.axis("off")
    return ax


def class_counts(task: Task, ax: Axes | None = None) -> Axes:
    """Images or texts of each class in each split, stacked."""
    ax = axes(ax, 9, 2.8)
    bottom = np.zeros(task.n_classes)
    positions = np.arange(task.n_classes)
    for split, color in zip(task.splits, PALETTE, strict=False):
        counts = split.counts(task.n_classes)
        ax.bar(positions, counts, bottom=bottom, color=color, label=split.name)
        bottom += counts
    step = max(1, task.n_classes // 40)
    ax.set_xticks(positions[::step], [plain(n) for n in task.class_names[::step]], rotation=45, ha="right", fontsize=8)
    ax.set(ylabel=task.reads, ylim=(0, 1.2 * bottom.max()))
    ax.legend(frameon=False, ncols=3, fontsize=8, loc="upper right")
    return ax


def mistakes(task: Task, predictions: Predictions, n: int = 18, columns: int = 6, ax: Axes | None = None) -> Axes:
    """The wrong predictions a model was surest of, found in `task` by their ids."""
    wrong = np.flatnonzero(predictions.predicted != predictions.targets)
    confidence = predictions.probabilities.max(axis=1)
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][:n]
    pixels = {example: split.inputs[i] for split in task.splits for i, example in enumerate(split.ids)}
    names = task.class_names
    labels = [
        f"{names[predictions.targets[i]]}\nas {names[predictions.predicted[i]]} {confidence[i]:.2f}" for i in worst
    ]
    if not len(worst):
        ax = axes(ax, 4, 1)
        ax.axis("off")
        return ax
    shown = torch.stack([pixels[predictions.ids[i]] for i in worst])
    return images(shown, labels, columns=min(columns, len(worst)), ax=ax)
