"""Three of the five nouns: Task, Checkpoint, Stage: what goes into fine-tuning. What comes out is in results.py.

They are plain frozen dataclasses: what they hold is checked once, when they are made, and never changes afterwards.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ptlib.files import text_table

AUGMENTATIONS = ("crop", "resized-crop", "flip", "trivial", "rand", "erase", "mixup", "cutmix")
GROUPS = ("head", "backbone", "all", "norm", "batchnorm", "bias")


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
    """How a checkpoint wants its images: side in pixels, per-channel mean and std of values in 0..1, resampling."""

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"
    crop: float = 1.0

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
    factory: Any = field(default=None, repr=False, compare=False)

    @property
    def pretrained(self) -> bool:
        return self.path is not None

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


@dataclass(frozen=True)
class Stage:
    """One leg of fine-tuning, as data.

    `trainable` holds names of groups ("head", "backbone", "all", "last 2 blocks", "norm", "batchnorm", "bias") or
    regular expressions matched against parameter names from their start; what nothing names is frozen.
    `lr` is the peak learning rate of the head; a layer k layers below the head learns at `lr * layer_decay**k`.
    `warmup` is the share of steps spent rising to `lr`; then it follows `schedule` ("one-cycle" as in
    PyTorch's OneCycleLR: cosines up from lr / 25 and down to nearly nothing). Weight decay spares norms and biases.
    `batchnorm` says where running statistics come from: "eval" keeps the checkpoint's, "train" learns the new data's.
    `augment` None stands for the task's own. `l2_sp` pulls weights towards where the stage began (Li et al. 2018,
    arXiv 1802.01483). `ema` is the decay of a moving average of the weights, which is then what is scored and kept.
    With `optimizer="lbfgs"` the head is fitted to convergence on cached features, its L2 penalty chosen on val;
    `epochs`, `lr` and `schedule` say nothing there.
    """

    name: str
    trainable: tuple[str, ...] = ("all",)
    epochs: int = 1
    lr: float = 1e-3
    batch_size: int = 64
    optimizer: Literal["adamw", "sgd", "lbfgs"] = "adamw"
    schedule: Literal["cosine", "linear", "constant", "one-cycle"] = "cosine"
    warmup: float = 0.15
    layer_decay: float = 1.0
    weight_decay: float = 0.01
    label_smoothing: float = 0.0
    clip_norm: float | None = None
    augment: tuple[str, ...] | None = None
    batchnorm: Literal["eval", "train"] = "eval"
    ema: float | None = None
    l2_sp: float = 0.0

    def __post_init__(self) -> None:
        for name in ("trainable", "augment"):
            value = getattr(self, name)
            if isinstance(value, str):
                raise ValueError(f"stage {self.name!r}: {name} must be a list of names, got the string {value!r}")
            if value is not None:
                object.__setattr__(self, name, tuple(value))
        one_of = {
            "optimizer": ("adamw", "sgd", "lbfgs"),
            "schedule": ("cosine", "linear", "constant", "one-cycle"),
            "batchnorm": ("eval", "train"),
        }
        for name, allowed in one_of.items():
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"stage {self.name!r}: {name} is {getattr(self, name)!r}; it must be one of {', '.join(allowed)}"
                )
        for example in self.augment or ():
            if example not in AUGMENTATIONS:
                raise ValueError(
                    f"stage {self.name!r}: unknown augmentation {example!r}; there are {', '.join(AUGMENTATIONS)}"
                )
        bounds: dict[str, tuple[float, float]] = {
            "epochs": (0, 100_000), "lr": (0, 1e3), "batch_size": (1, 2**20), "warmup": (0, 1),
            "layer_decay": (1e-3, 1), "weight_decay": (0, 1e3), "label_smoothing": (0, 0.99), "l2_sp": (0, 1e3),
        }  # fmt: skip
        if self.clip_norm is not None:
            bounds["clip_norm"] = (1e-12, math.inf)
        if self.ema is not None:
            bounds["ema"] = (0, 0.999999)
        for name, (low, high) in bounds.items():
            value = getattr(self, name)
            whole = name in ("epochs", "batch_size")
            number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
            if not (number and low <= value <= high):
                what = "a whole number" if whole else "a number"
                raise ValueError(
                    f"stage {self.name!r}: {name} is {value!r}; it must be {what} from {low:g} to {high:g}"
                )
        if not self.trainable:
            raise ValueError(f"stage {self.name!r} trains nothing; name groups ({', '.join(GROUPS)}) or patterns")
        if self.optimizer == "lbfgs" and (self.trainable != ("head",) or self.augment):
            raise ValueError(
                f"stage {self.name!r}: lbfgs fits the head alone, on features without augmentation; "
                f"got trainable={list(self.trainable)}, augment={list(self.augment or ())}"
            )

    def __str__(self) -> str:
        if self.optimizer == "lbfgs":
            return f"{self.name}: head to convergence on cached features (L-BFGS, L2 penalty chosen on val)"
        decay = f", layer decay {self.layer_decay:g}" if self.layer_decay < 1 else ""
        return (
            f"{self.name}: {', '.join(self.trainable)}; {self.epochs} epochs of {self.optimizer}, lr {self.lr:g}"
            f"{decay}, {self.schedule}, batch {self.batch_size}"
        )


def _short(values: Sequence[float]) -> str:
    return f"{values[0]:g}" if len(set(values)) == 1 else "/".join(f"{v:g}" for v in values)
