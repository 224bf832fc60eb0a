"""Metrics of label maps against scikit-learn, torchmetrics, distance transforms and boundaries counted by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_dilation, distance_transform_edt, uniform_filter
from sklearn import metrics as sk

from ptlib.arrays import VOID
from ptlib.errors import InputError
from ptlib.metrics import masks
from ptlib.metrics.masks import boundary_counts, boundary_f1, confusion_by_image, scores_of


def speckled(seed: int, n: int = 3, classes: int = 4, side: int = 12, void: float = 0.1) -> tuple[np.ndarray, ...]:
    """Truth and prediction, pixel by pixel at random; classes from a random one on are absent from the truth."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, rng.integers(1, classes + 1), (n, side, side + 3), dtype=np.uint8)
    said = np.where(rng.random(truth.shape) < 0.5, truth, rng.integers(0, classes, truth.shape)).astype(np.uint8)
    truth[rng.random(truth.shape) < void] = VOID
    return truth, said


def blobs(seed: int, n: int = 4, classes: int = 4, side: int = 40) -> tuple[np.ndarray, ...]:
    """Truth and prediction with regions of several pixels that nearly agree, and a hole of void in the truth."""
    rng = np.random.default_rng(seed)
    fields = uniform_filter(rng.normal(size=(n, classes, side, side + 8)), (0, 0, 9, 9))
    truth = fields.argmax(1).astype(np.uint8)
    said = (fields + uniform_filter(rng.normal(size=fields.shape), (0, 0, 9, 9)) / 3).argmax(1).astype(np.uint8)
    truth[:, 5:12, 20:30] = VOID
    return truth, said


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([1, 150, 2**21]))
def test_pixel_scores_equal_scikit_learns(seed: int, at_once: int) -> None:
    truth, said = speckled(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(masks, "PIXELS_AT_ONCE", at_once)
        counts = confusion_by_image(truth, said, 4)
    names = list(range(4))
    assert counts.shape == (3, 4, 4)
    assert counts.dtype == np.int64
    for one, t, s in zip(counts, truth, said, strict=True):
        assert (one == sk.confusion_matrix(t[t != VOID], s[t != VOID], labels=names)).all()
    y, z = truth[truth != VOID], said[truth != VOID]
    scores = scores_of(counts.sum(0))
    seen = np.isin(names, y) | np.isin(names, z)
    for ours, theirs in ((scores.iou, sk.jaccard_score), (scores.dice, sk.f1_score)):
        each = theirs(y, z, labels=names, average=None, zero_division=0)
        np.testing.assert_allclose(ours, np.where(seen, each, np.nan), atol=1e-12)
    assert scores.pixel_accuracy == pytest.approx(sk.accuracy_score(y, z), abs=1e-12)
    assert scores.mean_accuracy == pytest.approx(sk.recall_score(y, z, labels=np.unique(y), average="macro"), abs=1e-12)
    assert scores.mean_iou == pytest.approx(sk.jaccard_score(y, z, average="macro"), abs=1e-12)
    assert scores.mean_dice == pytest.approx(sk.f1_score(y, z, average="macro"), abs=1e-12)
    weighted = sk.jaccard_score(y, z, average="weighted", zero_division=0)
    assert scores.frequency_weighted_iou == pytest.approx(weighted, abs=1e-12)


def test_pixel_scores_equal_torchmetrics() -> None:
    classification = pytest.importorskip("torchmetrics.classification")
    segmentation = pytest.importorskip("torchmetrics.segmentation")
    truth, said = blobs(3)
    scores = scores_of(confusion_by_image(truth, said, 4).sum(0))
    maps = torch.from_numpy(said).long(), torch.from_numpy(truth).long()
    jaccard = classification.MulticlassJaccardIndex(4, average=None, ignore_index=VOID)(*maps)
    np.testing.assert_allclose(scores.iou, jaccard, atol=1e-6)
    inside = [m[:, 12:] for m in maps]  # without void, which these can't leave out
    scores = scores_of(confusion_by_image(truth[:, 12:], said[:, 12:], 4))  # of each image
    iou = segmentation.MeanIoU(4, per_class=True, input_format="index")(*inside)
    np.testing.assert_allclose(scores.iou.mean(0), iou, atol=1e-6)
    dice = segmentation.DiceScore(4, average="macro", input_format="index")(*inside)
    assert scores.mean_dice.mean() == pytest.approx(float(dice), abs=1e-6)


def test_scores_by_hand_and_of_any_leading_shape() -> None:
    # Class 2 is said but never true, class 3 neither: the one is 0, the other is undefined and left out.
    matrix = np.array([[6, 2, 0, 0], [1, 7, 4, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    scores = scores_of(matrix)
    np.testing.assert_allclose(scores.iou, [6 / 9, 7 / 14, 0, np.nan])
    np.testing.assert_allclose(scores.dice, [12 / 15, 14 / 21, 0, np.nan])
    assert scores.pixel_accuracy == pytest.approx(13 / 20)
    assert scores.mean_accuracy == pytest.approx((6 / 8 + 7 / 12) / 2)
    assert scores.mean_iou == pytest.approx((6 / 9 + 7 / 14) / 3)
    assert scores.mean_dice == pytest.approx((12 / 15 + 14 / 21) / 3)
    assert scores.frequency_weighted_iou == pytest.approx((8 * 6 / 9 + 12 * 7 / 14) / 20)
    stacked = scores_of(np.stack([[matrix, 0 * matrix]] * 3))
    for several, one in zip(stacked, scores, strict=True):
        assert several.shape == (3, 2, *np.shape(one))
        np.testing.assert_array_equal(several[1, 0], one)
        assert np.isnan(several[:, 1]).all()


def test_void_alone_scores_nothing() -> None:
    truth, said = np.full((2, 6, 7), VOID, np.uint8), np.arange(84, dtype=np.uint8).reshape(2, 6, 7) % 3
    assert confusion_by_image(truth, said, 3).sum() == 0
    assert boundary_counts(truth, said, 3).sum() == 0
    assert all(np.isnan(value).all() for value in scores_of(confusion_by_image(truth, said, 3)))
    assert all(np.isnan(value).all() for value in boundary_f1(boundary_counts(truth, said, 3)))


@pytest.mark.parametrize("function", [confusion_by_image, boundary_counts])
def test_what_is_no_label_map_is_refused(function) -> None:  # type: ignore[no-untyped-def]
    truth, said = speckled(0, classes=3)
    for wrong, says in ((VOID, "has 255 at row 4, column 2; classes lie in 0..2; void is for"), (3, "has 3 at row 4")):
        bad = said.copy()
        bad[1, 4, 2] = wrong
        with pytest.raises(InputError, match=f"the prediction of image 1 {says}"):
            function(truth, bad, 3)
    bad = truth.copy()
    bad[2, 0, 5] = 11
    with pytest.raises(InputError, match="the truth of image 2 has 11 at row 0, column 5; classes lie in 0..2, or 255"):
        function(bad, said, 3)
    for pair in ((truth, said[:2]), (truth.astype(int), said), (truth[:0], said[:0]), (truth[0], said[0])):
        with pytest.raises(InputError, match=r"must be uint8 \(N, H, W\)"):
            function(*pair, 3)
    with pytest.raises(InputError, match="n_classes is 300"):
        function(truth, said, 300)


def squares(shift: int) -> tuple[np.ndarray, np.ndarray]:
    """A square of 10 pixels on a ground of 40, and the same further right."""
    truth, said = np.zeros((2, 1, 40, 40), np.uint8)
    truth[0, 10:20, 10:20] = 1
    said[0, 10:20, 10 + shift : 20 + shift] = 1
    return truth, said


@pytest.mark.parametrize(
    ("shift", "pixels", "near"),
    [(0, 0, 36), (1, 0, 18), (1, 1, 36), (2, 1, 20), (2, 2, 36), (5, 1, 14), (5, 4.9, 26), (5, 5, 36)],
)
def test_a_square_shifted_by_hand(shift: int, pixels: float, near: int) -> None:
    truth, said = squares(shift)
    counts = boundary_counts(truth, said, 2, tolerance=pixels / math.hypot(40, 40))
    assert counts[0, 1].tolist() == [36, near, 36, near]
    assert boundary_f1(counts).f1[0, 1] == pytest.approx(near / 36)


def test_the_edge_of_the_image_is_no_boundary() -> None:
    truth, said = squares(20)  # that said ends at the edge, 11 pixels beyond the true one
    assert boundary_counts(truth, said, 2, 10.9 / math.hypot(40, 40))[0, 1].tolist() == [28, 0, 36, 0]
    assert boundary_counts(truth, said, 2, 11 / math.hypot(40, 40))[0, 1].tolist() == [28, 10, 36, 10]
    narrow = np.array([[[0, 1]], [[1, 0]]], np.uint8)  # nothing but edges, and steps as long as the image
    assert boundary_counts(narrow, narrow[::-1].copy(), 2, 9.0).tolist() == [[[1] * 4] * 2] * 2


def test_the_tolerance_is_a_share_of_the_diagonal() -> None:
    truth, said = np.zeros((2, 1, 300, 400), np.uint8)
    truth[0, 100:200, 100:200] = said[0, 100:200, 103:203] = 1  # 0.0075 of 500 pixels is 3.75
    assert boundary_f1(boundary_counts(truth, said, 2)).mean_f1[0] == 1
    said = np.roll(said, 1, axis=2)
    assert 0.5 < boundary_f1(boundary_counts(truth, said, 2)).mean_f1[0] < 1
    assert boundary_f1(boundary_counts(truth, said, 2, 0.0081)).mean_f1[0] == 1
    for bad in (-0.1, math.nan, math.inf):
        with pytest.raises(InputError, match="share of the image's diagonal"):
            boundary_counts(truth, said, 2, bad)


def test_boundaries_of_absent_and_of_single_classes() -> None:
    truth, said = squares(0)
    counts = boundary_counts(truth, truth, 4)
    np.testing.assert_array_equal(boundary_f1(counts).f1[0], [1, 1, np.nan, np.nan])
    assert boundary_f1(counts).mean_f1[0] == 1
    said[said == 1] = 2  # class 1 is missed, class 2 is made up, and the ground is found
    scores = boundary_f1(boundary_counts(truth, said, 4)[0])
    np.testing.assert_array_equal(scores.f1, [1, 0, 0, np.nan])
    np.testing.assert_array_equal(scores.precision, [1, np.nan, 0, np.nan])
    np.testing.assert_array_equal(scores.recall, [1, 0, np.nan, np.nan])
    assert scores.mean_f1 == pytest.approx(1 / 3)
    flat = np.zeros((1, 5, 5), np.uint8)
    assert np.isnan(boundary_f1(boundary_counts(flat, flat, 2)).mean_f1).all()


def test_no_boundary_runs_along_void() -> None:
    truth, said = np.zeros((2, 1, 20, 20), np.uint8)
    truth[0, :, 10:], said[0, :, 10:] = 1, 1
    whole = boundary_counts(truth, said, 2, 0)
    assert whole[0].tolist() == [[20] * 4] * 2
    truth[0, 8:12] = VOID  # a stripe across the boundary hides it, with one more row on each side
    assert boundary_counts(truth, said, 2, 0)[0].tolist() == [[14] * 4] * 2
    said[0, 8:12] = np.random.default_rng(0).integers(0, 2, (4, 20))  # what is said in void changes nothing
    assert boundary_counts(truth, said, 2, 0)[0].tolist() == [[14] * 4] * 2
    truth[:], said[:] = 0, 0
    truth[0, :, 9:11] = VOID
    truth[0, :, 11:], said[0, :, 10:] = 1, 1  # a stripe along the boundary hides all of it
    assert boundary_counts(truth, said, 2).sum() == 0
    said = np.roll(said, 3, axis=2)  # said in the open, where there is none
    assert (boundary_counts(truth, said, 2)[0] > 0).tolist() == [[True, False, False, False]] * 2


@pytest.mark.parametrize("tolerance", [0.0, 0.0075, 0.03, 0.1, 2.0])
def test_boundary_counts_equal_those_by_distance_transforms(tolerance: float) -> None:
    truth, said = blobs(1)
    counts = boundary_counts(truth, said, 4, tolerance)
    cross = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], dtype=bool)
    reach = tolerance * math.hypot(*truth.shape[1:])
    for i, (t, s) in enumerate(zip(truth, said, strict=True)):
        open_ground = ~binary_dilation(t == VOID, cross)
        for c in range(4):
            edges = [(m == c) & binary_dilation(m != c, cross) & open_ground for m in (s, t)]
            expected = []
            for own, other in (edges, edges[::-1]):
                near = distance_transform_edt(~other) <= reach if other.any() else np.zeros_like(own)
                expected += [own.sum(), (own & near).sum()]
            assert counts[i, c].tolist() == expected
    assert 0 < counts[..., 1].sum() <= counts[..., 0].sum()


def test_order_and_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    truth, said = blobs(2, n=6)
    order = np.random.default_rng(0).permutation(6)
    confusion, counts = confusion_by_image(truth, said, 4), boundary_counts(truth, said, 4, 0.05)
    np.testing.assert_array_equal(confusion_by_image(truth[order], said[order], 4), confusion[order])
    np.testing.assert_array_equal(boundary_counts(truth[order], said[order], 4, 0.05), counts[order])
    monkeypatch.setattr(masks, "PIXELS_AT_ONCE", 2 * truth[0].size)
    np.testing.assert_array_equal(boundary_counts(truth, said, 4, 0.05), counts)
    mirrored = boundary_counts(truth[:, ::-1, ::-1].copy(), said[:, ::-1, ::-1].copy(), 4, 0.05)
    np.testing.assert_array_equal(mirrored, counts)
    swapped = boundary_counts(said, np.where(truth == VOID, said, truth), 4, 0.05)  # the parts change places
    np.testing.assert_array_equal(
        swapped[..., [2, 3, 0, 1]], boundary_counts(np.where(truth == VOID, said, truth), said, 4, 0.05)
    )
