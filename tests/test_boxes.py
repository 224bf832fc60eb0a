"""Averages of detections against pycocotools, torchmetrics, VOC's rules written down once more, values of tidecv."""

from __future__ import annotations

import contextlib
import io
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import pytest
import torch
from pycocotools import mask
from pycocotools.coco import COCO as Annotations
from pycocotools.cocoeval import COCOeval

from ptlib.errors import InputError
from ptlib.metrics import boxes
from ptlib.metrics.boxes import AREAS, COCO, class_ap, class_recall, coco, match, needed
from ptlib.metrics.breakdown import breakdown
from ptlib.metrics.voc import voc_ap, voc_match

Scene = tuple[np.ndarray, np.ndarray]
C = 4  # class 3 is never a true one, and rarely class 2


def scene(seed: int, n: int = 6, m: int = 8, k: int = 14, side: int = 160, flags: str = "0012", grid: int = 1) -> Scene:
    """Targets and scores with few levels of score, so that scores tie; on a coarse grid IoU does too; empty images."""
    rng = np.random.default_rng(seed)
    targets, scores = np.zeros((n, m, 7)), np.zeros((n, k, 6))
    for values in (targets, scores):
        values[..., 1:3] = rng.integers(0, side, (*values.shape[:2], 2))
        values[..., 3:5] = values[..., 1:3] + rng.integers(1, side * 3 // 4, (*values.shape[:2], 2))
    targets[..., 0] = rng.choice([-1, 0, 0, 1, 1, 1, 2], (n, m))
    targets[..., 5] = rng.choice([*map(int, flags)], (n, m))
    scores[..., 0], scores[..., 5] = rng.integers(-1, C, (n, k)), rng.integers(0, 9, (n, k)) / 8
    if m:  # three of four detections lie at a true box, most of them with its class
        at = np.take_along_axis(targets, rng.integers(0, m, (n, k, 1)), axis=1)
        near, moved = rng.random((n, k)) < 0.75, rng.integers(-4, 5, (n, k, 4)) * (rng.random((n, k, 1)) < 0.7)
        scores[near, 1:5] = (at[..., 1:5] + moved)[near]
        same = near & (rng.random((n, k)) < 0.85)
        scores[same, 0] = at[same, 0]
    for values in (targets, scores):
        values[..., 1:5] = np.round(values[..., 1:5] / grid) * grid
        values[..., 3:5] = np.maximum(values[..., 3:5], values[..., 1:3] + grid)
        values[rng.random(n) < 0.15, :, 0] = -1
    targets[..., 6] = (targets[..., 3:5] - targets[..., 1:3]).prod(-1) * rng.choice([0.1, 0.5, 1, 1], (n, m))
    return targets, scores


CASES = [scene(seed, grid=grid, side=96 + 64 // grid) for seed in range(7) for grid in (1, 32)] + [
    scene(30, side=40), scene(31, side=600), scene(32, n=1), scene(33, m=0), scene(34, k=0), scene(35, m=1, k=1),
    scene(36, m=0, k=0), (scene(6, n=3, k=20)[0], np.tile(scene(6, n=3, k=20)[1], (1, 30, 1))),  # more than 100 a class
    (np.array([[[0, 0, 0, 12, 9, 0, 108], [0, 4, 0, 16, 9, 0, 108]]]),  # the first detection may take either box
     np.array([[[0, 2, 0, 14, 9, 0.9], [0, 6, 0, 18, 9, 0.8]]])),
]  # fmt: skip


def pycocotools(targets: np.ndarray, scores: np.ndarray) -> Any:
    """COCOeval after all its steps. It overwrites `ignore` by `iscrowd`; difficult boxes get theirs back."""

    class Evaluation(COCOeval):  # type: ignore[misc]
        def _prepare(self) -> None:
            super()._prepare()
            for truth in (truth for truths in self._gts.values() for truth in truths):
                truth["ignore"] = int(truth["flag"] > 0)

    sides = []
    with contextlib.redirect_stdout(io.StringIO()):
        for values in (targets, scores):
            table: list[dict[str, Any]] = []
            for i, row in ((i, row) for i, image in enumerate(values) for row in image if row[0] >= 0):
                box = [row[1], row[2], row[3] - row[1], row[4] - row[2]]
                table.append({"id": len(table) + 1, "image_id": i, "category_id": int(row[0]), "bbox": box})
                own = {"score": row[5], "area": box[2] * box[3]}
                truth = {"iscrowd": int(row[5] == 2), "flag": row[5], "area": row[-1]}
                table[-1] |= own if values is scores else truth
            side, images, classes = Annotations(), range(len(targets)), [{"id": c} for c in range(C)]
            side.dataset = {"images": [{"id": i} for i in images], "annotations": table, "categories": classes}
            side.createIndex()
            sides.append(side)
        evaluation = Evaluation(*sides, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    for numbers in (evaluation.stats, evaluation.eval["precision"], evaluation.eval["recall"]):
        numbers[numbers < 0] = np.nan
    return evaluation


def agree(ours: Any, theirs: Any, tolerance: float = 1e-12) -> None:
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance)


@pytest.mark.parametrize("case", range(len(CASES)))
def test_coco_equals_pycocotools(case: int) -> None:
    targets, scores = CASES[case]
    theirs, ours, one = pycocotools(targets, scores), match(targets, scores, C), np.ones((1, len(targets)))
    agree([value[0] for value in coco(ours, one).values()], theirs.stats)
    for a, area in enumerate(AREAS):  # of (T, R, C, A, M) and (T, C, A, M)
        agree(class_ap(ours, one, area=area)[0], theirs.eval["precision"][..., a, 2].mean(1).T)
        for i, limit in enumerate((1, 10, 100)):
            agree(class_recall(ours, one, area=area, limit=limit)[0], theirs.eval["recall"][..., a, i].T)


def test_cases_are_nasty_enough() -> None:
    stats = np.array([[*coco(match(*case, C), np.ones((1, len(case[0])))).values()] for case in CASES[::2]])
    assert (np.nanmean(stats, axis=0) > 0.1).all()
    assert np.isnan(stats).any()
    assert (match(*CASES[-2], C).ranks == 99).any()


def test_coco_equals_torchmetrics() -> None:
    pytest.importorskip("faster_coco_eval")
    detection = pytest.importorskip("torchmetrics.detection")
    targets, scores = scene(40, n=12, flags="002")
    levels = boxes.THRESHOLDS.tolist(), boxes.RECALLS.tolist()  # its own are in float32
    metric = detection.MeanAveragePrecision("xyxy", "bbox", *levels, backend="faster_coco_eval")
    for t, s in zip(map(torch.from_numpy, targets), map(torch.from_numpy, scores), strict=True):
        t, s = t[t[:, 0] >= 0], s[s[:, 0] >= 0]
        truth = {"boxes": t[:, 1:5], "labels": t[:, 0].long(), "iscrowd": (t[:, 5] == 2).long(), "area": t[:, 6]}
        metric.update([{"boxes": s[:, 1:5], "scores": s[:, 5], "labels": s[:, 0].long()}], [truth])
    theirs, ours = metric.compute(), coco(match(targets, scores, C), np.ones((1, 12)))
    names = [f"m{name[:2]}_{name[2:].strip('_')}".rstrip("_") for name in COCO]
    agree([np.nan_to_num(ours[name][0], nan=-1) for name in COCO], [theirs[name] for name in names], 1e-7)


@pytest.mark.parametrize("seed", range(2))
def test_weights_are_repeated_images(seed: int) -> None:
    rng = np.random.default_rng(seed)
    targets, scores = scene(seed, n=20)
    scores[..., 5] = rng.permuted(np.tile(np.arange(14) / 14, (20, 1)), axis=1)  # ties of images, none inside one
    weights = rng.integers(0, 4, (5, 20))
    weights[4] = 0
    ours, voc = match(targets, scores, C), voc_match(targets, scores, C)
    found, each, quarters = coco(ours, weights), class_ap(ours, weights), class_ap(ours, weights / 4)
    areas, eleven = voc_ap(voc, weights), voc_ap(voc, weights, 11)
    for i, times in enumerate(weights[:4]):
        copies, one = np.repeat(np.arange(20), times), np.ones((1, times.sum()))
        repeated, again = match(targets[copies], scores[copies], C), voc_match(targets[copies], scores[copies], C)
        agree([value[i] for value in found.values()], [value[0] for value in coco(repeated, one).values()])
        agree([each[i], quarters[i]], np.stack([class_ap(repeated, one)[0]] * 2))
        agree([areas[i], eleven[i]], [voc_ap(again, one)[0], voc_ap(again, one, 11)[0]])
    assert all(np.isnan(value[4]) for value in found.values())
    for name in COCO:  # what is matched for one number alone gives it, and so do many weightings, taken in parts
        alone = match(targets, scores, C, *needed([name]))
        np.testing.assert_array_equal(coco(alone, weights, [name])[name], found[name])
    many = coco(match(targets, scores, C, [0.5], ["all"]), np.tile(weights, (40_000, 1)), ["ap50"])["ap50"]
    np.testing.assert_array_equal(many.reshape(-1, 5), np.tile(found["ap50"], (40_000, 1)))


def devkit(targets: np.ndarray, scores: np.ndarray, k: int, eleven: bool) -> float:
    """VOCevaldet.m of 2007 and of 2012 for class `k`, line by line."""
    truths = [[row for row in image if row[0] == k] for image in targets]
    positives = sum(row[5] == 0 for image in truths for row in image)
    found = [[False] * len(image) for image in truths]
    listed = [(i, row) for i, image in enumerate(scores) for row in image if row[0] == k]
    tp, fp = [0.0], [0.0]
    for i, (_, x1, y1, x2, y2, _) in sorted(listed, key=lambda item: -item[1][5]):
        best, at = -np.inf, -1
        for j, (_, u1, v1, u2, v2, *_) in enumerate(truths[i]):
            w, h = min(x2, u2) - max(x1, u1), min(y2, v2) - max(y1, v1)
            if w > 0 and h > 0:
                overlap = w * h / ((x2 - x1) * (y2 - y1) + (u2 - u1) * (v2 - v1) - w * h)
                best, at = (overlap, j) if overlap > best else (best, at)
        near, plain = best >= 0.5, best >= 0.5 and truths[i][at][5] == 0
        tp.append(tp[-1] + (plain and not found[i][at]))
        fp.append(fp[-1] + (not near or (plain and found[i][at])))
        if near:
            found[i][at] = True
    if positives == 0:
        return np.nan
    recall, precision = [t / positives for t in tp], [t / max(t + f, 1) for t, f in zip(tp, fp, strict=True)]
    if eleven:
        levels = [0, 0.1, 0.2, 3 * 0.1, 0.4, 0.5, 0.6, 1 - 3 * 0.1, 0.8, 0.9, 1]
        return sum(max((p for p, r in zip(precision, recall, strict=True) if r >= t), default=0) / 11 for t in levels)
    return float(sum((b - a) * max(precision[i + 1 :]) for i, (a, b) in enumerate(pairwise(recall))))


@pytest.mark.parametrize("case", range(len(CASES)))
def test_voc_equals_its_rules(case: int) -> None:
    ours, one = voc_match(*CASES[case], C), np.ones((1, len(CASES[case][0])))
    ways: tuple[Literal[11, "all"], ...] = (11, "all")
    for points in ways:
        agree(voc_ap(ours, one, points)[0], [devkit(*CASES[case], k, points == 11) for k in range(C)])


def row_of(n_true: int, fates: str) -> Scene:
    """One image of separate boxes; detections that by falling score find one (h), none (f) or the first again (d)."""
    targets = np.array([[[0, 20.0 * i, 0, 20 * i + 10, 10, 0, 100] for i in range(n_true)]])
    at = {"f": 1000.0, "d": 0.0}
    x = [at.get(fate, 20.0 * fates[:i].count("h")) for i, fate in enumerate(fates)]
    return targets, np.array([[[0, left, 0, left + 10, 10, 1 - i / 100] for i, left in enumerate(x)]])


def test_average_precision_golden() -> None:
    for n_true, fates, eleven, area, of_coco in (
        (2, "hfh", (6 + 5 * 2 / 3) / 11, 0.5 + 0.5 * 2 / 3, (51 + 50 * 2 / 3) / 101),
        (4, "fhdh", 6 * 0.5 / 11, 0.5 * 0.5, 51 * 0.5 / 101),
        (10, "hhh", 3 / 11, 0.3, 31 / 101),  # 3 in 10 is less than MATLAB's 3 * 0.1
        (50, "h" * 29, 6 / 11, 0.58, 59 / 101),  # 100 * 0.58 is less than 58
        (1, "fff", 0, 0, 0),
        (1, "h", 1, 1, 1),
    ):
        data, one, hits = row_of(n_true, fates), np.ones((1, 1)), np.cumsum([fate == "h" for fate in fates])
        ours, voc = match(*data, 1), voc_match(*data, 1)
        found = coco(ours, one, ["ap50"])["ap50"], voc_ap(voc, one, 11)[0], voc_ap(voc, one)[0]
        agree(np.concatenate(found), [of_coco, eleven, area])
        for curve in (boxes.curve_of(ours, 0), boxes.curve_of(voc, 0)):
            agree(curve, [hits / n_true, hits / np.arange(1, len(fates) + 1), data[1][0, :, 5]])


# AP50, and count and gain of each kind, as tidecv 1.0.1 has them; of its counts those that count in AP50.
KINDS = ("class", "localisation", "both", "duplicate", "background", "missed")
TIDECV = {
    0: (0.136538184818, (14, 12, 13, 12, 39, 23),
        (0.025796866444, 0.052887154029, 0.000000000000, 0.000000000000, 0.032241825947, 0.051465053314)),
    2: (0.175523610053, (18, 18, 6, 5, 12, 25),
        (0.041396961273, 0.103219710707, 0.006125478769, 0.004741324335, 0.018520319354, 0.116544835922)),
    3: (0.196922931367, (19, 12, 10, 9, 49, 9),
        (0.032005489851, 0.038245755819, 0.000000000000, 0.000000000000, 0.086470931712, 0.009959427068)),
}  # fmt: skip


@pytest.mark.parametrize("seed", TIDECV)
def test_breakdown_equals_tidecv(seed: int) -> None:
    targets, scores = scene(seed, n=12, side=120, flags="0002", grid=1 if seed < 2 else 24)
    rng = np.random.default_rng(seed)
    wrong = rng.random(scores.shape[:2]) < 0.3  # have the class of another box
    scores[wrong, 0] = np.where(scores[wrong, 0] >= 0, (scores[wrong, 0] + 1) % C, -1)
    (ap50, counts, gains), found = TIDECV[seed], breakdown(targets, scores, C)
    agree([found["ap50"], *(found[kind]["gain"] for kind in KINDS)], [ap50, *gains], 1e-11)
    assert tuple(found[kind]["count"] for kind in KINDS) == counts


def test_breakdown_golden() -> None:
    targets, scores = row_of(3, "hhdf")
    scores[0, 1, 1:5] += [4, 0, 4, 0]  # an IoU of 6/14: localisation
    found = breakdown(targets, scores, 1)
    assert [found[kind]["count"] for kind in KINDS] == [0, 1, 0, 1, 1, 1]
    agree([found["ap50"], found["localisation"]["gain"], found["missed"]["gain"]], np.array([34, 33, 17]) / 101)
    targets[0, 0, 5] = 1  # difficult: what was a hit and its duplicate no longer count
    assert breakdown(targets, scores, 1)["duplicate"]["count"] == 0
    for nothing in ((targets[:, :0], scores[:, :0]), (targets[:0], scores[:0])):
        assert np.isnan(breakdown(*nothing, 1)["ap50"])


def above(scores: np.ndarray, threshold: np.ndarray | float) -> np.ndarray:
    """The detections at a threshold or above it, the others as padding."""
    each = np.broadcast_to(threshold, C)[scores[..., 0].astype(int)]
    return np.where((scores[..., 5] >= each)[..., None], scores, -1)


@pytest.mark.parametrize("threshold", [0.25, np.array([0.125, 0.5, 0.9, 0.2])])
def test_decisions_are_what_pycocotools_matches(threshold: np.ndarray | float) -> None:
    targets, scores = scene(2, n=9)
    expected = np.zeros((3, 9, C), dtype=int)
    for image in filter(None, pycocotools(targets, above(scores, threshold)).evalImgs):
        if image["aRng"] == [0, 1e10]:
            counts, matched = ~image["dtIgnore"][0].astype(bool), image["dtMatches"][0] > 0
            numbers = (matched & counts).sum(), counts.sum(), (image["gtIgnore"] == 0).sum()
            expected[:, image["image_id"], image["category_id"]] = numbers
    np.testing.assert_array_equal(boxes.decisions(targets, scores, C, threshold), expected)
    assert expected.any(axis=(1, 2)).all()


@pytest.mark.parametrize("case", [0, 1, 2, 3, 14, 15, 17, 18, 20])
def test_best_threshold_is_the_best_of_all(case: int) -> None:
    targets, scores = CASES[case]
    levels = np.unique(scores[scores[..., 0] >= 0][:, 5])[::-1]
    tables = [boxes.decisions(targets, above(scores, level), C, -np.inf) for level in levels]
    each = [2 * hits.sum() / max(said.sum() + actual.sum(), 1) for hits, said, actual in tables]
    best = [levels[np.argmax(each)], max(each)] if each else [np.nan, np.nan if (targets[..., 0] < 0).all() else 0]
    agree(boxes.best_threshold(targets, scores, C), best)


def test_box_iou_equals_pycocotools() -> None:
    targets, scores = scene(0)
    a, b, crowd = scores[0, :, 1:5], targets[0, :, 1:5], targets[0, :, 5] == 2
    a[0, 2:] = a[0, :2]  # without extent
    sides = [np.c_[x[:, :2], x[:, 2:] - x[:, :2]] for x in (a, b)]
    agree(boxes.box_iou(a, b, crowd), mask.iou(*sides, crowd.tolist()), 0)
    agree(boxes.box_iou(a, b), mask.iou(*sides, [False] * len(b)), 0)


def test_what_makes_no_sense_is_refused() -> None:
    targets, scores = scene(0)
    one, ours = np.ones((1, 6)), match(targets, scores, C, [0.5], ["all"])
    for call, says in (
        (lambda: match(targets[..., :6], scores, C), r"targets must be \(images, boxes, 7\), got \(6, 8, 6\)"),
        (lambda: match(targets[:5], scores, C), "targets are of 5 images and scores of 6"),
        (lambda: breakdown(targets, scores, 2), "classes are 0..1, -1 pads"),
        (lambda: voc_match(targets, np.where(scores == 0.5, np.nan, scores), C), "nan.*none is NaN"),
        (lambda: coco(ours, one), r"IoU \[0.5\] and areas all were matched, not all of"),
        (lambda: coco(ours, one, ["map"]), "'map' is no number of COCO; choose from ap, ap50"),
        (lambda: class_ap(ours, one[0]), r"weights must be \(weightings, 6 images\), got \(6,\)"),
        (lambda: voc_ap(ours, one, 101), "points is 101; it must be 11"),  # type: ignore[arg-type]
    ):
        with pytest.raises(InputError, match=says):
            call()
