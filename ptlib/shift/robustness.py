"""What accuracy is left under corruption and on other data: with intervals, beside a baseline, and off the line."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ptlib import stats
from ptlib.core import Split, Task
from ptlib.errors import InputError
from ptlib.models import Model
from ptlib.prediction import predict
from ptlib.results import Estimate, Predictions
from ptlib.runtime import choose_device
from ptlib.texts import Texts

# AlexNet's error on ImageNet-C, mean of five severities: what the published mean corruption error divides by
# (Hendrycks and Dietterich 2019, table 1).
ALEXNET = {
    "gaussian_noise": 0.886, "shot_noise": 0.894, "impulse_noise": 0.923, "defocus_blur": 0.820, "glass_blur": 0.826,
    "motion_blur": 0.786, "zoom_blur": 0.798, "snow": 0.867, "frost": 0.827, "fog": 0.819, "brightness": 0.565,
    "contrast": 0.853, "elastic_transform": 0.646, "pixelate": 0.718, "jpeg_compression": 0.607,
}  # fmt: skip


@dataclass(frozen=True)
class Corrupted:
    """A model's predictions of clean examples and of corrupted ones, by corruption and severity."""

    clean: Predictions
    said: dict[tuple[str, int], Predictions]

    @property
    def names(self) -> list[str]:
        return list(dict.fromkeys(name for name, _ in self.said))

    def wrong(self, name: str) -> np.ndarray:
        """Of each example, the share of severities at which it is wrong under a corruption, or `clean`: (N,)."""
        if name == "clean":
            return np.asarray((self.clean.predicted != self.clean.targets).astype(np.float64))
        rows = [p.predicted != p.targets for (other, _), p in self.said.items() if other == name]
        if not rows:
            raise InputError(f"{name!r} was not tried; {', '.join(self.names)} were")
        return np.asarray(np.mean(rows, axis=0))

    def accuracy(self, resamples: int = 2000, seed: int = 0) -> Estimate:
        """Mean accuracy over corruptions and severities; its bootstrap draws examples, each under all of them."""
        right = 1 - np.mean([self.wrong(name) for name in self.names], axis=0)
        return _estimate(right.mean(), _resampled(right[:, None], resamples, seed)[:, 0])

    def mean_corruption_error(
        self, baseline: Corrupted | Mapping[str, float], relative: bool = False, resamples: int = 2000, seed: int = 0
    ) -> Estimate:
        """Mean corruption error: the mean over corruptions of this model's error over the baseline's; 1 is as bad.

        Errors are means over severities. `baseline` is another model's on the same examples, or errors by name, such as
        `ALEXNET`, the published one's on ImageNet-C at all five severities. `relative` takes the clean error off both
        first: what corruption alone costs (a baseline given by name needs its clean error as `clean`). A corruption
        that costs the baseline nothing is left out, and the method says how many are. The interval draws examples.
        InputError for a corruption the baseline lacks, other examples, or a baseline that loses nothing anywhere.
        """
        if isinstance(baseline, Corrupted) and (baseline.said.keys() != self.said.keys() or baseline._ids != self._ids):
            raise InputError("the baseline's corruptions, severities and examples must be the same")
        if baseline == ALEXNET and {severity for _, severity in self.said} != {1, 2, 3, 4, 5}:
            raise InputError("AlexNet's published errors are means of severities 1 to 5; take all five")
        n = len(self._ids)
        each = np.stack([c for name in self.names for c in (self.wrong(name), _wrong(baseline, name, n))], 1)
        if relative:
            each[:, ::2] -= _wrong(self, "clean", n)[:, None]
            each[:, 1::2] -= _wrong(baseline, "clean", n)[:, None]
        lost = each[:, 1::2].mean(0) > 0
        if not lost.any():
            raise InputError("the baseline loses nothing under any corruption: there is nothing to divide by")
        errors = np.concatenate([each.mean(0)[None], _resampled(each, resamples, seed)])
        ours, theirs = errors[:, ::2][:, lost], errors[:, 1::2][:, lost]
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = np.where(theirs > 0, ours / theirs, np.nan).mean(1)
        return _estimate(mean[0], mean[1:], f", {(~lost).sum()} corruptions left out" if not lost.all() else "")

    @property
    def _ids(self) -> tuple[str, ...]:
        return next(iter(self.said.values())).ids

    def pooled(self) -> Predictions:
        """All corrupted predictions as one; columns `example`, `corruption` and `severity` say what each is of.

        An example is there many times: give `groups="example"` to whatever makes an interval.
        """
        parts = list(self.said.items())
        columns: dict[str, tuple[str, ...]] = {
            "example": tuple(i for _, p in parts for i in p.ids),
            "corruption": tuple(name for (name, _), p in parts for _ in p.ids),
            "severity": tuple(str(severity) for (_, severity), p in parts for _ in p.ids),
        }
        ids = tuple(map(", ".join, zip(*columns.values(), strict=True)))
        targets, scores = (np.concatenate([getattr(p, what) for _, p in parts]) for what in ("targets", "scores"))
        return Predictions(ids, targets, scores, "corrupted", self.clean.class_names, columns)

    def frame(self) -> Any:
        """Accuracy of each corruption at each severity with Wilson's interval, and of clean examples: a DataFrame."""
        import pandas as pd

        rows = []
        for (name, severity), p in {("clean", 0): self.clean, **self.said}.items():
            hits = int((p.predicted == p.targets).sum())
            low, high = stats.wilson(hits, len(p))
            rows.append({"corruption": name, "severity": severity, "n": len(p), "accuracy": hits / len(p), "low": low,
                         "high": high})  # fmt: skip
        return pd.DataFrame(rows)

    def table(self) -> Any:
        """Accuracies as a DataFrame: a row for each corruption, a column for each severity, and their mean."""
        found = self.frame().query("severity > 0").pivot(index="corruption", columns="severity", values="accuracy")
        found["mean"] = found.mean(axis=1)
        return found.loc[self.names]


