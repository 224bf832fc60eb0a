"""Folders in the format of PASCAL VOC: boxes from Annotations/*.xml, label maps from SegmentationClass/*.png."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar
from xml.etree.ElementTree import Element, TreeBuilder

import numpy as np
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser

from ptlib.arrays import VOID
from ptlib.core import Task
from ptlib.data.canvas import MOST_BOXES, Example, assemble, attempt, clipped, is_given, refused, stated_size
from ptlib.data.draw import SPLITS, Draw, Problems
from ptlib.data.images import decode
from ptlib.data.maps import by_stem, map_size, read_map, read_names
from ptlib.errors import InputError, did_you_mean

CLASSES = ("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
           "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor")  # fmt: skip
MOST_BYTES = 5_000_000  # of an annotation
DEEPEST = 20  # VOC's own annotations nest five elements
MOST_ELEMENTS = 20 * MOST_BOXES  # VOC's own have six of a box, or a dozen with its parts
MOST_ATTRIBUTES = 10_000  # VOC's own have none
A = TypeVar("A")
CORNERS = ("xmin", "ymin", "xmax", "ymax")


class Annotation(NamedTuple):
    """An annotation as it stands: (height, width), and of M objects names, corners (M, 4) and two marks, bool (M,)."""

    image: Path
    size: tuple[int, int]
    names: list[str]
    corners: np.ndarray
    difficult: np.ndarray
    truncated: np.ndarray


def load_voc_boxes(root: Path, draw: Draw, longest: int | None = None) -> Task:
    """A detection `Task` from JPEGImages/, Annotations/ and ImageSets/Main/; without lists, of all that is annotated.

    Corners count pixels from 1 and include the last, as VOC's do; from 0 if any xmin or ymin of the set is 0. Objects
    marked difficult are flagged 1. Classes stand in the order of labels.txt or classes.txt, else of VOC, else of the
    alphabet. Images without annotation, or with one that can't be read or has a box that is none or lies outside, are
    left out and listed in `Task.skipped`.
    """
    base, skipped, notes = _base(root, "Annotations"), list[tuple[str, str]](), list[str]()
    images = by_stem(base / "JPEGImages", skipped)
    annotated = {path.stem for path in (base / "Annotations").glob("*.xml")}
    lists = _lists(base, "Main") or {"all": sorted(annotated | images.keys())}
    read = _each(lists, lambda name: _read(base, name, images), skipped)
    classes = _classes(base, {name for each in read.values() for name in each.names})
    from_zero = any((each.corners[:, :2] == 0).any() for each in read.values())
    if from_zero:
        notes.append("some xmin or ymin is 0: corners are read as counted from 0, where VOC counts from 1")
    for mark, means in (("difficult", "missing one is no error"), ("truncated", "they count as others do")):
        marked = sum(int(getattr(each, mark).sum()) for each in read.values())
        if marked:
            notes.append(f"{marked} objects are marked {mark}: {means}")
    lists = {split: [name for name in names if name in read] for split, names in lists.items()}
    examples = _each(lists, lambda name: _example(name, read[name], classes, from_zero), skipped)
    return assemble(base, "detection", classes, _given(lists, examples), draw, longest, skipped, notes)


def load_voc_maps(root: Path, draw: Draw, longest: int | None = None) -> Task:
    """A segmentation `Task` of background and VOC's 20 classes from SegmentationClass/ and ImageSets/Segmentation/.

    Palette indices are the classes, 255 is void. Maps with other ids, or of another size than their image, are left
    out and listed in `Task.skipped`.
    """
    base, skipped = _base(root, "SegmentationClass"), list[tuple[str, str]]()
    maps, images = by_stem(base / "SegmentationClass", skipped), by_stem(base / "JPEGImages", skipped)
    lists = _lists(base, "Segmentation") or {"all": list(maps)}
    classes = ("background", *CLASSES)

    def example(name: str) -> Example:
        labels = _file(base, "SegmentationClass", f"{name}.png", maps.get(name))
        return Example(name, _file(base, "JPEGImages", f"{name}.jpg", images.get(name)), map_size(labels), labels)

    def read(path: Path) -> np.ndarray:
        labels = read_map(path)
        odd = labels[(labels >= len(classes)) & (labels != VOID)]
        if len(odd):
            raise ValueError(f"its label map has id {odd[0]}; VOC's are 0 to {len(classes) - 1}, and {VOID} is void")
        return labels

    given = _given(lists, _each(lists, example, skipped))
    return assemble(base, "segmentation", classes, given, draw, longest, skipped, read=read)


def _base(root: Path, needed: str) -> Path:
    """The folder that has `needed` inside: `root`, or the one of a year in it or in its VOCdevkit."""
    root = root.expanduser().resolve()
    years = [*sorted(root.glob("VOC2*")), *sorted(root.glob("VOCdevkit/VOC2*"))]
    found = [folder for folder in (root, *years) if (folder / needed).is_dir()]
    if not found or (found[0] != root and len(found) > 1):
        what = f"several folders with {needed}: {', '.join(map(str, found))}" if found else f"no folder {needed}"
        raise InputError(f"{root} has {what}; give the one folder with JPEGImages, {needed} and ImageSets inside")
    return found[0]


def _lists(base: Path, kind: str) -> dict[str, list[str]]:
    """Names of images by split, from ImageSets/<kind>/; trainval stands for a train that is not given."""
    lists = {}
    for part in (*SPLITS, "trainval"):
        path = base / "ImageSets" / kind / f"{part}.txt"
        if is_given(path, base):
            lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
            names = (re.sub(r"\s+-?[01]$", "", line.strip()) for line in lines)  # a second column says present or not
            lists[part] = list(dict.fromkeys(name for name in names if name))
    both = lists.pop("trainval", [])
    if "train" not in lists:
        lists["train"] = [name for name in both if name not in lists.get("val", ())]
    return {split: names for split, names in lists.items() if names}


def _each(lists: Mapping[str, list[str]], work: Callable[[str], A], skipped: Problems) -> dict[str, A]:
    names = sorted({name for listed in lists.values() for name in listed})
    return {names[i]: result for i, result in attempt(work, names, str, skipped).items()}


def _given(lists: Mapping[str, list[str]], examples: Mapping[str, Example]) -> dict[str, list[Example]]:
    return {split: [examples[name] for name in names if name in examples] for split, names in lists.items()}


def _file(base: Path, folder: str, name: str, found: Path | None = None) -> Path:
    path = found or base / folder / name
    reason = refused(path, base)
    if reason:
        raise ValueError(f"{folder}/{found.name if found else name}: {reason}")
    return path


def _read(base: Path, name: str, images: Mapping[str, Path]) -> Annotation:
    """An annotation and its image's place; ValueError naming what is wrong with it."""
    path, image = _file(base, "Annotations", f"{name}.xml"), _file(base, "JPEGImages", f"{name}.jpg", images.get(name))
    root = _parse(path)
    if root.tag != "annotation":
        raise ValueError(f"its annotation begins with <{root.tag[:40]}>, not <annotation>")
    width, height = (_number(root.findtext(f"size/{side}")) for side in ("width", "height"))
    if not (width > 0 and height > 0):  # some tools write 0 or nothing
        width, height = decode(image).size
    objects = root.findall("object")
    if len(objects) > MOST_BOXES:
        raise ValueError(f"it has {len(objects):,} boxes; {MOST_BOXES:,} at most are read")
    names = [(each.findtext("name") or "").strip() for each in objects]
    corners = np.array([[_number(each.findtext(f"bndbox/{c}")) for c in CORNERS] for each in objects]).reshape(-1, 4)
    if "" in names:
        raise ValueError(f"box {names.index('') + 1} has no class name")
    for i in np.flatnonzero((corners[:, 2:] < corners[:, :2]).any(axis=1))[:1]:
        xmin, ymin, xmax, ymax = corners[i].tolist()
        raise ValueError(f"box {i + 1} is reversed: xmin {xmin:g}, xmax {xmax:g}, ymin {ymin:g}, ymax {ymax:g}")
    difficult, truncated = (
        np.array([(each.findtext(mark) or "").strip() == "1" for each in objects], dtype=bool)
        for mark in ("difficult", "truncated")
    )
    return Annotation(image, stated_size(width, height), names, corners, difficult, truncated)


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan


