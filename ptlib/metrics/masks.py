"""Metrics of label maps, uint8 (N, H, W): the class of each pixel, and 255 where the truth is void.

Both parts of a metric are counted by image, and counts add up: the scores of any images, or of any bootstrap resample
of them, are those of the sum of their counts. Void pixels are not scored, whatever is said there (Everingham et al.
2010). A class without pixels to judge it by has NaN, never 0, and the mean over classes is that over the others.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ptlib.arrays import VOID
from ptlib.errors import InputError
from ptlib.metrics.counts import counts_of, ratio

PIXELS_AT_ONCE = 2**21


class MaskScores(NamedTuple):
    """What confusion matrices (..., C, C) say: `iou` and `dice` are (..., C), the others (...)."""

    pixel_accuracy: np.ndarray
    mean_accuracy: np.ndarray
    mean_iou: np.ndarray
    mean_dice: np.ndarray
    frequency_weighted_iou: np.ndarray
    iou: np.ndarray
    dice: np.ndarray


class BoundaryScores(NamedTuple):
    """What boundary counts (..., C, 4) say: `mean_f1` is (...), the others (..., C)."""

    mean_f1: np.ndarray
    f1: np.ndarray
    precision: np.ndarray
    recall: np.ndarray


def confusion_by_image(truth: np.ndarray, said: np.ndarray, n_classes: int) -> np.ndarray:
    """Pixels of each image, int64 (N, C, C): row is the true class, column the one said; void pixels are left out.

    `truth` and `said` are uint8 (N, H, W), in memory or memory-mapped. InputError for other shapes or types, and for a
    value that is no class, but for 255 in `truth`.
    """
    matrices = np.empty((len(truth), n_classes, n_classes), dtype=np.int64)
    for first, t, s in _chunks(truth, said, n_classes):
        cells = t.astype(np.int64) * n_classes + s + np.arange(len(t))[:, None, None] * n_classes**2
        counts = np.bincount(cells[t != VOID], minlength=len(t) * n_classes**2)
        matrices[first : first + len(t)] = counts.reshape(len(t), n_classes, n_classes)
    return matrices


def scores_of(confusion: np.ndarray) -> MaskScores:
    """Scores from counts of pixels (..., C, C); of several images, sum their matrices first.

    With n_ij pixels of class i said to be j, t_i = sum_j n_ij of class i and s_i = sum_j n_ji said to be it
    (Long et al. 2015):

    - pixel accuracy: sum_i n_ii / sum_i t_i;
    - mean accuracy: mean of n_ii / t_i, over classes with t_i > 0;
    - IoU: n_ii / (t_i + s_i - n_ii), the measure of PASCAL VOC (Everingham et al. 2010);
    - frequency-weighted IoU: sum_i t_i IoU_i / sum_i t_i;
    - Dice: 2 n_ii / (t_i + s_i), which is the F1 score of pixels.

    IoU and Dice of a class in neither truth nor prediction are NaN, and their means are over the other classes: a class
    that is said but never true counts as 0. Without a pixel all are NaN.
    """
    c = counts_of(confusion)
    iou = ratio(c.hits, c.actual + c.said - c.hits)
    dice = ratio(2 * c.hits, c.actual + c.said)
    weighted = np.where(c.actual > 0, c.actual * iou, 0.0).sum(-1)
    return MaskScores(
        pixel_accuracy=ratio(c.hits.sum(-1), c.n),
        mean_accuracy=_mean_of_defined(ratio(c.hits, c.actual)),
        mean_iou=_mean_of_defined(iou),
        mean_dice=_mean_of_defined(dice),
        frequency_weighted_iou=ratio(weighted, c.n),
        iou=iou,
        dice=dice,
    )


def boundary_counts(truth: np.ndarray, said: np.ndarray, n_classes: int, tolerance: float = 0.0075) -> np.ndarray:
    """Boundary pixels of each image and class, int64 (N, C, 4): said, of them near; true, of them near.

    A pixel is of its class's boundary if one of its four neighbours has another class; the edge of the image is no
    boundary. It is near if a boundary pixel of the same class in the other map lies within `tolerance` times the
    maps' diagonal, by Euclidean distance (Csurka et al. 2013, whose tolerance this is). Pixels that are void in the
    truth, or next to one that is, are of no boundary in either map: where a class ends at void nobody knows, and what
    is said in void changes nothing.

    Arguments and errors as for `confusion_by_image`; InputError too for a tolerance that is negative or not finite.
    """
    if not 0 <= tolerance < math.inf:
        raise InputError(f"tolerance is {tolerance}; it is a share of the image's diagonal, 0 or more, such as 0.0075")
    counts = np.empty((len(truth), n_classes, 4), dtype=np.int64)
    for first, t, s in _chunks(truth, said, n_classes):
        height, width = t.shape[1:]
        reach = tolerance * math.hypot(height, width) + 1e-9
        pad = min(int(reach), max(height, width) - 1)
        span = np.arange(-pad, pad + 1)
        distance = np.hypot(span[:, None], span)
        steps = (span[:, None] * (width + 2 * pad) + span)[distance <= reach]
        steps = steps[np.argsort(distance[distance <= reach], kind="stable")]
        void = t == VOID
        scored = ~(void | _beside(void[:, 1:] | void[:, :-1], void[:, :, 1:] | void[:, :, :-1], void.shape))
        maps = [np.pad(_boundary(labels, scored), ((0, 0), (pad, pad), (pad, pad)), constant_values=VOID)
                for labels in (s, t)]  # fmt: skip
        for which, (own, other) in enumerate((maps, maps[::-1])):
            part = counts[first : first + len(t), :, 2 * which : 2 * which + 2]
            part[...] = _found(own, other, steps, n_classes)
    return counts


def boundary_f1(counts: np.ndarray) -> BoundaryScores:
    """Boundary F1 (Csurka et al. 2013) from counts (..., C, 4); of several images, sum their counts first.

    Precision is the share of the boundary pixels said that are near a true one, recall that of the true ones near one
    said, F1 = 2 P R / (P + R). It is 0 for a class with a boundary in one map alone, and NaN for one with none in
    either, which the mean over classes leaves out. Csurka et al. score each image and average over images; from summed
    counts a long boundary weighs more than a short one.
    """
    counts = np.asarray(counts)
    said, said_near, true, true_near = (counts[..., i] for i in range(4))
    precision, recall = ratio(said_near, said), ratio(true_near, true)
    p, r = np.nan_to_num(precision), np.nan_to_num(recall)
    f1 = np.where(said + true > 0, np.nan_to_num(ratio(2 * p * r, p + r)), np.nan)
    return BoundaryScores(_mean_of_defined(f1), f1, precision, recall)


def _mean_of_defined(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis of what is not NaN; NaN if all is."""
    defined = ~np.isnan(values)
    return ratio(np.where(defined, values, 0.0).sum(-1), defined.sum(-1))


