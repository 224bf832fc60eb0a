"""Looking where reading is not enough: mistakes, leafed through."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from ptlib.core import Task
from ptlib.errors import InputError
from ptlib.plots.base import plain
from ptlib.plots.data import mistakes
from ptlib.results import Predictions


def browse(task: Task, predictions: Predictions, n: int = 18) -> Any:
    """Mistakes by true class, by the class said, and by confidence, as widgets; without ipywidgets one sentence.

    InputError unless these are images, each with one class.
    """
    if not isinstance(predictions, Predictions) or predictions.multilabel or task.reads != "images":
        raise InputError("mistakes can be leafed through where each image has one class; this is another kind of task")
    try:
        import ipywidgets
    except ImportError:
        print("With ipywidgets installed (pip install ipywidgets) mistakes can be leafed through here.")
        return None
    confidence = predictions.probabilities.max(axis=1)
    classes = [("any class", -1), *((plain(name), k) for k, name in enumerate(task.class_names))]

    def show(true: int, said: int, at_most: float) -> None:
        of = (predictions.predicted != predictions.targets) & (confidence <= at_most)
        of &= (np.isin(predictions.targets, true) | (true < 0)) & (np.isin(predictions.predicted, said) | (said < 0))
        ax = mistakes(task, predictions.take(of), n) if of.any() else None
        if ax is not None:
            ax.set_title(f"The surest {min(n, of.sum())} of {of.sum()}")
            plt.show()

    return ipywidgets.interactive(
        show, true=ipywidgets.Dropdown(options=classes, description="is"),
        said=ipywidgets.Dropdown(options=classes, description="taken for"),
        at_most=ipywidgets.FloatSlider(1.0, min=0.0, max=1.0, step=0.05, description="surest", continuous_update=False),
    )  # fmt: skip
