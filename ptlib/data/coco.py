"""Folders in the format of COCO: boxes from annotations/*.json, one file a split."""

from __future__ import annotations

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ptlib.core import Task
from ptlib.data.canvas import Example, assemble, attempt, clipped, is_given, refused, stated_size
from ptlib.data.draw import Draw, Problems
from ptlib.errors import InputError

MOST_BYTES = 2 * 10**9  # of an annotation file
CROWD = 2


def load_coco(root: Path, draw: Draw, longest: int | None = None) -> Task:
    """A detection `Task` from `annotations/instances_{train,val,test}*.json`, or of one file of any name.

    Images lie in the folder that the file is named after (train2017), in images/, or beside annotations/. Classes are
    the categories in order of id, boxes that stand for a crowd are flagged 2, `area` is COCO's. Images with a box that
    is none or lies outside, or of a category that is not listed, are left out and listed in `Task.skipped`.
    """
    root, skipped, notes = root.expanduser().resolve(), list[tuple[str, str]](), list[str]()
    classes: dict[int, str] = {}
    given = {}
    for split, path in _files(root).items():
        content = _load(path)
        own = _categories(content["categories"], path)
        if classes and own != classes:
            raise InputError(f"{path} lists other categories than the files before it; all must list the same")
        classes = own
        given[split] = _examples(content, list(classes), path, root, skipped, notes)
    return assemble(root, "detection", list(classes.values()), given, draw, longest, skipped, notes)


def _files(root: Path) -> dict[str, Path]:
    """The annotation file of each split, by its name."""
    folder = root / "annotations"
    paths = sorted(folder.glob("instances_*.json")) or sorted(folder.glob("*.json"))
    paths = [path for path in paths if is_given(path, root)]
    found: dict[str, Path] = {}
    for path in paths:
        match = re.search(r"(?:^|[^a-z]|mini)(train|val|test)", path.stem.lower())
        split = match[1] if match else "all"
        if split in found or (split == "all" and len(paths) > 1):
            names = ", ".join(each.name for each in paths)
            raise InputError(f"{folder} has {names}; keep one file for each of train, val and test, or a single one")
        found[split] = path
    if not found:
        raise InputError(f"{folder} holds no JSON file; COCO's are called instances_train2017.json and the like")
    return found


def _load(path: Path) -> dict[str, list[dict[str, Any]]]:
    if path.stat().st_size > MOST_BYTES:
        raise InputError(f"{path} is larger than {MOST_BYTES / 1e9:g} GB; split it")
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as e:
        raise InputError(f"{path} is no JSON: {type(e).__name__}: {e}") from None
    for key in ("images", "annotations", "categories"):
        entries = content.get(key) if isinstance(content, dict) else None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise InputError(
                f"{path} has no list of {key}; COCO's format for boxes has images, annotations, categories"
            )
    return content  # type: ignore[no-any-return]


def _categories(entries: Sequence[Mapping[str, Any]], path: Path) -> dict[int, str]:
    """Names by id, in order of id."""
    for entry in entries:
        if type(entry.get("id")) is not int or not isinstance(entry.get("name"), str):
            raise InputError(f"{path}: category {str(entry)[:80]} needs an id, a whole number, and a name")
    for key in ("id", "name"):
        _no_twice([entry[key] for entry in entries], f"{path}: category {key}")
    return {entry["id"]: entry["name"] for entry in sorted(entries, key=lambda entry: entry["id"])}


def _no_twice(values: Sequence[Any], what: str) -> None:
    twice = [value for value, times in Counter(values).items() if times > 1]
    if twice:
        raise InputError(f"{what} {twice[0]!r} is there twice; each must be another")


def _examples(
    content: Mapping[str, list[dict[str, Any]]], categories: list[int], path: Path, root: Path, skipped: Problems,
    notes: list[str],
) -> list[Example]:  # fmt: skip
    images, order = content["images"], {category: i for i, category in enumerate(categories)}
    for image in images:
        if not isinstance(image.get("id"), int | str) or not isinstance(image.get("file_name"), str):
            raise InputError(f"{path}: image {str(image)[:80]} needs an id and a file_name")
    _no_twice([image["id"] for image in images], f"{path}: image id")
    _no_twice([image["file_name"] for image in images], f"{path}: file_name")
    own: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for annotation in content["annotations"]:
        own[_key(annotation, "image_id")].append(annotation)
    astray = sum(len(own[key]) for key in own.keys() - {image["id"] for image in images})
    if astray:
        notes.append(f"{astray} annotations of {path.name} belong to no image that it lists")
    split = path.stem.removeprefix("instances_")
    folders = [folder for folder in (root / split, root / "images" / split, root / "images", root) if folder.is_dir()]

    def example(image: dict[str, Any]) -> Example:
        place = _find(image["file_name"], folders, root)
        size = stated_size(_number(image.get("width")), _number(image.get("height")))
        return Example(place.relative_to(root).as_posix(), place, size, _boxes(own[image["id"]], order, size))

    return list(attempt(example, images, lambda image: str(image["file_name"]), skipped).values())


def _find(name: str, folders: Sequence[Path], root: Path) -> Path:
    reasons = []
    for folder in folders:
        reasons.append(refused(folder / name, root))
        if reasons[-1] is None:
            return folder / name
    raise ValueError(reasons[0])


def _boxes(annotations: Sequence[Mapping[str, Any]], order: Mapping[int, int], size: tuple[int, int]) -> np.ndarray:
    """Rows of boxes (M, 7) of an image; ValueError naming one that is none or lies outside."""
    rows = np.zeros((len(annotations), 7))
    for i, (row, each) in enumerate(zip(rows, annotations, strict=True)):
        corner = each.get("bbox")
        if not isinstance(corner, list) or len(corner) != 4:
            raise ValueError(f"box {i + 1} (annotation {each.get('id')}) is {corner!r:.80}, not [x, y, width, height]")
        category = order.get(_key(each, "category_id"))
        if category is None:
            raise ValueError(
                f"box {i + 1} (annotation {each.get('id')}) is of category {each.get('category_id')!r:.80}, "
                "which is not listed"
            )
        x, y, width, height = map(_number, corner)
        row[:] = category, x, y, x + width, y + height, CROWD * (each.get("iscrowd") == 1), _number(each.get("area"))
    rows[:, 1:5] = clipped(rows[:, 1:5], size)
    sides = rows[:, 3:5] - rows[:, 1:3]
    rows[:, 6] = np.where(np.isfinite(rows[:, 6]) & (rows[:, 6] >= 0), rows[:, 6], sides.prod(axis=1))
    return rows


def _key(annotation: Mapping[str, Any], field: str) -> Any:
    """An id that can be looked up, None if it is none."""
    value = annotation.get(field)
    return value if isinstance(value, int | str) else None


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan
