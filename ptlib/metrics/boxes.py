"""Detections matched with true boxes by COCO's rule, and its averages for any number of weightings of the images.

`targets` (N, M, 7) holds the true boxes of each image: class, x1, y1, x2, y2 in pixels, the end exclusive, flag, area.
Flag 0 is a plain box; 1 a difficult one, which neither found nor missed counts; 2 a crowd, which may match many, and
whose IoU is the intersection over the detection's area. `scores` (N, K, 6) holds the detections: class, x1, y1, x2, y2,
score. Class -1 pads. A weighting says how often each image counts: matched once, a thousand bootstrap resamples are a
thousand weightings. What pycocotools calls -1, an average without a true box, is NaN.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from scipy import sparse

from ptlib.errors import InputError
from ptlib.metrics.counts import ratio

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
AREAS = {"all": (0, 1e10), "small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, 1e10)}  # ends included
Levels = Sequence[float] | np.ndarray | None
LIMIT = 100  # detections of an image and class that are looked at, the highest first

# Kind, area range, IoU threshold (None: the mean over all ten) and detections looked at.
COCO: dict[str, tuple[str, str, float | None, int]] = {
    "ap": ("ap", "all", None, LIMIT), "ap50": ("ap", "all", 0.5, LIMIT), "ap75": ("ap", "all", 0.75, LIMIT),
    **{f"ap_{area}": ("ap", area, None, LIMIT) for area in ("small", "medium", "large")},
    **{f"ar{limit}": ("ar", "all", None, limit) for limit in (1, 10, LIMIT)},
    **{f"ar_{area}": ("ar", area, None, LIMIT) for area in ("small", "medium", "large")},
}  # fmt: skip


class Matches(NamedTuple):
    """Detections by class, in a class from the highest score down, equal ones in the order of images; and their fates.

    `classes`, `scores`, `images` and `ranks` are (D,), the rank that within image and class. `matched` and `ignored`
    are bool (A, T, D), by area range and IoU threshold: one that is ignored counts neither as true nor as false.
    `truths` (A, N, C) are the true boxes that count. `thresholds` (T,) and `areas` name the axes.
    """

    classes: np.ndarray
    scores: np.ndarray
    images: np.ndarray
    ranks: np.ndarray
    matched: np.ndarray
    ignored: np.ndarray
    truths: np.ndarray
    thresholds: np.ndarray
    areas: tuple[str, ...]


class Rows(NamedTuple):
    """Boxes without padding, sorted by group, image * C + class; detections of a group from the highest score down.

    `truths` (G, 7) and how many each group has, `sizes` (N * C,); `detections` (D, 6) with `groups` and `ranks` (D,).
    """

    truths: np.ndarray
    sizes: np.ndarray
    detections: np.ndarray
    groups: np.ndarray
    ranks: np.ndarray


def box_iou(a: np.ndarray, b: np.ndarray, crowd: np.ndarray | None = None) -> np.ndarray:
    """Intersection over union of boxes (..., n, 4) and (..., m, 4), (..., n, m); over a's area if `crowd` (..., m).

    >>> box_iou(np.array([[0, 0, 2, 2]]), np.array([[1, 0, 3, 2], [0, 0, 1, 2]]), np.array([False, True]))
    array([[0.33333333, 0.5       ]])
    """
    a, b = np.asarray(a, dtype=np.float64)[..., None, :], np.asarray(b, dtype=np.float64)[..., None, :, :]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    inside, own = sides.prod(-1), (a[..., 2:] - a[..., :2]).prod(-1)
    union = own + (b[..., 2:] - b[..., :2]).prod(-1) - inside
    union = union if crowd is None else np.where(crowd[..., None, :], own, union)
    return np.asarray(np.divide(inside, union, out=np.zeros(inside.shape), where=(sides > 0).all(-1)))


def needed(names: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """IoU thresholds and area ranges that the numbers of these names ask `match` for. InputError for an odd name."""
    odd = [name for name in names if name not in COCO]
    if odd:
        raise InputError(f"{odd[0]!r} is no number of COCO; choose from {', '.join(COCO)}")
    levels = {COCO[name][2] for name in names}
    thresholds = THRESHOLDS if None in levels else np.array(sorted(level for level in levels if level is not None))
    return thresholds, tuple(area for area in AREAS if any(COCO[name][1] == area for name in names))


def match(
    targets: np.ndarray, scores: np.ndarray, n_classes: int, thresholds: Levels = None, areas: Sequence[str] = (*AREAS,)
) -> Matches:
    """COCOeval's matching, once for each image, class, area range and IoU threshold.

    From the highest score down each detection takes the free true box of the largest IoU, at the threshold or above,
    of equal ones the last; boxes that are ignored only where no other will do. Those are crowds, difficult boxes and
    boxes whose `area` lies outside the range; an unmatched detection is ignored if its own area does. For few numbers
    of COCO match what they need: `match(..., *needed(["ap50"]))`. InputError for other shapes or classes, and NaN.
    """
    rows = as_rows(targets, scores, n_classes, LIMIT)
    levels = np.asarray(THRESHOLDS if thresholds is None else thresholds)
    low, high = np.array([AREAS[area] for area in areas], dtype=np.float64).T[:, :, None]
    counted = (rows.truths[:, 5] == 0) & (rows.truths[:, 6] >= low) & (rows.truths[:, 6] <= high)  # (A, G)
    matched, ignored = fates = np.zeros((2, len(areas), len(levels), len(rows.groups)), dtype=bool)
    starts = np.cumsum(rows.sizes) - rows.sizes
    for groups, first, n in _batches(rows, len(areas) * len(levels)):
        own = starts[groups, None] + np.arange(rows.sizes[groups[0]])  # (B, M), their true boxes
        crowd, counts = rows.truths[own, 5] == 2, counted[:, None, own]
        free = np.ones((len(areas), len(levels), *own.shape), dtype=bool)
        for k in range(n[0]):
            live = int((n > k).sum())
            d = first[:live] + k
            iou = box_iou(rows.detections[d, None, 1:5], rows.truths[own[:live], 1:5], crowd[:live])[:, 0]
            can = (iou >= np.minimum(levels, 1 - 1e-10)[:, None, None]) & (free[:, :, :live] | crowd[:live])
            better = can & counts[:, :, :live]
            can = np.where(better.any(-1, keepdims=True), better, can)
            best = own.shape[1] - 1 - np.where(can, iou, -1)[..., ::-1].argmax(-1)  # (A, T, live)
            found = can.any(-1)
            matched[:, :, d], ignored[:, :, d] = found, found & ~better.any(-1)
            free[(*np.nonzero(found), best[found])] = False
    size = (rows.detections[:, 3:5] - rows.detections[:, 1:3]).prod(1)
    ignored |= ~matched & ((size < low) | (size > high))[:, None]
    return collect(rows, n_classes, fates, counted, levels, tuple(areas))


def as_rows(targets: np.ndarray, scores: np.ndarray, n_classes: int, limit: int) -> Rows:
    """What `match` works on; `limit` is the number of detections of an image and class that are kept."""
    if len(targets) != len(scores):
        raise InputError(f"targets are of {len(targets)} images and scores of {len(scores)}; they must be of the same")
    truths, groups = _unpadded(targets, 7, n_classes, "targets")
    sizes = np.bincount(groups, minlength=len(targets) * n_classes)
    detections, groups = _unpadded(scores, 6, n_classes, "scores")
    ranks = np.arange(len(groups)) - np.searchsorted(groups, groups)
    kept = ranks < limit
    return Rows(truths, sizes, detections[kept], groups[kept], ranks[kept])


def collect(
    rows: Rows, n_classes: int, fates: np.ndarray, counted: np.ndarray, thresholds: np.ndarray, areas: tuple[str, ...]
) -> Matches:
    """Matches from what became of rows: `fates` (2, A, T, D), matched and ignored; `counted` (A, G) of the truths."""
    images, classes = np.divmod(rows.groups, n_classes)
    scores, groups = rows.detections[:, 5], np.repeat(np.arange(len(rows.sizes)), rows.sizes)
    order = np.lexsort((-scores, classes))
    truths = np.stack([np.bincount(groups[c], minlength=len(rows.sizes)) for c in counted])
    return Matches(
        classes[order], scores[order], images[order], rows.ranks[order], fates[0][..., order], fates[1][..., order],
        truths.reshape(len(areas), -1, n_classes).astype(np.int32), thresholds, areas,
    )  # fmt: skip


def class_ap(
    matches: Matches, weights: np.ndarray, thresholds: Levels = None, area: str = "all", points: Levels = RECALLS
) -> np.ndarray:
    """Average precision of each class under weightings (r, N), at all thresholds that were matched or some: (r, C, T).

    The mean of precision at even `points` of recall, by default COCO's 101, or over all recalls if None. Weights that
    are whole say what repeated images would, but where one image has two detections of a class with the same score.
    NaN for a class without a true box that counts.
    """
    hits, alarms, truths, columns = _fates(matches, thresholds, area, weights)
    positives = (columns.T @ truths)[..., None]  # (r, C, 1)
    out = np.zeros((*positives.shape[:2], len(hits)))
    ends = np.searchsorted(matches.classes, np.arange(out.shape[1] + 1))
    for c, own in enumerate(slice(*pair) for pair in pairwise(ends)):
        images, hit = matches.images[own], hits[:, own]
        # Between two hits it does not matter how the others stand: their weights are summed by the hit that follows.
        n = hit.sum(1)
        first, after = np.cumsum(n) - n, np.cumsum(hit, axis=1)
        t, d = np.nonzero(alarms[:, own] & (after < n[:, None]))
        between = sparse.csr_matrix((np.ones(len(t)), (first[t] + after[t, d], images[d])), (n.sum(), len(columns)))
        true = images[np.nonzero(hit)[1]]
        step = max(1, 2_000_000 // max(1, len(true)))  # 16 MB an array
        for some in (slice(start, start + step) for start in range(0, len(out), step)):
            part = columns[:, some]
            false = between @ part
            for i, rows in enumerate(slice(*pair) for pair in zip(first, first + n, strict=True)):
                out[some, c, i] = area_under(part[true[rows]], false[rows], positives[some, c, 0], points)
    return np.where(positives > 0, out, np.nan)


def area_under(true: np.ndarray, false: np.ndarray, positives: np.ndarray, points: Levels) -> np.ndarray:
    """Area under the envelope of precision, (r,), from weights (H, r) of what is true and false, by falling score."""
    true, false = np.cumsum(true, axis=0), np.cumsum(false, axis=0)
    precision = true / (false + true + np.spacing(1))  # as pycocotools has it
    envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    reached = true / np.where(positives > 0, positives, 1)
    if points is not None:
        ends, last = np.r_[points, np.inf], (reached * (len(points) - 1)).astype(np.int64)
        last += ends[last + 1] <= reached  # they are evenly spaced, so that the last one reached is known to within one
        reached = (last + (ends[last] <= reached)) / len(points)
    return np.asarray((envelope * np.diff(reached, axis=0, prepend=0)).sum(0))


def class_recall(
    matches: Matches, weights: np.ndarray, thresholds: Levels = None, area: str = "all", limit: int = LIMIT
) -> np.ndarray:
    """Recall of each class by at most `limit` detections of an image and class, (r, C, T); as `class_ap` else."""
    hits, _, truths, columns = _fates(matches, thresholds, area, weights)
    cells = [(matches.classes[k], matches.images[k]) for k in hits & (matches.ranks < limit)]
    found = [(sparse.csr_matrix((np.ones(len(k[0])), k), truths.shape[::-1]) @ columns).T for k in cells]
    return ratio(np.stack(found, axis=-1), (columns.T @ truths)[..., None])


def coco(matches: Matches, weights: np.ndarray, names: Sequence[str] = tuple(COCO)) -> dict[str, np.ndarray]:
    """The numbers of COCO by name, (r,) each, for weightings (r, N). InputError if one needs what was not matched."""
    needed(names)
    out = {}
    for name in names:
        kind, area, threshold, limit = COCO[name]
        asked = matches, weights, THRESHOLDS if threshold is None else [threshold], area
        each = class_ap(*asked) if kind == "ap" else class_recall(*asked, limit)
        out[name] = ratio(np.nansum(each, axis=(1, 2)), (~np.isnan(each)).sum((1, 2)))
    return out


def curve_of(matches: Matches, k: int, threshold: float = 0.5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Recall, precision and score of the detections of class `k` that count, from the highest down, (n,) each."""
    hits, alarms, truths, _ = _fates(matches, [threshold])
    kept = np.flatnonzero((hits | alarms)[0] & (matches.classes == k))
    found = np.cumsum(hits[0, kept])
    return ratio(found, truths[:, k].sum()), found / np.arange(1, len(kept) + 1), matches.scores[kept]


