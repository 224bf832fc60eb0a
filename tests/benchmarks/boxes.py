"""Average precision of boxes beside pycocotools and torchmetrics; and how often its intervals hold the truth.

Simulated detectors on simulated images. Ours, pycocotools and torchmetrics (by faster-coco-eval) start from boxes in
the form each takes, and give COCO's twelve numbers, which are asserted to be the same. 1,000 resamples take from
pycocotools, which knows none, as many `accumulate()` over what was matched once: scaled from two.

`python -m tests.benchmarks boxes` has the times, `python -m tests.benchmarks.boxes` the intervals: percentile against
pivotal bootstrap.
"""

from __future__ import annotations

import argparse
import contextlib
import io
from typing import Any

import numpy as np
import torch

from ptlib import evaluate, stats
from ptlib.metrics import boxes as m
from ptlib.results import Boxes
from tests.benchmarks import Line, median_seconds, seconds

CLASSES, RESAMPLES = 3, 1000


def scenes(rng: np.random.Generator, n: int, k: int = 14) -> tuple[np.ndarray, np.ndarray]:
    """True boxes of three classes, and what a middling detector makes of them: jitter, misses, false alarms."""
    truths = 8
    low, size = rng.uniform(0, 300, (n, truths, 2)), rng.uniform(20, 90, (n, truths, 2))
    targets = np.zeros((n, truths, 7))
    targets[..., 0] = rng.integers(-1, 3, (n, truths))
    targets[..., 1:3], targets[..., 3:5], targets[..., 6] = low, low + size, size.prod(-1)
    scores = np.zeros((n, k, 6))
    hard = rng.normal(0, 1, (n, 1))
    jitter = rng.gamma(2, 0.05, (n, truths, 1)) * size
    scores[:, :truths, 1:3] = low + rng.normal(0, 1, size.shape) * jitter
    scores[:, :truths, 3:5] = low + size + rng.normal(0, 1, size.shape) * jitter
    scores[:, :truths, 0] = np.where(rng.random((n, truths)) < 0.85, targets[..., 0], -1)
    scores[:, :truths, 5] = rng.normal(1 - 0.3 * hard - jitter.mean(-1) / 50, 1)
    false = k - truths
    scores[:, truths:, 1:3], wrong = rng.uniform(0, 300, (n, false, 2)), rng.uniform(20, 90, (n, false, 2))
    scores[:, truths:, 3:5] = scores[:, truths:, 1:3] + wrong
    scores[:, truths:, 0] = np.where(rng.random((n, false)) < 0.6, rng.integers(0, 3, (n, false)), -1)
    scores[:, truths:, 5] = rng.normal(-1 - 0.3 * hard, 1, (n, false))
    scores[..., 3:5] = np.maximum(scores[..., 3:5], scores[..., 1:3] + 1)
    scores[..., 5] = 1 / (1 + np.exp(-scores[..., 5]))
    return targets, scores


def held(n: int, trials: int, resamples: int, population: int = 20_000, name: str = "ap") -> dict[str, float]:
    """Shares of `trials` samples of `n` images whose interval holds the population's value, by kind of interval."""
    every = m.match(*scenes(np.random.default_rng(7), population), 3)
    truth = m.coco(every, np.ones((1, population)), (name,))[name][0]
    rng, hits = np.random.default_rng(8), {"percentile": 0, "pivotal": 0}
    for _ in range(trials):
        matches = m.match(*scenes(rng, n), 3)
        value = float(m.coco(matches, np.ones((1, n)), (name,))[name][0])
        drawn = m.coco(matches, rng.multinomial(n, np.ones(n) / n, resamples), (name,))[name]
        for kind, (low, high) in (
            ("percentile", stats.percentile(drawn)),
            ("pivotal", stats.pivotal(value, drawn, value)),
        ):
            hits[kind] += int(low <= truth <= high)
    return {kind: count / trials for kind, count in hits.items()}


def as_annotations(values: np.ndarray) -> Any:
    """Rows of boxes, true ones (N, M, 7) or found ones (N, K, 6), as pycocotools keeps them."""
    from pycocotools.coco import COCO

    table: list[dict[str, Any]] = []
    for i, row in ((i, row) for i, image in enumerate(values) for row in image if row[0] >= 0):
        box = [row[1], row[2], row[3] - row[1], row[4] - row[2]]
        table.append({"id": len(table) + 1, "image_id": i, "category_id": int(row[0]), "bbox": box})
        last = {"score": row[5], "area": box[2] * box[3]} if len(row) == 6 else {"area": row[6]}
        table[-1] |= {"iscrowd": 0, **last}
    side, classes = COCO(), [{"id": c} for c in range(CLASSES)]
    side.dataset = {"images": [{"id": i} for i in range(len(values))], "annotations": table, "categories": classes}
    side.createIndex()
    return side


