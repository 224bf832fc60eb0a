"""What average precision loses to which kind of error, in the manner of TIDE (Bolya et al. 2020, arXiv 2008.08115)."""

from __future__ import annotations

from typing import Any

import numpy as np

from ptlib.metrics.boxes import LIMIT, area_under, as_rows, box_iou

FOREGROUND, BACKGROUND = 0.5, 0.1
KINDS = ("localisation", "class", "duplicate", "background", "both")  # of a detection; a true box may be missed
POINTS = np.arange(101) / 100  # tidecv's: some differ from COCO's in the last bit


def breakdown(targets: np.ndarray, scores: np.ndarray, n_classes: int) -> dict[str, Any]:
    """`{"ap50": float, kind: {"count": int, "gain": float}, ...}`, arrays and InputError as in `ptlib.metrics.boxes`.

    Each false positive is of one kind, the first that holds:

    - localisation: its IoU with a true box of its class is 0.1 to 0.5
    - class: its IoU with one of another class is 0.5 or more
    - duplicate: its IoU with one of its class, which a higher score has found, is 0.5 or more
    - background: its IoU with any true box is at most 0.1
    - both: what is left, wrong in class and place

    A true box is missed if none finds it, nor would if localisation and class were mended. `gain` is by how much AP50
    rises, 0 at least, if one kind alone is mended. Of the errors of localisation and class at a true box that is not
    found the highest becomes a hit, the others go, as do all that are duplicates, background or both; a true box that
    is missed does not count.

    Gains are those of the package tidecv, and so is this: AP50 is the mean over classes with true boxes or detections,
    0 without true boxes; the 100 highest detections of an image count, whatever their classes; one that finds nothing
    and lies in a crowd of its class, to more than half, does not, but may be mended. That one is not in `count`, where
    tidecv has it too. A difficult box, which tidecv does not know, is like a crowd, but for its IoU: that is plain.
    NaN without true boxes and detections.
    """
    as_rows(targets, scores, n_classes, LIMIT)  # or InputError
    found, boxes = [np.empty((0, 6))], [np.empty((0, 2))]
    for truths, detections in zip(np.asarray(targets, np.float64), np.asarray(scores, np.float64), strict=True):
        detections = detections[detections[:, 0] >= 0]
        order = np.argsort(-detections[:, 5], kind="stable")[:LIMIT]
        judged, missed = _judge(truths[truths[:, 0] >= 0], detections[order])
        found.append(judged)
        boxes.append(missed)
    every, actual = np.concatenate(found), np.concatenate(boxes)
    positives = np.bincount(actual[:, 0].astype(int), minlength=n_classes)
    base = _mean_ap(every[every[:, 3] == 0], positives)
    # tidecv lists hits behind the errors when one is mended: of equal scores they come last.
    every = every[np.argsort(every[:, 2], kind="stable")]
    out: dict[str, Any] = {"ap50": base}
    for kind, name in enumerate(KINDS):
        mended, excused = every[:, 4] == kind, every[:, 3] == 1
        after = every.copy()
        after[mended, 0], after[mended, 2] = every[mended, 5], 1
        gain = _mean_ap(after[np.where(mended, every[:, 5] >= 0, ~excused)], positives) - base
        out[name] = {"count": int((mended & ~excused).sum()), "gain": max(gain, 0.0)}
    missed = actual[:, 1] == 1
    fewer = positives - np.bincount(actual[missed, 0].astype(int), minlength=n_classes)
    gain = _mean_ap(every[every[:, 3] == 0], fewer) - base
    return {**out, "missed": {"count": int(missed.sum()), "gain": max(gain, 0.0)}}


def _judge(truths: np.ndarray, detections: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of an image's detections (D, 6), from the highest down: class, score, hit, excused, kind and class if mended.

    The last two are -1 for hits, and where mending makes no hit. Of its plain true boxes: class and missed, (G, 2).
    """
    plain, others = truths[truths[:, 5] == 0], truths[truths[:, 5] > 0]
    iou = box_iou(detections[:, 1:5], plain[:, 1:5])
    same = detections[:, :1] == plain[:, 0]
    own, foreign = iou * same, iou * ~same
    hit, used, free = np.zeros(len(detections), dtype=bool), np.zeros(len(plain), dtype=bool), own.copy()
    for d in np.flatnonzero((own >= FOREGROUND).any(1)):
        best = free[d].argmax()
        if free[d, best] >= FOREGROUND:
            hit[d], used[best], free[:, best] = True, True, 0
    around = box_iou(detections[:, 1:5], others[:, 1:5], others[:, 5] == 2)
    excused = ~hit & ((around > FOREGROUND) & (detections[:, :1] == others[:, 0])).any(1)
    top, top_own, top_foreign, top_used = (each.max(1, initial=0) for each in (iou, own, foreign, own * used))
    cases = [
        hit, (top_own >= BACKGROUND) & (top_own <= FOREGROUND), top_foreign >= FOREGROUND, top_used >= FOREGROUND,
        top <= BACKGROUND,
    ]  # fmt: skip
    kind = np.select(cases, [-1, 0, 1, 2, 3], 4)
    turned, usable = np.full(len(detections), -1.0), np.zeros(len(plain), dtype=bool)
    at = np.flatnonzero((kind == 0) | (kind == 1))
    if len(at):
        aim = np.where(kind[at, None] == 0, own[at], foreign[at]).argmax(1)
        at, aim = at[~used[aim]], aim[~used[aim]]
        aim, first = np.unique(aim, return_index=True)  # the highest detection at each
        turned[at[first]], usable[aim] = plain[aim, 0], True
    judged = np.stack([detections[:, 0], detections[:, 5], hit, excused, kind, turned], axis=1)
    return judged, np.stack([plain[:, 0], ~used & ~usable], axis=1)


def _mean_ap(judged: np.ndarray, positives: np.ndarray) -> float:
    """AP of detections (n, 6), averaged over the classes that have some or have true boxes (C,)."""
    each = []
    for k in range(len(positives)):
        own = judged[judged[:, 0] == k]
        hit = own[np.argsort(-own[:, 1], kind="stable"), 2:3]
        if len(own) or positives[k]:
            ap = area_under(hit, 1 - hit, positives[k : k + 1], POINTS)[0] if positives[k] else 0.0
            each.append(float(ap))
    return float(np.mean(each)) if each else np.nan
