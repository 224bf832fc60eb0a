"""Images composed of real digits and photographs, with boxes and label maps: no network, no folder."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import affine_transform, find_objects, zoom

from ptlib.core import Split, Task
from ptlib.data.draw import SPLITS, Draw, stratified, three_way, without
from ptlib.data.embedded import photo_blocks, photo_files, read_digits
from ptlib.errors import InputError

SIZES = {"train": 200, "val": 60, "test": 150}
MOST_DIGITS = 6
MOST_OVERLAP = 0.2  # IoU of two boxes, and share of a digit's ink that others may cover, where any do
LUMINANCE = np.array([0.299, 0.587, 0.114])  # of R, G and B (ITU-R BT.601)
Composed = tuple[np.ndarray, np.ndarray]  # pixels uint8 (S, S, 3), and their target
Compose = Callable[[str, np.random.Generator], Composed]  # an image of a split


def load_scenes(draw: Draw, kind: str, plain: bool) -> Task:
    """Where are which digits? 1 to 6 of scikit-learn's on 96 x 96 (`draw.side`) pixels, each in a colour of its own.

    `kind` is "detection" for boxes, or "segmentation" for label maps, whose class 0 is the background; the images are
    the same. Plain scenes have an even or shaded ground and strong contrast, and no two digits touch. The others lie on
    windows of photographs in weaker contrast; digits overlap a little, are turned by up to 15 degrees and stretched,
    and the light is uneven. A digit's mask is what is seen of its ink, its box the tightest around that.

    `split_seed` deals digits and blocks of photographs to train, val and test, and draws the scenes of val and test;
    `seed` draws those of train. Plain scenes and the others share no digit image, whatever the seeds.
    """
    if kind not in ("detection", "segmentation"):
        raise InputError(f"kind is {kind!r}; scenes are for 'detection' or 'segmentation'")
    side = _side(draw, 48, 256)
    name, chosen = draw.choose("scenes-plain" if plain else "scenes", "0123456789")
    pixels, labels = read_digits()
    dealt = deal_digits(labels, plain, draw.split_seed)
    digits = {split: [pixels[rows[labels[rows] == c]] for c in chosen] for split, rows in dealt.items()}
    blocks = None if plain else photo_blocks(48, draw.split_seed, range(len(photo_files())))

    def compose(split: str, rng: np.random.Generator) -> Composed:
        ground = _shades(side, rng) if blocks is None else _window(blocks[split], side, rng)
        image, owner, classes = _scene(ground, digits[split], plain, rng)
        if kind == "detection":
            return image, _boxes(owner, classes)
        return image, np.array([0, *(c + 1 for c in classes)], dtype=np.uint8)[owner]

    names = tuple(str(c) for c in chosen)
    class_names, metric = (names, "ap") if kind == "detection" else (("background", *names), "mean_iou")
    notes = (
        f"scenes of {side} x {side} pixels composed of scikit-learn's digits; train, val and test share no digit image"
        + ("" if plain else " and no pixel of a photograph"),
        f"none of the digit images is in {'scenes' if plain else 'scenes-plain'}",
    )
    # A mirrored 2 is no 2.
    return Task(name, kind, class_names, *_splits(name, draw, compose), metric, augment=("zoom",), notes=notes)


def load_mosaics(draw: Draw) -> Task:
    """Which of 18 photographs is each pixel from? 3 to 6 regions on 96 x 96 (`draw.side`) pixels, 32 to 96.

    Regions are Voronoi cells, with straight borders in half of the mosaics and wavy ones in the others. Each shows a
    photograph at its own scale, no photograph twice where there are enough. `split_seed` deals blocks of photographs to
    train, val and test, which share no pixel, and draws val and test; `seed` draws train. By default 200, 60 and 150.
    """
    side = _side(draw, 32, 96)
    files = list(photo_files())
    name, chosen = draw.choose("mosaics", files)
    blocks = photo_blocks(-(-side // 2), draw.split_seed, chosen)

    def compose(split: str, rng: np.random.Generator) -> Composed:
        return _mosaic(side, blocks[split], rng)

    names = tuple(files[i] for i in chosen)
    notes = (f"mosaics of {len(names)} photographs, {side} x {side} pixels; train, val and test share none of theirs",)
    splits = _splits(name, draw, compose)
    return Task(name, "segmentation", names, *splits, "mean_iou", augment=("flip", "zoom"), notes=notes)


def deal_digits(labels: np.ndarray, plain: bool, split_seed: int) -> dict[str, np.ndarray]:
    """Rows of the digits for train, val and test: 50, 20 and 30 % of one half of each class, plain scenes' or others'.

    The halves are always the same, so that no digit of plain scenes is among the others under another seed.
    """
    half = stratified(labels, len(labels) // 2, 0)
    rows = half if plain else without(len(labels), half)
    return {
        name: rows[part] for name, part in zip(SPLITS, three_way(labels[rows], (0.2, 0.3), split_seed), strict=True)
    }


def _splits(name: str, draw: Draw, compose: Compose) -> tuple[Split, Split, Split]:
    """Train, val and test; each image has a generator of its own, so that fewer images are the first of more."""
    splits = []
    for i, (split, default) in enumerate(SIZES.items()):
        n, seed = draw.of(split)
        drawn = [compose(split, np.random.default_rng([seed, i, k])) for k in range(default if n is None else n)]
        images, targets = (torch.from_numpy(np.stack(part)) for part in zip(*drawn, strict=True))
        splits.append(Split(split, images, targets, [f"{name}-{split}/{k}" for k in range(len(images))]))
    train, val, test = splits
    return train, val, test


def _side(draw: Draw, low: int, high: int) -> int:
    side = draw.side or 96
    if not low <= side <= high:
        raise InputError(f"side is {side}; these images can be had at {low} to {high} pixels")
    return side


def _scene(
    ground: np.ndarray, digits: list[np.ndarray], plain: bool, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Digits on a ground (S, S, 3) of 0..1: pixels uint8, whose ink each shows (0 none, 1 the first), and classes."""
    image, side = ground.copy(), len(ground)
    owner = np.zeros((side, side), dtype=np.int64)
    classes: list[int] = []
    boxes, inks = np.empty((0, 4), dtype=np.int64), np.empty(0, dtype=np.int64)  # before others cover any
    for _ in range(rng.integers(1, MOST_DIGITS + 1)):
        c = int(rng.integers(len(digits)))
        turn, stretch = (0.0, 1.0) if plain else (rng.uniform(-15, 15), rng.uniform(0.85, 1.15))
        size = rng.uniform(max(12, side / 8), side * 5 / 12)
        opacity = _glyph(digits[c][rng.integers(len(digits[c]))], size, math.radians(turn), stretch)
        ink = opacity >= 0.5
        place = _place(ink, owner, boxes, inks, plain, rng)
        if place is None:
            continue
        window, box = place
        colour = _colour(image[window] @ LUMINANCE, owner[window], plain, rng)
        image[window] += opacity[..., None] * (colour - image[window])
        classes.append(c)
        owner[window][ink] = len(classes)
        boxes, inks = np.vstack([boxes, box]), np.append(inks, ink.sum())
    if not plain:
        image *= _ramp(side, rng, rng.uniform(0.6, 1.0), rng.uniform(0.9, 1.3))[..., None]
    image += rng.normal(0, 0.01 if plain else 0.03, image.shape)
    return np.round(np.clip(image, 0, 1) * 255).astype(np.uint8), owner, classes


