"""Images of different sizes laid on one canvas, and tasks of boxes or label maps made of them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from PIL import Image

from ptlib.arrays import VOID
from ptlib.core import Split, Task
from ptlib.data.draw import SPLITS, Draw, Problems, without
from ptlib.data.images import MEMORY_LIMIT, cache_dir, decode
from ptlib.errors import InputError

LONGEST = 512  # pixels of an image's longer side, where neither the caller nor the draw says
LONGEST_STATED = 10_000_000  # pixels; an annotation that says more is wrong
MOST_BOXES = 5_000  # of an image: every image of a split has room for as many as the fullest
GREY = 114
PRIMARY = {"detection": "ap", "segmentation": "mean_iou"}
A = TypeVar("A")
B = TypeVar("B")


class Example(NamedTuple):
    """An image and what is said of it: `size` is height and width as the annotation or the label map has it.

    `target` is float64 (M, 7), rows as in `Split` but in pixels of the image as it came, or the file of a label map.
    """

    id: str
    image: Path
    size: tuple[int, int]
    target: np.ndarray | Path


def canvas_of(sizes: np.ndarray, longest: int) -> tuple[int, int]:
    """Height and width of the canvas that holds images of `sizes` (N, 2), longer sides reduced to `longest` pixels.

    None is enlarged. Fractions of a pixel are rounded up, so that no image is reduced further for their sake.
    """
    if longest < 1:
        raise InputError(f"longest is {longest}; the longer side of an image must have at least 1 pixel")
    long = np.maximum(np.max(sizes, axis=1, keepdims=True), longest)
    height, width = (-(-np.asarray(sizes, dtype=np.int64) * longest // long)).max(axis=0)
    return int(height), int(width)


def laid_sizes(sizes: np.ndarray, canvas: tuple[int, int]) -> np.ndarray:
    """Height and width on the canvas of images of `sizes` (N, 2), int64 (N, 2).

    Both sides are scaled by min(1, H / h, W / w) and rounded, to 1 pixel at least.
    """
    sizes = np.asarray(sizes, dtype=np.int64)
    scale = np.minimum(1, (np.array(canvas) / sizes).min(axis=1, keepdims=True))
    return np.asarray(np.maximum(1, np.rint(sizes * scale)), dtype=np.int64)


def to_canvas(boxes: np.ndarray, sizes: np.ndarray, canvas: tuple[int, int]) -> np.ndarray:
    """Boxes x1, y1, x2, y2 (N, M, 4) in pixels of images of `sizes` (N, 2), in pixels of the canvas: float64."""
    return np.asarray(boxes * _factors(sizes, canvas))


def to_image(boxes: np.ndarray, sizes: np.ndarray, canvas: tuple[int, int]) -> np.ndarray:
    """What `to_canvas` undoes: boxes (N, M, 4) in pixels of the canvas, in pixels of the images as they came."""
    return np.asarray(boxes / _factors(sizes, canvas))


def _factors(sizes: np.ndarray, canvas: tuple[int, int]) -> np.ndarray:
    """Of x, y, x, y for each image, (N, 1, 4): those of the rounded sides, which pixels have followed."""
    factors = laid_sizes(sizes, canvas) / np.asarray(sizes)
    return np.asarray(np.tile(factors[:, ::-1], 2)[:, None])


def lay(image: Image.Image, canvas: tuple[int, int]) -> np.ndarray:
    """An RGB image, reduced to fit (bicubic, antialiased), at the top left of a grey canvas: uint8 (H, W, 3)."""
    height, width = laid_sizes(np.array([[image.height, image.width]]), canvas)[0].tolist()
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    laid = np.full((*canvas, 3), GREY, dtype=np.uint8)
    laid[:height, :width] = np.asarray(image)
    return laid


def lay_map(labels: np.ndarray, canvas: tuple[int, int]) -> np.ndarray:
    """A label map uint8 (h, w) laid as its image is, by the label nearest to each pixel's centre; void elsewhere."""
    sides = laid_sizes(np.array([labels.shape]), canvas)[0]
    y, x = (((np.arange(new) + 0.5) * old / new).astype(np.int64) for new, old in zip(sides, labels.shape, strict=True))
    laid = np.full(canvas, VOID, dtype=np.uint8)
    laid[: sides[0], : sides[1]] = labels[np.ix_(y, x)]
    return laid


