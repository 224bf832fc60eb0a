"""Published classification sets: torchvision's by name, Hugging Face's as `hf:<name>`."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from ptlib.core import Task
from ptlib.data.draw import Draw, Pool, Problems, assemble, from_array
from ptlib.data.folder import from_files
from ptlib.data.images import decode, storage_side, to_square
from ptlib.errors import InputError


@dataclass(frozen=True)
class _Set:
    """A torchvision data set: its class, the folder its files go in, the files with size in MB and MD5."""

    cls: str
    folder: str
    files: tuple[tuple[str, float, str], ...]
    splits: tuple[str, ...] = ("train", "test")
    augment: tuple[str, ...] = ("crop", "flip")


TORCHVISION = {
    "cifar10": _Set("CIFAR10", ".", (("cifar-10-python.tar.gz", 170.5, "c58f30108f718f92721af3b95e74349a"),)),
    "cifar100": _Set("CIFAR100", ".", (("cifar-100-python.tar.gz", 169.0, "eb9058c3a382ffc7106e4002c42a8d85"),)),
    "mnist": _Set(
        "MNIST",
        "MNIST/raw",
        (
            ("train-images-idx3-ubyte.gz", 9.9, "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
            ("train-labels-idx1-ubyte.gz", 0.03, "d53e105ee54ea40749a09fcbcd1e9432"),
            ("t10k-images-idx3-ubyte.gz", 1.6, "9fb629c4189551a2d022fa330f9573f3"),
            ("t10k-labels-idx1-ubyte.gz", 0.005, "ec29112dd5afa0611ce80d1b7f02629c"),
        ),
        augment=("crop",),
    ),
    "fashion_mnist": _Set(
        "FashionMNIST",
        "FashionMNIST/raw",
        (
            ("train-images-idx3-ubyte.gz", 26.4, "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
            ("train-labels-idx1-ubyte.gz", 0.03, "25c81989df183df01b3e8a0aad5dffbe"),
            ("t10k-images-idx3-ubyte.gz", 4.4, "bef4ecab320f06d8554ea6380940ec79"),
            ("t10k-labels-idx1-ubyte.gz", 0.005, "bb300cfdad3c16e7a12a480ee83cd310"),
        ),
    ),
    "svhn": _Set(
        "SVHN",
        ".",
        (
            ("train_32x32.mat", 182.0, "e26dedcc434d2e4c54c9b2d4a06d8373"),
            ("test_32x32.mat", 64.3, "eb5a983be6a315427106f1b164d9cef3"),
        ),
        augment=("crop",),
    ),
    "stl10": _Set("STL10", ".", (("stl10_binary.tar.gz", 2640.4, "91f7769df0f17e558f3565bffb0c7dfb"),)),
    "flowers102": _Set(
        "Flowers102",
        "flowers-102",
        (
            ("102flowers.tgz", 345, "52808999861908f626f3c1f4e79d11fa"),
            ("imagelabels.mat", 0.001, "e0620be6f572b9609742df49c70aed4d"),
            ("setid.mat", 0.015, "a5357ecc9cb78c4bef273ce3793fc85c"),
        ),
        splits=("train", "val", "test"),
    ),
    "oxford_pets": _Set(
        "OxfordIIITPet",
        "oxford-iiit-pet",
        (
            ("images.tar.gz", 792, "5c4f3ee8e5d25df40f4fd59a7f44e54c"),
            ("annotations.tar.gz", 19, "95a8c909bbe2e81eed6a22bccdf3f68f"),
        ),
        splits=("trainval", "test"),
    ),
    "food101": _Set("Food101", ".", (("food-101.tar.gz", 4996, "85eeb15f3717b99a5da872d97d918f87"),)),
    "eurosat": _Set("EuroSAT", "eurosat", (("EuroSAT.zip", 94, "c8fa014336c82ac7804f0398fcb19387"),), splits=()),
}


def load_torchvision(name: str, data_dir: Path, draw: Draw) -> Task:
    """A torchvision classification set under `data_dir`, downloaded if it is not there and there is a network.

    InputError saying which file to put where, with size and checksum, if it can't be had. Archives are unpacked by
    torchvision, after their MD5 was found to be the published one; what was unpacked before is taken as it is.
    """
    import torchvision.datasets

    known = TORCHVISION[name]
    cls = getattr(torchvision.datasets, known.cls)

    def make(**kwargs: Any) -> Any:
        try:
            return cls(data_dir, download=True, **kwargs)
        except Exception as e:  # torchvision raises URLError, RuntimeError, gzip's and tarfile's errors alike
            raise InputError(_what_to_put_where(name, known, data_dir, e)) from None

    if not known.splits:
        whole = make()
        return assemble(name, tuple(whole.classes), {"all": _pool(whole, name, data_dir, draw)}, draw)
    parts = {}
    for split in known.splits:
        by_flag = known.cls in ("CIFAR10", "CIFAR100", "MNIST", "FashionMNIST")
        parts[split] = make(train=split == "train") if by_flag else make(split=split)
    pools = {split.removesuffix("val") if split == "trainval" else split: _pool(part, f"{name}-{split}", data_dir, draw)
             for split, part in parts.items()}  # fmt: skip
    first = next(iter(parts.values()))
    names = getattr(first, "classes", None) or [str(i) for i in range(int(pools["train"].labels.max()) + 1)]
    return assemble(name, tuple(names), pools, draw, augment=known.augment)


def _pool(part: Any, name: str, root: Path, draw: Draw) -> Pool:
    """A pool over whatever torchvision keeps: an array in memory, or paths."""
    labels = next(np.asarray(getattr(part, a)) for a in ("targets", "labels", "_labels") if hasattr(part, a))
    if hasattr(part, "data"):
        pixels = np.asarray(part.data)
        if pixels.ndim == 4 and pixels.shape[1] == 3:
            pixels = pixels.transpose(0, 2, 3, 1)
        if draw.side not in (None, pixels.shape[1]):
            raise InputError(f"{name} has {pixels.shape[1]} x {pixels.shape[2]} pixels; side={draw.side} can't be had")
        return from_array(pixels, labels, name)
    found = getattr(part, "_image_files", None) or getattr(part, "_images", None) or [p for p, _ in part.samples]
    paths = [Path(p) for p in found]
    return from_files(paths, labels.astype(np.int64), root, draw.side or storage_side(paths))


def load_voc(name: str, kind: str, data_dir: Path, draw: Draw) -> Task:
    """PASCAL VOC's `voc2007` or `voc2012` under `data_dir`, downloaded if it is not there and there is a network.

    Of 2007 trainval and test are had; of 2012, whose test is not public, val is the test.
    """
    from torchvision.datasets.utils import download_url
    from torchvision.datasets.voc import DATASET_YEAR_DICT

    from ptlib.data.voc import load_voc_boxes, load_voc_maps

    year = name.removeprefix("voc")
    for part, lists in ((year, "trainval"), *([("2007-test", "test")] if year == "2007" else [])):
        facts = DATASET_YEAR_DICT[part]
        archive, there = (
            data_dir / facts["filename"],
            data_dir / facts["base_dir"] / "ImageSets" / "Main" / f"{lists}.txt",
        )
        whole = archive.with_suffix(".unpacked")
        if not there.is_file() or (archive.is_file() and not whole.is_file()):  # an archive may be unpacked in part
            try:
                download_url(facts["url"], data_dir, facts["filename"], facts["md5"])
                with tarfile.open(archive) as f:
                    f.extractall(data_dir, filter="data")  # nothing outside, no links out, no devices
                whole.touch()
            except Exception as e:  # URLError, RuntimeError, OSError and tarfile's own
                raise InputError(
                    f"{name} can't be had ({type(e).__name__}: {e}); put {facts['filename']} (MD5 {facts['md5']}) into "
                    f"{data_dir} and run again"
                ) from None
    load = load_voc_boxes if kind == "detection" else load_voc_maps
    return replace(load(data_dir / DATASET_YEAR_DICT[year]["base_dir"], draw), name=name)


def _what_to_put_where(name: str, known: _Set, data_dir: Path, cause: Exception) -> str:
    folder = data_dir / known.folder
    missing = [f for f in known.files if not _is_whole(folder / f[0], f[2])]
    if not missing:
        return f"{name} lies in {folder} but torchvision could not load it: {type(cause).__name__}: {cause}"
    files = ", ".join(f"{f} ({mb:g} MB, MD5 {md5})" for f, mb, md5 in missing)
    return f"{name} can't be downloaded ({type(cause).__name__}); put {files} into {folder} and run again"


def _is_whole(path: Path, md5: str) -> bool:
    if not path.is_file():
        return False
    with open(path, "rb") as f:
        return hashlib.file_digest(f, lambda: hashlib.md5(usedforsecurity=False)).hexdigest() == md5


def load_hub(name: str, draw: Draw) -> Task:
    """A Hugging Face image classification set: its first `Image` column and first `ClassLabel` column.

    Needs the extra `hf`. Scripts of a data set are never run.
    """
    datasets, found = _from_hub(name)
    features = next(iter(found.values())).features
    image = next((k for k, f in features.items() if isinstance(f, datasets.Image)), None)
    label = next((k for k, f in features.items() if isinstance(f, datasets.ClassLabel)), None)
    if image is None or label is None:
        raise InputError(f"data set {name!r} has no image or no class column; its columns are {', '.join(features)}")
    parts, notes = _labelled(found, name, label)
    # Bytes, not pictures: they are decoded here, by the rules for files from strangers.
    parts = {split: part.cast_column(image, datasets.Image(decode=False)) for split, part in parts.items()}
    side = draw.side or _median_side(parts["train"], image)
    pools = {split: _hub_pool(part, split, image, label, side) for split, part in parts.items()}
    if len(pools) == 1:
        pools = {"all": pools["train"]}
    return assemble(f"hf:{name}", tuple(features[label].names), pools, draw, notes=notes)


def load_hub_texts(name: str, draw: Draw, columns: Sequence[str] | None = None) -> Task:
    """A Hugging Face data set of texts with a label each; its columns are found as those of a table are.

    Needs the extra `hf`. Scripts of a data set are never run.
    """
    from ptlib.data.tables import columns_of, task_of_rows

    _, found = _from_hub(name)
    features = next(iter(found.values())).features
    text, label = columns_of(f"data set {name!r}", list(features), columns)
    names = getattr(features[label], "names", None)
    parts, notes = _labelled(found, name, label if names else None)
    rows = {s: ((t, names[y] if names and y is not None else y) for t, y in zip(part[text], part[label], strict=True))
            for s, part in parts.items()}  # fmt: skip
    rows = {"all": rows["train"]} if rows.keys() == {"train"} else rows
    return task_of_rows(f"hf:{name}", rows, draw, notes)


def _from_hub(name: str) -> tuple[Any, Any]:
    """The library of data sets, and one of the hub's by split."""
    try:
        import datasets
    except ImportError:
        raise InputError("data sets of the hub need the extra: pip install -c constraints.txt -e '.[hf]'") from None
    try:
        return datasets, datasets.load_dataset(name)
    except Exception as e:  # the hub's client raises dozens of kinds
        raise InputError(f"data set {name!r} can't be loaded from the hub: {type(e).__name__}: {e}") from None


