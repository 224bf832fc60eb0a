"""Data to try a finished model on: another test set with the same classes, a corrupted one, and unknown classes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import torch

from ptlib.core import Split, Task
from ptlib.corruptions import COMMON, STRENGTHS, TEXT_COMMON, TEXT_VIEWS, VIEWS, corrupted
from ptlib.data import EMBEDDED, load_task
from ptlib.data.draw import some
from ptlib.data.duplicates import digests
from ptlib.data.folder import list_images, read_classes, tell
from ptlib.data.images import decode_all, files_key, storage_side
from ptlib.data.published import TORCHVISION
from ptlib.data.tables import python_help
from ptlib.errors import InputError, did_you_mean
from ptlib.texts import Texts

PYTHON = "python-help"


def load_second(
    name: str, task: Task, data_dir: str | Path | None = None, n: int | None = None, seed: int = 0, device: str = "auto"
) -> Split:
    """Another test set for a task's models: the same classes, or some of them, from elsewhere.

    `name` is a folder of classes (ImageNet-R, -Sketch, -A; ImageNet-V2, whose folders are numbers; of its test part
    where it has splits), a folder with one `*data.npy` and one `*labels.npy` (CIFAR-10.1), a data set that `load_task`
    knows, whose test split is taken, or `grey`, `rotated`, `rescaled`: the task's own test images seen otherwise.
    Of texts: what `load_task` takes for texts, of a file all rows, or the task's own test texts `without_punctuation`,
    in `upper_case`, in `lower_case`, or their `opening`, the first 16 words.
    `n` draws a part of them, stratified, by `seed`. InputError if it has a class that the task has not. Arrays hold
    numbers, not names: they are taken to count the classes in the task's order.
    """
    if name in usual_second(task):
        return corrupted(_part(task.test, n, seed), name, device=device)
    folder = None if task.reads == "texts" else _folder(name, data_dir)
    if folder is None:
        found, names = _loaded(name, task, data_dir)
        return _labelled(_part(found, n, seed), names, task, name)
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
    """Images of none of a task's classes: the test split of a data set, or every image in a folder. Texts: the test
    split of a data set, every row of a file, or `python-help`, paragraphs of Python's own reference.

    Its targets are 0 and say nothing. `n` draws a part, by `seed`. InputError if some are, to the byte, the task's own
    test images, those of one colour excepted, or its test texts; whether they show its classes is for you to say.
    """
    texts = task.reads == "texts"
    folder = None if texts else _folder(name, data_dir)
    found = _any_images(folder, name, n, seed) if folder else None
    if found is None:
        other = _unlabelled(name, python_help()) if texts and name == PYTHON else _loaded(name, task, data_dir)[0]
        part = other.take(np.sort(np.random.default_rng(seed).permutation(len(other))[:n]))
        found = Split(name, part.inputs, torch.zeros(len(part), dtype=torch.int64), part.ids)
    own, varied = set(digests(task.test)), [True] * len(found)
    if not texts:
        pixels = found.inputs.flatten(1)
        varied = (pixels.amax(1) > pixels.amin(1)).tolist()  # patches of black sky are alike, and no leak
    known = sum(digest in own for digest, any_picture in zip(digests(found), varied, strict=True) if any_picture)
    if known:
        what = task.reads
        raise InputError(f"{known} of {len(found)} {what} of {name} are test {what} of {task.name}; name another set")
    return found


def usual_corruptions(task: Task) -> tuple[str, ...]:
    """The common corruptions of what a task reads."""
    return TEXT_COMMON if task.reads == "texts" else COMMON


def usual_second(task: Task) -> tuple[str, ...]:
    """A task's own test examples seen otherwise: what to try if no other test set is named."""
    return TEXT_VIEWS if task.reads == "texts" else VIEWS


def usual_unknown(task: Task) -> list[str]:
    """Embedded sets that hold none of a task's classes, the nearer first: what to try if nothing else is named."""
    if task.reads == "texts":
        part = re.fullmatch(r"bbc-news\[0:([23])\]", task.name)  # of five classes, of which two are left at least
        return [f"bbc-news[{part[1]}:]", PYTHON] if part else [PYTHON]
    half = re.fullmatch(r"(photos(?:-grey)?)\[0:(\d+)\]", task.name)
    if half and int(half[2]) <= 16:  # the other photographs
        return [f"{half[1]}[{half[2]}:]", "digits"]
    unlike = [name for name in ("photos", "digits") if not task.name.startswith(name)]
    return [name for name in unlike if name != "digits" or not all(c.isdigit() for c in task.class_names)]


