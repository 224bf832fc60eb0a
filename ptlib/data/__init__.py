"""`load_task`: data of any source as a `Task` with train, val and test that share no example."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ptlib.core import Task
from ptlib.data.draw import Draw
from ptlib.data.duplicates import Duplicates, find_duplicates
from ptlib.errors import InputError, did_you_mean

__all__ = ["Duplicates", "find_duplicates", "list_tasks", "load_task"]

EMBEDDED = ("photos", "photos-grey", "digits")
# Of the other kinds, what there is by name; a folder's format says the rest.
PLACES = {
    "detection": ("scenes", "scenes-plain", "voc2007", "voc2012"),
    "segmentation": ("scenes", "scenes-plain", "mosaics", "voc2007", "voc2012"),
}
TEXTS = ("bbc-news",)
KINDS = ("image_classification", "text_classification", *PLACES)
CLASSES = re.compile(r"(.+)\[(-?\d+)?:(-?\d+)?(?::([1-9]\d*)?)?\]")  # photos[:9]


def list_tasks() -> dict[str, str]:
    """Names `load_task` knows, in brackets those of another `kind`, and what each needs."""
    from ptlib.data.published import TORCHVISION

    sizes = {name: sum(mb for _, mb, _ in known.files) for name, known in TORCHVISION.items()}
    return {
        **dict.fromkeys(EMBEDDED, "embedded, offline"),
        **{name: f"torchvision, {size:,.0f} MB" for name, size in sizes.items()},
        "hf:<name>": "Hugging Face hub, extra hf",
        "<folder>": "sub-folders of images, one a class",
        **{f"{name} ({kind})": "torchvision, 1 to 2 GB" if name.startswith("voc") else "embedded, offline"
           for kind, names in PLACES.items() for name in names},
        "<folder> (detection)": "in PASCAL VOC's or COCO's format",
        "<folder> (segmentation)": "images beside label maps",
        **{f"{name} (text_classification)": "embedded, offline" for name in TEXTS},
        "hf:<name> (text_classification)": "Hugging Face hub, extra hf",
        "<file> (text_classification)": "a row a text: TSV, CSV, JSONL, Parquet; or a folder with one of train",
    }  # fmt: skip


def load_task(
    name: str,
    data_dir: str | Path | None = None,
    n_train: int | None = None,
    seed: int = 0,
    *,
    n_val: int | None = None,
    n_test: int | None = None,
    split_seed: int = 0,
    side: int | None = None,
    kind: str = "image_classification",
    class_names: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
) -> Task:
    """The task called `name`: `photos`, `photos-grey`, `digits`, a torchvision set, `hf:<name>` or a folder.

    With `kind="detection"`: `scenes`, `scenes-plain`, `voc2007`, `voc2012`, a folder in the format of PASCAL VOC or of
    COCO. With `kind="segmentation"` also `mosaics`, and a folder of images and label maps, whose ids `class_names` may
    name in their order; what lies beyond them is void. With `kind="text_classification"`: `bbc-news`, `hf:<name>`, a
    file of rows (TSV, CSV, JSONL, Parquet) or a folder of such, `columns` naming that of texts and that of labels
    where they have no usual names.

    `photos[:9]` has its first nine classes alone, `photos[9:]` the others, `cifar10[::2]` every other one: a slice as
    Python's, of steps forward; `n_train` and the like then count examples of those.

    `data_dir` is where torchvision's files are or go (default: data/ in the current folder); a folder of images is
    taken as `data_dir/name` if that exists. `n_train`, `n_val`, `n_test` draw stratified subsets; `seed` draws train,
    `split_seed` val and test. `side` is the side in pixels images are kept at (default: as they are, 256 at most); of
    detection and segmentation the longer side (512 at most).

    Raises `InputError` naming what is wrong and what would be right.
    """
    for what, n in (("n_train", n_train), ("n_val", n_val), ("n_test", n_test)):
        if n is not None and n < 2:
            raise InputError(f"{what} is {n}; it must be at least 2, or None for all")
    is_folder = Path(name).expanduser().is_dir() or (Path(data_dir or "").expanduser() / name).is_dir()
    found = None if is_folder else CLASSES.fullmatch(name)
    classes = slice(*(int(part) if part else None for part in found.group(2, 3, 4))) if found else None
    name = found[1] if found else name
    draw = Draw(n_train, n_val, n_test, seed, split_seed, side, classes)
    if kind not in KINDS:
        raise InputError(f"kind is {kind!r}; it must be {', '.join(KINDS)}")
    if columns is not None and kind != "text_classification":
        raise InputError(f"columns is {list(columns)}, and a task of {kind} is read from no table; leave it out")
    if kind in PLACES:
        return _load_places(name, kind, data_dir, draw, class_names)
    if class_names is not None:
        raise InputError(f"class_names is {list(class_names)}; a task of one label each has those that its data give")
    if kind == "text_classification":
        return _load_texts(name, data_dir, draw, columns)
    if name in EMBEDDED:
        from ptlib.data.embedded import load_digits, load_photos

        return load_digits(draw) if name == "digits" else load_photos(draw, grey=name == "photos-grey")
    if name.startswith("hf:"):
        from ptlib.data.published import load_hub

        return load_hub(name.removeprefix("hf:"), draw)
    from ptlib.data.published import TORCHVISION, load_torchvision

    if name in TORCHVISION:
        return load_torchvision(name, Path(data_dir or "data").expanduser(), draw)
    for folder in (Path(data_dir).expanduser() / name if data_dir else None, Path(name).expanduser()):
        if folder is not None and folder.is_dir():
            from ptlib.data.folder import load_folder

            return load_folder(folder, draw)
    known: list[Any] = [*EMBEDDED, *TORCHVISION]
    raise InputError(
        f"unknown dataset {name!r}{did_you_mean(name, known) or ';'} it is no folder either, seen from {Path.cwd()}; "
        f"known names: {', '.join(known)}, hf:<name>"
    )


def _load_texts(name: str, data_dir: str | Path | None, draw: Draw, columns: Sequence[str] | None) -> Task:
    """Tasks in which a text as a whole has one label."""
    from ptlib.data.tables import load_bbc, load_table

    if name in TEXTS:
        return load_bbc(draw)
    if name.startswith("hf:"):
        from ptlib.data.published import load_hub_texts

        return load_hub_texts(name.removeprefix("hf:"), draw, columns)
    path = next((p for p in _candidates(name, data_dir) if p.exists()), None)
    if path is None:
        raise InputError(
            f"unknown dataset {name!r} of texts{did_you_mean(name, TEXTS) or ';'} it is no file or folder either, seen "
            f"from {Path.cwd()}; known names: {', '.join(TEXTS)}, hf:<name>"
        )
    return load_table(path, draw, columns)


def _candidates(name: str, data_dir: str | Path | None) -> list[Path]:
    """Where a file or folder of this name may be."""
    return [Path(p).expanduser() for p in ([Path(data_dir) / name] if data_dir else []) + [Path(name)]]


def _load_places(
    name: str, kind: str, data_dir: str | Path | None, draw: Draw, class_names: Sequence[str] | None
) -> Task:
    """Tasks in which something is said of every place of an image."""
    if class_names is not None and kind == "detection":
        raise InputError(f"class_names is {list(class_names)}; boxes have the names that their annotations give")
    root = next((folder for folder in _candidates(name, data_dir) if folder.is_dir()), None)
    if name in PLACES[kind] and (root is None or not name.startswith("voc")):
        if name.startswith("voc"):
            from ptlib.data.published import load_voc

            return load_voc(name, kind, Path(data_dir or "data").expanduser(), draw)
        from ptlib.data.scenes import load_mosaics, load_scenes

        return load_mosaics(draw) if name == "mosaics" else load_scenes(draw, kind, plain=name == "scenes-plain")
    if root is None:
        known = PLACES[kind]
        raise InputError(
            f"unknown dataset {name!r} for {kind}{did_you_mean(name, known) or ';'} it is no folder either, seen from "
            f"{Path.cwd()}; known names: {', '.join(known)}"
        )
    from ptlib.data import coco, maps, voc

    if kind == "segmentation":
        if (root / "SegmentationClass").is_dir():
            return voc.load_voc_maps(root, draw)
        return maps.load_maps(root, draw, class_names=class_names)
    is_coco = any((root / "annotations").glob("*.json"))
    return coco.load_coco(root, draw) if is_coco else voc.load_voc_boxes(root, draw)