def by_pycocotools(truth: Any, found: Any) -> np.ndarray:
    """The twelve numbers."""
    from pycocotools.cocoeval import COCOeval

    evaluation = COCOeval(truth, found, "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return np.asarray(evaluation.stats)


def resampled_by_pycocotools(truth: Any, found: Any) -> float:
    """Seconds of AP by resamples: matched once, of one area and one number of detections, then accumulated."""
    from pycocotools.cocoeval import COCOeval

    evaluation = COCOeval(truth, found, "bbox")
    p = evaluation.params
    p.areaRng, p.areaRngLbl, p.maxDets = p.areaRng[:1], p.areaRngLbl[:1], [100]
    return seconds(evaluation.evaluate) + RESAMPLES * min(seconds(evaluation.accumulate) for _ in range(2))


def by_torchmetrics(found: list[dict[str, torch.Tensor]], truth: list[dict[str, torch.Tensor]]) -> dict[str, Any]:
    from torchmetrics.detection import MeanAveragePrecision

    levels = m.THRESHOLDS.tolist(), m.RECALLS.tolist()  # its own are in float32
    metric = MeanAveragePrecision("xyxy", "bbox", *levels, backend="faster_coco_eval")
    metric.update(found, truth)
    return dict(metric.compute())


def lines(asked: argparse.Namespace) -> list[Line]:
    n = 100 if asked.quick else 1000
    targets, scores = scenes(np.random.default_rng(0), n)
    said = Boxes(tuple(map(str, range(n))), targets, scores, "test", tuple("abc"))
    tensors: tuple[list[Any], list[Any]] = ([], [])
    for side, values in zip(tensors, (scores, targets), strict=True):
        for rows in map(torch.from_numpy, values):
            rows = rows[rows[:, 0] >= 0]
            side.append({"boxes": rows[:, 1:5], "labels": rows[:, 0].long()})
            side[-1] |= {"scores": rows[:, 5]} if side is tensors[0] else {"area": rows[:, 6]}
    given: dict[str, Any] = {}
    with contextlib.redirect_stdout(io.StringIO()):
        coco = as_annotations(targets), as_annotations(scores)
        ways: dict[str, Any] = {
            "ours": lambda: given.update(ours=m.coco(m.match(targets, scores, CLASSES), np.ones((1, n)))),
            "pycocotools": lambda: given.update(pycocotools=by_pycocotools(*coco)),
            "torchmetrics, faster-coco-eval": lambda: given.update(torchmetrics=by_torchmetrics(*tensors)),
        }
        for way in ways.values():
            way()  # imports and first calls are not counted
        took = median_seconds(ways, asked.repeats)
        interval = median_seconds({"ours": lambda: evaluate(said, metrics=["ap"], resamples=RESAMPLES)}, asked.repeats)
        accumulated = resampled_by_pycocotools(*coco)
    twelve = np.array([value[0] for value in given["ours"].values()])
    np.testing.assert_allclose(np.nan_to_num(twelve, nan=-1), given["pycocotools"], rtol=0, atol=1e-9)
    names = [f"m{name[:2]}_{name[2:].strip('_')}".rstrip("_") for name in m.COCO]
    theirs = [given["torchmetrics"][name] for name in names]  # in float32
    np.testing.assert_allclose(np.nan_to_num(twelve, nan=-1), theirs, rtol=0, atol=1e-6)
    group, what = f"boxes of {n:,} images", f"AP by {RESAMPLES:,} resamples"
    found = [Line(group, "COCO's twelve numbers", other, took["ours"], took[other], "s") for other in list(ways)[1:]]
    return [*found, Line(group, what, "pycocotools' accumulate(), scaled", interval["ours"], accumulated, "s")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=400)
    parser.add_argument("--resamples", type=int, default=300)
    asked = parser.parse_args()
    for n in (30, 60, 200):
        said = held(n, asked.trials, asked.resamples)
        print(f"{n} images: " + ", ".join(f"{kind} {share:.3f}" for kind, share in said.items()))


if __name__ == "__main__":
    main()
