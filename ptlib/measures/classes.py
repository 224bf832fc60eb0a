"""Metrics by name, prepared once and weighted many times: what bootstraps, permutations and reports are made from.

A name is `accuracy`, `balanced_accuracy`, `top_<k>_accuracy`, `matthews`, `cohen_kappa`; `<average>_precision`,
`_recall`, `_f1`, `_f<beta>` with macro, micro, weighted or binary; `<average>_auroc`, `_average_precision` with macro,
weighted or binary; `log_loss`, `brier`, `ece`, `ece_equal_mass`, `ece_debiased`. One class: `recall:<class name>`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from scipy import sparse
from scipy.stats import rankdata

from ptlib import metrics
from ptlib.errors import InputError, did_you_mean
from ptlib.metrics import BINS, Counts, Ranking
from ptlib.results import Predictions

MAIN = ("accuracy", "macro_precision", "macro_recall", "macro_f1")
ALL = (*MAIN, "balanced_accuracy", "weighted_precision", "weighted_recall", "weighted_f1", "macro_f0.5", "macro_f2",
       "matthews", "cohen_kappa", "macro_auroc", "weighted_auroc", "macro_average_precision",
       "weighted_average_precision", "top_5_accuracy", "log_loss", "brier", "ece", "ece_equal_mass",
       "ece_debiased")  # fmt: skip
ONE_LABEL_ONLY = ("balanced_accuracy", "matthews", "cohen_kappa", "top_", "ece")
FORM = re.compile(
    r"(?:(macro|micro|weighted|binary)_)?(precision|recall|f\d+(?:\.\d+)?|auroc|average_precision)(?::(.*))?", re.S
)


class Statistic(Protocol):
    """Values of predictions as a function of how often each distinct row of them counts."""

    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def rows(self) -> np.ndarray:
        """The row that each example shows, (N,)."""

    def values(self, weights: np.ndarray) -> np.ndarray:
        """(r, M) for weights (r, K)."""

    def influence(self) -> np.ndarray:
        """How each value changes with one row's weight, up to a factor: (K, M)."""


