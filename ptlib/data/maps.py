"""Folders of images and label maps: CamVid's layout, and those with images/ beside labels/, masks/ or annotations/."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from ptlib.arrays import VOID
from ptlib.core import Task
from ptlib.data.canvas import Example, assemble, attempt, is_given, refused
from ptlib.data.draw import Draw, Problems
from ptlib.data.folder import SPLIT_NAMES
from ptlib.data.images import MOST_PIXELS, SUFFIXES, has_frames
from ptlib.errors import InputError

FORMATS = ("PNG", "TIFF", "BMP", "GIF", "PPM")  # JPEG and WebP change class ids
MAPS = ("labels", "masks", "annotations")
SPREAD = {"L;2": 85, "L;4": 17}  # what Pillow multiplies grey values of 2 and 4 bits by


def load_maps(
    root: Path, draw: Draw, longest: int | None = None, *, void: int | None = None,
    class_names: Sequence[str] | None = None,
) -> Task:  # fmt: skip
    """A segmentation `Task` from `train` beside `trainannot`, or `images` beside `labels`, `masks` or `annotations`.

    The latter two lie in `train`, or hold it; without splits, these are drawn. A map has one channel of class ids and
    the name of its image, suffix aside. 255 is void, and so is the id `void`; the other ids, in order, are the classes.
    `class_names` or the lines of `classes.txt` name the ids from 0 on, and ids beyond are void; else ids are the names.
    Pairs that are incomplete, differ in size or can't be read are left out and listed in `Task.skipped`.
    """
    root, skipped = root.expanduser().resolve(), list[tuple[str, str]]()
    if void is not None and not 0 <= void <= VOID:
        raise InputError(f"void is {void}; it must be a class id, 0 to {VOID}")
    given = {name: _pairs(*folders, root, skipped) for name, folders in _layout(root).items()}
    names = _names(root, class_names, [example for part in given.values() for example in part], void)
    ids = [i for i in range(len(names)) if i != void]
    classes = np.full(256, VOID, dtype=np.uint8)
    classes[ids] = np.arange(len(ids))
    beyond: set[int] = set()

    def read(path: Path) -> np.ndarray:
        labels = read_map(path)
        beyond.update(_ids(labels) - {*range(len(names)), void, VOID})
        return np.asarray(classes[labels])

    task = assemble(root, "segmentation", [names[i] for i in ids], given, draw, longest, skipped, read=read)
    if beyond:
        note = f"ids {', '.join(map(str, sorted(beyond)))} lie beyond the {len(names)} classes named; they are void"
        task = replace(task, notes=(*task.notes, note))
    return task


def read_map(path: Path) -> np.ndarray:
    """Class ids of a file of one channel, of palette indices where it has a palette: uint8 (h, w).

    ValueError for a file that can't be read, has colours instead of ids, or ids above 255.
    """
    with _opened(path) as image:
        if image.mode not in ("1", "L", "P", "I", "I;16", "I;16B", "I;16L"):
            raise ValueError(
                f"its label map has colours (mode {image.mode}); save class ids as one channel, or as a palette image"
            )
        packed = getattr(image, "tile", None) or [("", (), 0, "")]
        raw = packed[0][3] if isinstance(packed[0][3], str) else packed[0][3][0]
        values = np.asarray(image)
    if values.min(initial=0) < 0 or values.max(initial=0) > VOID:
        raise ValueError(f"its label map has ids from {values.min()} to {values.max()}; they must lie in 0..{VOID}")
    return values.astype(np.uint8) // np.uint8(SPREAD.get(raw, 1))


def map_size(path: Path) -> tuple[int, int]:
    """Height and width of a label map; ValueError if it can't be read."""
    with _opened(path) as image:
        return image.height, image.width


