"""Texts as data hold them, and tokens as a network reads them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

PAD = -1  # in a batch, behind the end of a text; what a network takes for padding is its own affair


def bare(text: str) -> str:
    """A text without what copies of it differ in: white space and capitals."""
    return " ".join(text.split()).casefold()


def is_utf8(name: str) -> bool:
    """Whether a name can be written as UTF-8; one of a file need not be."""
    return name.isascii() or clean(name) == name


def written(text: str) -> str:
    """Text as UTF-8 can hold it: what it can't is spelt out, such as \\udce9 for a byte of a file's name."""
    return text.encode("utf-8", "backslashreplace").decode()


class Texts(Sequence[str]):
    """N strings; `texts[3]` is one of them, `texts[rows]` those of an array of rows. They never change."""

    def __init__(self, texts: Iterable[str]):
        self._texts = tuple(texts)
        self.read: dict[Any, Tokens] = {}  # what a tokenizer made of them, kept for the next time

    def __len__(self) -> int:
        return len(self._texts)

    def __getitem__(self, rows: Any) -> Any:
        if isinstance(rows, slice):
            return Texts(self._texts[rows])
        if isinstance(rows, int | np.integer):
            return self._texts[rows]
        rows = np.asarray(rows)
        return Texts(self._texts[int(i)] for i in (np.flatnonzero(rows) if rows.dtype == bool else rows))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Texts) and self._texts == other._texts

    def __hash__(self) -> int:
        return hash(self._texts)

    def split(self, n: int) -> Iterator[Texts]:
        """Parts of `n` texts, in order; the last may be shorter."""
        return (self[i : i + n] for i in range(0, len(self), n))

    def encoded(self) -> bytes:
        """The same bytes for the same texts, and for no others."""
        return json.dumps(self._texts).encode()

    def bare(self) -> list[str]:
        """Each without what its copies differ in."""
        return [bare(text) for text in self._texts]

    @property
    def lengths(self) -> np.ndarray:
        """Characters of each, int64 (N,)."""
        return np.fromiter(map(len, self._texts), np.int64, len(self))


@dataclass(frozen=True, eq=False)
class Tokens:
    """Token ids of N texts, end to end: `tokens[rows]` is a batch, int32 (B, longest), -1 behind the end of a text.

    `values` is int32 (T,); text i has those from `starts[i]` to `starts[i + 1]`, `starts` int64 (N + 1,). `cut` (N,)
    says which texts go on beyond what is read of them. They stay on the CPU; batches are moved.
    """

    values: Tensor
    starts: Tensor
    cut: Tensor

    @classmethod
    def of(cls, ids: Sequence[Sequence[int]], cut: Sequence[bool]) -> Tokens:
        lengths = torch.tensor([0, *map(len, ids)])
        values = np.fromiter((i for text in ids for i in text), np.int32, int(lengths.sum()))
        return cls(torch.from_numpy(values), lengths.cumsum(0), torch.tensor(cut, dtype=torch.bool))

    def __len__(self) -> int:
        return len(self.cut)

    @property
    def device(self) -> torch.device:
        return self.values.device

    @property
    def lengths(self) -> Tensor:
        """Tokens of each text, int64 (N,)."""
        return self.starts.diff()

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        starts, lengths = self.starts[:-1][rows], self.lengths[rows]
        place = torch.arange(int(lengths.max()))
        there = place < lengths[:, None]
        return torch.where(there, self.values[(starts[:, None] + place).clamp_max(len(self.values) - 1)], PAD)


def clean(text: str) -> str:
    """Text that can be written as UTF-8: a lone half of a surrogate pair, which stands for nothing, becomes U+FFFD."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
