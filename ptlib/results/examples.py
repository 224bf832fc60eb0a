"""What the predictions of every kind of task have in common: a row for each example of a split, and a file."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from ptlib.errors import InputError
from ptlib.files import html_table, ordered, text_table, write_whole
from ptlib.texts import is_utf8


@dataclass(frozen=True, repr=False)
class Examples:
    """What is true of the examples of a split and what a model said of them, in the split's order.

    `ids` names the examples; `columns` holds what else is known of each, by name: a camera, a patient, a year.
    """

    ids: tuple[str, ...]
    targets: np.ndarray
    scores: np.ndarray
    split: str
    class_names: tuple[str, ...]
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    kind: ClassVar[str]

    def __post_init__(self) -> None:
        n, where = len(self.ids), f"predictions on {self.split!r}"
        if n == 0:
            raise InputError(f"{where}: there are no examples")
        if not is_utf8("".join((*self.ids, *self.class_names))):
            raise InputError(f"{where}: an id or the name of a class is not UTF-8; rename it")
        if len(set(self.class_names)) < len(self.class_names):
            raise InputError(f"{where}: a class is named twice in {', '.join(self.class_names[:20])}")
        if len(set(self.ids)) < n:
            twice = next(example for example, times in Counter(self.ids).items() if times > 1)
            raise InputError(f"{where}: example {twice!r} is there twice; each counts once")
        for name, values in self.columns.items():
            if len(values) != n:
                raise InputError(f"{where}: column {name!r} has {len(values)} values for {n} examples")

    def __len__(self) -> int:
        return len(self.ids)

    def table(self) -> list[tuple[str, ...]]:
        """Rows for display: of how many examples of what this is."""
        what = {"split": self.split, "examples": f"{len(self):,}", "classes": f"{len(self.class_names):,}",
                "kind": self.kind.replace("_", " "), "columns": ", ".join(self.columns) or "none"}  # fmt: skip
        return [tuple(what), tuple(what.values())]

    def __repr__(self) -> str:
        return "\n".join(text_table(self.table()))

    def _repr_html_(self) -> str:
        return html_table(self.table())

    @cached_property
    def place_of(self) -> dict[str, int]:
        """Which class, counted from 0, a name is of."""
        return {name: k for k, name in enumerate(self.class_names)}

    @property
    def multilabel(self) -> bool:
        """Whether an example as a whole may have several labels."""
        return False

    def take(self, rows: Any) -> Self:
        """Those of `rows`, indices or a mask, in that order."""
        index = np.arange(len(self))[rows]
        columns = {name: tuple(values[i] for i in index) for name, values in self.columns.items()}
        ids = tuple(self.ids[i] for i in index)
        return replace(self, ids=ids, targets=self.targets[index], scores=self.scores[index], columns=columns)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write one safetensors file, whole or not at all."""
        from safetensors.numpy import save

        header = {"kind": self.kind, "split": self.split, "class_names": json.dumps(self.class_names),
                  "ids": json.dumps(self.ids), "columns": json.dumps(dict(self.columns))}  # fmt: skip
        arrays = {"scores": self.scores, "targets": self.targets}
        packed = {name: np.ascontiguousarray(self._pack(values)) for name, values in arrays.items()}
        return write_whole(path, ordered(save(packed, metadata=header)))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote; InputError if it is something else."""
        from safetensors import safe_open

        with safe_open(path, framework="numpy") as f:
            header = f.metadata() or {}
            missing = {"split", "class_names", "ids"} - set(header)
            if missing:
                raise InputError(f"{path} holds no predictions: its header lacks {', '.join(sorted(missing))}")
            kinds = {each.kind: each for each in Examples.__subclasses__()}
            kind = kinds.get(header.get("kind", "image_classification"))
            if kind is None or not issubclass(kind, cls):
                raise InputError(
                    f"{path} holds predictions of {header.get('kind', 'image_classification')!r}; here those of "
                    f"{getattr(cls, 'kind', ', '.join(kinds))} are read"
                )
            columns = {name: tuple(values) for name, values in json.loads(header.get("columns", "{}")).items()}
            targets, scores = (kind._unpack(f.get_tensor(name), path) for name in ("targets", "scores"))
            return kind(
                tuple(json.loads(header["ids"])), targets, scores, header["split"],
                tuple(json.loads(header["class_names"])), columns,
            )  # fmt: skip

    @staticmethod
    def _pack(values: np.ndarray) -> np.ndarray:
        """As it goes to disk."""
        return values

    @staticmethod
    def _unpack(values: np.ndarray, path: Any) -> np.ndarray:
        return values


def refuse_unless(finite: np.ndarray, ids: Sequence[str], split: str) -> None:
    """InputError if what is said of an example is not finite: bool (N,)."""
    bad = np.flatnonzero(~finite)
    if len(bad):
        raise InputError(
            f"predictions on {split!r}: {len(bad)} of {len(ids)} rows hold NaN or infinity, first for example "
            f"{ids[bad[0]]!r}; the model diverged or overflowed, try precision fp32, or train it with a lower lr"
        )
