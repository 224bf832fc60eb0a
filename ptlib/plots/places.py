"""Figures of boxes and label maps: what is marked in images, what was found there, where the errors are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patches import Patch, Rectangle

from ptlib.arrays import VOID
from ptlib.core import Split
from ptlib.data.canvas import to_canvas
from ptlib.metrics.boxes import curve_of, match
from ptlib.plots.base import LINES, PALETTE, axes, plain
from ptlib.results import Boxes

WIDTH = 7.5  # inches


def boxes(
    split: Split, class_names: Sequence[str], found: Boxes | None = None, threshold: float = 0.5, n: int = 6,
    columns: int = 3, ax: Axes | None = None,
) -> Axes:  # fmt: skip
    """The first `n` images with their true boxes, dashed and white, and those found at `threshold` or above, by class.

    Without `found` the true boxes are drawn by class.
    """
    n = min(n, len(split))
    ax, place = _grid(split, n, columns, ax)
    scores = found.scores[:n] if found is not None else None
    if scores is not None and split.sizes is not None:
        canvas = (split.inputs.shape[1], split.inputs.shape[2])
        scores = np.concatenate(
            [scores[..., :1], to_canvas(scores[..., 1:5], split.sizes[:n].numpy(), canvas), scores[..., 5:]], axis=-1
        )
    seen, colours = set[int](), _colours(len(class_names))
    for i in range(n):
        left, top = place(i)
        for row in split.targets[i].numpy():
            if row[0] >= 0:
                _box(ax, row, left, top, "white" if scores is not None else colours[int(row[0])], scores is not None)
                seen |= {int(row[0])} if scores is None else set()
        for row in scores[i] if scores is not None else ():
            if row[0] >= 0 and row[5] >= threshold:
                _box(ax, row, left, top, colours[int(row[0])], False)
                seen.add(int(row[0]))
    _legend(ax, class_names, seen)
    return ax


def overlays(
    split: Split, class_names: Sequence[str], maps: Mapping[str, np.ndarray] | None = None, n: int = 4,
    ax: Axes | None = None,
) -> Axes:  # fmt: skip
    """The first `n` images; below each its true label map laid over it, and those of `maps` (N, H, W), by name.

    Void is left as it is.
    """
    n = min(n, len(split))
    rows = {"truth": split.targets[:n].numpy()} | {name: said[:n] for name, said in (maps or {}).items()}
    height, width = split.inputs.shape[1:3]
    ax = axes(ax, WIDTH, WIDTH * (1 + len(rows)) * height / (n * width) + 0.6)
    palette = np.array([to_rgb(c) for c in _colours(len(class_names))])
    seen: set[int] = set()
    for i in range(n):
        image = split.inputs[i].numpy() / 255
        ax.imshow(image, extent=_extent(i, 0, height, width), interpolation="nearest")
        for r, (name, labels) in enumerate(rows.items(), 1):
            known = labels[i] != VOID
            seen |= set(np.unique(labels[i][known]).tolist())
            laid = 0.45 * image + 0.55 * palette[np.where(known, labels[i], 0)]
            shown = np.where(known[..., None], laid, image)
            ax.imshow(shown, extent=_extent(i, r, height, width), interpolation="nearest")
            if i == 0:
                middle = (r + 0.5) * 1.03 * height
                ax.text(-0.02 * width, middle, plain(name), rotation=90, ha="right", va="center", fontsize=8)
    ax.set(xlim=(-0.1 * width, 1.03 * width * n), ylim=(1.03 * height * (1 + len(rows)), 0), aspect="equal")
    ax.axis("off")
    _legend(ax, class_names, seen)
    return ax


def box_curves(said: Mapping[str, Boxes], class_name: str, iou: float = 0.5, ax: Axes | None = None) -> Axes:
    """Precision against recall of one class's boxes at one IoU, a curve for each model."""
    ax = axes(ax, 4.6, 3.6)
    for (name, p), color, line in zip(said.items(), cycle(PALETTE), cycle(LINES), strict=False):
        matches = match(p.targets, p.scores, len(p.class_names), [iou], ("all",))
        recall, precision, _ = curve_of(matches, p.class_names.index(class_name), iou)
        ax.plot(recall, precision, line, color=color, label=plain(name), drawstyle="steps-post")
    ax.set(xlabel=f"recall at IoU {iou:g}", ylabel="precision", xlim=(0, 1.02), ylim=(0, 1.05))
    ax.legend(frameon=False, fontsize=8, loc="best")
    return ax


