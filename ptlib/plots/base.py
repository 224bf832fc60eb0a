"""What all figures share: axes, a palette that colour-blind readers can tell apart, text shown as it is."""

from __future__ import annotations

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ptlib.texts import written

PALETTE = sns.color_palette("colorblind")
LINES = ("-", "--", "-.", ":")


def axes(ax: Axes | None, width: float, height: float) -> Axes:
    """The axes given, or new ones, inches wide and high."""
    return plt.subplots(figsize=(width, height), layout="constrained")[1] if ax is None else ax


def plain(text: str) -> str:
    """Text that matplotlib shows as it is: a dollar sign starts no formula, a leading underscore hides no name."""
    shown = written(text).replace("$", r"\$")
    return f"\u200b{shown}" if shown.startswith("_") else shown  # legends leave out what begins with one


def row(width: float = 9.5, height: float = 4.0, columns: int = 2) -> tuple[Figure, list[Axes]]:
    """A figure of axes side by side, inches wide and high."""
    figure, made = plt.subplots(1, columns, figsize=(width, height), layout="constrained")
    return figure, list(made)