def _labelled(found: Any, name: str, label: str | None) -> tuple[dict[str, Any], list[str]]:
    """The parts called train, val and test, and a note of each left out since a class in column `label` is -1."""
    kinds = {"train": "train", "validation": "val", "valid": "val", "val": "val", "test": "test"}
    parts = {kinds[s]: part for s, part in found.items() if s in kinds}
    if "train" not in parts:
        raise InputError(f"data set {name!r} has no train split; it has {', '.join(found)}")
    without = [s for s, part in parts.items() if label and any(y == -1 for y in part[label])]
    kept = {s: part for s, part in parts.items() if s not in without}
    return kept, [f"{s} has no labels and is left out" for s in without]


def _open(row: dict[str, Any]) -> BinaryIO:
    return io.BytesIO(row["bytes"]) if row["bytes"] is not None else open(row["path"], "rb")


def _median_side(part: Any, image: str, limit: int = 256) -> int:
    """The median of the shorter sides of a sample, `limit` at most."""
    sides = []
    for row in np.linspace(0, len(part) - 1, min(len(part), 64)).astype(int):
        try:
            sides.append(min(decode(_open(part[int(row)][image])).size))
        except ValueError:
            continue  # it will be named when it is fetched
    return min(limit, int(np.median(sides))) if sides else limit


def _hub_pool(part: Any, name: str, image: str, label: str, side: int) -> Pool:
    ids = [f"{name}/{i}" for i in range(len(part))]

    def fetch(rows: np.ndarray) -> tuple[Tensor, np.ndarray, Problems]:
        pixels = np.empty((len(rows), side, side, 3), dtype=np.uint8)
        kept, problems = [], []
        for to, row in enumerate(rows):
            try:
                pixels[to] = to_square(decode(_open(part[int(row)][image])), side)
                kept.append(to)
            except ValueError as e:
                problems.append((ids[row], str(e)))
        whole = len(kept) == len(rows)
        return torch.from_numpy(pixels if whole else pixels[kept]), np.array(kept, dtype=np.int64), problems

    return Pool(np.asarray(part[label], dtype=np.int64), ids, fetch)