def by_stem(folder: Path, skipped: Problems) -> dict[str, Path]:
    """Images of a folder by their names without suffix, in order; of two alike the first. Others are `skipped`."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name.startswith("."):
            continue
        is_image = path.suffix.lower() in SUFFIXES
        first = found.setdefault(path.stem, path) if is_image else path
        if not is_image or first != path:
            reason = f"{first.name} has the same name" if is_image else "its name is not that of an image"
            skipped.append((f"{folder.name}/{path.name}", reason))
    return found


def read_names(path: Path) -> list[str]:
    """Class names from a file, one a line; InputError if one is there twice."""
    lines = (line.strip() for line in path.read_text(encoding="utf-8-sig", errors="replace").splitlines())
    names = [line for line in lines if line]
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise InputError(f"{path} names class {twice[0]!r} twice; each line must be another class")
    return names


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:
                raise ValueError(f"its label map claims more than {MOST_PIXELS:,} pixels")
            if has_frames(image):
                raise ValueError("its label map has several frames; save the one that counts")
            yield image
    except ValueError:
        raise
    except Exception as e:  # decoders fail on damaged files in as many ways as there are formats
        formats = f"; formats are {', '.join(FORMATS)}, since others change class ids"
        raise ValueError(f"its label map can't be read: {type(e).__name__}: {e}{formats}") from None


def _layout(root: Path) -> dict[str, tuple[Path, Path]]:
    """The folder of images and that of label maps of each split."""
    if not root.is_dir():
        raise InputError(f"{root} is no folder; give one with train and trainannot, or images and labels, inside")
    found: dict[str, tuple[Path, Path]] = {}
    images, maps = root / "images", _maps_in(root)
    inner = images if maps else root
    for folder in sorted(path for path in inner.iterdir() if path.is_dir()) if inner.is_dir() else ():
        split, beside, inside = SPLIT_NAMES.get(folder.name.lower()), root / f"{folder.name}annot", _maps_in(folder)
        if split is None:
            continue
        pair = (folder, maps / folder.name) if maps else (folder, beside) if beside.is_dir() else None
        pair = (folder / "images", inside) if pair is None and inside else pair
        if pair and split in found:
            raise InputError(f"{root} has both {found[split][0].name!r} and {folder.name!r}; keep one {split} folder")
        if pair:
            found[split] = pair
    if not found and maps and images.is_dir():
        found["all"] = images, maps
    if not found:
        raise InputError(
            f"{root} has no label maps where they are looked for: trainannot beside train, or labels, masks or "
            "annotations beside images"
        )
    return found


def _maps_in(folder: Path) -> Path | None:
    return next((folder / name for name in MAPS if (folder / name).is_dir()), None)


def _pairs(images: Path, maps: Path, root: Path, skipped: Problems) -> list[Example]:
    """Images with their label maps, in order of name."""
    pictures, labels = by_stem(images, skipped), by_stem(maps, skipped)
    stems = sorted(pictures.keys() | labels.keys())

    def named(stem: str) -> str:
        return pictures.get(stem, labels.get(stem, root)).relative_to(root).as_posix()

    def pair(stem: str) -> Example:
        if stem not in pictures or stem not in labels:
            has, folder = ("image", images) if stem in labels else ("label map", maps)
            raise ValueError(f"it has no {has} in {folder.relative_to(root).as_posix()}")
        for path in (pictures[stem], labels[stem]):
            reason = refused(path, root)
            if reason:
                raise ValueError(f"{path.relative_to(root).as_posix()}: {reason}")
        return Example(named(stem), pictures[stem], map_size(labels[stem]), labels[stem])

    return list(attempt(pair, stems, named, skipped).values())


def _names(root: Path, given: Sequence[str] | None, examples: Sequence[Example], void: int | None) -> Sequence[str]:
    """Names of the ids 0, 1, ...: given, from classes.txt, or numbers up to the highest id that any map has."""
    listed = root / "classes.txt"
    names = given if given is not None else read_names(listed) if is_given(listed, root) else None
    if names is None:
        maps = [example.target for example in examples if isinstance(example.target, Path)]
        seen = attempt(lambda path: _ids(read_map(path)), maps, str, [])
        names = [str(i) for i in range(max(set().union(*seen.values()) - {void, VOID}, default=-1) + 1)]
    if len(names) > VOID:
        raise InputError(f"{root} has {len(names)} classes; label maps of 8 bits hold {VOID} and void")
    return names


def _ids(labels: np.ndarray) -> set[int]:
    return set(np.flatnonzero(np.bincount(labels.ravel())).tolist())
