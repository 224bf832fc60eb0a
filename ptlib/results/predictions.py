"""Predictions, one of the five nouns: what a model says of each image or text as a whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from scipy.special import log_expit, log_softmax, logsumexp

from ptlib.arrays import as_array, class_indices, logits_of
from ptlib.errors import InputError
from ptlib.results.examples import Examples, refuse_unless


@dataclass(frozen=True, repr=False)
class Predictions(Examples):
    """What a model said of a split, in the split's order: predict once, score many times.

    `targets` int64 (N,) are classes, and `scores` (N, C) their logits. Where an example may have several labels,
    `targets` is 0 or 1, (N, C), and each score is the logit of its own label. `ids` names the examples; `columns`
    holds what else is known of each, by name: a camera, a patient, a year.
    """

    kind: ClassVar[str] = "image_classification"

    def __post_init__(self) -> None:
        n, where = len(self.ids), f"predictions on {self.split!r}"
        shape = (n, len(self.class_names))
        if self.scores.shape != shape or self.targets.shape not in ((n,), shape):
            raise InputError(
                f"{where}: {n} ids and {len(self.class_names)} classes ask for scores {shape} and targets ({n},), "
                f"or {shape} for several labels, got {self.scores.shape} and {self.targets.shape}"
            )
        if not np.issubdtype(self.targets.dtype, np.integer):
            raise InputError(f"{where}: targets must be integers, got {self.targets.dtype}")
        object.__setattr__(self, "targets", self.targets.astype(np.int64, copy=False))
        top = 1 if self.multilabel else len(self.class_names) - 1
        wrong = np.flatnonzero((self.targets < 0) | (self.targets > top))
        if len(wrong):
            value, example = self.targets.ravel()[wrong[0]], self.ids[wrong[0] // (self.targets.size // n)]
            raise InputError(f"{where}: the target of example {example!r} is {value}; targets lie in 0..{top}")
        refuse_unless(np.isfinite(self.scores).all(axis=1), self.ids, self.split)
        super().__post_init__()

    @classmethod
    def of(
        cls, targets: Any, logits: Any = None, *, probabilities: Any = None, class_names: Sequence[str] | None = None,
        ids: Sequence[str] | None = None, split: str = "test", columns: Mapping[str, Sequence[Any]] | None = None,
    ) -> Predictions:  # fmt: skip
        """Predictions from arrays of any framework: targets and either logits or probabilities.

        (N, C) of each; (N,) for two classes, then of class 1. Targets may be class names. Probabilities are kept as
        their logarithms, which softmax gives back; each row must sum to 1 (to 0.001), unless targets are (N, C).
        """
        if (logits is None) == (probabilities is None):
            raise InputError("give either logits or probabilities, one of the two")
        said = as_array(logits if probabilities is None else probabilities)
        if said.ndim == 2 and said.shape[1] == 1:
            said = said[:, 0]
        names = tuple(map(str, class_names)) if class_names is not None else None
        y = class_indices(as_array(targets), names)
        if probabilities is not None:
            said = logits_of(said.astype(np.float64), several=y.ndim == 2)
        if said.ndim == 1:
            said = np.stack([np.zeros_like(said), said], axis=1)
        if said.dtype not in (np.float32, np.float64):
            said = said.astype(np.float64)
        names = names or tuple(map(str, range(said.shape[1] if said.ndim == 2 else 0)))
        kept = {str(k): tuple(map(str, v)) for k, v in (columns or {}).items()}
        numbered = tuple(map(str, range(len(y)))) if ids is None else tuple(map(str, ids))
        return cls(numbered, y, said, split, names, kept)

    @property
    def multilabel(self) -> bool:
        return self.targets.ndim == 2

    @cached_property
    def predicted(self) -> np.ndarray:
        """The class of the highest score, int64 (N,); for several labels 0 or 1, (N, C), 1 where a score is above 0."""
        return (self.scores > 0).astype(np.int64) if self.multilabel else np.asarray(self.scores.argmax(axis=1))

    @cached_property
    def probabilities(self) -> np.ndarray:
        """In float64, (N, C): softmax of the scores, or of several labels the sigmoid of each."""
        return np.asarray(np.exp(self.log_probabilities))

    @cached_property
    def log_probabilities(self) -> np.ndarray:
        """Natural logarithms of the probabilities, without rounding small ones to 0."""
        z = self.scores.astype(np.float64)
        return np.asarray(log_expit(z) if self.multilabel else log_softmax(z, axis=1))

    @cached_property
    def log_odds(self) -> np.ndarray:
        """The logit of each class against all others, float64 (N, C): finite and distinct where probabilities are 1."""
        z = self.scores.astype(np.float64)
        if self.multilabel or z.shape[1] == 1:
            return z
        top, each = z.argmax(1)[:, None], np.exp(z - z.max(1, keepdims=True))
        others = z.max(1, keepdims=True) + np.log(np.maximum(each.sum(1, keepdims=True) - each, 1e-300))
        without = z.copy()  # what the others add up to beside the highest can't be had by subtraction
        np.put_along_axis(without, top, -np.inf, axis=1)
        np.put_along_axis(others, top, logsumexp(without, axis=1, keepdims=True), axis=1)
        return np.asarray(z - others)

    def among(self, class_names: Sequence[str]) -> Predictions:
        """The examples of these classes alone, told apart among these alone, in this order.

        InputError for fewer than two, for one that there is not, and where an example may have several labels.
        """
        odd = [name for name in class_names if name not in self.class_names]
        if odd or len(class_names) < 2 or self.multilabel:
            raise InputError(
                f"there are {', '.join(self.class_names[:20])}; to be told apart it takes two of them or more, one "
                f"label an example, got {', '.join(map(repr, class_names))}"
            )
        if tuple(class_names) == self.class_names:
            return self
        kept = np.array([self.place_of[name] for name in class_names])
        part = self.take(np.isin(self.targets, kept))
        targets = np.argsort(kept)[np.searchsorted(np.sort(kept), part.targets)]
        return replace(part, targets=targets, scores=part.scores[:, kept], class_names=tuple(class_names))

    def one_vs_rest(self, class_name: str) -> Predictions:
        """The same as a problem of two classes, "not <class>" and the class; the class keeps its probability."""
        if class_name not in self.place_of:
            raise InputError(f"there is no class {class_name!r}; there are {', '.join(self.class_names[:20])}")
        k = self.place_of[class_name]
        truth = self.targets[:, k] if self.multilabel else (self.targets == k).astype(np.int64)
        pair = np.stack([np.zeros(len(self)), self.log_odds[:, k]], axis=1)
        return replace(self, targets=truth, scores=pair, class_names=(f"not {class_name}", class_name))
