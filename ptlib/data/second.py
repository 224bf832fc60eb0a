"""Data to try a finished model on: another test set with the same classes, a corrupted one, and unknown classes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import torch

from ptlib.core import Split, Task
from ptlib.corruptions import COMMON, STRENGTHS, VIEWS, corrupted
from ptlib.data import EMBEDDED, load_task
from ptlib.data.draw import some
from ptlib.data.duplicates import digests
from ptlib.data.folder import list_images, read_classes
from ptlib.data.images import decode_all, files_key, storage_side
from ptlib.data.published import TORCHVISION
from ptlib.errors import InputError, did_you_mean


def load_second(
    name: str, task: Task, data_dir: str | Path | None = None, n: int | None = None, seed: int = 0, device: str = "auto"
) -> Split:
    """Another test set for a task's models: the same classes, or some of them, from elsewhere.

    `name` is a folder of classes (ImageNet-R, -Sketch, -A; ImageNet-V2, whose folders are numbers; of its test part
    where it has splits), a folder with one `*data.npy` and one `*labels.npy` (CIFAR-10.1), a data set that `load_task`
    knows, whose test split is taken, or `grey`, `rotated`, `rescaled`: the task's own test images seen otherwise.
    `n` draws a part of them, stratified, by `seed`. InputError if it has a class that the task has not. Arrays hold
    numbers, not names: they are taken to count the classes in the task's order.
    """
    if name in VIEWS:
        return corrupted(_part(task.test, n, seed), name, device=device)
    folder = _folder(name, data_dir)
    if folder is None:
        other = load_task(name, data_dir)  # with the split of every task, so that test stays test
        return _labelled(_part(other.test, n, seed), other.class_names, task, name)
    arrays = sorted(folder.glob("*data.npy"))
    if arrays:
        labels = folder / arrays[0].name.replace("data.npy", "labels.npy")
        if len(arrays) > 1 or not labels.is_file():
            raise InputError(f"{folder} holds {len(arrays)} files *data.npy; give one folder with one, and its labels")
        pixels, targets = _array(arrays[0]), _array(labels)
        _check_arrays(pixels, targets, task, arrays[0])
        return _of_arrays(pixels, targets, some(targets, n, seed), name)
    names, split = read_classes(folder, n, seed)
    return _labelled(split, names, task, name)


def load_unknown(
    name: str, task: Task, data_dir: str | Path | None = None, n: int | None = None, seed: int = 0
) -> Split:
    """Images of none of a task's classes: the test split of a data set, or every image in a folder.

    Its targets are 0 and say nothing. `n` draws a part, by `seed`. InputError if some are, to the byte, the task's own
    test images, those of one colour excepted; whether they show its classes is for you to say.
    """
    folder = _folder(name, data_dir)
    found = _any_images(folder, name, n, seed) if folder else None
    if found is None:
        other = load_task(name, data_dir).test
        part = other.take(np.sort(np.random.default_rng(seed).permutation(len(other))[:n]))
        found = Split(name, part.inputs, torch.zeros(len(part), dtype=torch.int64), part.ids)
    own, pixels = set(digests(task.test)), found.inputs.flatten(1)
    varied = (pixels.amax(1) > pixels.amin(1)).tolist()  # patches of black sky are alike, and no leak
    known = sum(digest in own for digest, any_picture in zip(digests(found), varied, strict=True) if any_picture)
    if known:
        raise InputError(f"{known} of {len(found)} images of {name} are test images of {task.name}; name another set")
    return found


def usual_unknown(task: Task) -> list[str]:
    """Embedded sets that hold none of a task's classes, the nearer first: what to try if nothing else is named."""
    half = re.fullmatch(r"(photos(?:-grey)?)\[0:(\d+)\]", task.name)
    if half and int(half[2]) <= 16:  # the other photographs
        return [f"{half[1]}[{half[2]}:]", "digits"]
    unlike = [name for name in ("photos", "digits") if not task.name.startswith(name)]
    return [name for name in unlike if name != "digits" or not all(c.isdigit() for c in task.class_names)]