def _loaded(name: str, task: Task, data_dir: str | Path | None) -> tuple[Split, tuple[str, ...]]:
    """The test split of a data set that `load_task` knows, of a file of rows all of them; and the names of its classes.

    It has the split of every task, so that test stays test.
    """
    texts, places = task.reads == "texts", [Path(data_dir or "").expanduser() / name, Path(name).expanduser()]
    other = load_task(name, data_dir, kind="text_classification" if texts else "image_classification")
    if not texts or not any(place.is_file() for place in places):
        return other.test, other.class_names
    rows, ids = (Texts(t for s in other.splits for t in s.inputs), [i for s in other.splits for i in s.ids])
    return Split(name, rows, torch.cat([s.targets for s in other.splits]), ids), other.class_names


def _unlabelled(name: str, texts: Mapping[str, str]) -> Split:
    return Split(name, Texts(texts.values()), torch.zeros(len(texts), dtype=torch.int64), list(texts))


def _any_images(folder: Path, name: str, n: int | None, seed: int) -> Split:
    paths = list_images(folder)
    if not paths:
        raise InputError(f"{folder} holds no images")
    chosen = [paths[i] for i in np.sort(np.random.default_rng(seed).permutation(len(paths))[:n])]
    side = storage_side(chosen)
    inputs, kept, problems = decode_all(chosen, side, files_key(chosen, folder, side))
    if len(kept) == 0:
        raise InputError(f"no image of {folder} could be read; the first: {problems[0][1]}")
    tell(folder, [(path.name, reason) for path, reason in problems])
    ids = [chosen[i].relative_to(folder).as_posix() for i in kept]
    return Split(name, inputs, torch.zeros(len(kept), dtype=torch.int64), ids)


def corrupted_examples(
    task: Task, names: Sequence[str] | None = None, severities: Sequence[int] = (1, 2, 3, 4, 5), n: int | None = None,
    seed: int = 0, *, folder: str | Path | None = None, device: str = "auto",
) -> tuple[Split, Iterator[tuple[str, int, Split]]]:  # fmt: skip
    """Clean examples, and the corrupted ones by corruption and severity: made of `n` of the task's test examples, drawn
    by `seed`, or read from a `folder` as `read_corrupted` takes it; the clean ones are then the whole test split.
    `names` None stands for the common corruptions."""
    names = usual_corruptions(task) if names is None else names
    if folder is not None:
        found = read_corrupted(folder, task, names, severities, n, seed)
        first = next(found)  # what is wrong with the folder is said now
        return task.test, chain([first], found)
    _check(names, severities, task)
    clean = _part(task.test, n, seed)
    return clean, make_corrupted(clean, names, severities, seed, device)


def make_corrupted(
    split: Split, names: Sequence[str] | None = None, severities: Sequence[int] = (1, 2, 3, 4, 5), seed: int = 0,
    device: str = "auto",
) -> Iterator[tuple[str, int, Split]]:  # fmt: skip
    """The split under each corruption at each severity, one at a time; None stands for the common ones."""
    common = TEXT_COMMON if isinstance(split.inputs, Texts) else COMMON
    for name in common if names is None else names:
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
    numbers, not names: they are taken to count the classes in the task's order. InputError for a task of texts.
    """
    if task.reads == "texts":
        raise InputError(f"published corrupted sets, such as {str(folder)!r}, are of images; leave it out for texts")
    _check(names, severities, task)
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


def _check(names: Sequence[str], severities: Sequence[int], task: Task) -> None:
    known = list(TEXT_COMMON if task.reads == "texts" else STRENGTHS)
    unknown = [name for name in names if name not in known]
    what = f"unknown corruption {unknown[0]!r}{did_you_mean(unknown[0], known) or ';'}" if unknown else ""
    if not set(severities) <= {1, 2, 3, 4, 5} or not severities:
        what = f"severities are {list(severities)};"
    if what or not names:
        raise InputError(f"{what or 'no corruption is named;'} there are {', '.join(known)}, at severities 1 to 5")


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
