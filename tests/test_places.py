"""Reports of boxes and label maps: metrics by name, intervals that hold the truth, comparisons, files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import ptlib as pt
from ptlib.measures import prepare
from ptlib.metrics import boxes as m
from ptlib.metrics import masks
from ptlib.results import Boxes, Examples, Masks, Predictions
from tests.benchmarks.boxes import held, scenes


def boxes_of(targets: np.ndarray, scores: np.ndarray, split: str = "test") -> Boxes:
    return Boxes(tuple(map(str, range(len(targets)))), targets, scores, split, ("a", "b", "c"))


@pytest.fixture(scope="module")
def said() -> Boxes:
    return boxes_of(*scenes(np.random.default_rng(0), 40))


@pytest.fixture(scope="module")
def maps() -> Masks:
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 3, (20, 12, 10)).repeat(2, 1).repeat(2, 2).astype(np.uint8)
    found = np.where(rng.random(truth.shape) < 0.7, truth, rng.integers(0, 3, truth.shape)).astype(np.uint8)
    truth[:, :3] = 255
    return Masks(tuple(map(str, range(20))), truth, found, "test", ("x", "y", "z", "never"))


def test_intervals_of_ap_hold_the_truth(said: Boxes) -> None:
    """Percentile intervals do not: AP is biased upwards on few images, and more so on resamples of them."""
    shares = held(60, trials=50, resamples=150, population=6000)
    assert shares["pivotal"] >= 0.8
    assert shares["pivotal"] >= shares["percentile"] + 0.08
    e = pt.evaluate(said, metrics=["ap"], resamples=150, seed=3)["ap"]
    drawn = next(iter(prepare(["ap"], [said]))).values(np.ones((1, len(said))))
    assert e.method == "pivotal bootstrap, 150 resamples"
    assert e.low <= e.value == drawn[0, 0] <= e.high


def test_a_report_of_boxes_has_cocos_numbers(said: Boxes) -> None:
    report = pt.evaluate(said, metrics="all", resamples=100)
    plain = m.coco(m.match(said.targets, said.scores, 3), np.ones((1, len(said))))
    np.testing.assert_equal([report[name].value for name in plain], [value[0] for value in plain.values()])
    assert report.confusion.shape == (0, 0)
    assert np.isclose(np.mean([row["ap"].value for row in report.per_class.values()]), report["ap"].value)
    assert all(e.low <= e.value <= e.high for e in report.values() if not np.isnan(e.value))
    assert np.isnan(report["ap_large"].value), "no box is as large"


def test_what_is_decided_at_a_threshold(said: Boxes) -> None:
    threshold = pt.box_threshold(said)
    names = [f"{what}@{threshold!r}" for what in ("precision", "recall", "f1")]
    report = pt.evaluate(said, metrics=[*names, f"recall@{threshold!r}:b"], resamples=100)
    hits, shown, actual = m.decisions(said.targets, said.scores, 3, threshold)
    precision, recall = hits.sum() / shown.sum(), hits.sum() / actual.sum()
    assert [report[n].value for n in names] == pytest.approx(
        [precision, recall, 2 * precision * recall / (precision + recall)]
    )
    assert report[f"recall@{threshold!r}:b"].value == hits[:, 1].sum() / actual[:, 1].sum()
    other = [pt.evaluate(said, metrics=[f"f1@{t}"], resamples=100)[f"f1@{t}"].value for t in (0.2, 0.5, 0.8)]
    assert max(other) <= report[names[2]].value


def test_boxes_have_no_slices(said: Boxes) -> None:
    with pytest.raises(pt.InputError, match="look at report.per_class for detection, or compare such runs by ap50"):
        pt.by_slice(said, "class")  # type: ignore[arg-type]


def test_a_class_without_boxes_is_undefined_and_left_out(said: Boxes) -> None:
    targets, scores = said.targets.copy(), said.scores.copy()
    targets[..., 0][targets[..., 0] == 2] = -1
    report = pt.evaluate(boxes_of(targets, scores), resamples=100)
    assert np.isnan(report.per_class["c"]["ap"].value)
    assert report.per_class["c"]["ap"].reason == "there is none to judge it by"
    assert report["ap"].value == pytest.approx(np.mean([report.per_class[c]["ap"].value for c in "ab"]))


def test_no_boxes_at_all() -> None:
    empty = boxes_of(np.zeros((3, 0, 7)), np.zeros((3, 0, 6)))
    assert np.isnan(pt.evaluate(empty, resamples=100)["ap"].value)
    assert pt.box_errors(empty)["missed"]["count"] == 0


def test_groups_of_images_are_drawn_whole(said: Boxes) -> None:
    alone = pt.evaluate(said, metrics=["ap50"], resamples=500)["ap50"]
    groups = [i // 10 for i in range(len(said))]
    together = pt.evaluate(said, metrics=["ap50"], resamples=500, groups=groups)["ap50"]
    assert together.value == alone.value
    assert "by group" in together.method
    with pytest.raises(pt.InputError, match="images that show several classes can't be drawn by class"):
        pt.evaluate(said, stratified=True)


def test_bca_leaves_out_one_image_at_a_time(said: Boxes) -> None:
    (statistic,) = prepare(["ar10"], [said])
    n = len(said)
    u = statistic.influence()
    without = prepare(["ar10"], [said.take(np.arange(n) != 3)])[0].values(np.ones((1, n - 1)))
    assert u[3, 0] == pytest.approx(float(statistic.values(np.ones((1, n)))[0, 0] - without[0, 0]))


def test_two_detectors_are_compared_on_the_same_images(said: Boxes) -> None:
    worse = said.scores.copy()
    worse[..., 1:5] += np.random.default_rng(2).normal(0, 9, worse[..., 1:5].shape)
    worse[..., 3:5] = np.maximum(worse[..., 3:5], worse[..., 1:3] + 1)
    other = boxes_of(said.targets, worse)
    result = pt.compare(said, other, "ap50", resamples=200)
    assert result.better == "A"
    assert "A is better than B by" in str(result)
    even = pt.compare(said, said, "ap50", resamples=200)
    assert even.better is None
    assert even.p_value == 1
    with pytest.raises(pt.InputError, match="compare what is of one kind"):
        pt.compare(said, Predictions.of([0, 1, 2], np.eye(3)), "ap")


def test_scores_on_other_scales_can_be_shuffled(said: Boxes) -> None:
    scaled = said.scores.copy()
    scaled[..., 5] /= 10
    result = pt.compare(said, boxes_of(said.targets, scaled), "ap50", resamples=200)
    assert result.difference.value == 0
    assert result.p_value == 1


@pytest.mark.parametrize("name, says", [
    ("map", "did you mean 'ap'"), ("ap:d", "'ap:d' is of no class"), ("ar10:a", "not to be had of one class"),
    ("mean_iou", "no metric 'mean_iou' of detection"), ("precision@", "no metric"), ("accuracy", "no metric 'acc"),
])  # fmt: skip
def test_unknown_metrics_of_boxes_are_refused_by_name(said: Boxes, name: str, says: str) -> None:
    with pytest.raises(pt.InputError, match=says):
        pt.evaluate(said, metrics=[name], resamples=100)


def test_a_report_of_maps(maps: Masks, tmp_path: Path) -> None:
    report = pt.evaluate(maps, metrics="all", resamples=200)
    counts = masks.confusion_by_image(maps.targets, maps.scores, 4).sum(0)
    assert np.array_equal(report.confusion, counts)
    assert report["mean_iou"].value == pytest.approx(float(masks.scores_of(counts).mean_iou))
    assert np.isnan(report.per_class["never"]["iou"].value)
    assert "neither true nor said" in str(report.per_class["never"]["iou"].reason)
    assert pt.evaluate(maps, metrics=["iou:y"], resamples=100)["iou:y"].value == report.per_class["y"]["iou"].value
    loaded = pt.Report.load(report.save(tmp_path / "r.json"))
    assert loaded["mean_iou"] == report["mean_iou"]
    with pytest.raises(pt.InputError, match="there is no metric 'iou' of segmentation"):
        pt.evaluate(maps, metrics=["iou"], resamples=100)


def test_predictions_survive_their_file(said: Boxes, maps: Masks, tmp_path: Path) -> None:
    for i, before in enumerate((said, maps)):
        path = before.save(tmp_path / f"{i}.safetensors")
        after = Examples.load(path)
        assert type(after) is type(before)
        assert np.array_equal(after.scores, before.scores)
        assert np.array_equal(after.targets, before.targets)
        assert after.ids == before.ids
        with pytest.raises(pt.InputError, match=f"holds predictions of '{before.kind}'"):
            Predictions.load(path)
    flat = Masks(("a",), np.zeros((1, 500, 500), np.uint8), np.zeros((1, 500, 500), np.uint8), "test", ("x", "y"))
    assert flat.save(tmp_path / "flat.safetensors").stat().st_size < 5000


@pytest.mark.parametrize("shape, says", [
    ([10**6, 10**6, 10**6], "they claim a shape"), ([-1, 4, 4], "they claim a shape"), ([1, 9, 9], "81 are stated"),
])  # fmt: skip
def test_label_maps_that_claim_too_much_are_refused(shape: list[int], says: str) -> None:
    packed = Masks._pack(np.zeros((1, 8, 8), np.uint8))
    forged = np.concatenate([np.frombuffer(np.array(shape, "<i8").tobytes(), np.uint8), packed[24:]])
    with pytest.raises(pt.InputError, match=says):
        Masks._unpack(forged, "it")
    with pytest.raises(pt.InputError, match="can't be read|claim|bytes"):
        Masks._unpack(packed[:-4], "it")


@pytest.mark.parametrize("change, says", [
    ({"scores": np.full((1, 1, 6), np.nan)}, "must hold a class"),
    ({"scores": np.array([[[3, 0, 0, 1, 1, 0.5]]])}, "in -1..2"),
    ({"scores": np.array([[[0, 5, 0, 1, 1, 0.5]]])}, "x1 <= x2"), ({"targets": np.zeros((1, 1, 6))}, "of shape"),
])  # fmt: skip
def test_boxes_that_are_none_are_refused(change: dict[str, np.ndarray], says: str) -> None:
    plain = {"targets": np.array([[[0, 0, 0, 1, 1, 0, 1.0]]]), "scores": np.array([[[0, 0, 0, 1, 1, 0.5]]])} | change
    with pytest.raises(pt.InputError, match=says):
        Boxes(("a",), plain["targets"], plain["scores"], "test", ("a", "b", "c"))


def test_maps_of_unknown_classes_are_refused() -> None:
    truth, found = np.zeros((1, 2, 2), np.uint8), np.full((1, 2, 2), 3, np.uint8)
    with pytest.raises(pt.InputError, match="the map of 'a' holds class 3; classes lie in 0..1"):
        Masks(("a",), truth, found, "test", ("x", "y"))
