"""Boxes and label maps from files: coordinates, canvases, splits, and what happens to bad ones."""

from __future__ import annotations

import json
import re
import struct
import time
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ptlib.core import Split, Task
from ptlib.data import canvas
from ptlib.data.canvas import Example, canvas_of, deal, laid_sizes, lay_map, to_canvas, to_image
from ptlib.data.coco import load_coco
from ptlib.data.draw import Draw
from ptlib.data.maps import load_maps
from ptlib.data.voc import load_voc_boxes, load_voc_maps
from ptlib.errors import InputError

ALL = Draw()
SPLITS = ("train", "val", "test")
SIZES = st.lists(st.tuples(st.integers(1, 3000), st.integers(1, 3000)), min_size=1, max_size=6).map(np.array)


def picture(path: Path, size: tuple[int, int] = (40, 30), **how: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (20, 40, 60)).save(path, **how)


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def boxes(split: Split, example: str) -> list[list[float]]:
    rows = split.targets[list(split.ids).index(example)]
    found: list[list[float]] = rows[rows[:, 0] >= 0].tolist()
    return found


def lengths(task: Task) -> list[int]:
    return [len(split) for split in task.splits]


# Canvas


@given(SIZES, st.integers(1, 700))
def test_a_canvas_is_the_smallest_that_fits(sizes: np.ndarray, longest: int) -> None:
    shape = canvas_of(sizes, longest)
    laid = laid_sizes(sizes, shape)
    assert (laid >= 1).all()
    assert (laid <= np.minimum(shape, sizes)).all()
    assert max(shape) == min(longest, sizes.max())
    exact = sizes * np.minimum(1, longest / sizes.max(1, keepdims=True))  # as large as if it were alone
    assert (np.abs(laid - np.maximum(1, exact)) <= 0.501).all()
    assert (shape - exact.max(0) < 1).all()


@given(SIZES, st.integers(8, 700), st.integers(0, 99))
def test_boxes_go_to_the_canvas_and_back(sizes: np.ndarray, longest: int, seed: int) -> None:
    there = np.random.default_rng(seed).random((len(sizes), 5, 4)) * np.tile(sizes[:, ::-1], 2)[:, None]
    shape = canvas_of(sizes, longest)
    laid = to_canvas(there, sizes, shape)
    assert (laid <= np.tile(laid_sizes(sizes, shape)[:, ::-1], 2)[:, None] + 1e-9).all()
    np.testing.assert_allclose(to_image(laid, sizes, shape), there, rtol=1e-12)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 60))
def test_label_maps_are_sampled_as_pillow_does(height: int, width: int, longest: int) -> None:
    labels = np.random.default_rng(0).integers(0, 20, (height, width), dtype=np.uint8)
    shape = canvas_of(np.array([labels.shape]), longest)
    new = laid_sizes(np.array([labels.shape]), shape)[0]
    theirs = np.asarray(Image.fromarray(labels).resize((int(new[1]), int(new[0])), Image.Resampling.NEAREST))
    one_is_nearest = [(np.arange(n) + 0.5) * old / n % 1 > 1e-9 for n, old in zip(new, labels.shape, strict=True)]
    grid = np.ix_(*one_is_nearest)
    assert (lay_map(labels, shape)[grid] == theirs[grid]).all()


