"""Features and labels, checked once; and what several scores need of them, computed once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.special import log_softmax

from ptlib.arrays import as_array
from ptlib.errors import InputError

CHUNK = 4096  # rows turned into float64 at a time
SMALLEST, LARGEST = 1e-70, 1e70  # beyond them fourth powers would vanish or overflow


class Decomposition(NamedTuple):
    """X = U diag(s) Vt over the directions that are not rounding (K of them), and labels seen from there.

    `projected` (K, C) is U^T Y of the one-hot labels Y, `rest` (C,) the squared length of what of Y lies outside U.
    """

    s: np.ndarray
    vt: np.ndarray
    projected: np.ndarray
    rest: np.ndarray


@dataclass(frozen=True, eq=False)
class Sample:
    """Features (N, D) of N examples, as they were given, and their classes 0..C-1, int64 (N,).

    Every score takes one in place of (features, labels): what scores have in common is then computed once. Made by
    `sample`; nothing is ever written into `features`. What can goes by chunks of rows in float64; `coordinates` are a
    whole copy.
    """

    features: np.ndarray
    labels: np.ndarray

    @property
    def n(self) -> int:
        return len(self.labels)

    @cached_property
    def counts(self) -> np.ndarray:
        """Examples of each class, (C,)."""
        return np.bincount(self.labels)

    @property
    def n_classes(self) -> int:
        return len(self.counts)

    def chunks(self, shift: np.ndarray | None = None) -> Iterator[tuple[slice, np.ndarray]]:
        """Rows and their features less `shift` in float64, a few thousand at a time."""
        for start in range(0, self.n, CHUNK):
            rows = slice(start, start + CHUNK)
            part = self.features[rows].astype(np.float64)
            yield rows, part if shift is None else part - shift

    def of_class(self, c: int) -> np.ndarray:
        """Features of one class less the mean of all, float64 (n_c, D)."""
        return np.asarray(self.features[self.labels == c].astype(np.float64) - self.mean)

    @cached_property
    def mean(self) -> np.ndarray:
        """(D,), clipped to each feature's range, so that one that never varies is exactly 0 once centred."""
        parts = [(part.sum(0), part.min(0), part.max(0)) for _, part in self.chunks()]
        total, low, high = (np.stack(column) for column in zip(*parts, strict=True))
        return np.asarray(np.clip(total.sum(0) / self.n, low.min(0), high.max(0)))

    @cached_property
    def class_means(self) -> np.ndarray:
        """Less the mean of all, (C, D)."""
        total = sum(one_hot(self.labels[rows], self.n_classes).T @ part for rows, part in self.chunks(self.mean))
        return np.asarray(total / self.counts[:, None])

    @cached_property
    def class_variances(self) -> np.ndarray:
        """Of each feature in each class, with divisor n_c, (C, D)."""
        parts = ((rows, part - self.class_means[self.labels[rows]]) for rows, part in self.chunks(self.mean))
        return np.asarray(
            sum(one_hot(self.labels[rows], self.n_classes).T @ part**2 for rows, part in parts) / self.counts[:, None]
        )

    @cached_property
    def fourth_moment(self) -> float:
        """The mean of ||x - mean||^4."""
        return float(sum(((part**2).sum(1) ** 2).sum() for _, part in self.chunks(self.mean)) / self.n)

    @cached_property
    def raw(self) -> Decomposition:
        """Of the features as they are."""
        return self._decomposed(centred=False)

    @cached_property
    def centred(self) -> Decomposition:
        """Of the features less their mean, labels likewise; the directions are the principal components."""
        return self._decomposed(centred=True)

    @cached_property
    def coordinates(self) -> np.ndarray:
        """Centred features; rotated, where D is at least N, into what they span: float64 (N, D or N - 1 at most)."""
        if self.features.shape[1] < self.n:
            return np.concatenate([part for _, part in self.chunks(self.mean)])
        return self.principal(len(self.centred.s))

    @cached_property
    def discriminants(self) -> tuple[np.ndarray, float]:
        """Log posteriors (N, C) by regularised Fisher discriminants (see `sfda`), and their shrinkage."""
        return discriminants_of(self.coordinates, self.labels, self.features.shape[1])

    def principal(self, k: int) -> np.ndarray:
        """The first `k` principal components of each example, float64 (N, k)."""
        axes = self.centred.vt[:k].T
        return np.concatenate([part @ axes for _, part in self.chunks(self.mean)])

    def _decomposed(self, centred: bool) -> Decomposition:
        # A product of features with themselves squares their condition. Where they were rounded to float32 before, and
        # no direction is near the edge of what that product resolves, nothing is lost by it, in a third or a quarter of
        # the time.
        found = None if self.features.dtype == np.float64 else self._by_product(centred)
        return found or self._by_triangle(centred)

    def _by_product(self, centred: bool) -> Decomposition | None:
        """By the eigenvalues of F'F, or of FF' where that is smaller; None where they can't tell rank from rounding."""
        share = self.counts / self.n if centred else np.zeros(self.n_classes)
        total = self.counts * (1 - share)  # squared lengths of the labels' columns
        wide = self.features.shape[1] > self.n
        if wide:
            x = self.features.astype(np.float64) - (self.mean if centred else 0.0)
            values, vectors = np.linalg.eigh(x @ x.T)
        else:
            gram, cross = self._products
            if not centred:
                gram, cross = gram + self.n * np.outer(self.mean, self.mean), cross + np.outer(self.mean, self.counts)
            values, vectors = np.linalg.eigh(gram)
        clear = values > 1e-10 * values[-1]
        if values[-1] <= 0 or not (clear | (values < 1e-13 * values[-1])).all():
            return None
        s, vectors = np.sqrt(values[clear][::-1]), vectors[:, clear][:, ::-1]
        if wide:
            y = one_hot(self.labels, self.n_classes) - share
            projected = vectors.T @ y
            rest = ((y - vectors @ projected) ** 2).sum(0)
            return Decomposition(s, vectors.T @ x / s[:, None], projected, np.where(rest > 1e-20 * total, rest, 0.0))
        projected = vectors.T @ cross / s[:, None]
        rest = total - (projected**2).sum(0)
        return Decomposition(s, vectors.T, projected, rest) if (rest > 1e-8 * total).all() else None

    @cached_property
    def _products(self) -> tuple[np.ndarray, np.ndarray]:
        """Centred features with themselves, (D, D), and with the one-hot labels, (D, C)."""
        gram, cross = np.zeros((self.features.shape[1],) * 2), np.zeros((self.features.shape[1], self.n_classes))
        for rows, part in self.chunks(self.mean):
            gram += part.T @ part
            cross += part.T @ one_hot(self.labels[rows], self.n_classes)
        return gram, cross

    def _by_triangle(self, centred: bool) -> Decomposition:
        """By the singular values of the triangle, which has those of the features."""
        r, d = self._triangle, self.features.shape[1]
        if centred:
            return _decompose(r[1:, 1 : d + 1], r[1:, d + 1 :], self.n)
        # Features are the centred ones plus their mean times a column of ones, in the triangle as anywhere.
        return _decompose(r[:, 1 : d + 1] + np.outer(r[:, 0], self.mean), r[:, d + 1 :], self.n)

    @cached_property
    def _triangle(self) -> np.ndarray:
        """R of a QR decomposition of [1, features - mean, one-hot labels], (at most 1 + D + C, 1 + D + C).

        Made chunk by chunk (Golub and Van Loan 2013, 5.2): as exact as one of the whole. The first row holds the means,
        so that the others are centred.
        """
        width = 1 + self.features.shape[1] + self.n_classes
        r = np.zeros((0, width))
        step = max(1, 2 * width // CHUNK) * CHUNK
        held: list[np.ndarray] = []
        for rows, part in self.chunks(self.mean):
            targets = one_hot(self.labels[rows], self.n_classes)
            held.append(np.concatenate([np.ones((len(part), 1)), part, targets], axis=1))
            if len(held) * CHUNK >= step or rows.stop >= self.n:
                r, held = np.asarray(np.linalg.qr(np.concatenate([r, *held]), mode="r")), []
        return r


def sample(features: object, labels: object = None) -> Sample:
    """A `Sample` of features (N, D) and labels (N,), or the one given.

    Labels may be any integers; only those that occur are classes. InputError for features that are not a finite
    numeric matrix, labels that are not integers, other numbers of rows, or fewer than two classes.
    """
    if isinstance(features, Sample):
        if labels is not None:
            raise InputError("a Sample has its labels; give it alone")
        return features
    x = as_array(features)
    if x.ndim != 2 or x.shape[1] == 0 or x.dtype.kind not in "fiub":
        raise InputError(f"features must be numbers of shape (N, D), got {x.dtype} of shape {x.shape}")
    y = classes_of(labels, len(x))
    largest = 0.0
    for start in range(0, len(x), CHUNK):
        size = np.abs(x[start : start + CHUNK].astype(np.float64))
        good = size <= LARGEST  # False for NaN
        if not good.all():
            row = start + int(np.flatnonzero(~good.all(1))[0])
            raise InputError(f"features of row {row} hold NaN, infinity or numbers above {LARGEST:g}; leave the row "
                             "out, or find out why its model overflowed")  # fmt: skip
        largest = max(largest, float(size.max()))
    if 0 < largest < SMALLEST:
        raise InputError(f"features are at most {largest:g} in size, too small to square; scale them up")
    return Sample(x, y)


def classes_of(labels: object, n: int) -> np.ndarray:
    """Labels of n examples as classes 0..C-1, int64 (N,), in the order of their values.

    InputError if they are not n integers, or all the same.
    """
    y = as_array(labels)
    if y.dtype.kind not in "iub" or y.shape != (n,):
        raise InputError(f"labels must be {n} integers, one an example, got {y.dtype} of shape {y.shape}")
    known, classes = np.unique(y, return_inverse=True)
    if len(known) < 2:
        raise InputError(f"all {n} labels are of one class; a score needs at least two")
    return classes.ravel().astype(np.int64)


def one_hot(classes: np.ndarray, n_classes: int | None = None) -> np.ndarray:
    """Classes (N,) as float64 (N, C)."""
    n_classes = int(classes.max()) + 1 if n_classes is None else n_classes
    return np.asarray(classes[:, None] == np.arange(n_classes), dtype=np.float64)


def _decompose(x: np.ndarray, y: np.ndarray, n: int) -> Decomposition:
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    # What remains of a direction in which nothing varies: rounding in the triangle, of the order of its largest entry.
    rank = int((s > 10 * max(n, *x.shape) * np.finfo(np.float64).eps * s[0]).sum()) if len(s) else 0
    u, s, vt = u[:, :rank], s[:rank], vt[:rank]
    projected = u.T @ y
    rest = ((y - u @ projected) ** 2).sum(0)
    return Decomposition(s, vt, projected, np.where(rest > 1e-24 * (y**2).sum(0), rest, 0.0))


def discriminants_of(z: np.ndarray, y: np.ndarray, d: int, shrinkage: float | None = None) -> tuple[np.ndarray, float]:
    """Log posteriors (N, C) of Gaussian classes with one shrunk covariance, and the shrinkage; `d` counts the
    dimensions that `z` was rotated from."""
    means, priors = means_of(z, y), np.bincount(y) / len(y)
    within = z - means[y]
    scatter = within.T @ within / len(y)
    if shrinkage is None:
        top = float(np.linalg.eigvalsh(scatter)[-1]) if len(scatter) else 0.0
        shrinkage = max(math.exp(-5 * max(top, 0.0)), 1e-10)
    mean_variance = float(np.trace(scatter)) / d
    if not mean_variance > 1e-24 * float((z**2).sum()) / len(y) / d:  # what is below is rounding
        raise InputError("features do not vary within any class, so that classes have no covariance; sfda and etran "
                         "are undefined there")  # fmt: skip
    regular = (1 - shrinkage) * scatter
    regular[np.diag_indices(len(regular))] += shrinkage * mean_variance
    weights = cho_solve(cho_factor(regular, overwrite_a=True), means.T)  # (K, C)
    scores = z @ weights - 0.5 * (means.T * weights).sum(0) + np.log(priors)
    return np.asarray(log_softmax(scores, axis=1)), shrinkage


def means_of(z: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The mean of each class, (C, K)."""
    return np.asarray(one_hot(y).T @ z / np.bincount(y)[:, None])
