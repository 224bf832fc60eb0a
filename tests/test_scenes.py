"""Composed scenes and mosaics: boxes fit their masks, splits share neither digits nor pixels, labels can be read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.neighbors import KNeighborsClassifier

from ptlib.core import Split, Task
from ptlib.data import embedded, scenes
from ptlib.data.draw import Draw
from ptlib.data.embedded import photo_blocks, photo_files, read_digits
from ptlib.data.scenes import deal_digits, load_mosaics, load_scenes
from ptlib.errors import InputError

FEW = Draw(n_train=30, n_val=20, n_test=20)


def boxes_of(split: Split) -> list[np.ndarray]:
    """The boxes of each image, without the rows that hold none."""
    return [rows[rows[:, 0] >= 0] for rows in split.targets.numpy()]


def same(one: Split, two: Split) -> bool:
    return bool(torch.equal(one.inputs, two.inputs) and torch.equal(one.targets, two.targets) and one.ids == two.ids)


def test_scenes_are_as_large_and_as_named_as_said() -> None:
    task = load_scenes(Draw(), "detection", True)
    assert (task.name, task.kind, task.primary_metric, task.augment) == ("scenes-plain", "detection", "ap", ("zoom",))
    assert task.class_names == tuple("0123456789")
    assert [len(split) for split in task.splits] == [200, 60, 150]
    for split in task.splits:
        assert split.inputs.shape[1:] == (96, 96, 3)
        assert split.targets.shape[1:] == (6, 7)
        assert split.targets.dtype == torch.float32
        assert set(map(len, boxes_of(split))) == {1, 2, 3, 4, 5, 6}
        assert (split.counts(10) > 0).all()
    train, val, test = (split.inputs[:60].float() for split in task.splits)  # grounds differ though both seeds are 0
    assert min(float((one - two).abs().mean()) for one, two in ((train, val), (val, test), (test, train))) > 40
    assert task.train.ids[17] == "scenes-plain-train/17"
    task = load_scenes(Draw(n_train=3, n_val=2, n_test=2, side=48), "segmentation", False)
    assert (task.name, task.kind, task.primary_metric, task.augment) == (
        "scenes",
        "segmentation",
        "mean_iou",
        ("zoom",),
    )
    assert task.class_names == ("background", *"0123456789")
    assert task.train.targets.shape == (3, 48, 48)
    assert task.train.targets.dtype == torch.uint8
    assert task.test.ids == ["scenes-test/0", "scenes-test/1"]
    assert "share no digit image and no pixel of a photograph" in task.notes[0]


@pytest.mark.parametrize("plain", [True, False])
def test_boxes_are_the_tightest_around_the_visible_ink(plain: bool) -> None:
    boxes, maps = (load_scenes(FEW, kind, plain) for kind in ("detection", "segmentation"))
    alone = 0
    for split, other in zip(boxes.splits, maps.splits, strict=True):
        assert torch.equal(split.inputs, other.inputs)
        for rows, labels in zip(boxes_of(split), other.targets.numpy(), strict=True):
            classes, times = np.unique(rows[:, 0], return_counts=True)
            assert set(np.unique(labels)) == {0, *(classes.astype(int) + 1)}
            assert (rows[:, 5] == 0).all()
            for c, n in zip(classes, times, strict=True):
                own, mask = rows[rows[:, 0] == c], labels == c + 1
                assert own[:, 6].sum() == mask.sum()
                if n == 1:
                    y, x = np.nonzero(mask)
                    assert own[0, 1:5].tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]
                    alone += 1
    assert alone > 80


def test_digits_are_seldom_hidden() -> None:
    for plain, most in ((True, 0.0), (False, 0.25)):  # what is hidden makes the visible boxes smaller
        task, touching = load_scenes(FEW, "detection", plain), 0
        for rows in (rows for split in task.splits for rows in boxes_of(split)):
            low, high = rows[:, None, 1:3], rows[:, None, 3:5]
            shared = np.clip(np.minimum(high, rows[:, 3:5]) - np.maximum(low, rows[:, 1:3]), 0, None).prod(-1)
            area = (rows[:, 3:5] - rows[:, 1:3]).prod(1)
            iou = np.triu(shared / (area[:, None] + area - shared), 1)
            assert iou.max() <= most
            touching += int((iou > 0).sum())
        assert (touching > 0) == (not plain)


def test_labels_are_those_of_the_digits_one_sees() -> None:
    def small(mask: np.ndarray) -> np.ndarray:
        y, x = np.nonzero(mask)
        tight = Image.fromarray(mask[y.min() : y.max() + 1, x.min() : x.max() + 1].astype(np.uint8) * 255)
        return np.asarray(tight.resize((8, 8), Image.Resampling.BOX)).ravel()

    pixels, labels = read_digits()
    reader = KNeighborsClassifier(3).fit([small(np.kron(p >= 115, np.ones((4, 4), bool))) for p in pixels], labels)
    for draw in (FEW, Draw(2, 2, 30, classes=slice(3, 9))):
        boxes, maps = (load_scenes(draw, kind, True) for kind in ("detection", "segmentation"))
        right = []
        for rows, seen in zip(boxes_of(boxes.test), maps.test.targets.numpy(), strict=True):
            for c, x1, y1, x2, y2 in rows[:, :5].astype(int):
                said = reader.predict([small(seen[y1:y2, x1:x2] == c + 1)])[0]
                right.append(str(said) == boxes.class_names[c] == maps.class_names[c + 1])
        assert np.mean(right) > 0.9


@pytest.mark.parametrize(
    "load", [lambda d: load_scenes(d, "segmentation", False), load_mosaics], ids=["scenes", "mosaics"]
)
def test_seeds_draw_what_they_say_and_fewer_are_the_first_of_more(load) -> None:  # type: ignore[no-untyped-def]
    task: Task = load(Draw(12, 6, 6))
    assert all(same(one, two) for one, two in zip(task.splits, load(Draw(12, 6, 6)).splits, strict=True))
    fewer = load(Draw(5, 3, 4))
    for split, part in zip(task.splits, fewer.splits, strict=True):
        assert same(split.take(range(len(part))), part)
    other = load(Draw(12, 6, 6, seed=1))
    assert [same(one, two) for one, two in zip(task.splits, other.splits, strict=True)] == [False, True, True]
    other = load(Draw(12, 6, 6, split_seed=1))
    assert not any(same(one, two) for one, two in zip(task.splits, other.splits, strict=True))


def test_no_digit_is_dealt_twice_nor_to_both_domains() -> None:
    labels = read_digits()[1]
    for seed in range(3):
        domains = []
        for plain in (True, False):
            parts = deal_digits(labels, plain, seed)
            rows = np.concatenate(list(parts.values()))
            assert len(set(rows.tolist())) == len(rows)
            assert all((np.bincount(labels[part]) >= 15).all() for part in parts.values())
            domains.append(set(rows.tolist()))
        assert domains[0].isdisjoint(domains[1])
        assert domains[0] | domains[1] == set(range(len(labels)))
        assert domains[0] == set(np.concatenate(list(deal_digits(labels, True, seed + 1).values())).tolist())


@pytest.mark.parametrize("plain", [True, False])
def test_each_split_shows_its_own_digits_and_grounds(monkeypatch: pytest.MonkeyPatch, plain: bool) -> None:
    pixels, labels = read_digits()
    pixels = np.zeros_like(pixels)
    for rows, bar in zip(
        deal_digits(labels, plain, 0).values(), (np.s_[:, 2:6], np.s_[:, 3:5], np.s_[3:5]), strict=True
    ):
        for row in rows:
            pixels[row][bar] = 255
    blocks = {name: [np.full((1, 96, 96, 3), 1, np.uint8) * (np.arange(3) == i) * np.uint8(150)]
              for i, name in enumerate(("train", "val", "test"))}  # fmt: skip
    monkeypatch.setattr(scenes, "read_digits", lambda: (pixels, labels))
    monkeypatch.setattr(scenes, "photo_files", lambda: {"one": Path()})
    monkeypatch.setattr(scenes, "photo_blocks", lambda side, split_seed, chosen: blocks)
    boxes, maps = (load_scenes(FEW, kind, plain) for kind in ("detection", "segmentation"))
    for i, (split, other) in enumerate(zip(boxes.splits, maps.splits, strict=True)):
        rows = np.concatenate(boxes_of(split))
        aspect = float(np.median((rows[:, 3] - rows[:, 1]) / (rows[:, 4] - rows[:, 2])))
        assert ((0.4 < aspect < 0.75), (aspect < 0.4), (aspect > 2))[i], (i, aspect)
        if not plain:
            ground = split.inputs[other.targets == 0].float().mean(0)
            assert int(ground.argmax()) == i


def coordinates(path: Path) -> Image.Image:
    """A picture as large as the photograph, whose colours say where each pixel lies: y and x below 4,096."""
    y, x = np.mgrid[: (size := Image.open(path).size)[1], : size[0]]
    return Image.fromarray(np.stack([y % 256, x % 256, y // 256 * 16 + x // 256], axis=-1).astype(np.uint8))


def places(pixels: np.ndarray) -> np.ndarray:
    """Which pixels of the photograph there are, bool (2048, 2048)."""
    y, x, high = pixels.reshape(-1, 3).T.astype(np.int64)
    seen = np.zeros((2048, 2048), dtype=bool)
    seen[y + high // 16 * 256, x + high % 16 * 256] = True
    return seen


def test_no_two_splits_share_a_pixel_of_a_photograph(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "decode", coordinates)
    for dealt in zip(*photo_blocks(48, 3, range(3, 6)).values(), strict=True):  # the grounds of scenes
        seen = [places(part) for part in dealt]
        assert np.sum(seen) == np.any(seen, axis=0).sum() == sum(part.size // 3 for part in dealt)
    task = load_mosaics(Draw(60, 40, 40, split_seed=3, classes=slice(0, None, 4)))
    for c in range(task.n_classes):
        seen = [places(s.inputs.numpy()[s.targets.numpy() == c]) for s in task.splits]
        assert np.sum(seen) == np.any(seen, axis=0).sum()
        assert min(part.sum() for part in seen) > 2000


def test_mosaics_say_which_photograph_each_pixel_is_from(monkeypatch: pytest.MonkeyPatch) -> None:
    names = list(photo_files())
    flat = lambda path: Image.new("RGB", Image.open(path).size, (names.index(embedded._stem(path)), 0, 0))  # noqa: E731
    monkeypatch.setattr(embedded, "decode", flat)
    task = load_mosaics(FEW)
    assert (task.name, task.kind, task.primary_metric) == ("mosaics", "segmentation", "mean_iou")
    assert task.augment == ("flip", "zoom")
    assert task.class_names == tuple(names)
    for split in task.splits:
        assert split.inputs.shape[1:3] == split.targets.shape[1:] == (96, 96)
        assert torch.equal(split.inputs[..., 0], split.targets)
        assert {len(labels.unique()) for labels in split.targets} == {3, 4, 5, 6}
    some = load_mosaics(Draw(20, 5, 5, classes=slice(1, None, 9), side=33))
    assert (some.name, some.class_names) == ("mosaics[1:18:9]", (names[1], names[10]))
    assert torch.equal(some.train.inputs[..., 0], some.train.targets * 9 + 1)
    assert some.train.inputs.shape == (20, 33, 33, 3)


def test_some_classes_alone() -> None:
    task = load_scenes(Draw(20, 5, 5, classes=slice(None, 5)), "segmentation", False)
    assert (task.name, task.class_names) == ("scenes[0:5]", ("background", *"01234"))
    assert set(task.train.targets.unique().tolist()) == set(range(6))
    task = load_scenes(Draw(20, 5, 5, classes=slice(5, None)), "detection", True)
    assert (task.name, task.class_names) == ("scenes-plain[5:10]", tuple("56789"))
    assert task.test.ids[2] == "scenes-plain[5:10]-test/2"
    assert (task.train.counts(5) > 0).all()


def test_what_can_not_be_composed_is_refused() -> None:
    with pytest.raises(InputError, match="kind is 'masks'; scenes are for 'detection' or 'segmentation'"):
        load_scenes(Draw(), "masks", True)
    for load, side, says in (
        (lambda d: load_scenes(d, "detection", True), 40, "48 to 256"),
        (load_mosaics, 97, "32 to 96"),
    ):
        with pytest.raises(InputError, match=f"side is {side}; these images can be had at {says} pixels"):
            load(Draw(side=side))
