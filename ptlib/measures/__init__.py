"""Metrics by name, prepared once and weighted many times: what bootstraps, permutations and reports are made from.

The names are listed in `ptlib.measures.classes` and, for boxes and label maps, in `ptlib.measures.places`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ptlib.measures import places
from ptlib.measures.classes import (
    ALL,
    MAIN,
    OfRanking,
    Statistic,
    applies,
    is_proportion,
    lower_is_better,
    of_each,
    prepare_classes,
)
from ptlib.measures.places import BY_CLASS, OF_BOXES, OF_MASKS, OfImages, prepare_places
from ptlib.results import Boxes, Examples, Masks, Predictions

__all__ = ["ALL", "MAIN", "OfImages", "OfRanking", "Statistic", "all_of", "applies", "by_class_of", "is_proportion",
           "lower_is_better", "main_of", "of_each", "prepare"]  # fmt: skip


def prepare(names: Sequence[str], parts: Sequence[Any]) -> list[Statistic]:
    """The statistics that give the metrics `names`, over the examples of all `parts` one after the other.

    Several parts are several models' predictions of the same examples: a statistic then takes the examples of each as
    rows of their own, so that any mixture of the models is a weighting. InputError for an unknown name.
    """
    if isinstance(parts[0], Boxes | Masks):
        return [prepare_places(names, parts)] if names else []
    return prepare_classes(names, parts)


def main_of(said: Examples) -> tuple[str, ...]:
    """What a report of these predictions holds unless it is asked for more."""
    return MAIN if isinstance(said, Predictions) else places.MAIN[said.kind]


def all_of(said: Examples) -> list[str]:
    """Every metric that means something for these predictions."""
    if isinstance(said, Predictions):
        return [name for name in ALL if applies(name, said)]
    return list(OF_BOXES if isinstance(said, Boxes) else OF_MASKS)


def by_class_of(said: Examples) -> tuple[str, ...]:
    """What is said of each class."""
    return BY_CLASS.get(said.kind, ("precision", "recall", "f1"))