def error_gains(errors: Mapping[str, Mapping[str, Any]], ax: Axes | None = None) -> Axes:
    """What AP at an IoU of 0.5 each model would gain if one type of error alone were put right, by type."""
    ax = axes(ax, 7, 3)
    kinds = [kind for kind, value in next(iter(errors.values())).items() if isinstance(value, Mapping)]
    high = 0.8 / len(errors)
    for m, ((name, found), color) in enumerate(zip(errors.items(), cycle(PALETTE), strict=False)):
        gains = [found[kind]["gain"] for kind in kinds]
        ax.barh(np.arange(len(kinds)) + high * (m + 0.5) - 0.4, gains, high, color=color, label=plain(name))
    ax.set_yticks(range(len(kinds)), kinds)
    ax.invert_yaxis()
    ax.set(xlabel="gain in AP50 if this error were put right")
    ax.legend(frameon=False, fontsize=8)
    return ax


def class_bars(values: Mapping[str, Mapping[str, Any]], metric: str, ax: Axes | None = None) -> Axes:
    """A metric of each class with its 95 % interval, for each model's `report.per_class`."""
    names = list(next(iter(values.values())))
    ax = axes(ax, 7, 0.8 + 0.28 * len(names))
    for m, ((model, per_class), color) in enumerate(zip(values.items(), cycle(PALETTE), strict=False)):
        y = np.arange(len(names)) + 0.3 * (m - (len(values) - 1) / 2)
        found = [per_class[name][metric] for name in names]
        for place, e in zip(y, found, strict=True):
            ax.plot([e.low, e.high], [place, place], color=color, lw=1.5)
        ax.plot([e.value for e in found], y, "o", color=color, ms=4, label=plain(model))
    ax.set_yticks(range(len(names)), [plain(name) for name in names])
    ax.invert_yaxis()
    ax.set(xlabel=f"{metric}, 95 % interval", xlim=(0, 1))
    ax.legend(frameon=False, fontsize=8, loc="best")
    return ax


def _colours(n: int) -> list[Any]:
    """A colour for each of n classes: those that colour-blind readers can tell apart, as far as they go."""
    plain_ones = [c for i, c in enumerate(PALETTE) if i != 7]  # grey is for what is not marked
    if n <= len(plain_ones):
        return plain_ones[:n]
    return [c for start in (0, 1) for c in sns.color_palette("husl", n)[start::2]]  # neighbours far apart


def _grid(split: Split, n: int, columns: int, ax: Axes | None) -> tuple[Axes, Any]:
    height, width = split.inputs.shape[1:3]
    columns, rows = min(columns, n), -(-n // columns)
    ax = axes(ax, WIDTH, min(14, WIDTH * rows * height / (columns * width)) + 0.5)

    def place(i: int) -> tuple[float, float]:
        return (i % columns) * 1.03 * width, (i // columns) * 1.03 * height

    for i in range(n):
        left, top = place(i)
        ax.imshow(split.inputs[i].numpy(), extent=(left, left + width, top + height, top), interpolation="nearest")
    ax.set(xlim=(0, 1.03 * width * columns), ylim=(1.03 * height * rows, 0), aspect="equal")
    ax.axis("off")
    return ax, place


def _extent(column: int, row: int, height: int, width: int) -> tuple[float, float, float, float]:
    left, top = 1.03 * width * column, 1.03 * height * row
    return left, left + width, top + height, top


def _box(ax: Axes, row: np.ndarray, left: float, top: float, color: Any, dashed: bool) -> None:
    corner, size = (left + row[1], top + row[2]), (row[3] - row[1], row[4] - row[2])
    ax.add_patch(Rectangle(corner, *size, fill=False, ec=color, lw=1.2, ls="--" if dashed else "-"))


def _legend(ax: Axes, class_names: Sequence[str], seen: set[int]) -> None:
    colours = _colours(len(class_names))
    handles = [Patch(color=colours[k], label=plain(class_names[k])) for k in sorted(seen)[:24]]
    if handles:
        ax.legend(handles=handles, ncols=min(6, len(handles)), fontsize=7, frameon=False, loc="upper center",
                  bbox_to_anchor=(0.5, 0.0))  # fmt: skip