def predict_corrupted(
    models: Mapping[str, Model | Callable[[Any], Any]], task: Task, clean: Split,
    examples: Iterable[tuple[str, int, Split]], device: str = "auto", precision: str = "auto",
) -> dict[str, Corrupted]:  # fmt: skip
    """What each of several models says of clean examples and of corrupted ones (see `corrupted_examples`).

    The corrupted examples pass by once, for all models. InputError if there are none, or not the same everywhere.
    """
    said: dict[str, dict[tuple[str, int], Predictions]] = {name: {} for name in models}
    ids: Sequence[str] | None = None
    for corruption, severity, split in examples:
        if ids is not None and list(split.ids) != list(ids):
            raise InputError("every corruption and severity must have the same examples in the same order")
        ids = split.ids
        for name, model in models.items():
            said[name][corruption, severity] = predict(model, split, task, device, precision)
    if ids is None:
        raise InputError("there are no corrupted examples to predict; give at least one corruption and severity")
    return {n: Corrupted(predict(m, clean, task, device, precision), said[n]) for n, m in models.items()}


def predict_second(
    model: Model, task: Task, second: Split, device: str = "auto", precision: str = "auto",
    inside: Predictions | None = None,
) -> tuple[Predictions, Predictions]:  # fmt: skip
    """What a model says of the task's test split (`inside`, if it is known) and of a second test set.

    Where the second has some of the classes only, both are restricted to those, examples and scores: else the two
    would be of unlike difficulty.
    """
    device = str(choose_device(device))
    outside = predict(model, second, task, device, precision)
    inside = predict(model, task.test, task, device, precision) if inside is None else inside
    present = present_classes(second, task)
    return inside.among(present), outside.among(present)


def present_classes(split: Split, task: Task) -> list[str]:
    """Names of the classes that a split has examples of, in the task's order."""
    return [task.class_names[c] for c in np.unique(split.targets.numpy())]