def test_pixels_boxes_and_maps_stay_together(tmp_path: Path) -> None:
    """A white rectangle in a large image: its box and its map still outline it, portrait beside landscape."""
    root = voc(tmp_path)
    for name, w, h, x1, y1, x2, y2 in (("train0", 1000, 600, 100, 200, 400, 501), ("train1", 300, 500, 30, 9, 290, 11)):
        labels = np.zeros((h, w), np.uint8)
        labels[y1:y2, x1:x2] = 9
        save(root / "JPEGImages" / f"{name}.png", np.stack([labels] * 3, -1) // 9 * 255)
        (root / "JPEGImages" / f"{name}.jpg").unlink()
        (root / "Annotations" / f"{name}.xml").write_text(annotation(("dog", x1 + 1, y1 + 1, x2, y2), size=(w, h)))
        for split in SPLITS:
            save(root / split / "images" / f"{name}.png", np.stack([labels] * 3, -1) // 9 * 255)
            save(root / split / "labels" / f"{name}.png", labels)
    marked, maps = load_voc_boxes(root, ALL, 400).train, load_maps(root, Draw(side=400)).train
    assert marked.sizes is not None
    assert marked.sizes[:3].tolist() == [[600, 1000], [500, 300], [30, 40]]
    assert boxes(marked, "train0")[0][1:] == pytest.approx([40, 80, 160, 200.4, 0, 300 * 301])
    for i, (h, w) in enumerate([(240, 400), (400, 240)]):
        image, labels = marked.inputs[i, :, :, 0].numpy(), maps.targets[i].numpy()
        assert image.shape == (400, 400)
        y, x = np.nonzero(image[:h, :w] > 127)
        found = [x.min(), y.min(), x.max() + 1, y.max() + 1]
        np.testing.assert_allclose(found, marked.targets[i, 0, 1:5].numpy(), atol=0.51)
        assert ((labels[:h, :w] == 9) != (image[:h, :w] > 127)).mean() < 0.005
        for pixels, fill in ((image, 114), (labels, 255)):
            assert (pixels[h:] == fill).all()
            assert (pixels[:, w:] == fill).all()


# Splits


def part(name: str, n: int) -> list[Example]:
    return [Example(f"{name}{i}", Path(), (1, 1), Path()) for i in range(n)]


TRAIN, VAL, TEST = (part(name, n) for name, n in zip(SPLITS, (50, 20, 10), strict=True))
GIVEN = {"train": TRAIN, "val": VAL, "test": TEST}


@pytest.mark.parametrize(
    ("given", "draw", "expected"),
    [
        (GIVEN, ALL, [50, 20, 10]),
        ({"train": TRAIN, "val": VAL}, ALL, [40, 10, 20]),
        ({"train": TRAIN, "test": TEST}, ALL, [40, 10, 10]),
        ({"all": TRAIN}, ALL, [25, 10, 15]),
        ({"val": TRAIN}, ALL, [25, 10, 15]),
        ({"all": TRAIN[:3]}, ALL, [1, 1, 1]),
        (GIVEN, Draw(n_val=5, n_test=3), [65, 5, 3]),  # what n_val leaves of val is not idle
        ({"train": TRAIN, "test": TEST}, Draw(n_val=30, n_train=4), [4, 30, 10]),
        (GIVEN, Draw(n_val=21), "n_val=21 can't be drawn: there are 20"),
        (GIVEN, Draw(n_train=51), "n_train=51"),
        ({"all": TRAIN[:2]}, ALL, "n_train=1 can't be drawn: there are 0"),
        ({"val": VAL, "test": TEST}, ALL, "no train"),
        ({**GIVEN, "val": TRAIN[:5]}, ALL, "'train0' is in both train and val"),
    ],
)
def test_split_rules(given: dict[str, list[Example]], draw: Draw, expected: list[int] | str) -> None:
    if isinstance(expected, str):
        with pytest.raises(InputError, match=expected):
            deal(given, draw)
        return
    parts, _ = deal(given, draw)
    assert [len(parts[name]) for name in SPLITS] == expected
    assert len({example.id for each in parts.values() for example in each}) == sum(expected)


def test_draws_are_determined_and_smaller_ones_lie_in_larger_ones() -> None:
    def ids(n_train: int, n_val: int, n_test: int, seed: int = 0, split_seed: int = 0) -> list[set[str]]:
        parts, _ = deal(GIVEN, Draw(n_train, n_val, n_test, seed, split_seed))
        return [{example.id for example in parts[name]} for name in SPLITS]

    one, again, other, elsewhere = ids(9, 5, 4, 1), ids(9, 5, 4, 1), ids(9, 5, 4, 2), ids(9, 5, 4, 1, 1)
    assert one == again
    assert (one[0] != other[0], one[1:] == other[1:], one[1:] != elsewhere[1:]) == (True, True, True)
    assert [few < many for few, many in zip(ids(9, 20, 4), ids(30, 20, 8), strict=True)] == [True, False, True]
    assert ids(9, 5, 4)[1] < ids(9, 12, 4)[1]


# VOC


def annotation(*objects: Sequence[Any], size: tuple[int, int] = (40, 30)) -> str:
    """Of objects: name, xmin, ymin, xmax, ymax, and marks as XML."""
    texts = []
    for name, *box in objects:
        corners = "".join(f"<{c}>{v}</{c}>" for c, v in zip(("xmin", "ymin", "xmax", "ymax"), box[:4], strict=True))
        part = "<part><name>head</name><bndbox><xmin>0</xmin></bndbox></part>"  # VOC's person layout
        texts.append(f"<object><name>{name}</name>{''.join(box[4:])}<bndbox>{corners}</bndbox>{part}</object>")
    sides = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>"
    return f"<annotation>{sides}{''.join(texts)}</annotation>"


def lists(root: Path, kind: str = "Main", **named: Sequence[str]) -> None:
    (root / "ImageSets" / kind).mkdir(parents=True, exist_ok=True)
    for name, entries in named.items():
        (root / "ImageSets" / kind / f"{name}.txt").write_text("\n".join(entries) + "\n")


def voc(root: Path, **contents: str) -> Path:
    """Four good images in each split, and others in train, with what their annotations contain."""
    names = {split: [f"{split}{i}" for i in range(4)] for split in SPLITS}
    good = annotation(("dog", 5, 6, 10, 12), ("cat", 2, 3, 2, 3))
    (root / "Annotations").mkdir(parents=True, exist_ok=True)
    for name, text in {**{name: good for each in names.values() for name in each}, **contents}.items():
        (root / "Annotations" / f"{name}.xml").write_text(text)
        picture(root / "JPEGImages" / f"{name}.jpg")
    lists(root, train=[*names["train"], *contents], val=names["val"], test=names["test"])
    return root


def test_voc_coordinates_count_from_1_unless_one_is_0(tmp_path: Path) -> None:
    task = load_voc_boxes(voc(tmp_path, empty=annotation(), edge=annotation(("cat", 1, 1, 41, 30))), ALL)
    assert (task.kind, task.primary_metric, task.augment) == ("detection", "ap", ("flip", "zoom"))
    assert task.class_names == ("cat", "dog")
    assert boxes(task.train, "train0") == [[1, 4, 5, 10, 12, 0, 42], [0, 1, 2, 2, 3, 0, 1]]
    assert boxes(task.train, "empty") == []
    assert boxes(task.train, "edge") == [[0, 0, 0, 40, 30, 0, 1200]]  # one pixel over is cut off
    assert task.fingerprint == load_voc_boxes(tmp_path, ALL).fingerprint
    assert load_voc_boxes(voc(tmp_path, tv=annotation(("tvmonitor", 1, 1, 2, 2))), ALL).class_names[-1] == "tvmonitor"
    marks = "<difficult>1</difficult>", "<truncated>1</truncated>"
    task = load_voc_boxes(voc(tmp_path, zero=annotation(("ape", 0, 7, 40, 29, *marks))), ALL)
    assert task.class_names == ("ape", "cat", "dog")
    assert boxes(task.train, "train0")[0] == [2, 5, 6, 11, 13, 0, 42]
    assert boxes(task.train, "zero") == [[0, 0, 7, 40, 30, 1, 40 * 23]]
    said = "some xmin or ymin is 0", "1 objects are marked difficult", "1 objects are marked truncated"
    assert tuple(note.split(":")[0] for note in task.notes) == said
    (tmp_path / "labels.txt").write_text("dog\n\nape\ncat\n")
    assert load_voc_boxes(tmp_path, ALL).class_names == ("dog", "ape", "cat")
    (tmp_path / "labels.txt").write_text("dog\ncats\nape\n")
    with pytest.raises(InputError, match="names class 'cat', which .*; did you mean 'cats'"):
        load_voc_boxes(tmp_path, ALL)


DOG = "dog", 1, 1, 5, 5
ENTITIES = '<!ENTITY l0 "ha">' + "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 10))
BAD = {
    "laughs": (f"<!DOCTYPE z [{ENTITIES}]><annotation>&l9;</annotation>", "refused: DTDForbidden"),
    "quadratic": (f'<!DOCTYPE z [<!ENTITY a "{"a" * 50_000}">]><annotation>{"&a;" * 50_000}</annotation>', "refused"),
    "external": ('<!DOCTYPE z [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation>&x;</annotation>', "refused"),
    "deep": (f"<annotation>{'<a>' * 200_000}{'</a>' * 200_000}</annotation>", "nests more than 20"),
    "large": (f"<annotation>{' ' * 5_000_000}</annotation>", "larger than 5 MB"),
    "token": (f"<annotation a='{'x' * 4_900_000}'", "can't be read: unclosed token"),
    "encoding": ('<?xml version="1.0" encoding="klingon"?><annotation/>', "can't be read: unknown encoding"),
    "html": ("<html></html>", "begins with <html>"),
    "reversed": (annotation(DOG, ("dog", 9, 2, 8, 4)), "box 2 is reversed: xmin 9, xmax 8"),
    "outside": (
        annotation(("dog", 5, 5, 42, 9)),
        "box 1, from .4, 4. to .42, 9., reaches outside the image of 40 x 30",
    ),
    "before": (annotation(("dog", -1, 5, 20, 9)), "reaches outside"),
    "beyond": (annotation(("dog", 43, 5, 50, 9)), "reaches outside"),
    "flat": (annotation(("dog", 41, 5, 41, 9)), "has no area"),
    "nan": (annotation(DOG, ("dog", "nan", 1, 5, 5)), "box 2, .* is not finite"),
    "words": (annotation(("dog", 1, 1, "five", 5)), "is not finite"),
    "infinite": (annotation(("dog", 1, 1, "1e999", 5)), "is not finite"),
    "nameless": (annotation(DOG, ("", 1, 1, 5, 5)), "box 2 has no class name"),
    "crowded": (annotation(*[DOG] * 5_001), "5,001 boxes"),
    "vast": (annotation(size=(10**30, 30)), "no image has"),
    "turned": (annotation(size=(30, 40)), "its annotation says 30 x 40, the file is 40 x 30"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_annotations_are_left_out_by_name(tmp_path: Path, name: str) -> None:
    root, start = voc(tmp_path, **{name: BAD[name][0]}), time.perf_counter()
    task = load_voc_boxes(root, ALL)
    assert time.perf_counter() - start < 1
    assert list(task.train.ids) == [f"train{i}" for i in range(4)]
    ((example, reason),) = task.skipped
    assert example == name
    assert re.search(BAD[name][1], reason), reason


def test_images_that_are_not_as_said(tmp_path: Path) -> None:
    large = annotation(("dog", 2501, 1001, 5000, 4000), size=(5000, 4000))  # 20 megapixels
    root = voc(tmp_path / "set", upright=annotation(size=(30, 40)), large=large, unsaid="<annotation/>",
               gone=annotation(), broken=annotation(), exif=annotation())  # fmt: skip
    turned = Image.Exif()
    turned[0x0112] = 6
    for name, size, how in (("exif", (40, 30), {"exif": turned}), ("upright", (40, 30), {"exif": turned}),
                            ("large", (5000, 4000), {})):  # fmt: skip
        picture(root / "JPEGImages" / f"{name}.jpg", size, **how)
    (root / "JPEGImages" / "gone.jpg").unlink()
    (root / "JPEGImages" / "broken.jpg").write_bytes((root / "JPEGImages" / "train0.jpg").read_bytes()[:200])
    (tmp_path / "secret.xml").write_text(annotation())
    (root / "Annotations" / "link.xml").symlink_to(tmp_path / "secret.xml")
    names = ["../../secret", "/etc/passwd", "link", "nul\0", "n" * 300, "absent", "gone", "broken", "exif"]
    lists(root, train=[*names, "train0 1", "upright", "large", "unsaid", "train0"])
    task = load_voc_boxes(root, ALL)
    assert list(task.train.ids) == ["train0", "upright", "large", "unsaid"]
    assert task.train.inputs.shape[1:3] == (410, 512)
    assert boxes(task.train, "large")[0] == pytest.approx([1, 256, 102.5, 512, 410, 0, 2500 * 3000], rel=1e-3)
    reasons = dict(task.skipped)
    assert reasons.pop("broken").startswith("it can't be read")
    assert reasons == {
        "../../secret": "Annotations/../../secret.xml: it lies outside the folder",
        "/etc/passwd": "Annotations//etc/passwd.xml: it lies outside the folder",
        "link": "Annotations/link.xml: it lies outside the folder",
        "nul\0": "Annotations/nul\0.xml: no file can have that name",
        "n" * 300: f"Annotations/{'n' * 300}.xml: no file can have that name",
        "absent": "Annotations/absent.xml: there is no such file",
        "gone": "JPEGImages/gone.jpg: there is no such file",
        "exif": "its annotation says 40 x 30, the file is 30 x 40",
    }


def test_voc_lists(tmp_path: Path) -> None:
    root = voc(tmp_path / "VOCdevkit" / "VOC2007")
    sets = root / "ImageSets" / "Main"
    assert lengths(load_voc_boxes(tmp_path, ALL)) == [4, 4, 4]
    (sets / "test.txt").unlink()
    assert lengths(load_voc_boxes(tmp_path, ALL)) == [3, 1, 4]
    (sets / "train.txt").rename(sets / "trainval.txt")
    (sets / "val.txt").rename(sets / "test.txt")
    assert lengths(load_voc_boxes(tmp_path, ALL)) == [3, 1, 4]
    lists(root, val=["train0"])
    assert load_voc_boxes(tmp_path, ALL).val.ids == ["train0"]
    for path in sets.iterdir():
        path.unlink()
    assert lengths(load_voc_boxes(root, ALL)) == [6, 2, 4]
    with pytest.raises(InputError, match="classes slice.* can't be taken alone"):
        load_voc_boxes(root, Draw(classes=slice(0, 2)))
    (tmp_path / "VOCdevkit" / "VOC2012" / "Annotations").mkdir(parents=True)
    with pytest.raises(InputError, match="several folders with Annotations"):
        load_voc_boxes(tmp_path, ALL)
    (root / "JPEGImages").rename(root / "Images")
    with pytest.raises(InputError, match="no usable image in 'all'; the first left out, test0: JPEGImages/test0.jpg"):
        load_voc_boxes(root, ALL)


def test_voc_maps_are_read_by_palette_index(tmp_path: Path) -> None:
    root = voc(tmp_path)
    (root / "SegmentationClass").mkdir()
    for name, label in (("train0", 15), ("train1", 21), ("train2", 3), ("val0", 20), ("test0", 1)):
        labels = np.tile(np.array([0, label, 255, 255], np.uint8).repeat(10), (20 if name == "train2" else 30, 1))
        image = Image.fromarray(labels)
        image.putpalette(np.random.default_rng(0).integers(0, 256, 768).tolist())
        image.save(root / "SegmentationClass" / f"{name}.png")
    lists(root, "Segmentation", train=["train0", "train1", "train2"], val=["val0"], test=["test0"])
    task = load_voc_maps(root, ALL)
    assert (task.kind, task.primary_metric, task.n_classes) == ("segmentation", "mean_iou", 21)
    assert [task.class_names[i] for i in (0, 15, 20)] == ["background", "person", "tvmonitor"]
    assert task.train.targets[0, 29, ::10].tolist() == [0, 15, 255, 255]
    assert dict(task.skipped) == {
        "train1": "its label map has id 21; VOC's are 0 to 20, and 255 is void",
        "train2": "its label map is 40 x 20, the file is 40 x 30",
    }
    assert task.notes == ("19 of 21 classes are absent from train",)


# COCO


def coco(root: Path, n: int = 3) -> dict[str, Any]:
    """The files of COCO's layout with n images of each split, to be changed and written."""
    files = {}
    categories = [{"id": 90, "name": "toothbrush"}, {"id": 3, "name": "car"}, {"id": 18, "name": "dog"}]
    for k, split in enumerate(SPLITS):
        images = [{"id": 20 * k + i, "file_name": f"{i}.jpg", "width": 40, "height": 30} for i in range(n)]
        marks = [{"id": i, "image_id": 20 * k + i, "category_id": (90, 3)[i % 2], "bbox": [5, 6.5, 10, 12],
                  "area": 77.5, "iscrowd": i % 2, "segmentation": []} for i in range(n - 1)]  # fmt: skip
        files[split] = {"images": images, "annotations": marks, "categories": [dict(each) for each in categories]}
        for i in range(n):
            picture(root / f"{split}2017" / f"{i}.jpg")
    return files


def write(root: Path, files: dict[str, Any]) -> Path:
    (root / "annotations").mkdir(exist_ok=True)
    for split, content in files.items():
        (root / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content))
    return root


def test_coco_has_crowds_areas_and_gaps_between_ids(tmp_path: Path) -> None:
    task = load_coco(write(tmp_path, coco(tmp_path)), ALL)
    assert task.class_names == ("car", "dog", "toothbrush")
    assert list(task.train.ids) == [f"train2017/{i}.jpg" for i in range(3)]
    assert boxes(task.train, "train2017/0.jpg") == [[2, 5, 6.5, 15, 18.5, 0, 77.5]]
    assert boxes(task.train, "train2017/1.jpg") == [[0, 5, 6.5, 15, 18.5, 2, 77.5]]
    assert boxes(task.train, "train2017/2.jpg") == []
    assert task.notes == ("1 of 3 classes are absent from train",)


def test_one_coco_file_is_split_by_image(tmp_path: Path) -> None:
    write(tmp_path, {"val": coco(tmp_path, 10)["val"]})
    assert lengths(load_coco(tmp_path, ALL)) == [5, 2, 3]
    (tmp_path / "val2017").rename(tmp_path / "images")
    (tmp_path / "annotations" / "instances_val2017.json").rename(tmp_path / "annotations" / "mine.json")
    assert lengths(load_coco(tmp_path, Draw(n_test=2))) == [5, 2, 2]


def test_bad_coco_images_are_left_out_by_name(tmp_path: Path) -> None:
    files = coco(tmp_path, 12)
    listed = "is of category {}, which is not listed"
    says: list[tuple[dict[str, Any], str | None]] = [
        ({"bbox": [5, 6, 0, 4]}, "from (5, 6) to (5, 10), has no area"),
        ({"bbox": [5, 6, float("nan"), 4]}, "is not finite"),
        ({"bbox": [5, 6, 37, 4]}, "from (5, 6) to (42, 10), reaches outside the image of 40 x 30"),
        ({"bbox": [5, 6, 4]}, "box 1 (annotation 3) is [5, 6, 4], not [x, y, width, height]"),
        ({"bbox": None}, "is None, not"), ({"category_id": 4}, listed.format(4)), ({"category_id": [3]}, "not listed"),
        ({"bbox": [5, 6, -3, 4]}, "has no area"), ({"bbox": [1, 1, 10**400, 2]}, "is not finite"),
        ({"bbox": [-0.5, 6, 41, 4], "area": None}, None), ({"image_id": 999}, None),
    ]  # fmt: skip
    for entry, (change, _) in zip(files["train"]["annotations"], says, strict=True):
        entry.update(change)
    files["train"]["images"][10]["file_name"] = "../../secret.jpg"
    files["train"]["images"][11]["width"] = 0
    task = load_coco(write(tmp_path, files), ALL)
    assert boxes(task.train, "train2017/9.jpg") == [[0, 0, 6, 40, 10, 2, 160]]
    assert len(task.train) == 1
    reasons = [reason for _, reason in says if reason] + [
        "outside the folder",
        "says 0 x 30 pixels, which no image has",
    ]
    for (name, reason), expected in zip(task.skipped, reasons, strict=True):
        assert expected in reason, name
    assert "1 annotations of instances_train2017.json belong to no image that it lists" in task.notes


def test_a_coco_file_that_is_none_is_refused(tmp_path: Path) -> None:
    twice, renamed, odd = (coco(tmp_path) for _ in range(3))
    twice["val"]["images"][1]["id"] = 20
    renamed["val"]["categories"][0]["name"] = "brush"
    odd["val"]["categories"][0]["id"] = "90"
    for content, says in ((twice, "image id 20 is there twice"), (renamed, "other categories"), (odd, "a whole number"),
                          ({"train": []}, "no list of images"), ({"train": {"images": [1]}}, "of images")):  # fmt: skip
        with pytest.raises(InputError, match=says):
            load_coco(write(tmp_path, content), ALL)
    (tmp_path / "annotations" / "instances_train2017.json").write_text("[" * 200_000)
    with pytest.raises(InputError, match="is no JSON: RecursionError"):
        load_coco(tmp_path, ALL)
    write(tmp_path, {"minitrain": {}})
    with pytest.raises(InputError, match="keep one file for each"):
        load_coco(tmp_path, ALL)


# Label maps

LABELS = np.tile(np.array([0, 2, 3, 255], np.uint8).repeat(10), (30, 1))


def camvid(root: Path, n: int = 6) -> Path:
    for split in SPLITS:
        for i in range(n):
            picture(root / split / f"{i}.jpg")
            save(root / f"{split}annot" / f"{i}.png", LABELS)
    return root


def test_label_maps_of_every_layout_and_void(tmp_path: Path) -> None:
    task = load_maps(camvid(tmp_path), ALL, void=3)
    assert (task.class_names, task.notes) == (("0", "1", "2"), ("1 of 3 classes are absent from train",))
    assert task.val.targets[0, 29, ::10].tolist() == [0, 2, 255, 255]
    task = load_maps(tmp_path, ALL, void=0)
    assert task.class_names == ("1", "2", "3")
    assert task.val.targets[0, 29, ::10].tolist() == [255, 1, 2, 255]
    task = load_maps(tmp_path, ALL, class_names=["sky", "road", "car"])
    assert task.notes[-1] == "ids 3 lie beyond the 3 classes named; they are void"
    (tmp_path / "classes.txt").write_text("sky\nroad\ncar\nvan\n")
    for split in SPLITS:
        for old, new in ((split, "images"), (f"{split}annot", "labels")):
            (tmp_path / new).mkdir(exist_ok=True)
            (tmp_path / old).rename(tmp_path / new / split)
    task = load_maps(tmp_path, ALL)
    assert task.class_names == ("sky", "road", "car", "van")
    assert task.train.ids[0] == "images/train/0.jpg"
    for how, says in (({"void": 256}, "void is 256"), ({"class_names": ["sky"]}, "has 1 classes")):
        with pytest.raises(InputError, match=says):
            load_maps(tmp_path, ALL, **how)
    with pytest.raises(InputError, match="no label maps where they are looked for"):
        load_maps(tmp_path / "labels", ALL)


def packed_png(labels: np.ndarray) -> bytes:
    """A grey PNG of 2 bits a pixel, which Pillow reads as values times 85."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    bits = np.unpackbits(labels[..., None], axis=-1)[..., 6:].reshape(len(labels), -1)
    rows = b"".join(b"\0" + row.tobytes() for row in np.packbits(bits, axis=1))
    header = struct.pack(">IIBBBBB", *labels.shape[::-1], 2, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def test_bad_label_maps_are_left_out_by_name(tmp_path: Path) -> None:
    maps = camvid(tmp_path, 9) / "trainannot"
    save(maps / "0.png", LABELS[:, :20])
    save(maps / "1.png", np.stack([LABELS] * 3, -1))
    (maps / "2.png").unlink()
    (maps / "3.png").unlink()
    save(maps / "3.jpg", LABELS)
    save(maps / "4.png", LABELS.astype(np.uint16) * 300)
    save(maps / "5.png", np.full_like(LABELS, 255))
    save(maps / "6.png", LABELS.astype(np.uint16))
    (maps / "7.png").write_bytes(packed_png(LABELS % 4))
    (maps / "8.png").write_bytes((maps / "7.png").read_bytes()[:45])
    task = load_maps(tmp_path, ALL)
    assert list(task.train.ids) == ["train/5.jpg", "train/6.jpg", "train/7.jpg"]
    assert task.train.targets[1:, 29, ::10].tolist() == [[0, 2, 3, 255], [0, 2, 3, 3]]
    assert "1 label maps are void throughout and teach nothing: train/5.jpg" in task.notes
    expected = {0: "its label map is 20 x 30, the file is 40 x 30", 1: "has colours (mode RGB); save class ids as one",
                2: "it has no label map in trainannot", 3: "since others change class ids",
                4: "ids from 0 to 10964", 8: "its label map can't be read"}  # fmt: skip
    reasons = dict(task.skipped)
    assert reasons.keys() == {f"train/{i}.jpg" for i in expected}
    for i, says in expected.items():
        assert says in reasons[f"train/{i}.jpg"]


def test_what_is_too_large_for_memory_lies_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = camvid(tmp_path / "set")
    (root / "train" / "2.jpg").write_bytes(b"broken")
    plain = load_maps(root, ALL)
    monkeypatch.setattr(canvas, "MEMORY_LIMIT", 1000)
    monkeypatch.setenv("PTLIB_CACHE", str(tmp_path / "cache"))
    assert load_maps(root, ALL).fingerprint == plain.fingerprint
    assert list((tmp_path / "cache" / "images").iterdir()) == []


# The real sets


def unpacked(archive: Path, to: Path) -> Path:
    with zipfile.ZipFile(archive) as z:
        z.extractall(to)
    return to / archive.stem


def test_bccd(real_data: Path, tmp_path: Path) -> None:
    task = load_voc_boxes(unpacked(real_data / "bccd.zip", tmp_path), Draw(side=128))
    assert (lengths(task), task.skipped, tuple(task.train.inputs.shape[1:3])) == ([205, 87, 72], (), (96, 128))
    assert task.class_names == ("Platelets", "RBC", "WBC")
    assert np.sum([split.counts(3) for split in task.splits], axis=0).tolist() == [361, 4155, 372]


def test_camvid(real_data: Path, tmp_path: Path) -> None:
    root = unpacked(real_data / "camvid.zip", tmp_path)
    names = list("abcdefghijk")
    for draw, says in ((Draw(n_train=368), "there are 367"), (Draw(n_test=234), "there are 233")):
        with pytest.raises(InputError, match=says):
            load_maps(root, draw, void=11, class_names=names)
    task = load_maps(root, Draw(n_train=20, n_test=20), void=11, class_names=names)
    assert (lengths(task), task.skipped, task.notes, task.n_classes) == ([20, 101, 20], (), (), 11)
    raw = [np.bincount(np.asarray(Image.open(p)).ravel(), minlength=12) for p in (root / "valannot").iterdir()]
    assert [*task.val.counts(11), (task.val.targets == 255).sum()] == np.sum(raw, axis=0).tolist()