def _any_images(folder: Path, name: str, n: int | None, seed: int) -> Split:
    paths = list_images(folder)
    if not paths:
        raise InputError(f"{folder} holds no images")
    chosen = [paths[i] for i in np.sort(np.random.default_rng(seed).permutation(len(paths))[:n])]
    side = storage_side(chosen)
    inputs, kept, problems = decode_all(chosen, side, files_key(chosen, folder, side))
    if len(kept) == 0:
        raise InputError(f"no image of {folder} could be read; the first: {problems[0][1]}")
    ids = [chosen[i].relative_to(folder).as_posix() for i in kept]
    return Split(name, inputs, torch.zeros(len(kept), dtype=torch.int64), ids)


def corrupted_examples(
    task: Task, names: Sequence[str] = COMMON, severities: Sequence[int] = (1, 2, 3, 4, 5), n: int | None = None,
    seed: int = 0, *, folder: str | Path | None = None, device: str = "auto",
) -> tuple[Split, Iterator[tuple[str, int, Split]]]:  # fmt: skip
    """Clean images, and the corrupted ones by corruption and severity: made of `n` of the task's test images, drawn by
    `seed`, or read from a `folder` as `read_corrupted` takes it; the clean ones are then the whole test split."""
    if folder is not None:
        found = read_corrupted(folder, task, names, severities, n, seed)
        first = next(found)  # what is wrong with the folder is said now
        return task.test, chain([first], found)
    _check(names, severities)
    clean = _part(task.test, n, seed)
    return clean, make_corrupted(clean, names, severities, seed, device)


def make_corrupted(
    split: Split, names: Sequence[str] = COMMON, severities: Sequence[int] = (1, 2, 3, 4, 5), seed: int = 0,
    device: str = "auto",
) -> Iterator[tuple[str, int, Split]]:  # fmt: skip
    """The split under each corruption at each severity, one at a time."""
    for name in names:
        for severity in severities:
            yield name, severity, corrupted(split, name, severity, seed, device)


def read_corrupted(
    folder: str | Path, task: Task, names: Sequence[str] = COMMON, severities: Sequence[int] = (1, 2, 3, 4, 5),
    n: int | None = None, seed: int = 0,
) -> Iterator[tuple[str, int, Split]]:  # fmt: skip
    """A published corrupted test set, one corruption and severity at a time.

    Either arrays as CIFAR-10-C has them, `labels.npy` and `<corruption>.npy` with one severity after the other, or
    folders as ImageNet-C has them, `<corruption>/<severity>/<class>/`, with or without families above. The same `n`
    images are drawn everywhere. Those of `names` that are not there are left out; InputError if none is. Arrays hold
    numbers, not names: they are taken to count the classes in the task's order.
    """
    _check(names, severities)
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise InputError(f"there is no folder {str(folder)!r} of corrupted images, seen from {Path.cwd()}")
    if (root / "labels.npy").is_file():
        yield from _arrays_by_severity(root, task, names, severities, n, seed)
        return
    known = {path.name: path for path in sorted(root.glob("*/")) + sorted(root.glob("*/*/")) if path.name in names}
    if not known:
        raise InputError(f"{root} holds neither labels.npy nor folders named {', '.join(names[:3])} and so on")
    for name in (name for name in names if name in known):
        for severity in severities:
            classes, split = read_classes(known[name] / str(severity), n, seed, in_memory=True)
            yield name, severity, _labelled(split, classes, task, f"{name} {severity}")


def _check(names: Sequence[str], severities: Sequence[int]) -> None:
    unknown = [name for name in names if name not in STRENGTHS]
    what = f"unknown corruption {unknown[0]!r}{did_you_mean(unknown[0], list(STRENGTHS)) or ';'}" if unknown else ""
    if not set(severities) <= {1, 2, 3, 4, 5} or not severities:
        what = f"severities are {list(severities)};"
    if what or not names:
        raise InputError(f"{what or 'no corruption is named;'} there are {', '.join(STRENGTHS)}, at severities 1 to 5")


