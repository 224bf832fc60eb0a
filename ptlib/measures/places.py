"""Metrics by name of boxes and of label maps, prepared once and weighted many times; what is drawn is images.

Boxes: COCO's `ap`, `ap50`, `ap75`, `ap_small`, `ap_medium`, `ap_large`, `ar1`, `ar10`, `ar100`, `ar_small`,
`ar_medium`, `ar_large`; PASCAL VOC's `voc_ap` and `voc_ap_11`; at an IoU of 0.5 `precision@<score>`, `recall@<score>`,
`f1@<score>` of the detections that score at least so much. Label maps: `mean_iou`, `mean_dice`, `pixel_accuracy`,
`mean_accuracy`, `frequency_weighted_iou`, `boundary_f1`. One class: `ap:<class>`, `ap50:<class>`, `voc_ap:<class>`,
`recall@0.5:<class>`, `iou:<class>`, `dice:<class>`, `boundary_f1:<class>`.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.stats import rankdata

from ptlib.errors import InputError, did_you_mean
from ptlib.metrics import boxes, masks, voc
from ptlib.metrics.counts import ratio
from ptlib.results import Boxes, Masks

OF_BOXES = (*boxes.COCO, "voc_ap", "voc_ap_11")
OF_MASKS = ("mean_iou", "mean_dice", "pixel_accuracy", "mean_accuracy", "frequency_weighted_iou", "boundary_f1")
MAIN = {"detection": ("ap", "ap50", "ap75"), "segmentation": ("mean_iou", "mean_dice", "pixel_accuracy")}
BY_CLASS = {"detection": ("ap", "ap50"), "segmentation": ("iou", "dice")}
AT = re.compile(r"(precision|recall|f1)@(\d*\.?\d+)")
Values = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class OfImages:
    """Values as functions of how often each image counts: weights (r, N) to (r,) or, by class, (r, C)."""

    names: tuple[str, ...]
    rows: np.ndarray
    functions: dict[str, Values] = field(repr=False)  # what several names share is computed once
    wanted: tuple[tuple[str, int | None], ...]

    def values(self, weights: np.ndarray) -> np.ndarray:
        """(r, M) for weights (r, N)."""
        known = {key: function(np.asarray(weights, dtype=np.float64)) for key, function in self.functions.items()}
        return np.stack([known[key] if k is None else known[key][:, k] for key, k in self.wanted], axis=1)

    def influence(self) -> np.ndarray:
        """By leaving out one image: (N, M)."""
        n = len(self.rows)
        return np.asarray(self.values(np.ones((1, n))) - self.values(np.ones((n, n)) - np.eye(n)))


def prepare_places(names: Sequence[str], parts: Sequence[Any]) -> OfImages:
    """The statistic that gives the metrics `names` over the images of all `parts`, one after the other.

    Several parts are several models' predictions of the same images. InputError for an unknown name.
    """
    first = parts[0]
    classes = first.class_names
    wanted, keys = [], dict[str, None]()
    for name in names:
        what, _, of = name.partition(":")
        known = OF_BOXES if isinstance(first, Boxes) else (*OF_MASKS, "iou", "dice")
        single = what in ("iou", "dice")
        if (what not in known and not (isinstance(first, Boxes) and AT.fullmatch(what))) or (single and not of):
            hint = did_you_mean(name, known) or f"; use for example {', '.join(known[:6])}, or {known[0]}:<class name>"
            raise InputError(f"there is no metric {name!r} of {first.kind}{hint}")
        if of and (of not in classes or what.startswith(("mean", "pixel", "frequency", "ar", "ap_"))):
            raise InputError(f"{name!r} is of no class of {', '.join(classes[:20])}, or is not to be had of one class")
        key = f"{what}:" if of else what
        keys[key] = None
        wanted.append((key, classes.index(of) if of else None))
    functions = _of_boxes(list(keys), parts) if isinstance(first, Boxes) else _of_masks(list(keys), parts)
    return OfImages(tuple(names), np.arange(sum(map(len, parts))), functions, tuple(wanted))


def _of_boxes(keys: Sequence[str], parts: Sequence[Boxes]) -> dict[str, Values]:
    c = len(parts[0].class_names)
    targets, scores = (_stacked([getattr(p, name) for p in parts]) for name in ("targets", "scores"))
    as_said = scores.copy()
    if len(parts) > 1:  # each model's by their rank within it: two models need not score on one scale to be mixed
        for low, high in itertools.pairwise(np.cumsum([0, *map(len, parts)])):
            scores[low:high, :, 5] = rankdata(scores[low:high, :, 5]).reshape(high - low, -1)
    plain = {key.rstrip(":") for key in keys}
    thresholds, areas = boxes.needed([name for name in plain if name in boxes.COCO] or ["ap50"])
    matches = boxes.match(targets, scores, c, thresholds, areas)
    by_voc = voc.voc_match(targets, scores, c) if any(name.startswith("voc") for name in plain) else matches
    functions: dict[str, Values] = {}
    for key in keys:
        name, by_class = key.rstrip(":"), key.endswith(":")
        at = AT.fullmatch(name)
        if at:
            counts = boxes.counts_at(boxes.match(targets, as_said, c, [0.5], ("all",)), float(at[2]))
            functions[key] = _decided(counts, at[1], by_class)
        elif name.startswith("voc"):
            functions[key] = _voc(by_voc, name, by_class)
        elif by_class:
            functions[key] = _class_ap(matches, boxes.COCO[name][2])
        else:
            functions[key] = _coco(matches, name)
    return functions


def _coco(matches: boxes.Matches, name: str) -> Values:
    return lambda weights: boxes.coco(matches, weights, (name,))[name]


def _class_ap(matches: boxes.Matches, threshold: float | None) -> Values:
    chosen = boxes.THRESHOLDS if threshold is None else [threshold]
    return lambda weights: boxes.class_ap(matches, weights, chosen).mean(-1)


def _voc(matches: boxes.Matches, name: str, by_class: bool) -> Values:
    def values(weights: np.ndarray) -> np.ndarray:
        each = voc.voc_ap(matches, weights, 11 if name.endswith("11") else "all")
        return each if by_class else ratio(np.nansum(each, axis=1), (~np.isnan(each)).sum(1))

    return values


def _decided(counts: tuple[np.ndarray, ...], what: str, by_class: bool) -> Values:
    """Precision, recall or F1 of decisions counted by image and class (N, C): hits, said, actual."""

    def values(weights: np.ndarray) -> np.ndarray:
        hits, said, actual = (weights @ (n if by_class else n.sum(1)) for n in counts)
        if what == "f1":
            return ratio(2 * hits, said + actual)
        return ratio(hits, said if what == "precision" else actual)

    return values


def _of_masks(keys: Sequence[str], parts: Sequence[Masks]) -> dict[str, Values]:
    c = len(parts[0].class_names)
    functions: dict[str, Values] = {}
    if any(not key.startswith("boundary") for key in keys):
        pixels = np.concatenate([masks.confusion_by_image(p.targets, p.scores, c) for p in parts]).reshape(-1, c * c)
    if any(key.startswith("boundary") for key in keys):
        edges = np.concatenate([masks.boundary_counts(p.targets, p.scores, c) for p in parts]).reshape(-1, c * 4)
    for key in keys:
        name = key.rstrip(":")
        if name == "boundary_f1":
            functions[key] = _boundary(edges, "f1" if key.endswith(":") else "mean_f1")
        else:
            functions[key] = _overlap(pixels, name)
    return functions


def _overlap(pixels: np.ndarray, name: str) -> Values:
    c = round(pixels.shape[1] ** 0.5)
    return lambda weights: getattr(masks.scores_of((weights @ pixels).reshape(-1, c, c)), name)


def _boundary(edges: np.ndarray, name: str) -> Values:
    return lambda weights: getattr(masks.boundary_f1((weights @ edges).reshape(len(weights), -1, 4)), name)


def _stacked(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Boxes of several models, one after the other, padded alike."""
    most = max(a.shape[1] for a in arrays)
    padded = []
    for a in arrays:
        more = np.zeros((len(a), most - a.shape[1], a.shape[2]))
        more[..., 0] = -1
        padded.append(np.concatenate([a, more], axis=1))
    return np.concatenate(padded).astype(np.float64)
