"""Stratified draws: which examples go where, as pure functions of labels and a seed; and a Task made of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ptlib.core import Split, Task
from ptlib.errors import InputError

SPLITS = ("train", "val", "test")
Problems = list[tuple[str, str]]


@dataclass(frozen=True)
class Draw:
    """How many examples of each split, None for all there are, and the seeds of the draws.

    `seed` draws train, so that it can be varied with the training; `split_seed` draws val and test, so that results
    of different seeds are measured on the same examples. `side` is the side in pixels to keep images at. `classes`
    takes some of the classes, as a slice of their order; the numbers are then of the examples of those.
    """

    n_train: int | None = None
    n_val: int | None = None
    n_test: int | None = None
    seed: int = 0
    split_seed: int = 0
    side: int | None = None
    classes: slice | None = None

    def of(self, split: str) -> tuple[int | None, int]:
        """Size and seed of the draw of `split`."""
        return getattr(self, f"n_{split}"), self.seed if split == "train" else self.split_seed

    def choose(self, name: str, class_names: Sequence[str]) -> tuple[str, range]:
        """The classes taken, and what the task is then called: `photos[9:18]`. InputError if fewer than two are."""
        if self.classes is None:
            return name, range(len(class_names))
        chosen = range(len(class_names))[self.classes]
        if len(chosen) < 2:
            raise InputError(
                f"{name} has {len(class_names)} classes; of these, {len(chosen)} are taken, and two are needed"
            )
        step = f":{chosen.step}" if chosen.step != 1 else ""
        return f"{name}[{chosen.start}:{chosen.stop}{step}]", chosen


@dataclass(frozen=True)
class Pool:
    """Labelled examples that can be fetched by row: labels (N,), ids (N), and a function from rows to pixels or texts.

    `fetch` gives uint8 (n, H, W, 3) or `Texts`, which of the n could be read, and (id, reason) for the others.
    """

    labels: np.ndarray
    ids: Sequence[str]
    fetch: Callable[[np.ndarray], tuple[Any, np.ndarray, Problems]]

    def __len__(self) -> int:
        return len(self.labels)

    def of_classes(self, classes: range, among: np.ndarray) -> Pool:
        """The examples of these classes alone, `among` these rows; the classes are numbered anew."""
        rows = among[np.isin(self.labels[among], classes)]
        labels = np.searchsorted(classes, self.labels[rows])
        return Pool(labels, [self.ids[int(i)] for i in rows], lambda wanted: self.fetch(rows[wanted]))


def from_array(pixels: np.ndarray, labels: np.ndarray, name: str) -> Pool:
    """A pool over an array in memory: uint8 (N, H, W, 3) or grey (N, H, W)."""

    def fetch(rows: np.ndarray) -> tuple[Tensor, np.ndarray, Problems]:
        part = pixels[rows]
        part = np.repeat(part[..., None], 3, axis=-1) if part.ndim == 3 else part
        return torch.from_numpy(np.ascontiguousarray(part)), np.arange(len(rows)), []

    return Pool(np.asarray(labels, dtype=np.int64), [f"{name}/{i}" for i in range(len(labels))], fetch)


def assemble(name: str, class_names: tuple[str, ...], pools: dict[str, Pool], draw: Draw, **facts: Any) -> Task:
    """A `Task` from pools named train, val and test, or from one named all.

    Parts that are missing are drawn, stratified: val and test, 15 % each, from `all`; val from train where only train
    and test are given; where only train and val are, val becomes the test and another val is drawn from train, since
    a set that chose the model can't also judge it. Only rows that are asked for are fetched.
    """
    notes = list(facts.pop("notes", ()))
    skipped = list(facts.pop("skipped", ()))
    name, taken = draw.choose(name, class_names)
    if "all" in pools:
        dealt = three_way(pools["all"].labels, (0.15, 0.15), draw.split_seed)
        parts = {split: (pools["all"], rows) for split, rows in zip(SPLITS, dealt, strict=True)}
        notes.append("train, val and test are a stratified draw of 70, 15 and 15 %")
    else:
        parts = {split: (pool, np.arange(len(pool))) for split, pool in pools.items()}
    if len(taken) < len(class_names):  # after dealing, so that a test image of some classes is one of the whole's
        some = {split: pool.of_classes(taken, rows) for split, (pool, rows) in parts.items()}
        parts = {split: (pool, np.arange(len(pool))) for split, pool in some.items()}
        class_names = tuple(class_names[i] for i in taken)
    if "test" not in parts:
        parts["test"] = parts.pop("val")
        notes.append("only train and val are given: that val is the test set here")
    if "val" not in parts:
        pool, rows = parts["train"]
        chosen = stratified(pool.labels, _default_n_val(pool.labels, draw), draw.split_seed, "n_val")
        parts["val"], parts["train"] = (pool, chosen), (pool, without(len(pool), chosen))
        notes.append(f"val is a stratified draw of {len(chosen)} from train")
    splits = {}
    for split in SPLITS:
        pool, rows = parts[split]
        n, seed = draw.of(split)
        if n is not None:
            rows = rows[stratified(pool.labels[rows], n, seed, f"n_{split}")]
        inputs, kept, problems = pool.fetch(rows)
        skipped += problems
        if len(kept) == 0:
            raise InputError(f"no example of {split!r} of {name!r} could be read; the first, {': '.join(problems[0])}")
        rows = rows[kept]
        splits[split] = Split(split, inputs, torch.from_numpy(pool.labels[rows]), [pool.ids[i] for i in rows])
    train, val, test = (splits[split] for split in SPLITS)
    noted: dict[str, Any] = {"notes": tuple(notes), "skipped": tuple(skipped), **facts}
    kind = noted.pop("kind", "image_classification")
    return Task(name, kind, class_names, train, val, test, **noted)


def _default_n_val(labels: np.ndarray, draw: Draw) -> int:
    """A fifth of the train images asked for, ten a class at least, a fifth of what there is at most."""
    if draw.n_val is not None:
        return draw.n_val
    classes = len(np.unique(labels))
    wanted = max((draw.n_train or len(labels)) // 5, 10 * classes)
    return max(classes, min(wanted, len(labels) // 5, 10_000))


def stratified(labels: np.ndarray, n: int, seed: int, what: str = "examples") -> np.ndarray:
    """Rows of `n` examples with the classes' shares kept as nearly as whole numbers allow, sorted, int64 (n,).

    A smaller draw with the same seed is a part of a larger one, but for rounding. Every class gets one example if
    `n` allows. InputError if `n` is not between the number of classes and the number of examples.
    """
    labels = np.asarray(labels)
    classes, counts = np.unique(labels, return_counts=True)
    if not len(classes) <= n <= len(labels):
        raise InputError(
            f"{what}={n} can't be drawn: it must lie between {len(classes)} (one of each class) and {len(labels)} (all)"
        )
    share = counts * (n / len(labels))
    take = np.maximum(1, np.floor(share)).astype(int)
    # Largest remainders take what flooring left; what the "at least one" rule took too much, the largest give back.
    while take.sum() < n:
        room = np.where(take < counts, share - take, -np.inf)
        take[room.argmax()] += 1
    while take.sum() > n:
        take[np.where(take > 1, take - share, -np.inf).argmax()] -= 1
    rows = []
    for label, k in zip(classes, take, strict=True):
        members = np.flatnonzero(labels == label)
        rng = np.random.default_rng([seed, int(label)])
        rows.append(rng.permutation(members)[:k])
    return np.sort(np.concatenate(rows))


def some(labels: np.ndarray, n: int | None, seed: int) -> np.ndarray:
    """Rows of `n` examples, or of all if there are no more; stratified, unless n is below the number of classes."""
    labels = np.asarray(labels)
    if n is None or n >= len(labels):
        return np.arange(len(labels))
    if n < len(np.unique(labels)):
        return np.sort(np.random.default_rng(seed).permutation(len(labels))[:n])
    return stratified(labels, n, seed)


def three_way(labels: np.ndarray, shares: tuple[float, float], seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of train, val and test, stratified; `shares` are those of val and test. A class needs three examples."""
    classes, counts = np.unique(labels, return_counts=True)
    if counts.min() < 3:
        raise InputError(
            f"class {int(classes[counts.argmin()])} has {counts.min()} examples; a three-way split needs 3 of each"
        )
    parts: tuple[list[np.ndarray], ...] = ([], [], [])
    for label, count in zip(classes, counts, strict=True):
        members = np.random.default_rng([seed, int(label)]).permutation(np.flatnonzero(labels == label))
        n_val, n_test = (max(1, round(count * share)) for share in shares)
        for part, rows in zip(parts, np.split(members, [count - n_val - n_test, count - n_test]), strict=True):
            part.append(rows)
    train, val, test = (np.sort(np.concatenate(part)) for part in parts)
    return train, val, test


def without(n: int, rows: np.ndarray) -> np.ndarray:
    """The rows of 0..n-1 that are not in `rows`."""
    return np.setdiff1d(np.arange(n), rows, assume_unique=True)
