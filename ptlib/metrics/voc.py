"""Average precision by the rules of PASCAL VOC, for the arrays and weightings of `ptlib.metrics.boxes`."""

from __future__ import annotations

from typing import Literal

import numpy as np

from ptlib.errors import InputError
from ptlib.metrics.boxes import Matches, as_rows, box_iou, class_ap, collect

# As MATLAB has 0:0.1:1, counted from both ends: a recall of 3 in 10 does not reach the fourth, 6 in 10 the seventh.
ELEVEN = np.r_[np.arange(6) * 0.1, 1 - np.arange(4, -1, -1) * 0.1]


def voc_match(targets: np.ndarray, scores: np.ndarray, n_classes: int, iou: float = 0.5) -> Matches:
    """Matching as in VOCevaldet.m: each detection belongs to the true box of its class with the largest overlap.

    At `iou` or above the highest of them is true and the others are false, as are those below it; of equal overlaps
    the first box is taken, whether another detection has it or not. Difficult boxes, and crowds as well, count
    neither way. All detections are looked at. InputError as from `ptlib.metrics.boxes.match`.
    """
    rows = as_rows(targets, scores, n_classes, np.size(scores))
    sizes, starts = rows.sizes[rows.groups], (np.cumsum(rows.sizes) - rows.sizes)[rows.groups]
    overlap, truth = np.zeros(len(sizes)), np.full(len(sizes), -1)
    for m in np.unique(sizes[sizes > 0]):
        these = np.flatnonzero(sizes == m)
        for part in np.array_split(these, 1 + len(these) * m // 1_000_000):
            own = starts[part, None] + np.arange(m)
            each = box_iou(rows.detections[part, None, 1:5], rows.truths[own, 1:5])[:, 0]
            overlap[part], truth[part] = each.max(1), own[np.arange(len(part)), each.argmax(1)]
    near, plain = np.flatnonzero((truth >= 0) & (overlap >= iou)), rows.truths[:, 5] == 0
    fates = np.zeros((2, 1, 1, len(sizes)), dtype=bool)
    matched, ignored = fates[:, 0, 0]
    matched[near[np.unique(truth[near], return_index=True)[1]]] = True  # rows stand from the highest score down
    ignored[near] = ~plain[truth[near]]
    return collect(rows, n_classes, fates, plain[None], np.array([iou]), ("all",))


def voc_ap(matches: Matches, weights: np.ndarray, points: Literal[11, "all"] = "all") -> np.ndarray:
    """Average precision of each class under weightings (r, N), (r, C); NaN for a class without plain boxes.

    The area under the envelope of precision, as from VOC 2010 on; or the mean of the envelope at eleven recalls, as
    in VOC 2007, with `points` 11.
    """
    if points not in (11, "all"):
        raise InputError(f"points is {points!r}; it must be 11, as in VOC 2007, or 'all', as later")
    return class_ap(matches, weights, points=ELEVEN if points == 11 else None)[..., 0]
