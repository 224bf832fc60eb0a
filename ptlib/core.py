"""Two of the five nouns: Task and Checkpoint: what is to be learned, and where to start.

They are plain frozen dataclasses: what they hold is checked once, when they are made, and never changes afterwards.
"""

from __future__ import annotations

import hashlib
import html
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ptlib.arrays import VOID
from ptlib.errors import InputError
from ptlib.files import NO_MATHS, html_table, text_table
from ptlib.preprocessing import Preprocessing, Tokenization
from ptlib.texts import Texts, is_utf8, written


@dataclass(frozen=True)
class Split:
    """One part of a task's data, decoded: what a `Task` has three of.

    `inputs` is uint8 (N, H, W, 3), in memory or memory-mapped, or `Texts`; `ids` names each example. `targets` is

    - int64 (N,): the class of each image or text;
    - uint8 (N, H, W): the class of each pixel, 255 where it is void;
    - float32 (N, M, 7): boxes, a row each: class (-1 where there is none), x1, y1, x2, y2 in pixels of `inputs` from
      the top left, a flag (0 plain, 1 difficult, 2 a crowd: neither counts as missed), area in pixels of the image.

    `sizes` (N, 2) holds height and width of images as they came, where these differ: each lies at the top left of the
    canvas (H, W), scaled to fit, the rest is grey. None says that images fill the canvas as they came.
    """

    name: str
    inputs: Any
    targets: Tensor
    ids: Sequence[str]
    sizes: Tensor | None = None

    def __post_init__(self) -> None:
        x, y, n = self.inputs, self.targets, len(self.inputs)
        if not isinstance(x, Texts) and (x.dtype != torch.uint8 or x.ndim != 4 or x.shape[-1] != 3):
            raise ValueError(
                f"split {self.name!r}: inputs must be texts or uint8 of shape (N, H, W, 3), "
                f"got {x.dtype} of shape {tuple(x.shape)}"
            )
        height, width = (0, 0) if isinstance(x, Texts) else x.shape[1:3]
        places = [(torch.uint8, (n, height, width)), (torch.float32, (n, *y.shape[1:2], 7))] if height else []
        if (y.dtype, tuple(y.shape)) not in [(torch.int64, (n,)), *places]:
            or_places = f", uint8 of ({n}, {height}, {width}) or float32 of ({n}, M, 7)" if places else ""
            raise ValueError(
                f"split {self.name!r}: targets must be int64 of shape ({n},){or_places}, "
                f"got {y.dtype} of shape {tuple(y.shape)}"
            )
        if len(self.ids) != n:
            raise ValueError(f"split {self.name!r}: {n} inputs but {len(self.ids)} ids")
        if n == 0:
            raise ValueError(f"split {self.name!r} is empty; every split needs at least one example")
        if y.ndim == 3 and y.dtype == torch.float32:
            self._check_boxes(y, torch.tensor([width, height]))
        if self.sizes is not None and self.sizes.shape != (n, 2):
            raise ValueError(f"split {self.name!r}: sizes must be of shape ({n}, 2), got {tuple(self.sizes.shape)}")

    def _check_boxes(self, y: Tensor, corner: Tensor) -> None:
        there, low, high = y[..., 0] >= 0, y[..., 1:3], y[..., 3:5]
        whole = (y[..., 0] == y[..., 0].round()) & (y[..., 0] >= -1)
        fits = whole & ((low >= -0.01) & (low < high) & (high <= corner + 0.01)).all(2) & y.isfinite().all(2)
        wrong = (~whole | (there & ~fits)).nonzero()
        if len(wrong):
            i, j = wrong[0].tolist()
            raise ValueError(
                f"split {self.name!r}: box {j} of {self.ids[i]!r} is {y[i, j, :5].tolist()}; it must be a class, x1, "
                f"y1, x2 and y2 with 0 <= x1 < x2 <= {int(corner[0])} and 0 <= y1 < y2 <= {int(corner[1])}"
            )

    def __len__(self) -> int:
        return len(self.inputs)

    def counts(self, n_classes: int) -> np.ndarray:
        """Examples of each class, boxes or pixels where those have classes, (C,)."""
        y = self.targets.numpy()
        if y.ndim == 1:
            return np.bincount(y, minlength=n_classes)
        if y.dtype == np.float32:
            return np.bincount(y[..., 0][y[..., 0] >= 0].astype(np.int64), minlength=n_classes)
        every = sum((np.bincount(part.ravel(), minlength=256) for part in y), np.zeros(256, np.int64))
        return every[: max(n_classes, int(np.flatnonzero(every[:VOID]).max(initial=-1)) + 1)]

    def range(self) -> tuple[int, int]:
        """The lowest and the highest class that is stated."""
        if self.targets.ndim == 1:
            return int(self.targets.min()), int(self.targets.max())
        seen = np.flatnonzero(self.counts(1))
        return int(seen.min(initial=0)), int(seen.max(initial=0))

    def first_of_each(self, limit: int) -> Split:
        """The first example of each class that has any, of up to `limit` classes."""
        return self.take(np.unique(self.targets.numpy(), return_index=True)[1][:limit])

    def take(self, rows: Sequence[int] | np.ndarray) -> Split:
        """The examples at `rows`, in that order."""
        index = torch.from_numpy(np.array(rows, dtype=np.int64))
        sizes = None if self.sizes is None else self.sizes[index]
        return Split(self.name, self.inputs[index], self.targets[index], [self.ids[int(i)] for i in index], sizes)


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
        if len(self.class_names) < (1 if self.kind == "detection" else 2):  # one is enough to be found or not
            raise ValueError(f"task {self.name!r} has classes {self.class_names}; at least two are needed")
        for what, names in (("class", self.class_names), *(("example", split.ids) for split in self.splits)):
            odd = next((name for name in names if not is_utf8(name)), None)
            if odd is not None:
                raise InputError(f"task {self.name!r}: the name of {what} {odd!r} is not UTF-8; rename it")
        object.__setattr__(self, "skipped", tuple((written(path), written(reason)) for path, reason in self.skipped))
        if len(set(self.class_names)) != len(self.class_names):
            raise ValueError(f"task {self.name!r} names a class twice: {self.class_names}")
        seen: dict[str, str] = {}
        for split in self.splits:
            low, high = split.range()
            if low < 0 or high >= len(self.class_names):
                raise ValueError(
                    f"task {self.name!r}, split {split.name!r}: targets run from {low} to {high}, "
                    f"but there are {len(self.class_names)} classes (0 to {len(self.class_names) - 1})"
                )
            for example in split.ids:
                if example in seen:
                    twice, both = f"is twice in {split.name!r}", f"is in both {seen[example]!r} and {split.name!r}"
                    raise InputError(
                        f"task {self.name!r}: example {example!r} {twice if seen[example] == split.name else both}; "
                        "splits must not overlap"
                    )
                seen[example] = split.name

    @property
    def splits(self) -> tuple[Split, Split, Split]:
        return self.train, self.val, self.test

    @property
    def reads(self) -> str:
        """What the examples are: images or texts."""
        return "texts" if isinstance(self.train.inputs, Texts) else "images"

    @property
    def n_classes(self) -> int:
        return len(self.class_names)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over class names, pixels or texts, labels and ids of the three splits."""
        digest = hashlib.sha256(json.dumps([self.kind, self.class_names]).encode())
        for split in self.splits:
            shape = [len(split)] if isinstance(split.inputs, Texts) else list(split.inputs.shape)
            digest.update(json.dumps([split.name, shape, list(split.ids)]).encode())
            digest.update(split.targets.numpy().tobytes())
            if split.sizes is not None:
                digest.update(split.sizes.numpy().tobytes())
            for rows in split.inputs.split(1024):
                digest.update(rows.encoded() if isinstance(rows, Texts) else rows.contiguous().numpy())
        return digest.hexdigest()

    def table(self) -> list[tuple[str, ...]]:
        """Rows for display: split, examples, examples of the rarest and of the commonest class, size."""
        text = isinstance(self.train.inputs, Texts)
        what = {"detection": "boxes per class", "segmentation": "pixels per class"}.get(self.kind, "per class")
        rows: list[tuple[str, ...]] = [("split", self.reads, what, "characters" if text else "pixels")]
        for split in self.splits:
            counts = split.counts(self.n_classes)
            spread = f"{counts.min():,}" if counts.min() == counts.max() else f"{counts.min():,} to {counts.max():,}"
            if text:
                size = "{:,.0f} (median), {:,} at most".format(*_middle_and_most(split.inputs.lengths))
            else:
                size = "{} x {}".format(*split.inputs.shape[1:3])
            rows.append((split.name, f"{len(split):,}", spread, size))
        return rows

    def __str__(self) -> str:
        return "\n".join([self._title(), *text_table(self.table()), *self._remarks()])

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        remarks = "".join(f"<br>{html.escape(line)}" for line in self._remarks())
        return html_table(self.table(), self._title()) + (f"<p {NO_MATHS}>{remarks[4:]}</p>" if remarks else "")

    def _title(self) -> str:
        return f"{self.name}: {self.n_classes} classes, {self.kind.replace('_', ' ')}"

    def _remarks(self) -> list[str]:
        lines = [f"note: {note}" for note in self.notes]
        if self.skipped:
            lines.append(f"skipped {len(self.skipped)} files:")
            lines += [f"  {path}: {reason}" for path, reason in self.skipped[:20]]
            if len(self.skipped) > 20:
                lines.append(f"  and {len(self.skipped) - 20} more (task.skipped has them all)")
        return lines


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
    preprocessing: Preprocessing | Tokenization
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
        at = f"{p.example(1).shape[1]} tokens" if isinstance(p, Tokenization) else f"{p.size} x {p.size}"
        return [
            ("checkpoint", self.name),
            ("architecture", self.architecture),
            ("trained on", self.trained_on or ("unknown" if self.pretrained else "nothing: random weights")),
            ("published top-1", f"{self.accuracy:.3f}" if self.accuracy is not None else "none"),
            ("parameters", f"{self.parameters / 1e6:.2f} M"),
            ("FLOPs", f"{self.flops / 1e9:.2f} G at {at} (2 per multiply-add)"),
            ("preprocessing", p.said()),
            ("licence", self.licence),
            ("sha256", self.sha256 or "none"),
            ("source", self.source),
        ]

    def __str__(self) -> str:
        return "\n".join(text_table(self.table(), header=False))

    def _repr_html_(self) -> str:
        return html_table(self.table())


def _bare(name: str) -> tuple[str, set[int] | None]:
    """A data set's name without what spellings differ in, and its classes where only some are meant: photos[0:9]."""
    some = re.fullmatch(r"(.*)\[(\d+):(\d+)(?::(\d+))?\]", name)
    classes = set(range(int(some[2]), int(some[3]), int(some[4] or 1))) if some else None
    name = (some[1] if some else name).removeprefix("hf:").rpartition("/")[2]
    return "".join(c for c in name.lower() if c.isalnum()), classes


def _middle_and_most(values: np.ndarray) -> tuple[float, int]:
    return float(np.median(values)), int(values.max())