def clipped(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Boxes (M, 4) of an image of `size`; what reaches over an edge by up to one pixel is cut off.

    ValueError naming the first box that is not finite, has no area, or reaches further out; or if there are too many.
    """
    height, width = size
    edges = np.array([width, height, width, height], dtype=np.float64)
    if len(boxes) > MOST_BOXES:
        raise ValueError(f"it has {len(boxes):,} boxes; {MOST_BOXES:,} at most are read")
    kept = np.clip(boxes, 0, edges)
    finite = np.isfinite(boxes).all(axis=1)
    outside = np.any((boxes < -1) | (boxes > edges + 1), axis=1)
    # Relative to the image: what is narrower has no two edges in float32.
    empty = (kept[:, 2:] - kept[:, :2] <= 1e-6 * edges[:2]).any(axis=1) | (boxes[:, 2:] <= boxes[:, :2]).any(axis=1)
    for i in np.flatnonzero(~finite | outside | empty)[:1]:
        x1, y1, x2, y2 = boxes[i].tolist()
        beyond = x1 < x2 and y1 < y2 and outside[i]
        what = f"reaches outside the image of {width} x {height}" if beyond else "has no area"
        corners = f"({x1:g}, {y1:g}) to ({x2:g}, {y2:g})"
        raise ValueError(f"box {i + 1}, from {corners}, {what if finite[i] else 'is not finite'}")
    return np.asarray(kept)


def stated_size(width: float, height: float) -> tuple[int, int]:
    """Height and width as an annotation states them; ValueError if no image can be of that size."""
    if not all(1 <= side <= LONGEST_STATED and side == int(side) for side in (width, height)):
        raise ValueError(f"its annotation says {width:g} x {height:g} pixels, which no image has")
    return int(height), int(width)


def refused(path: Path, root: Path) -> str | None:
    """Why a file that a list or an annotation names is not to be opened, None if it is. `root` must be resolved."""
    try:
        if not path.resolve().is_relative_to(root):
            return "it lies outside the folder"
        return None if path.is_file() else "there is no such file"
    except (OSError, ValueError, RuntimeError):  # too long, a null byte, a link to itself
        return "no file can have that name"


def is_given(path: Path, root: Path) -> bool:
    """Whether a file that may be missing is there. InputError if it is not to be opened: what it says would be lost."""
    reason = refused(path, root)
    if reason and os.path.lexists(path):
        raise InputError(f"{path}: {reason}")
    return reason is None


def attempt(work: Callable[[A], B], items: Sequence[A], name: Callable[[A], str], skipped: Problems) -> dict[int, B]:
    """What `work` makes of each item, by its place, in parallel; where it raises ValueError, the reason is noted."""

    def one(item: A) -> B | ValueError:
        try:
            return work(item)
        except ValueError as e:
            return e

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:  # Pillow decodes outside the interpreter's lock
        done = list(pool.map(one, items))
    skipped += [(name(item), str(made)) for item, made in zip(items, done, strict=True) if isinstance(made, ValueError)]
    return {i: made for i, made in enumerate(done) if not isinstance(made, ValueError)}


def deal(given: Mapping[str, Sequence[Example]], draw: Draw) -> tuple[dict[str, list[Example]], list[str]]:
    """Train, val and test, and notes on how they came to be.

    `given` are two or three parts named train, val and test, or one of any name that all three are drawn from: 30 %
    test, 20 % val. Without a test, val is the test; without a val, it is a fifth of train. What `draw.n_val` leaves of
    val joins train. InputError if an example is in two parts, or more are asked for than there are.
    """
    parts, notes = {name: list(examples) for name, examples in given.items()}, []
    if len(parts) == 1:
        (every,) = parts.values()
        test, rest = _drawn(every, max(1, round(0.3 * len(every))), draw.split_seed, "n_test")
        parts = {"train": rest, "test": test}
        share, n_val = "a fifth of all", round(0.2 * len(every))
        notes.append("no splits are given: test is a draw of 30 % of all")
    else:
        if "test" not in parts:
            parts["test"] = parts.pop("val")
            notes.append("only train and val are given: that val is the test set here")
        if "train" not in parts:
            raise InputError("val and test are given but no train; add it")
        share, n_val = "a fifth of train", len(parts["train"]) // 5
    owner: dict[str, str] = {}
    for name, examples in parts.items():
        for example in examples:
            if owner.setdefault(example.id, name) != name:
                raise InputError(f"{example.id!r} is in both {owner[example.id]} and {name}; splits must not overlap")
    if "val" not in parts:
        n_val = max(1, n_val) if draw.n_val is None else draw.n_val
        parts["val"], parts["train"] = _drawn(parts["train"], n_val, draw.split_seed, "n_val")
        notes.append(f"val is a draw of {len(parts['val'])} from train" + (f", {share}" if draw.n_val is None else ""))
    elif draw.n_val is not None:
        parts["val"], rest = _drawn(parts["val"], draw.n_val, draw.split_seed, "n_val")
        parts["train"] += rest
        notes += [f"{len(rest)} examples of val that n_val={draw.n_val} leaves are in train"] if rest else []
    for name in ("train", "test"):
        n, seed = draw.of(name)
        if n is not None or not parts[name]:
            parts[name], _ = _drawn(parts[name], n or 1, seed, f"n_{name}")
    return parts, notes


def _drawn(examples: list[Example], n: int, seed: int, what: str) -> tuple[list[Example], list[Example]]:
    """`n` examples and the others, both in order; a smaller draw with the same seed is a part of a larger one."""
    if not 1 <= n <= len(examples):
        raise InputError(f"{what}={n} can't be drawn: there are {len(examples)} examples, and each split needs one")
    rows = np.sort(np.random.default_rng(seed).permutation(len(examples))[:n])
    return [examples[i] for i in rows], [examples[i] for i in without(len(examples), rows)]


def assemble(
    root: Path, kind: str, class_names: Sequence[str], given: Mapping[str, Sequence[Example]], draw: Draw,
    longest: int | None, skipped: Problems, notes: Sequence[str] = (), read: Callable[[Path], np.ndarray] | None = None,
) -> Task:  # fmt: skip
    """A `Task` from parts as `deal` takes them, all on one canvas; only examples that are drawn are decoded.

    `read` makes a label map uint8 (h, w) of its file, for segmentation. Images that can't be read, or are not of the
    size that their annotation says, are left out and listed in `Task.skipped`. InputError if a split has no other.
    """
    if draw.classes is not None:
        raise InputError(f"classes {draw.classes} can't be taken alone: the images of a {kind} task show several")
    for name, examples in given.items():
        if not examples:
            first = f"; the first left out, {': '.join(skipped[0])}" if skipped else ""
            raise InputError(f"{root} has no usable image in {name!r}{first}")
    least = 2 if kind == "segmentation" else 1
    if len(class_names) < least:
        raise InputError(
            f"{root} has {len(class_names)} classes ({', '.join(class_names)}); {least} at least are needed"
        )
    sizes = np.array([example.size for part in given.values() for example in part])
    canvas = canvas_of(sizes, longest or draw.side or LONGEST)  # of all there are: it is not to depend on the draw
    parts, dealt = deal(given, draw)
    splits = {name: _decoded(name, parts[name], canvas, read, skipped) for name in SPLITS}
    notes = [*notes, *dealt]
    absent = int((splits["train"].counts(len(class_names)) == 0).sum())
    if absent:
        notes.append(f"{absent} of {len(class_names)} classes are absent from train")
    void = [i for s in splits.values() if read for i, m in zip(s.ids, s.targets, strict=True) if (m == VOID).all()]
    if void:
        notes.append(f"{len(void)} label maps are void throughout and teach nothing: {', '.join(void[:5])}")
    return Task(
        root.name, kind, tuple(class_names), **splits, primary_metric=PRIMARY[kind], augment=("flip", "zoom"),
        notes=tuple(notes), skipped=tuple(skipped),
    )  # fmt: skip


def _decoded(
    name: str, examples: list[Example], canvas: tuple[int, int], read: Callable[[Path], np.ndarray] | None,
    skipped: Problems,
) -> Split:  # fmt: skip
    pixels = _room((len(examples), *canvas, 3))
    maps = _room((len(examples), *canvas)) if read else None

    def one(i: int) -> None:
        image, (height, width) = decode(examples[i].image), examples[i].size
        if (image.height, image.width) != (height, width):
            says = "annotation says" if read is None else "label map is"
            raise ValueError(f"its {says} {width} x {height}, the file is {image.width} x {image.height}")
        pixels[i] = lay(image, canvas)
        target = examples[i].target
        if read and maps is not None and isinstance(target, Path):
            maps[i] = lay_map(read(target), canvas)

    before = len(skipped)
    kept = list(attempt(one, range(len(examples)), lambda i: examples[i].id, skipped))
    if not kept:
        raise InputError(f"no example of {name!r} could be read; the first, {': '.join(skipped[before])}")
    for to, row in enumerate(kept):  # close the gaps in place
        if to != row:
            pixels[to] = pixels[row]
            if maps is not None:
                maps[to] = maps[row]
    sizes = np.array([examples[i].size for i in kept], dtype=np.int64)
    targets = _padded([examples[i].target for i in kept], sizes, canvas) if maps is None else maps[: len(kept)]
    ids = [examples[i].id for i in kept]
    return Split(name, torch.from_numpy(pixels[: len(kept)]), torch.from_numpy(targets), ids, torch.from_numpy(sizes))


def _padded(boxes: Sequence[Any], sizes: np.ndarray, canvas: tuple[int, int]) -> np.ndarray:
    """Boxes of each image as one array on the canvas, float32 (N, M, 7)."""
    targets = np.zeros((len(boxes), max(1, max(map(len, boxes))), 7))
    targets[..., 0] = -1
    for row, own in zip(targets, boxes, strict=True):
        row[: len(own)] = own
    targets[..., 1:5] = to_canvas(targets[..., 1:5], sizes, canvas)
    return targets.astype(np.float32)


def _room(shape: tuple[int, ...]) -> np.ndarray:
    """Bytes to be filled: in memory, or above `MEMORY_LIMIT` in a file that vanishes with the array."""
    if int(np.prod(shape)) <= MEMORY_LIMIT:
        return np.empty(shape, dtype=np.uint8)
    folder = cache_dir() / "images"
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as f:
        return np.memmap(f, dtype=np.uint8, mode="w+", shape=shape)