class _Shallow(TreeBuilder):
    """A tree that refuses to grow deep, or large."""

    depth = elements = 0

    def start(self, tag: str, attrs: dict[str, str], /) -> Element:
        self.depth += 1
        self.elements += 1
        if self.depth > DEEPEST:
            raise ValueError(f"its annotation nests more than {DEEPEST} elements")
        if self.elements > MOST_ELEMENTS:
            raise ValueError(f"its annotation has more than {MOST_ELEMENTS:,} elements")
        return super().start(tag, attrs)

    def end(self, tag: str, /) -> Element:
        self.depth -= 1
        return super().end(tag)


def _parse(path: Path) -> Element:
    """The root of an XML file; ValueError if it is none, too large or too deep, or has a document type or entities."""
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"its annotation is larger than {MOST_BYTES / 1e6:g} MB")
    parser, content = DefusedXMLParser(target=_Shallow(), forbid_dtd=True), path.read_bytes()
    if content.count(b"=") > MOST_ATTRIBUTES:
        raise ValueError(f"its annotation has more than {MOST_ATTRIBUTES:,} attributes")
    try:
        parser.feed(content)  # at once: expat reads a long token again with each further part
        return parser.close()  # type: ignore[no-any-return]
    except DefusedXmlException as e:
        raise ValueError(f"its annotation is refused: {type(e).__name__}") from None
    except (SyntaxError, LookupError, OSError) as e:
        raise ValueError(f"its annotation can't be read: {e}") from None


def _classes(base: Path, found: Collection[str]) -> list[str]:
    """Class names in order; InputError if a file gives an order and lacks one of those found."""
    for path in (base / "labels.txt", base / "classes.txt"):
        if is_given(path, base):
            names = read_names(path)
            odd = sorted(set(found) - set(names))
            if odd:
                near = did_you_mean(odd[0], names)
                raise InputError(f"an annotation names class {odd[0]!r}, which {path} lacks{near or '; add it'}")
            return names
    return [name for name in CLASSES if name in found] if set(found) <= set(CLASSES) else sorted(found)


def _example(name: str, said: Annotation, classes: list[str], from_zero: bool) -> Example:
    """Boxes from corners; ValueError naming one that lies outside."""
    first, last = (0, 1) if from_zero else (1, 0)
    boxes = clipped(said.corners + np.array([-first, -first, last, last]), said.size)
    rows = np.zeros((len(boxes), 7))
    rows[:, 0] = [classes.index(each) for each in said.names]
    rows[:, 1:5], rows[:, 5] = boxes, said.difficult
    rows[:, 6] = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return Example(name, said.image, said.size, rows)
