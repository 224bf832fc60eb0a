"""Two of the five nouns: Task and Checkpoint: what is to be learned, and where to start.

They are plain frozen dataclasses: what they hold is checked once, when they are made, and never changes afterwards.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ptlib.files import text_table


@dataclass(frozen=True)
class Split:
    """One part of a task's data, decoded: what a `Task` has three of.

    `inputs` is uint8 (N, H, W, 3), in memory or memory-mapped; `targets` is int64 (N,); `ids` names each example.
    """

    name: str
    inputs: Tensor
    targets: Tensor
    ids: Sequence[str]

    def __post_init__(self) -> None:
        if self.inputs.dtype != torch.uint8 or self.inputs.ndim != 4 or self.inputs.shape[-1] != 3:
            raise ValueError(
                f"split {self.name!r}: inputs must be uint8 of shape (N, H, W, 3), "
                f"got {self.inputs.dtype} of shape {tuple(self.inputs.shape)}"
            )
        if self.targets.dtype != torch.int64 or self.targets.shape != (len(self.inputs),):
            raise ValueError(
                f"split {self.name!r}: targets must be int64 of shape ({len(self.inputs)},), "
                f"got {self.targets.dtype} of shape {tuple(self.targets.shape)}"
            )
        if len(self.ids) != len(self.inputs):
            raise ValueError(f"split {self.name!r}: {len(self.inputs)} inputs but {len(self.ids)} ids")
        if len(self.inputs) == 0:
            raise ValueError(f"split {self.name!r} is empty; every split needs at least one example")

    def __len__(self) -> int:
        return len(self.inputs)

    def counts(self, n_classes: int) -> np.ndarray:
        """Examples of each class, (C,)."""
        return np.bincount(self.targets.numpy(), minlength=n_classes)

    def first_of_each(self, limit: int) -> Split:
        """The first example of each class that has any, of up to `limit` classes."""
        return self.take(np.unique(self.targets.numpy(), return_index=True)[1][:limit])

    def take(self, rows: Sequence[int] | np.ndarray) -> Split:
        """The examples at `rows`, in that order."""
        index = torch.from_numpy(np.array(rows, dtype=np.int64))
        return Split(self.name, self.inputs[index], self.targets[index], [self.ids[int(i)] for i in index])


@dataclass(frozen=True)
class Task:
    """What is to be learned: the kind, the class names, three splits that share no example, the metric that decides.

    `augment` names the augmentations that leave a label true on this data. `notes` and `skipped` say what was decided
    or left out while loading; both belong in a report.
    """

    name: str
    kind: str
    class_names: tuple[str, ...]
    train: Split
    val: Split
    test: Split
    primary_metric: str = "accuracy"
    augment: tuple[str, ...] = ("crop", "flip")
    notes: tuple[str, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if len(self.class_names) < 2:
            raise ValueError(f"task {self.name!r} has classes {self.class_names}; at least two are needed")
        if len(set(self.class_names)) != len(self.class_names):
            raise ValueError(f"task {self.name!r} names a class twice: {self.class_names}")
        seen: dict[str, str] = {}
        for split in self.splits:
            low, high = int(split.targets.min()), int(split.targets.max())
            if low < 0 or high >= len(self.class_names):
                raise ValueError(
                    f"task {self.name!r}, split {split.name!r}: targets run from {low} to {high}, "
                    f"but there are {len(self.class_names)} classes (0 to {len(self.class_names) - 1})"
                )
            for example in split.ids:
                if example in seen:
                    raise ValueError(
                        f"task {self.name!r}: example {example!r} is in both {seen[example]!r} and {split.name!r}; "
                        "splits must not overlap"
                    )
                seen[example] = split.name

    @property
    def splits(self) -> tuple[Split, Split, Split]:
        return self.train, self.val, self.test

    @property
    def n_classes(self) -> int:
        return len(self.class_names)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over class names, pixels, labels and ids of the three splits."""
        digest = hashlib.sha256(json.dumps([self.kind, self.class_names]).encode())
        for split in self.splits:
            digest.update(json.dumps([split.name, list(split.inputs.shape), list(split.ids)]).encode())
            digest.update(split.targets.numpy().astype("<i8").tobytes())
            for rows in split.inputs.split(1024):
                digest.update(rows.contiguous().numpy())
        return digest.hexdigest()

    def table(self) -> list[tuple[str, ...]]:
        """Rows for display: split, examples, examples of the rarest and of the commonest class, size."""
        rows: list[tuple[str, ...]] = [("split", "images", "per class", "pixels")]
        for split in self.splits:
            counts = split.counts(self.n_classes)
            spread = f"{counts.min()}" if counts.min() == counts.max() else f"{counts.min()} to {counts.max()}"
            height, width = split.inputs.shape[1:3]
            rows.append((split.name, f"{len(split):,}", spread, f"{height} x {width}"))
        return rows

    def __str__(self) -> str:
        lines = [f"{self.name}: {self.n_classes} classes, {self.kind.replace('_', ' ')}", *text_table(self.table())]
        lines += [f"note: {note}" for note in self.notes]
        if self.skipped:
            lines.append(f"skipped {len(self.skipped)} files:")
            lines += [f"  {path}: {reason}" for path, reason in self.skipped[:20]]
            if len(self.skipped) > 20:
                lines.append(f"  and {len(self.skipped) - 20} more (task.skipped has them all)")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return str(self)


