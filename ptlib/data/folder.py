"""Any folder of images: classes as sub-folders, with train/val/test given or drawn."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from torch import Tensor

from ptlib.core import Task
from ptlib.data.draw import Draw, Pool, Problems, assemble
from ptlib.data.images import SUFFIXES, decode_all, files_key, storage_side
from ptlib.errors import InputError

SPLIT_NAMES = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val",
               "dev": "val", "test": "test", "testing": "test"}  # fmt: skip


def load_folder(root: str | os.PathLike[str], draw: Draw) -> Task:
    """A `Task` from `root/<class>/<image>` or `root/{train,val,test}/<class>/<image>`.

    Only the files that `draw` asks for are decoded. Those that can't be read, or are no images, or are links that
    leave the folder, are left out and listed with their reasons in `Task.skipped`.
    """
    root = Path(root)
    skipped: Problems = []
    folders = _given_splits(root) or {"all": root}
    names = _class_names(list(folders.values()), root)
    listed = {split: _list(folder, names, root, skipped) for split, folder in folders.items()}
    side = draw.side or storage_side(next(iter(listed.values()))[0])
    pools = {split: from_files(paths, labels, root, side) for split, (paths, labels) in listed.items()}
    return assemble(root.resolve().name, names, pools, draw, skipped=skipped)


def from_files(paths: list[Path], labels: np.ndarray, root: Path, side: int) -> Pool:
    """A pool over image files under `root`, kept as squares of `side` pixels."""
    ids = [p.relative_to(root).as_posix() for p in paths]

    def fetch(rows: np.ndarray) -> tuple[Tensor, np.ndarray, Problems]:
        chosen = [paths[i] for i in rows]
        pixels, kept, problems = decode_all(chosen, side, files_key(chosen, root, side))
        return pixels, kept, [(p.relative_to(root).as_posix(), reason) for p, reason in problems]

    return Pool(labels, ids, fetch)


def _given_splits(root: Path) -> dict[str, Path]:
    if not root.is_dir():
        raise InputError(f"{root} is no folder; give one with a sub-folder of images for each class")
    given: dict[str, Path] = {}
    for folder in _folders(root):
        split = SPLIT_NAMES.get(folder.name.lower())
        if split in given:
            raise InputError(f"{root} has both {given[split].name!r} and {folder.name!r}; keep one {split} folder")
        if split:
            given[split] = folder
    # A folder of classes may well have one that is called "test"; splits come at least in twos, with a train.
    return given if "train" in given and len(given) > 1 else {}


def _class_names(folders: list[Path], root: Path) -> tuple[str, ...]:
    per_folder = [{f.name for f in _folders(folder)} for folder in folders]
    names = tuple(sorted(per_folder[0]))
    for folder, found in zip(folders, per_folder, strict=True):
        if found != set(names):
            odd = sorted(found ^ set(names))
            raise InputError(f"{folder} and {folders[0]} differ in their classes: {', '.join(map(repr, odd[:5]))}")
    if len(names) < 2:
        raise InputError(
            f"{root} has {len(names)} class folders ({', '.join(names) or 'none'}); "
            "at least two are needed, each with its images inside"
        )
    return names


def _folders(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        return sorted(Path(e.path) for e in entries if e.is_dir(follow_symlinks=False) and not e.name.startswith("."))


def _list(folder: Path, names: tuple[str, ...], root: Path, skipped: Problems) -> tuple[list[Path], np.ndarray]:
    """Image paths of a folder of classes in a fixed order, and their labels (N,)."""
    paths, labels = [], []
    for label, name in enumerate(names):
        found = sorted(_files(folder / name))
        good = [p for p in found if p.suffix.lower() in SUFFIXES and _inside(p, root)]
        for p in found:
            if p.suffix.lower() not in SUFFIXES:
                skipped.append((str(p.relative_to(root)), "its name is not that of an image"))
            elif not _inside(p, root):
                skipped.append((str(p.relative_to(root)), "it is a link that leaves the folder"))
        if not good:
            raise InputError(f"class folder {folder / name} holds no image ({', '.join(SUFFIXES)}); fill or remove it")
        paths += good
        labels += [label] * len(good)
    return paths, np.array(labels, dtype=np.int64)


def _files(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        folders[:] = [f for f in folders if not f.startswith(".")]
        yield from (Path(parent, f) for f in files if not f.startswith("."))


def _inside(path: Path, root: Path) -> bool:
    return not path.is_symlink() or path.resolve().is_relative_to(root.resolve())