def _place(
    ink: np.ndarray, owner: np.ndarray, boxes: np.ndarray, inks: np.ndarray, plain: bool, rng: np.random.Generator
) -> tuple[tuple[slice, slice], np.ndarray] | None:
    """A window for ink (h, w) and the box y1, x1, y2, x2 that it then fills; None if 20 tries find no room."""
    inside = np.argwhere(ink)
    low, high = inside.min(0), inside.max(0) + 1
    gap, most = (2, 0.0) if plain else (0, MOST_OVERLAP)
    shown = np.bincount(owner.ravel(), minlength=len(inks) + 1)[1:]
    for corner in rng.integers(0, np.subtract(owner.shape, ink.shape) + 1, (20, 2)):
        window = slice(corner[0], corner[0] + ink.shape[0]), slice(corner[1], corner[1] + ink.shape[1])
        left = shown - np.bincount(owner[window][ink], minlength=len(inks) + 1)[1:]
        apart = _iou(np.concatenate([corner + low - gap, corner + high + gap]), boxes) <= most
        if apart.all() and (left >= (1 - MOST_OVERLAP) * inks).all():
            return window, np.concatenate([corner + low, corner + high])
    return None


def _glyph(digit: np.ndarray, size: float, turn: float, stretch: float) -> np.ndarray:
    """Opacity of a digit, (8, 8), enlarged to `size` pixels and turned by radians: 0..1, 0.5 at the edge of its ink."""
    cos, sin = math.cos(turn), math.sin(turn)
    matrix = np.array([[cos, sin], [-sin, cos]]) * (8 / size) / [[stretch], [1 / stretch]]
    n = math.ceil(1.5 * size)  # holds the corners when turned
    offset = 3.5 - matrix.sum(1) * (n - 1) / 2
    value = affine_transform(digit / digit.max(), matrix, offset, (n, n), order=3, mode="grid-constant")
    opacity = np.clip((value - 0.45) * (size / 8) + 0.5, 0, 1)
    rows, columns = np.flatnonzero(opacity.any(1)), np.flatnonzero(opacity.any(0))
    return np.asarray(opacity[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])