def with_light(p: Predictions, split: Split) -> Predictions:
    """Predictions on a split of images with a column `light`: dark, medium or bright, thirds by each image's mean."""
    if isinstance(split.inputs, Texts):
        raise InputError("light is of images, and these are texts; take with_length")
    mean = np.concatenate([rows.float().mean((1, 2, 3)).numpy() for rows in split.inputs.split(64)])
    return _in_thirds(p, "light", mean, ("dark", "medium", "bright"))


def with_length(p: Predictions, split: Split) -> Predictions:
    """Predictions on a split of texts with a column `length`: short, medium or long, thirds by characters."""
    if not isinstance(split.inputs, Texts):
        raise InputError("length is of texts, and these are images; take with_light")
    return _in_thirds(p, "length", split.inputs.lengths, ("short", "medium", "long"))


def _in_thirds(p: Predictions, name: str, values: np.ndarray, names: Sequence[str]) -> Predictions:
    third = np.searchsorted(np.quantile(values, [1 / 3, 2 / 3]), values)
    return replace(p, columns={**p.columns, name: tuple(np.array(names)[third])})


def effective_robustness(
    inside: Mapping[str, Predictions], outside: Mapping[str, Predictions], reference: Sequence[str],
    resamples: int = 2000, seed: int = 0,
) -> Any:  # fmt: skip
    """How far each model's accuracy out of distribution lies off the line of the `reference` models: a DataFrame.

    See `ptlib.stats.off_the_line`; NaN where the reference models don't differ in distribution: there is no line then.
    InputError for fewer than three reference models, as two always lie on a line, and for models asked other examples.
    """
    import pandas as pd

    names = list(inside)
    if not set(reference) <= set(names) or len(set(reference)) < 3 or set(outside) != set(names):
        raise InputError(
            f"the line needs three of {', '.join(names)}, with predictions of both sets; got "
            f"{', '.join(reference) or 'none'}"
        )
    firsts = [next(iter(said.values())) for said in (inside, outside)]
    for said, first in zip((inside, outside), firsts, strict=True):
        odd = next((k for k, p in said.items() if p.ids != first.ids or p.class_names != first.class_names), None)
        if first.multilabel:
            raise InputError("this is of one label an example; take predictions.one_vs_rest(<label>)")
        if odd is not None:
            raise InputError(f"all models must be asked the same examples and classes; {odd} was not")
    hits = [np.stack([said[n].predicted == said[n].targets for n in names]) for said in (inside, outside)]
    rows = np.array([names.index(name) for name in dict.fromkeys(reference)])
    found = stats.off_the_line(hits[0], hits[1], rows, resamples, seed, paired=firsts[0].ids == firsts[1].ids)
    frame = pd.DataFrame(
        {"inside": hits[0].mean(1), "outside": hits[1].mean(1), "effective": found.effective, "low": found.low,
         "high": found.high, "reference": [name in reference for name in names]}, index=names,
    )  # fmt: skip
    frame.attrs["line"] = (found.slope, found.intercept)
    return frame


def _wrong(of: Corrupted | Mapping[str, float], name: str, n: int) -> np.ndarray:
    """The share of severities at which each of n examples is wrong, or a known error for each of them, (N,)."""
    if not isinstance(of, Corrupted):
        if name not in of:
            raise InputError(f"the baseline has no error for {name!r}; it has {', '.join(of)}")
        return np.full(n, of[name])
    if name == "clean" and of.clean.ids != of._ids:
        raise InputError("the clean examples are others than the corrupted ones; a relative error needs the same")
    return of.wrong(name)


def _resampled(values: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Means of values (N, K) over examples drawn anew, (R, K)."""
    n = len(values)
    return np.concatenate(list(stats.resample(np.arange(n), resamples, seed, of=lambda w: w @ values / n)))


def _estimate(value: float, drawn: np.ndarray, note: str = "") -> Estimate:
    low, high = stats.percentile(drawn)
    method = f"percentile bootstrap of examples, {len(drawn):,} resamples{note}"
    if math.isnan(low) or low == high:
        return Estimate(float(value), math.nan, math.nan, method, reason="resamples don't tell its uncertainty")
    return Estimate(float(value), low, high, method)