def decisions(
    targets: np.ndarray, scores: np.ndarray, n_classes: int, threshold: float | np.ndarray, iou: float = 0.5
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hits, said and actual of each image and class, int (N, C) each, of the detections at `threshold` or above it.

    One threshold, or one a class (C,). What is ignored counts nowhere, and of an image and class the highest 100 do.
    """
    return counts_at(match(targets, scores, n_classes, [iou], ("all",)), threshold)


def counts_at(matches: Matches, threshold: float | np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`decisions` from what was matched at one IoU: a detection's match does not depend on those of lower scores."""
    hits, alarms, truths, _ = _fates(matches)
    said = matches.scores >= np.broadcast_to(threshold, truths.shape[1])[matches.classes]
    cells = matches.images * truths.shape[1] + matches.classes
    counts = [np.bincount(cells[k], minlength=truths.size) for k in (said & hits[0], said & (hits | alarms)[0])]
    return counts[0].reshape(truths.shape), counts[1].reshape(truths.shape), truths.astype(np.int64)


def best_threshold(targets: np.ndarray, scores: np.ndarray, n_classes: int, iou: float = 0.5) -> tuple[float, float]:
    """The score from which on detections give the largest micro F1, of equal ones the highest, and that F1; or NaN."""
    matches = match(targets, scores, n_classes, [iou], ("all",))
    hits, alarms, truths, _ = _fates(matches)
    kept = np.flatnonzero((hits | alarms)[0])
    if len(kept) == 0:
        return np.nan, 0.0 if truths.any() else np.nan
    kept = kept[np.argsort(-matches.scores[kept], kind="stable")]
    last = np.flatnonzero(np.r_[np.diff(matches.scores[kept]) != 0, True])  # equal scores are decided together
    f1 = 2 * np.cumsum(hits[0, kept])[last] / (last + 1 + truths.sum())
    return float(matches.scores[kept[last[f1.argmax()]]]), float(f1.max())


def _unpadded(boxes: np.ndarray, width: int, n_classes: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The rows that are no padding and their groups, sorted by these; detections in a group from the highest score."""
    boxes = np.asarray(boxes, dtype=np.float64)
    if boxes.ndim != 3 or boxes.shape[2] != width:
        raise InputError(f"{name} must be (images, boxes, {width}), got {boxes.shape}")
    images, place = np.nonzero(boxes[..., 0] != -1)
    kept = boxes[images, place]
    bad = np.isnan(kept).any(1) | ~np.isin(kept[:, 0], np.arange(n_classes))
    if bad.any():
        raise InputError(f"{name} hold {kept[bad][0].tolist()}; classes are 0..{n_classes - 1}, -1 pads, none is NaN")
    groups = images * n_classes + kept[:, 0].astype(np.int64)
    order = np.lexsort((-kept[:, 5] if width == 6 else np.zeros(len(kept)), groups))
    return kept[order], groups[order]


def _batches(rows: Rows, width: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Groups with equally many true boxes, where their detections begin, and how many these are, most of them first."""
    groups, first, n = np.unique(rows.groups, return_index=True, return_counts=True)
    sizes = rows.sizes[groups]
    for m in np.unique(sizes[sizes > 0]):
        these = np.flatnonzero(sizes == m)
        these = these[np.argsort(-n[these], kind="stable")]
        for part in np.array_split(these, -(-len(these) * m * width // 2_000_000)):
            yield groups[part], first[part], n[part]


def _fates(
    matches: Matches, thresholds: Levels = None, area: str = "all", weights: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """What is true and what is false, (T, D) each; the true boxes that count, (N, C); weights (N, r)."""
    wanted, n = matches.thresholds if thresholds is None else np.asarray(thresholds), matches.truths.shape[1]
    near, weights = np.isclose(wanted[:, None], matches.thresholds), np.ones((1, n)) if weights is None else weights
    if area not in matches.areas or not near.any(1).all():
        had = f"IoU {matches.thresholds.tolist()} and areas {', '.join(matches.areas)} were matched"
        raise InputError(f"{had}, not all of {wanted.tolist()} and {area}; match all that you ask for")
    if weights.ndim != 2 or weights.shape[1] != n:
        raise InputError(f"weights must be (weightings, {n} images), got {weights.shape}")
    a, which = matches.areas.index(area), near.argmax(1)
    matched, counts = matches.matched[a, which], ~matches.ignored[a, which]
    return matched & counts, ~matched & counts, matches.truths[a], np.ascontiguousarray(weights.T, dtype=np.float64)
