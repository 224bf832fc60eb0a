"""Examples that stand in two splits: exact ones by their bytes, near ones by a perceptual hash, or by shared words."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from scipy.fft import dctn
from torch import Tensor

from ptlib.core import Split, Task
from ptlib.texts import Texts

ALIKE = 0.8  # cosine of the sets of two texts' triples of words: about eight of ten are shared


@dataclass(frozen=True)
class Duplicates:
    """Pairs (id in one split, id in the other) that are the same to the byte, and nearly the same to the eye; of texts,
    the same but for white space and capitals, and nearly the same in their words."""

    exact: list[tuple[str, str]]
    near: list[tuple[str, str]]

    def __str__(self) -> str:
        example = f", such as {(self.exact + self.near)[0]}" if self.exact or self.near else ""
        return f"{len(self.exact)} exact and {len(self.near)} near duplicates between train and test{example}"


def find_duplicates(task: Task, max_bits: int = 6, max_difference: float = 8.0) -> Duplicates:
    """Test images or texts of `task` that stand in train too, each with its first counterpart.

    Near means: the 64-bit DCT hashes (Zauner 2010) of an image, as it is or mirrored, differ in at most `max_bits`
    bits, and the 8 x 8 RGB thumbnails by at most `max_difference` grey levels on average. The second condition keeps
    flat images, whose hash is noise, from being taken for one another. Cost: N_train x N_test comparisons of 64 bits.
    Of texts: the sets of three words in a row, hashed, of two texts have a cosine of 0.8 or more; a text of fewer than
    three words is near none.
    """
    hashes = {digest: i for i, digest in reversed(list(enumerate(digests(task.train))))}
    exact, rest = [], []
    for row, digest in enumerate(digests(task.test)):
        if digest in hashes:
            exact.append((task.train.ids[hashes[digest]], task.test.ids[row]))
        else:
            rest.append(row)
    near = []
    if rest and isinstance(task.test.inputs, Texts):
        pairs = _near_texts(task.train.inputs, task.test.inputs[rest])
        near = [(task.train.ids[c], task.test.ids[rest[r]]) for r, c in pairs]
    elif rest:
        train_thumbs, train_bits = _hash(task.train.inputs, mirrored=False)
        counterpart = np.full(len(rest), -1)
        for mirrored in (False, True):
            thumbs, bits = _hash(task.test.inputs[torch.tensor(rest)], mirrored)
            _match(counterpart, train_thumbs, train_bits, thumbs, bits, max_bits, max_difference)
        near = [(task.train.ids[c], task.test.ids[r]) for c, r in zip(counterpart, rest, strict=True) if c >= 0]
    return Duplicates(exact, near)


def digests(split: Split) -> list[bytes]:
    """SHA-256 of each example's pixels, or of its text, white space and capitals aside."""
    if isinstance(split.inputs, Texts):
        return [hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() for text in split.inputs.bare()]
    return [hashlib.sha256(image).digest() for rows in split.inputs.split(1024) for image in rows.contiguous().numpy()]


def _near_texts(train: Texts, test: Texts) -> list[tuple[int, int]]:
    """Rows (of test, of train) of texts that share their triples of words, of each in test the first in train."""
    from sklearn.feature_extraction.text import HashingVectorizer

    triples = HashingVectorizer(
        lowercase=False, token_pattern=r"\w+", ngram_range=(3, 3), binary=True, alternate_sign=False
    )
    columns, pairs = triples.transform(train.bare()).T.tocsr(), []
    chunk = max(1, 8_000_000 // len(train))
    for start, part in zip(range(0, len(test), chunk), test.split(chunk), strict=True):
        cosine = (triples.transform(part.bare()) @ columns).tocoo()
        alike = cosine.data >= ALIKE - 1e-9
        rows, others = cosine.row[alike], cosine.col[alike]
        order = np.lexsort((others, rows))
        found, first = np.unique(rows[order], return_index=True)
        pairs += [(start + int(r), int(others[order][k])) for r, k in zip(found, first, strict=True)]
    return pairs


def _hash(images: Tensor, mirrored: bool) -> tuple[np.ndarray, np.ndarray]:
    """Thumbnails float32 (N, 192) and hashes uint64 (N,) of uint8 (N, H, W, 3)."""
    thumbs, bits = [], []
    for rows in images.split(1024):
        x = rows.permute(0, 3, 1, 2).float()
        x = x.flip(3) if mirrored else x
        grey = torch.nn.functional.interpolate(x.mean(1, keepdim=True), size=(32, 32), mode="bilinear", antialias=True)
        low = dctn(grey[:, 0].numpy(), axes=(1, 2), norm="ortho")[:, :8, :8].reshape(len(x), 64)  # lowest frequencies
        low[:, 0] = 0  # the mean brightness says nothing of shape
        bits.append(np.packbits(low > np.median(low, axis=1, keepdims=True), axis=1).view(np.uint64)[:, 0])
        small = torch.nn.functional.interpolate(x, size=(8, 8), mode="bilinear", antialias=True)
        thumbs.append(small.flatten(1).numpy())
    return np.concatenate(thumbs), np.concatenate(bits)


def _match(
    counterpart: np.ndarray, train_thumbs: np.ndarray, train_bits: np.ndarray, thumbs: np.ndarray, bits: np.ndarray,
    max_bits: int, max_difference: float,
) -> None:  # fmt: skip
    """Fill in, in place, the train row of each test row that has none yet."""
    chunk = max(1, 8_000_000 // len(train_bits))
    for start in range(0, len(bits), chunk):
        distance = np.bitwise_count(bits[start : start + chunk, None] ^ train_bits[None])
        for row in np.flatnonzero((distance <= max_bits).any(1)):
            here = start + int(row)
            columns = np.flatnonzero(distance[row] <= max_bits)
            alike = columns[np.abs(thumbs[here] - train_thumbs[columns]).mean(1) <= max_difference]
            if counterpart[here] < 0 and len(alike):
                counterpart[here] = alike[0]
