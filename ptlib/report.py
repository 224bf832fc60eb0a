"""From predictions to a report: each metric with its interval, and the sentences a notebook prints."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from ptlib import metrics as m
from ptlib import stats
from ptlib.errors import InputError
from ptlib.measures import Statistic, all_of, by_class_of, is_proportion, main_of, prepare
from ptlib.metrics.masks import confusion_by_image
from ptlib.resampling import affordable
from ptlib.results import Estimate, Examples, Masks, Predictions, Report

RESAMPLES = 10_000
# Too large on few examples, and larger still on resamples of them: bins of confidence are never empty of chance, and
# the envelope of a precision-recall curve takes the luckiest end of every stretch.
BIASED = ("ece", "ap", "voc_ap")

Kind = Literal["percentile", "bca"]


def evaluate(
    predictions: Examples,
    selected_on: str = "nothing was selected",
    seed: int = 0,
    *,
    metrics: Sequence[str] | Literal["main", "all"] = "main",
    interval: Kind = "percentile",
    resamples: int = RESAMPLES,
    stratified: bool = False,
    groups: str | Sequence[Any] | np.ndarray | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Report:
    """Metrics with 95 % intervals, and some by class; names as `ptlib.measures` lists them.

    By class are precision, recall and F1, of boxes AP and AP at an IoU of 0.5, of label maps IoU and Dice.

    Shares of examples (accuracy, top-k; precision and recall of a class) have Wilson's interval; the others the
    percentile or BCa bootstrap. Calibration errors and AP of boxes are biased upwards, so theirs is pivotal, whatever
    `interval` says; that of a calibration error reaches down to 0 where a model that is right as often as it says would
    show one as large. `stratified`
    keeps the number of examples of each class; `groups`, a column's name or a label for each example, draws whole
    groups, where examples of one patient, scene or author are not independent; everything is then bootstrapped.
    `selected_on` says what was chosen on what; `provenance` is kept with the report, and how it was made.
    """
    if interval not in ("percentile", "bca"):
        raise InputError(f"interval is {interval!r}; it must be percentile or bca")
    if resamples < 100:
        raise InputError(f"resamples is {resamples}; the ends of an interval need at least 100, better 10,000")
    names, classes = _names(metrics, predictions), predictions.class_names
    each = list(by_class_of(predictions))
    each += [what for what in ("auroc", "average_precision") if any(n.partition(":")[0].endswith(what) for n in names)]
    by_class = [f"{what}:{name}" for what in each for name in classes]
    bootstrap = Bootstrap(predictions, interval, resamples, seed, stratified, group_labels(predictions, groups))
    found = bootstrap.estimates([*names, *by_class])
    per_class = {name: {what: found[f"{what}:{name}"] for what in each} for name in classes}
    matrix = confusion_of(predictions)
    chosen = {name: found[name] for name in names}
    how = {"metrics": names, "interval": interval, "resamples": resamples, "stratified": stratified, "seed": seed,
           "groups": groups if groups is None or isinstance(groups, str) else True}  # fmt: skip
    made = {**(provenance or {}), "how": how}
    return Report(chosen, len(predictions), predictions.split, per_class, matrix, classes, selected_on, made)


class Bootstrap:
    """How to resample these predictions, and what is known of them without."""

    def __init__(
        self, predictions: Any, interval: Kind = "percentile", resamples: int = RESAMPLES, seed: int = 0,
        stratified: bool = False, groups: np.ndarray | None = None,
    ):  # fmt: skip
        self.p, self.interval, self.resamples, self.seed, self.groups = predictions, interval, resamples, seed, groups
        self.of_classes = isinstance(predictions, Predictions)
        self.strata = None
        if stratified:
            if not self.of_classes:
                raise InputError("stratified is True; images that show several classes can't be drawn by class")
            self.strata = np.unique(predictions.targets, axis=0, return_inverse=True)[1].ravel()
        if self.of_classes:
            self.counts = decisions_of(predictions)
        self.how = "stratified " * stratified + ("by group, " if groups is not None else "")

    def estimates(self, names: Sequence[str]) -> dict[str, Estimate]:
        plain = self.of_classes and self.groups is None and self.strata is None
        known = self._proportions(names) if plain else {}
        rest = [n for n in names if n not in known]
        # A pivotal interval of the debiased error turns about the plain one, its true value in the resamples' world.
        extra = ["ece"] if "ece_debiased" in rest and "ece" not in rest else []
        for statistic in prepare([*rest, *extra], [self.p]):
            known |= self._bootstrapped(statistic)
        return {name: known[name] for name in names}

    def _proportions(self, names: Sequence[str]) -> dict[str, Estimate]:
        """Those that are a share of some examples, with Wilson's interval."""
        found = {}
        for name in names:
            what, of = self._class_of(name)
            if is_proportion(name):
                (statistic,) = prepare([name], [self.p])
                weights = np.bincount(statistic.rows)[None]
                hits, n = round(float(statistic.values(weights)[0, 0]) * len(self.p)), len(self.p)
            elif of in self.p.place_of and what in ("precision", "recall"):
                c = self.p.place_of[of]
                hits, n = int(self.counts.hits[c]), int((self.counts.said, self.counts.actual)[what == "recall"][c])
            else:
                continue
            if n == 0:
                found[name] = Estimate(math.nan, math.nan, math.nan, "Wilson", reason=self._why(name))
            else:
                found[name] = Estimate(hits / n, *stats.wilson(hits, n), "Wilson")
        return found

    def _bootstrapped(self, statistic: Statistic) -> dict[str, Estimate]:
        r = affordable(statistic, self.p, self.resamples)
        drawn = stats.resample(statistic.rows, r, self.seed, self.strata, self.groups, statistic.values)
        resampled = np.concatenate(list(drawn))
        counts = np.bincount(statistic.rows)
        values = statistic.values(counts[None])[0]
        influence = statistic.influence() if self.interval == "bca" else None
        place = {name: k for k, name in enumerate(statistic.names)}
        found = {}
        for k, name in enumerate(statistic.names):
            value, column = float(values[k]), resampled[:, k]
            kind = "pivotal" if name.startswith(BIASED) else "BCa" if influence is not None else "percentile"
            if kind == "pivotal" and not self.of_classes:
                low, high = np.clip(stats.pivotal(value, column, value), 0, 1).tolist()
                low, high = min(low, value), max(high, value)
            elif kind == "pivotal":
                around = values[place["ece"]] if name == "ece_debiased" else value
                low, high = stats.pivotal(value, column, float(around))
                # Near 0 an error can only be too large, and resamples of the sample never show that it could be 0.
                by: m.Binning = "mass" if name == "ece_equal_mass" else "width"
                chance = m.error_if_calibrated(self.p.probabilities.max(1), self.seed, by, name == "ece_debiased")
                if self.groups is None and value <= np.quantile(chance, 0.95):
                    low = 0.0
                low, high = min(max(low, 0.0), value), max(high, value)
            elif influence is not None:
                low, high = stats.bca(value, column, *self._influence(statistic, influence[:, k], counts))
            else:
                low, high = stats.percentile(column)
            method = f"{self.how}{kind} bootstrap, {r:,} resamples"
            reason = self._why(name) if math.isnan(value) else _no_interval(low, column)
            if reason:
                low = high = math.nan
            found[name] = Estimate(value, low, high, method, reason=reason)
        return found

    def _influence(self, statistic: Statistic, u: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The influence of what is drawn and its number: of rows, of examples within their stratum, or of groups."""
        if self.strata is not None:
            u, s = u[statistic.rows], self.strata
            return u - (np.bincount(s, u) / np.bincount(s))[s], np.ones(len(u))
        if self.groups is None:
            return u, counts
        together = np.bincount(np.unique(self.groups, return_inverse=True)[1].ravel(), u[statistic.rows])
        return together, np.ones(len(together))

    def _class_of(self, name: str) -> tuple[str, str]:
        """A metric, and the class it is of or nothing: binary_recall is the recall of the second of two classes."""
        what, _, of = name.partition(":")
        if what.startswith("binary_") and len(self.p.class_names) == 2:
            return what.removeprefix("binary_"), self.p.class_names[1]
        return what, of

    def _why(self, name: str) -> str:
        """Why a metric is NaN."""
        what, of = self._class_of(name)
        if not self.of_classes:
            return "there is none to judge it by" + (": neither true nor said" if what in ("iou", "dice") else "")
        names, c, n = self.p.class_names, self.counts, len(self.p)
        if of:
            actual = c.actual[self.p.place_of[of]]
            if what == "precision":
                return "it is never predicted"
            if what in ("auroc", "average_precision", "recall"):
                return "it has no examples" if actual == 0 else "all examples are of this class"
            return "it is neither seen nor predicted"
        if what.endswith("auroc") or what.endswith("average_precision"):
            lacking = [name for name, k in zip(names, c.actual, strict=True) if k in (0, n)]
            return f"{len(lacking)} of {len(names)} classes have no examples, or no others, such as {lacking[0]!r}"
        if what in ("matthews", "cohen_kappa"):
            return "targets or predictions are all of one class"
        return m.undefined_because(c, names, what) or "its denominator is 0"


def _no_interval(low: float, resampled: np.ndarray) -> str | None:
    """Why these resamples give no interval, None where they do."""
    defined = resampled[~np.isnan(resampled)]
    if len(defined) < 0.95 * len(resampled):
        return "undefined in over 5 % of resamples, which lack a class; stratified=True keeps all"
    if np.ptp(defined) == 0:  # certainty that comes from seeing too little, or one value by construction
        return "all resamples have this value, so they say nothing of its uncertainty"
    if math.isnan(low):
        return "BCa fails: all resamples lie on one side of it, or an example's influence is undefined"
    return None


def decisions_of(predictions: Predictions) -> m.Counts:
    """Right, actual and said of each class or label."""
    if predictions.multilabel:
        return m.label_counts(predictions.targets, predictions.predicted)
    return m.counts_of(confusion_of(predictions))


def confusion_of(predictions: Examples) -> np.ndarray:
    """The confusion matrix (C, C), of label maps in pixels; of several labels, one of 2 x 2 for each, (L, 2, 2).

    Boxes have none, as what is found need not be there: (0, 0).
    """
    if isinstance(predictions, Masks):
        truth, said = predictions.targets, predictions.scores
        return np.asarray(confusion_by_image(truth, said, len(predictions.class_names)).sum(0))
    if not isinstance(predictions, Predictions):
        return np.zeros((0, 0), dtype=np.int64)
    if not predictions.multilabel:
        return m.confusion_matrix(predictions.targets, predictions.predicted, len(predictions.class_names))
    c = decisions_of(predictions)
    missed, false = c.actual - c.hits, c.said - c.hits
    return np.stack([c.n - c.hits - missed - false, false, missed, c.hits], axis=-1).reshape(-1, 2, 2)


def _names(metrics: Sequence[str] | str, predictions: Examples) -> list[str]:
    if metrics == "main":
        return list(main_of(predictions))
    if isinstance(metrics, str):
        if metrics != "all":
            raise InputError(f"metrics is {metrics!r}; give a list of names, such as ['{metrics}'], or 'all'")
        return all_of(predictions)
    return list(dict.fromkeys(metrics))


def group_labels(predictions: Examples, groups: str | Sequence[Any] | np.ndarray | None) -> np.ndarray | None:
    """The group of each example, from a column's name or as given."""
    if groups is None:
        return None
    if isinstance(groups, str):
        if groups not in predictions.columns:
            raise InputError(f"there is no column {groups!r}; there are {', '.join(predictions.columns) or 'none'}")
        groups = predictions.columns[groups]
    if len(groups) != len(predictions):
        raise InputError(f"{len(groups)} group labels for {len(predictions)} examples; one for each is needed")
    return np.asarray(groups)


def expect(name: str, value: float, expected: float, tolerance: float) -> None:
    """Print whether a number that matters came out as the text around it says.

    While `value` is within `tolerance` of `expected` the line does not change, so that it can be compared as text;
    otherwise it shows the value.
    """
    if abs(value - expected) <= tolerance:
        print(f"{name} {expected:g} ± {tolerance:g}: as expected")
    else:
        print(f"{name} {value:.3f}: the text describes a run with {expected:g} ± {tolerance:g}")