@dataclass(frozen=True)
class OfSums:
    """A function of weighted sums: counted decisions, means over examples, bins of confidence.

    `features` (S, K) sparse, what one example of a row adds to each sum; `of` maps sums (r, S) to values (r, M).
    """

    names: tuple[str, ...]
    rows: np.ndarray
    features: sparse.csr_matrix
    of: Callable[[np.ndarray], np.ndarray]

    def values(self, weights: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.of((self.features @ np.ascontiguousarray(weights.T, dtype=np.float64)).T)

    def influence(self) -> np.ndarray:
        """By leaving out one example of each row."""
        total = self.features @ np.bincount(self.rows, minlength=self.features.shape[1])
        columns = self.features.tocsc()
        step = max(1, 4_000_000 // len(total))
        left = [self.of(total - columns[:, k : k + step].T.toarray()) for k in range(0, columns.shape[1], step)]
        return np.asarray(self.of(total[None].astype(np.float64)) - np.concatenate(left))


@dataclass(frozen=True)
class OfRanking:
    """AUROC and average precision."""

    names: tuple[str, ...]
    rows: np.ndarray
    ranking: Ranking
    wanted: tuple[_Wanted, ...]

    def values(self, weights: np.ndarray) -> np.ndarray:
        return _all(self.wanted, self.ranking.values(weights))

    def influence(self) -> np.ndarray:
        truth = self.ranking.truth
        slopes = _all(self.wanted, (*self.ranking.influence(), truth.sum(0)))
        values = self.ranking.values(np.ones((1, len(truth)), np.int64))
        for m, w in enumerate(self.wanted):
            if w.key.startswith("weighted"):  # an example also makes its class count for more
                each = np.nan_to_num(values[0 if w.key.endswith("auroc") else 1][0])
                slopes[:, m] += (truth * (each - w.function(values)[0])).sum(1) / truth.sum()
        return slopes


class _Wanted(NamedTuple):
    """A metric: what to compute (once for all metrics with one `key`), and of which class if of one."""

    name: str
    key: str
    function: Callable[[Any], np.ndarray]
    of_class: int | None = None


def _all(wanted: Sequence[_Wanted], known: Any) -> np.ndarray:
    """Their values (r, M), from what is known of r samples."""
    done: dict[str, np.ndarray] = {}
    for w in wanted:
        if w.key not in done:
            done[w.key] = w.function(known)
    return np.stack([done[w.key] if w.of_class is None else done[w.key][..., w.of_class] for w in wanted], axis=-1)


def prepare_classes(names: Sequence[str], parts: Sequence[Predictions]) -> list[Statistic]:
    """`prepare` where an example has classes as a whole."""
    first = parts[0]
    found: list[Statistic] = []
    of_counts = [w for n in names if (w := _of_counts(n, first))]
    of_examples = [n for n in names if _is_mean(n, first) or n in ("ece", "ece_equal_mass", "ece_debiased")]
    of_ranks = [w for n in names if (w := _of_ranks(n, first))]
    known = {*of_examples, *(w.name for w in (*of_counts, *of_ranks))}
    for name in names:
        if name not in known:
            hint = did_you_mean(name, ALL) or f"; use for example {', '.join(ALL)}, or recall:<class name>"
            raise InputError(f"there is no metric {name!r}{hint}")
        if first.multilabel and not applies(name, first):
            raise InputError(f"{name} is not defined where an example may have several labels")
    if of_counts:
        found.append(_counted(of_counts, parts))
    if of_examples:
        found.append(_over_examples(of_examples, parts))
    if of_ranks:
        found.append(_ranked(of_ranks, parts))
    return found


def applies(name: str, predictions: Predictions) -> bool:
    """Whether a metric of `ALL` means anything for these predictions."""
    if name.startswith("top_"):
        return not predictions.multilabel and int(name.split("_")[1]) < len(predictions.class_names)
    return not (predictions.multilabel and name.startswith(ONE_LABEL_ONLY))


def lower_is_better(name: str) -> bool:
    return name.startswith(("log_loss", "brier", "ece"))


def is_proportion(name: str) -> bool:
    """Whether it is a share of the examples, so that its interval needs no resampling."""
    return name == "accuracy" or name.startswith("top_")


def _of_counts(name: str, predictions: Predictions) -> _Wanted | None:
    plain = {"balanced_accuracy": metrics.balanced_accuracy, "matthews": metrics.matthews,
             "cohen_kappa": metrics.cohen_kappa}  # fmt: skip
    if not predictions.multilabel:
        plain["accuracy"] = metrics.accuracy
    if name in plain:
        return _Wanted(name, name, plain[name])
    form = FORM.fullmatch(name)
    if not form or form[2] in ("auroc", "average_precision"):
        return None
    average, index = _average_of(name, form, predictions)
    if form[2][0] == "f":
        beta = float(form[2][1:])
        if beta == 0:
            raise InputError(f"{name}: beta is 0; f1 weighs precision and recall alike, f2 recall more, f0.5 less")
        return _Wanted(name, f"{average} {form[2]}", lambda counts: metrics.f_beta(counts, beta, average), index)
    function = metrics.precision if form[2] == "precision" else metrics.recall
    return _Wanted(name, f"{average} {form[2]}", lambda counts: function(counts, average), index)


def _of_ranks(name: str, predictions: Predictions) -> _Wanted | None:
    form = FORM.fullmatch(name)
    if not form or form[2] not in ("auroc", "average_precision") or form[1] == "micro":
        return None
    which = 0 if form[2] == "auroc" else 1
    average, index = _average_of(name, form, predictions)
    return _Wanted(name, f"{average} {form[2]}", lambda v: metrics.averaged(v[which], v[2], average), index)


def _average_of(name: str, form: re.Match[str], predictions: Predictions) -> tuple[Any, int | None]:
    """How it is averaged, or the index of the one class it is of."""
    classes = predictions.class_names
    if form[3] is not None:
        if form[1]:
            raise InputError(f"{name!r} is both averaged and of one class; drop {form[1]}_ or :{form[3]}")
        if form[3] not in predictions.place_of:
            raise InputError(f"{name!r} names no class of {', '.join(classes[:20])}")
        return None, predictions.place_of[form[3]]
    if form[1] is None:
        raise InputError(f"say how {name!r} is averaged, macro_{name} for example, or of which class: {name}:<class>")
    if form[1] == "binary" and len(classes) != 2:
        raise InputError(f"{name!r} is for two classes, there are {len(classes)}")
    return form[1], None


def _is_mean(name: str, predictions: Predictions) -> bool:
    return name in ("log_loss", "brier") or bool(re.fullmatch(r"top_\d+_accuracy", name)) or (
        name == "accuracy" and predictions.multilabel
    )  # fmt: skip


def _counted(wanted: list[_Wanted], parts: Sequence[Predictions]) -> Statistic:
    c = len(parts[0].class_names)
    targets = np.concatenate([p.targets for p in parts])
    said = np.concatenate([p.predicted for p in parts])
    if parts[0].multilabel:
        rows, n = np.arange(len(targets)), len(targets)
        tables = [sparse.csr_matrix((targets * said).T), sparse.csr_matrix(targets.T), sparse.csr_matrix(said.T)]
    else:
        cells, rows = np.unique(targets * c + said, return_inverse=True)
        t, s = np.divmod(cells, c)
        n, column = len(cells), np.arange(len(cells))
        ones = np.ones(n)
        tables = [sparse.csr_matrix((ones * k, (i, column)), shape=(c, n)) for k, i in ((t == s, t), (1, t), (1, s))]
    features = sparse.vstack([*tables, sparse.csr_matrix(np.ones((1, n)))]).tocsr()

    def of(sums: np.ndarray) -> np.ndarray:
        counts = Counts(sums[:, :c], sums[:, c : 2 * c], sums[:, 2 * c : 3 * c], sums[:, 3 * c])
        return _all(wanted, counts)

    return OfSums(tuple(w.name for w in wanted), rows.ravel(), features, of)


def _over_examples(names: list[str], parts: Sequence[Predictions]) -> Statistic:
    n = sum(map(len, parts))
    blocks: list[Any] = [np.ones((1, n))]
    of_blocks: list[tuple[slice, str | None]] = []
    start = 1
    for name in names:
        if name.startswith("ece"):
            block = sparse.hstack([_bin_features(p, "mass" if name == "ece_equal_mass" else "width") for p in parts])
            of_blocks.append((slice(start, start + 3 * BINS), name))
        else:
            block = np.concatenate([of_each(name, p) for p in parts])[None]
            of_blocks.append((slice(start, start + 1), None))
        blocks.append(block)
        start += block.shape[0]
    features = sparse.vstack([sparse.csr_matrix(b, dtype=np.float64) for b in blocks]).tocsr()

    def of(sums: np.ndarray) -> np.ndarray:
        found = [_error(sums[:, s], ece) if ece else sums[:, s.start] / sums[:, 0] for s, ece in of_blocks]
        return np.stack(found, axis=-1)

    return OfSums(tuple(names), np.arange(n), features, of)


def of_each(name: str, p: Predictions) -> np.ndarray:
    """A metric that is a mean over examples, before the mean: (N,)."""
    if name == "log_loss":
        if p.multilabel:
            return np.asarray(np.logaddexp(0, np.where(p.targets, -1.0, 1.0) * p.scores.astype(np.float64)).mean(1))
        return np.asarray(-np.take_along_axis(p.log_probabilities, p.targets[:, None], axis=1)[:, 0])
    if name == "brier":
        return metrics.brier(p.targets, p.probabilities)
    if name.startswith("top_"):
        k, c = int(name.split("_")[1]), len(p.class_names)
        if not 1 <= k <= c:
            raise InputError(f"{name}: with {c} classes, k lies in 1..{c}")
        return metrics.top_k(p.targets, p.scores, k).astype(np.float64)
    right = p.predicted == p.targets
    return np.asarray((right.all(1) if p.multilabel else right).astype(np.float64))


def _bin_features(p: Predictions, by: Any) -> sparse.csr_matrix:
    """Sums of each bin: examples, confidence, right answers; (3 * BINS, N)."""
    confidence = p.probabilities.max(1)
    index, column = metrics.confidence_bins(confidence, BINS, by), np.arange(len(p))
    data = np.r_[np.ones(len(p)), confidence, p.predicted == p.targets]
    where = (np.r_[index, BINS + index, 2 * BINS + index], np.tile(column, 3))
    return sparse.csr_matrix((data, where), shape=(3 * BINS, len(p)))


def _error(sums: np.ndarray, name: str) -> np.ndarray:
    curve = metrics.reliability_of(*np.split(sums, 3, axis=-1))
    return curve.error_debiased() if name == "ece_debiased" else curve.error()


def _ranked(wanted: list[_Wanted], parts: Sequence[Predictions]) -> Statistic:
    c = len(parts[0].class_names)
    truth = np.concatenate([metrics.truth_of(p.targets, c) for p in parts])
    scores = [p.log_odds for p in parts]
    if len(parts) > 1:  # each model's by their rank within it: two models need not score on one scale to be mixed
        scores = [rankdata(s, axis=0) for s in scores]
    names = tuple(w.name for w in wanted)
    return OfRanking(names, np.arange(len(truth)), Ranking(truth, np.concatenate(scores)), tuple(wanted))