@dataclass(frozen=True)
class Preprocessing:
    """How a checkpoint wants its images: side in pixels, per-channel mean and std of values in 0..1, resampling.

    `antialias` smooths what is made smaller, as Pillow does; without it images are sampled as older code did.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"
    crop: float = 1.0
    antialias: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.size <= 16384 or not 0 < self.crop <= 1 or self.interpolation not in ("bilinear", "bicubic"):
            raise ValueError(
                f"size {self.size} must lie in 1..16384, crop {self.crop} in 0..1, and interpolation "
                f"{self.interpolation!r} be bilinear or bicubic"
            )
        if not all(math.isfinite(m) and s > 0 for m, s in zip(self.mean, self.std, strict=True)):
            raise ValueError(f"mean {self.mean} must be finite and std {self.std} positive")


@dataclass(frozen=True)
class Checkpoint:
    """Where to start: an architecture and, unless it is a random control, the weights of a file with its hash.

    `flops` counts one forward pass at the checkpoint's own size, two per multiply-add. `accuracy` is the published
    ImageNet top-1 in 0..1, None where the source publishes none. `sha256` is that of the weight file, None for random.
    `trained_on` names the data sets it has seen, joined by ", then ". `layer` is set where the network ends early.
    """

    name: str
    architecture: str
    source: str
    preprocessing: Preprocessing
    parameters: int
    flops: int
    licence: str = "unknown"
    path: Path | None = None
    sha256: str | None = None
    accuracy: float | None = None
    trained_on: str | None = None
    layer: str | None = None
    factory: Any = field(default=None, repr=False, compare=False)

    @property
    def pretrained(self) -> bool:
        return self.path is not None

    def has_seen(self, task: Task) -> bool:
        """Whether it was trained on the data set that the task is called after, by what is said of it."""
        (name, classes), seen = _bare(task.name), [_bare(part) for part in (self.trained_on or "").split(", then ")]
        return bool(name) and any(
            name == other and (classes is None or among is None or not classes.isdisjoint(among))
            for other, among in seen
        )

    def table(self) -> list[tuple[str, ...]]:
        p = self.preprocessing
        return [
            ("checkpoint", self.name),
            ("architecture", self.architecture),
            ("trained on", self.trained_on or ("unknown" if self.pretrained else "nothing: random weights")),
            ("published top-1", f"{self.accuracy:.3f}" if self.accuracy is not None else "none"),
            ("parameters", f"{self.parameters / 1e6:.2f} M"),
            ("FLOPs", f"{self.flops / 1e9:.2f} G at {p.size} x {p.size} (2 per multiply-add)"),
            ("preprocessing", f"{p.interpolation}, mean {_short(p.mean)}, std {_short(p.std)}"),
            ("licence", self.licence),
            ("sha256", self.sha256 or "none"),
            ("source", self.source),
        ]

    def __str__(self) -> str:
        return "\n".join(text_table(self.table(), header=False))


def _bare(name: str) -> tuple[str, set[int] | None]:
    """A data set's name without what spellings differ in, and its classes where only some are meant: photos[0:9]."""
    some = re.fullmatch(r"(.*)\[(\d+):(\d+)(?::(\d+))?\]", name)
    classes = set(range(int(some[2]), int(some[3]), int(some[4] or 1))) if some else None
    name = (some[1] if some else name).removeprefix("hf:").rpartition("/")[2]
    return "".join(c for c in name.lower() if c.isalnum()), classes


def _short(values: Sequence[float]) -> str:
    return f"{values[0]:g}" if len(set(values)) == 1 else "/".join(f"{v:g}" for v in values)
