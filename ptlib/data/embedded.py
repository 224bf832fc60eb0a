"""Real data inside the wheels of scikit-image and scikit-learn: no network, no folder."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ptlib.core import Split, Task
from ptlib.data.draw import SPLITS, Draw, assemble, from_array, stratified, three_way
from ptlib.data.images import decode
from ptlib.errors import InputError

PHOTOS = {
    "skimage/data": (
        "astronaut.png", "brick.png", "camera.png", "cell.png", "chelsea.png", "coffee.png", "coins.png", "grass.png",
        "gravel.png", "hubble_deep_field.jpg", "ihc.png", "moon.png", "motorcycle_left.png", "page.png", "retina.jpg",
        "rocket.jpg",
    ),
    "sklearn/datasets/images": ("china.jpg", "flower.jpg"),
}  # fmt: skip
TEST_PER_CLASS, VAL_PER_CLASS = 40, 12


def load_photos(draw: Draw, grey: bool = False) -> Task:
    """From which of 18 photographs does a patch of 32 (`draw.side`) pixels come? 20 train patches a class by default.

    Each photograph is cut into blocks of 2 x 2 patches; half of the blocks are for train, 20 % for val, 30 % for test,
    dealt by `split_seed`. So no patch shares a pixel with one of another split. Patches of one split don't overlap
    either, but where more are asked for train than its blocks hold: the others then lie anywhere inside them. At most
    12 val and 40 test patches are taken from a photograph. `grey` drops the colours, which give many of these
    photographs away.
    """
    side = draw.side or 32
    files = photo_files()
    task_name, chosen = draw.choose("photos-grey" if grey else "photos", list(files))
    names = tuple(list(files)[i] for i in chosen)
    asked = 20 * len(names) if draw.n_train is None else draw.n_train
    caps = {"train": -(-asked // len(names)), "val": VAL_PER_CLASS, "test": TEST_PER_CLASS}
    pools: dict[str, tuple[list[np.ndarray], list[int], list[str]]] = {name: ([], [], []) for name in caps}
    overlap = False
    for label, which in enumerate(chosen):
        image = decode(files[names[label]])
        photo = np.asarray(image.convert("L").convert("RGB") if grey else image)
        for name, blocks in _deal(photo.shape[0], photo.shape[1], side, (draw.split_seed, which)).items():
            rng = np.random.default_rng([draw.of(name)[1], which])
            corners = [(y + dy, x + dx) for y, x in blocks for dy, dx in ((0, 0), (0, side), (side, 0), (side, side))]
            corners = [corners[i] for i in sorted(rng.permutation(len(corners))[: caps[name]])]
            if name == "train" and len(corners) < caps[name]:
                overlap = True
                corners += _anywhere(blocks, side, caps[name] - len(corners), rng)
            patches, labels, ids = pools[name]
            for y, x in corners:
                patches.append(photo[y : y + side, x : x + side])
                labels.append(label)
                ids.append(f"{names[label]}/{y}-{x}")
    splits = {}
    for name, (patches, labels, ids) in pools.items():
        if len(set(labels)) < len(names):
            raise InputError(f"the smallest photographs yield no {name} patches of {side} pixels; take 48 or fewer")
        split = Split(name, torch.from_numpy(np.stack(patches)), torch.tensor(labels), ids)
        n, seed = draw.of(name)
        if n is not None and not (name == "train" and n >= len(split)):  # the smallest photographs may have no more
            split = split.take(stratified(np.array(labels), n, seed, f"n_{name}"))
        splits[name] = split
    share = "no train patch shares a pixel with one of val or test" if overlap else "no two share a pixel"
    notes = [f"{side} x {side} patches of {len(names)} photographs; {share}"]
    if len(splits["train"]) < asked:
        notes.append(f"{asked} train patches were asked for; the photographs yield {len(splits['train'])}")
    train, val, test = (splits[name] for name in SPLITS)
    return Task(task_name, "image_classification", names, train, val, test, notes=tuple(notes))


def photo_files() -> dict[str, Path]:
    """The files of the 18 photographs by name, in order of their names."""
    files = [_package_file(folder, f) for folder, names in PHOTOS.items() for f in names]
    return {_stem(f): f for f in sorted(files, key=_stem)}


def photo_blocks(side: int, split_seed: int, chosen: range) -> dict[str, list[np.ndarray]]:
    """Blocks of the chosen photographs, dealt to the splits as in `load_photos`: no two share a pixel.

    For each split and photograph uint8 (B, 2 side, 2 side, 3); the smallest photograph has some up to side 48.
    """
    files = photo_files()
    dealt: dict[str, list[np.ndarray]] = {name: [] for name in SPLITS}
    for which in chosen:
        photo = np.asarray(decode(list(files.values())[which]))
        for name, corners in _deal(photo.shape[0], photo.shape[1], side, (split_seed, which)).items():
            dealt[name].append(np.stack([photo[y : y + 2 * side, x : x + 2 * side] for y, x in corners]))
    return dealt


def _deal(height: int, width: int, side: int, key: tuple[int, int]) -> dict[str, list[tuple[int, int]]]:
    """Corners (y, x) of the blocks of each split: blocks of 2 x 2 patches are dealt, not patches."""
    blocks = [
        (y, x) for y in range(0, height - 2 * side + 1, 2 * side) for x in range(0, width - 2 * side + 1, 2 * side)
    ]
    order = np.random.default_rng(key).permutation(len(blocks))
    ends = [round(0.5 * len(blocks)), round(0.7 * len(blocks))]
    return {name: [blocks[b] for b in part] for name, part in zip(SPLITS, np.split(order, ends), strict=True)}


def _anywhere(blocks: list[tuple[int, int]], side: int, n: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Corners of up to n further patches inside the blocks, no two the same and none on the blocks' own grid."""
    inside = [(dy, dx) for dy in range(side + 1) for dx in range(side + 1) if dy % side or dx % side]
    drawn = rng.permutation(len(blocks) * len(inside))[:n]
    return [(blocks[i // len(inside)][0] + inside[i % len(inside)][0],
             blocks[i // len(inside)][1] + inside[i % len(inside)][1]) for i in drawn]  # fmt: skip


def load_digits(draw: Draw) -> Task:
    """scikit-learn's 1,797 handwritten digits, 8 x 8: the case where pretraining on photographs buys nothing.

    800 are for the test, 297 for val, 700 for train (30 of a class by default).
    """
    if draw.side not in (None, 8):
        raise InputError(f"digits are 8 x 8 pixels; side={draw.side} can't be had (image_size resizes them)")
    pixels, labels = read_digits()
    rows = three_way(labels, (297 / 1797, 800 / 1797), draw.split_seed)
    pools = {name: from_array(pixels[r], labels[r], f"digits-{name}") for name, r in zip(SPLITS, rows, strict=True)}
    classes = len(draw.choose("digits", "0123456789")[1])
    draw = replace(draw, n_train=30 * classes if draw.n_train is None else draw.n_train)
    return assemble("digits", tuple("0123456789"), pools, draw, augment=("crop",))  # a mirrored 2 is no 2


def read_digits() -> tuple[np.ndarray, np.ndarray]:
    """Pixels, uint8 (1797, 8, 8), and classes, int64 (1797,), of scikit-learn's digits."""
    table = np.loadtxt(_package_file("sklearn/datasets/data", "digits.csv.gz"), delimiter=",")  # (1797, 65)
    pixels = np.round(table[:, :64] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)
    return pixels, table[:, 64].astype(np.int64)


def _package_file(folder: str, name: str) -> Path:
    """A data file of an installed package, found without importing the package."""
    package, _, inside = folder.partition("/")
    spec = importlib.util.find_spec(package)
    path = Path(spec.submodule_search_locations[0], inside, name) if spec and spec.submodule_search_locations else None
    if path is None or not path.is_file():
        raise InputError(f"{folder}/{name} is missing; install scikit-image and scikit-learn as constraints.txt says")
    return path


def _stem(path: Path) -> str:
    return path.stem.removesuffix("_left").removesuffix("_deep_field")