def _arrays_by_severity(
    root: Path, task: Task, names: Sequence[str], severities: Sequence[int], n: int | None, seed: int
) -> Iterator[tuple[str, int, Split]]:
    labels = _array(root / "labels.npy")
    present = [name for name in names if (root / f"{name}.npy").is_file()]
    if not present:
        raise InputError(f"{root} has labels.npy, but none of {', '.join(f'{name}.npy' for name in names[:3])} ...")
    for name in present:
        pixels = _array(root / f"{name}.npy")
        _check_arrays(pixels, labels, task, root / f"{name}.npy")
        if len(labels) % 5 or (labels.reshape(5, -1) != labels[: len(labels) // 5]).any():
            raise InputError(f"{root / 'labels.npy'} has {len(labels)} labels, which are not five times the same")
        one = len(labels) // 5
        rows = some(labels[:one], n, seed)
        for severity in severities:
            yield name, severity, _of_arrays(pixels, labels, (severity - 1) * one + rows, f"{name} {severity}", one)


def _folder(name: str, data_dir: str | Path | None) -> Path | None:
    if name.partition("[")[0] in (*EMBEDDED, *TORCHVISION) or name.startswith("hf:"):  # as load_task takes them
        return None
    places = [Path(data_dir or "").expanduser() / name, Path(name).expanduser()]
    return next((place for place in places if place.is_dir()), None)


def _array(path: Path) -> np.ndarray:
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as e:
        raise InputError(f"{path} can't be read as an array: {e}") from None
    if not isinstance(found, np.ndarray):
        raise InputError(f"{path} is no single array")
    return found


def _check_arrays(pixels: np.ndarray, labels: np.ndarray, task: Task, path: Path) -> None:
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] != 3 or labels.shape != (len(pixels),):
        raise InputError(
            f"{path} must be uint8 (N, H, W, 3) with labels (N,), got {pixels.dtype} {pixels.shape} and {labels.shape}"
        )
    whole = len(labels) > 0 and labels.dtype.kind in "iu"
    if not whole or labels.min() < 0 or labels.max() >= task.n_classes:
        seen = f"labels from {labels.min()} to {labels.max()}" if whole else f"{len(labels)} labels of {labels.dtype}"
        raise InputError(f"{path} has {seen}; {task.name} has {task.n_classes} classes, 0 to {task.n_classes - 1}")


def _of_arrays(pixels: np.ndarray, labels: np.ndarray, rows: np.ndarray, name: str, modulo: int | None = None) -> Split:
    """Rows of arrays as a split; ids are places, of corrupted sets those of the clean image."""
    inputs, targets = np.ascontiguousarray(pixels[rows]), labels[rows].astype(np.int64)
    ids = [str(r % (modulo or len(labels))) for r in rows]
    return Split(name, torch.from_numpy(inputs), torch.from_numpy(targets), ids)


def _part(split: Split, n: int | None, seed: int) -> Split:
    return split if n is None or n >= len(split) else split.take(some(split.targets.numpy(), n, seed))


def _labelled(split: Split, names: Sequence[str], task: Task, name: str) -> Split:
    """The split with its targets numbered as the task's classes are."""
    if not set(names) <= set(task.class_names) and all(n.isdigit() and int(n) < task.n_classes for n in names):
        place = [int(n) for n in names]  # ImageNet-V2's folders are called after the class's number
    else:
        odd = [n for n in names if n not in task.class_names]
        if odd:
            raise InputError(
                f"{name} has {len(odd)} classes that {task.name} lacks, such as {odd[0]!r}; {task.name} has "
                f"{', '.join(map(repr, task.class_names[:5]))} ..."
            )
        place = [task.class_names.index(n) for n in names]
    return Split(name, split.inputs, torch.tensor(place)[split.targets], split.ids)