def _chunks(truth: np.ndarray, said: np.ndarray, n_classes: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Row of the first image, truth and prediction of as many images as are looked at at once, checked."""
    if truth.shape != said.shape or truth.ndim != 3 or truth.size == 0 or {truth.dtype, said.dtype} != {np.dtype("u1")}:
        raise InputError(
            "label maps must be uint8 (N, H, W), truth and prediction of one shape and not empty, "
            f"got {truth.dtype} {truth.shape} and {said.dtype} {said.shape}"
        )
    if not 1 <= n_classes <= VOID:
        raise InputError(f"n_classes is {n_classes}; a label map of bytes has 1 to {VOID} classes")
    step = max(1, PIXELS_AT_ONCE // truth[0].size)
    for first in range(0, len(truth), step):
        t, s = truth[first : first + step], said[first : first + step]
        for name, wrong, also in (("truth", (t >= n_classes) & (t != VOID), ", or 255 for void"),
                                  ("prediction", s >= n_classes, "; void is for the truth alone")):  # fmt: skip
            if wrong.any():
                i, y, x = np.argwhere(wrong)[0]
                value = (t if name == "truth" else s)[i, y, x]
                raise InputError(
                    f"the {name} of image {first + i} has {value} at row {y}, column {x}; classes lie in "
                    f"0..{n_classes - 1}{also}"
                )
        yield first, t, s


def _beside(down: np.ndarray, across: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Pixels (N, H, W) of a marked pair: of pairs one above the other (N, H - 1, W), or abreast (N, H, W - 1)."""
    marked = np.zeros(shape, dtype=bool)
    marked[:, 1:] |= down
    marked[:, :-1] |= down
    marked[:, :, 1:] |= across
    marked[:, :, :-1] |= across
    return marked


def _boundary(labels: np.ndarray, scored: np.ndarray) -> np.ndarray:
    """The labels of scored pixels beside another label, 255 for all other pixels."""
    edge = _beside(labels[:, 1:] != labels[:, :-1], labels[:, :, 1:] != labels[:, :, :-1], labels.shape)
    return np.where(edge & scored, labels, np.uint8(VOID))


def _found(own: np.ndarray, other: np.ndarray, steps: np.ndarray, n_classes: int) -> np.ndarray:
    """Boundary pixels of `own` by image and class, and how many have their label in `other` some step away: (N, C, 2).

    Both are padded, so that no step leads into another row's or image's pixels.
    """
    size = len(own) * n_classes
    places = np.flatnonzero(own != VOID)
    labels, other = own.ravel()[places], other.ravel()
    cells = places // own[0].size * n_classes + labels
    far = np.arange(len(places))
    for step in steps:  # nearest first: most are found soon
        far = far[other[places[far] + step] != labels[far]]
    every, missed = (np.bincount(c, minlength=size) for c in (cells, cells[far]))
    return np.stack([every, every - missed], axis=-1).reshape(len(own), n_classes, 2)
