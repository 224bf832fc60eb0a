"""Looking where reading is not enough: mistakes, leafed through."""

from __future__ import annotations

import io
from typing import Any

import matplotlib.pyplot as plt

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

    true, said = (ipywidgets.Dropdown(options=classes, description=text) for text in ("is", "taken for"))
    at_most = ipywidgets.FloatSlider(1.0, min=0.0, max=1.0, step=0.05, description="surest", continuous_update=False)
    count, picture = ipywidgets.Label(), ipywidgets.Image(format="png")

    def show(change: Any = None) -> None:
        of = (predictions.predicted != predictions.targets) & (confidence <= at_most.value)
        for column, box in ((predictions.targets, true), (predictions.predicted, said)):
            of &= (column == box.value) | (box.value < 0)
        count.value = f"The surest {min(n, of.sum())} of {of.sum()}" if of.any() else "There are none"
        figure: Any = mistakes(task, predictions.take(of), n).figure if of.any() else plt.figure(figsize=(0.1, 0.1))
        png = io.BytesIO()
        figure.savefig(png, format="png", bbox_inches="tight")
        plt.close(figure)
        picture.value = png.getvalue()  # no Output widget: whoever runs a notebook without a browser may hang on one

    for box in (true, said, at_most):
        box.observe(show, "value")
    show()
    return ipywidgets.VBox([true, said, at_most, count, picture])
