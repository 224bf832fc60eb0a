"""Any folder of images: classes as sub-folders, with train/val/test given or drawn."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ptlib.core import Split, Task
from ptlib.data.draw import Draw, Pool, Problems, assemble, some
from ptlib.data.images import MEMORY_LIMIT, SUFFIXES, decode_all, files_key, storage_side
from ptlib.errors import InputError
from ptlib.texts import is_utf8, written

SPLIT_NAMES = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val",
               "dev": "val", "test": "test", "testing": "test"}  # fmt: skip


def load_folder(root: str | os.PathLike[str], draw: Draw) -> Task:
    """A `Task` from `root/<class>/<image>` or `root/{train,val,test}/<class>/<image>`.

    Only the files that `draw` asks for are decoded. Those that can't be read, or are no images, or are links that
    leave the folder, are left out and listed with their reasons in `Task.skipped`.
    """
    root = Path(root)
    skipped: Problems = []
    folders = _given_splits(root, skipped) or {"all": root}
    names = _class_names(list(folders.values()), root, skipped)
    listed = {split: _list(folder, names, root, skipped) for split, folder in folders.items()}
    side = draw.side or storage_side(next(iter(listed.values()))[0])
    pools = {split: from_files(paths, labels, root, side) for split, (paths, labels) in listed.items()}
    return assemble(root.resolve().name, names, pools, draw, skipped=skipped)


def read_classes(
    root: Path, n: int | None = None, seed: int = 0, in_memory: bool = False
) -> tuple[tuple[str, ...], Split]:
    """A folder of classes as one split, of `n` images drawn by `seed`; of its test part, or val, where it has splits.

    Files that can't be read are left out, with a warning; InputError if all are, or if what is to stay `in_memory` is
    too large for it.
    """
    skipped: Problems = []
    parts = _given_splits(root, skipped)
    folder = parts.get("test") or parts.get("val") or root
    names = _class_names([folder], root, skipped)
    paths, labels = _list(folder, names, root, skipped)
    rows, side = some(labels, n, seed), storage_side(paths)
    if in_memory and len(rows) * side * side * 3 > MEMORY_LIMIT:
        raise InputError(f"{len(rows):,} images of {side} pixels in {root} are too many at once; take fewer of them")
    pool = from_files(paths, labels, root, side)
    pixels, kept, problems = pool.fetch(rows)
    if len(kept) == 0:
        raise InputError(f"no image of {root} could be read; the first, {': '.join(problems[0])}")
    tell(root, skipped + problems)
    rows = rows[kept]
    return names, Split("test", pixels, torch.from_numpy(labels[rows]), [pool.ids[i] for i in rows])


def list_images(root: Path) -> list[Path]:
    """Every image file under a folder, in order; a warning tells of those that are not to be opened."""
    skipped: Problems = []
    files = sorted(path for path in _files(root, root, skipped) if path.suffix.lower() in SUFFIXES)
    reasons = {path: _refused(path, root) for path in files}
    tell(root, skipped + [(path.relative_to(root).as_posix(), why) for path, why in reasons.items() if why])
    return [path for path, why in reasons.items() if why is None]


def tell(root: Path, skipped: Problems) -> None:
    """Warn of files that are left out, where no task lists them."""
    if skipped:
        name, reason = map(written, skipped[0])
        warnings.warn(f"{len(skipped)} files of {root} are left out; the first, {name}: {reason}", stacklevel=3)


def from_files(paths: list[Path], labels: np.ndarray, root: Path, side: int) -> Pool:
    """A pool over image files under `root`, kept as squares of `side` pixels."""
    ids = [p.relative_to(root).as_posix() for p in paths]

    def fetch(rows: np.ndarray) -> tuple[Tensor, np.ndarray, Problems]:
        chosen = [paths[i] for i in rows]
        pixels, kept, problems = decode_all(chosen, side, files_key(chosen, root, side))
        return pixels, kept, [(p.relative_to(root).as_posix(), reason) for p, reason in problems]

    return Pool(labels, ids, fetch)


def _given_splits(root: Path, skipped: Problems) -> dict[str, Path]:
    """Folders by split; none if `root` is a folder of classes. A lone train folder is a pool to be split."""
    if not root.is_dir():
        raise InputError(f"{root} is no folder; give one with a sub-folder of images for each class")
    given: dict[str, Path] = {}
    others = []
    for folder in _folders(root, root, []):
        split = SPLIT_NAMES.get(folder.name.lower())
        if split in given:
            raise InputError(f"{root} has both {given[split].name!r} and {folder.name!r}; keep one {split} folder")
        if split:
            given[split] = folder
        else:
            others.append(folder)
    # A folder of classes may well have one that is called "test": splits come with a train, and classes inside.
    if "train" not in given or not _folders(given["train"], root, []):
        return {}
    if given.keys() == {"train"}:
        if others:
            return {}
        given = {"all": given["train"]}
    _folders(root, root, skipped)
    skipped += [(f.relative_to(root).as_posix(), "it is no split: train, val and test are") for f in others]
    return given


def _class_names(folders: list[Path], root: Path, skipped: Problems) -> tuple[str, ...]:
    per_folder = [{f.name for f in _folders(folder, root, skipped)} for folder in folders]
    names = tuple(sorted(per_folder[0]))
    for name in names:
        if not is_utf8(name):
            raise InputError(f"class folder {name!r} of {root} has a name that is not UTF-8; rename it")
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


def _folders(folder: Path, root: Path, skipped: Problems) -> list[Path]:
    """Sub-folders in order of name; what else lies there is noted in `skipped`, hidden entries excepted."""
    found = []
    for path in sorted(p for p in folder.iterdir() if not p.name.startswith(".")):
        if path.is_dir() and not path.is_symlink():
            found.append(path)
        elif path.is_dir() or path.suffix.lower() in SUFFIXES:
            what = "it is a link to a folder" if path.is_dir() else "it lies outside the class folders"
            skipped.append((path.relative_to(root).as_posix(), what))
    return found


def _list(folder: Path, names: tuple[str, ...], root: Path, skipped: Problems) -> tuple[list[Path], np.ndarray]:
    """Image paths of a folder of classes in a fixed order, and their labels (N,)."""
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        before = len(paths)
        for path in sorted(_files(folder / name, root, skipped)):
            reason = _refused(path, root)
            if reason:
                skipped.append((path.relative_to(root).as_posix(), reason))
            else:
                paths.append(path)
                labels.append(label)
        if len(paths) == before:
            raise InputError(f"class folder {folder / name} holds no image ({', '.join(SUFFIXES)}); fill or remove it")
    return paths, np.array(labels, dtype=np.int64)


def _files(folder: Path, root: Path, skipped: Problems) -> Iterator[Path]:
    def unreadable(e: OSError) -> None:
        skipped.append((Path(e.filename).relative_to(root).as_posix(), f"it can't be listed: {e.strerror}"))

    for parent, folders, files in os.walk(folder, onerror=unreadable):
        folders.sort()  # in whatever order the directory lists them
        for name in [f for f in folders if Path(parent, f).is_symlink()]:
            skipped.append((Path(parent, name).relative_to(root).as_posix(), "it is a link to a folder"))
        folders[:] = [f for f in folders if not f.startswith(".")]
        yield from (Path(parent, f) for f in files if not f.startswith("."))


def _refused(path: Path, root: Path) -> str | None:
    """Why a file is not to be opened, None if it is."""
    if path.suffix.lower() not in SUFFIXES:
        return "its name is not that of an image"
    try:
        if path.is_symlink() and not path.resolve().is_relative_to(root.resolve()):
            return "it is a link that leaves the folder"
    except (OSError, RuntimeError):
        return "it is a link to itself"
    if not is_utf8(path.relative_to(root).as_posix()):
        return "its name is not UTF-8; rename it"
    return None if path.is_file() else "it is no regular file"