def _colour(luminance: np.ndarray, owner: np.ndarray, plain: bool, rng: np.random.Generator) -> np.ndarray:
    """A colour that stands out from the ground and each digit in a window (h, w) of luminances.

    The first at random whose own differs enough from their means, in 0..1; if none of 30 does, the one that comes
    nearest, black and white included.
    """
    colours = np.vstack([rng.random((30, 3)), np.zeros(3), np.ones(3)])
    seen = [luminance[owner == k] for k in np.unique(owner)]
    excess = np.stack([np.abs(colours @ LUMINANCE - each.mean()) - each.std() for each in seen]).min(0)
    enough = excess >= (0.4 if plain else 0.2)
    return np.asarray(colours[enough.argmax() if enough.any() else excess.argmax()])


def _shades(side: int, rng: np.random.Generator) -> np.ndarray:
    """A dark or a light ground, half of them shading into another colour: (S, S, 3) of 0..1."""
    first = (rng.random(3) + rng.integers(2)) / 2
    second = np.clip(first + rng.uniform(-0.2, 0.2, 3), 0, 1) if rng.random() < 0.5 else first
    return first + _ramp(side, rng, 0, 1)[..., None] * (second - first)


def _window(blocks: list[np.ndarray], side: int, rng: np.random.Generator) -> np.ndarray:
    """A window of a block (96, 96) of a photograph, two thirds of it or more, resized: (S, S, 3) of 0..1."""
    photo = blocks[rng.integers(len(blocks))]
    block = photo[rng.integers(len(photo))]
    size = int(rng.integers(64, 97))
    y, x = rng.integers(0, len(block) - size + 1, 2)
    image = Image.fromarray(block[y : y + size, x : x + size]).resize((side, side), Image.Resampling.BILINEAR)
    return np.asarray(image, dtype=np.float64) / 255


def _ramp(side: int, rng: np.random.Generator, low: float, high: float) -> np.ndarray:
    """Values that rise evenly from `low` to `high` in some direction, (S, S)."""
    angle = rng.uniform(0, 2 * math.pi)
    place = np.arange(side) / (side - 1) - 0.5
    along = (math.sin(angle) * place[:, None] + math.cos(angle) * place) / (abs(math.sin(angle)) + abs(math.cos(angle)))
    return low + (along + 0.5) * (high - low)


def _iou(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Intersection over union of a box y1, x1, y2, x2 with each of (K, 4)."""
    shared = np.clip(np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2]), 0, None).prod(1)
    return np.asarray(shared / ((box[2:] - box[:2]).prod() + (boxes[:, 2:] - boxes[:, :2]).prod(1) - shared))


def _boxes(owner: np.ndarray, classes: list[int]) -> np.ndarray:
    """Rows of class, x1, y1, x2, y2, 0 and pixels of ink, float32 (6, 7); class -1 where there is no digit."""
    rows = np.zeros((MOST_DIGITS, 7), dtype=np.float32)
    rows[:, 0] = -1
    pixels = np.bincount(owner.ravel())
    for k, (y, x) in enumerate(find_objects(owner)):
        rows[k] = classes[k], x.start, y.start, x.stop, y.stop, 0, pixels[k + 1]
    return rows


def _mosaic(side: int, blocks: list[np.ndarray], rng: np.random.Generator) -> Composed:
    """Pixels (S, S, 3) and the photograph of each, uint8 (S, S): cells round points in some squares of a 3 x 3 grid."""
    n = int(rng.integers(3, 7))
    points = (np.stack(np.divmod(rng.permutation(9)[:n], 3)) + rng.uniform(0.2, 0.8, (2, n))) * (side / 3)
    place = np.mgrid[:side, :side].astype(np.float64)
    if rng.random() < 0.5:
        waves = rng.normal(0, side / 32, (2, 6, 6))
        place += zoom(waves, (1, side / 6, side / 6), order=3, mode="nearest", grid_mode=True)
    cells = ((place[..., None] - points[:, None, None]) ** 2).sum(0).argmin(-1)
    photos = rng.choice(len(blocks), n, replace=n > len(blocks))
    image = np.empty((side, side, 3), dtype=np.uint8)
    for k, found in enumerate(find_objects(cells + 1)):
        height, width = (s.stop - s.start for s in found)
        block = blocks[photos[k]][rng.integers(len(blocks[photos[k]]))]
        y, x = rng.integers(0, (len(block) - height + 1, len(block) - width + 1))
        part = cells[found] == k
        image[found][part] = block[y : y + height, x : x + width][part]
    return image, photos[cells].astype(np.uint8)
