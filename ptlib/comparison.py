"""Is A better than B: paired intervals and tests on the same examples, for two models or many, and any metric."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, TypeVar

import numpy as np

from ptlib import stats
from ptlib.errors import InputError
from ptlib.files import html_table, text_table
from ptlib.measures import is_proportion, lower_is_better, of_each
from ptlib.report import BIASED, RESAMPLES, Bootstrap, group_labels
from ptlib.resampling import paired_bootstrap, shuffles
from ptlib.results import Estimate, Examples, Predictions

E = TypeVar("E", bound=Examples)


@dataclass(frozen=True)
class Comparison:
    """What one test set says of A against B; `difference` is A less B, in the metric's own unit.

    `p_value` comes from McNemar's exact test where the metric is a share of independent examples, else from `shuffles`
    exchanges of the two models' answers, of which `as_large` gave a difference as large. `only_a` and `only_b` count
    examples that one alone got right, `odds` is their ratio with its exact interval. `another` holds, in 95 of 100
    cases, the difference that another test set of this size will show; `smallest` is the smallest difference of
    accuracies that this size shows in four of five cases.
    """

    a: str
    b: str
    metric: str
    n: int
    value_a: float
    value_b: float
    difference: Estimate
    p_value: float
    test: str
    as_large: int
    shuffles: int
    only_a: int
    only_b: int
    odds: Estimate
    another: stats.Bounds
    smallest: float
    p_adjusted: float | None = None

    @property
    def p(self) -> float:
        """The p-value, adjusted if there are several comparisons."""
        return self.p_value if self.p_adjusted is None else self.p_adjusted

    @property
    def better(self) -> str | None:
        """The one that is better, None where the test can't tell (p, adjusted if there are several, above 0.05)."""
        if not self.p <= 0.05 or self.difference.value == 0:
            return None
        return self.a if (self.difference.value > 0) != lower_is_better(self.metric) else self.b

    @property
    def survives(self) -> bool:
        """Whether another test set of this size would put the same one ahead; wrong in at most 5 of 100 cases."""
        return not self.another[0] <= 0 <= self.another[1] and not math.isnan(self.another[0])

    def __str__(self) -> str:
        d, what = self.difference, self.metric.replace("_", " ")
        if math.isnan(d.value) or math.isnan(d.low):
            return f"{self.a} and {self.b} can't be compared by {what}: {d.reason}."
        scale, unit = (1, "nats") if self.metric == "log_loss" else (100, "points")
        sign = 1 if d.value >= 0 else -1
        low, high = sorted((sign * d.low, sign * d.high))
        size = f"{scale * abs(d.value):.3g} {unit} of {what}"
        interval = f"95 % interval {scale * low:.3g} to {scale * high:.3g}"
        shuffled = f"{self.as_large:,} of {self.shuffles:,} shuffles were as large"
        p = f"{self.test} p = {self.p_value:.2g}"
        if self.p_adjusted is not None:
            p += f", {self.p_adjusted:.2g} after Holm"
        if self.better:
            other = self.b if self.better == self.a else self.a
            return f"{self.better} is better than {other} by {size}, {interval}; {shuffled} ({p})."
        ahead, behind = (self.a, self.b) if (d.value > 0) != lower_is_better(self.metric) else (self.b, self.a)
        seen = "" if math.isnan(self.smallest) else (
            f" With {self.n:,} examples, four of five differences of {100 * self.smallest:.2g} points would be seen."
        )  # fmt: skip
        return f"{ahead} and {behind} can't be told apart: {size}, {interval}; {shuffled} ({p}).{seen}"

    def __repr__(self) -> str:
        return str(self)


@dataclass(frozen=True)
class Leaderboard:
    """Several models on one test set: each with its interval, each pair compared, tests adjusted for their number."""

    metric: str
    n: int
    estimates: dict[str, Estimate]
    led: dict[str, float]
    comparisons: tuple[Comparison, ...]

    def __getitem__(self, pair: tuple[str, str]) -> Comparison:
        for c in self.comparisons:
            if {c.a, c.b} == set(pair):
                return c
        raise KeyError(f"no comparison of {pair}; there are {', '.join(self.estimates)}")

    @property
    def best(self) -> str:
        return next(iter(self.estimates))

    @property
    def level(self) -> list[str]:
        """Those that can't be told apart from the best."""
        return [name for name in self.estimates if name != self.best and self[self.best, name].better is None]

    def table(self) -> list[tuple[str, ...]]:
        rows: list[tuple[str, ...]] = [("model", self.metric.replace("_", " "), "95 % interval", "led in",
                                        "against the best")]  # fmt: skip
        for name, e in self.estimates.items():
            against = "" if name == self.best else _against(self[self.best, name])
            interval = "none" if math.isnan(e.low) else f"{e.low:.3f} to {e.high:.3f}"
            value = "undefined" if math.isnan(e.value) else f"{e.value:.3f}"
            rows.append((name, value, interval, f"{self.led[name]:.0%} of resamples", against))
        return rows

    def matrix(self) -> Any:
        """Differences of row less column as a pandas DataFrame; NaN on the diagonal."""
        return self._square(lambda c: c.difference.value, -1)

    def p_values(self) -> Any:
        """Holm's adjusted p-values as a pandas DataFrame."""
        return self._square(lambda c: c.p, 1)

    def frame(self) -> Any:
        """A row for each pair as a pandas DataFrame: the difference, its interval, p-values, what comes next."""
        import pandas as pd

        rows = [
            {"pair": f"{c.a} - {c.b}", "difference": c.difference.value, "low": c.difference.low,
             "high": c.difference.high, "p": c.p_value, "p, Holm": c.p, "next test set, low": c.another[0],
             "next test set, high": c.another[1], "survives": c.survives,
             "odds": c.odds.value, "odds, low": c.odds.low, "odds, high": c.odds.high}
            for c in self.comparisons
        ]  # fmt: skip
        return pd.DataFrame(rows).set_index("pair")

    def _square(self, value: Any, sign: int) -> Any:
        import pandas as pd

        names = list(self.estimates)
        frame = pd.DataFrame(np.nan, index=names, columns=names)
        for c in self.comparisons:
            frame.loc[c.a, c.b], frame.loc[c.b, c.a] = value(c), sign * value(c)
        return frame

    def __str__(self) -> str:
        return "\n".join([f"{self.n:,} examples, best first", *text_table(self.table())])

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return html_table(self.table(), f"{self.n:,} examples, best first")


def compare(
    a: Examples, b: Examples, metric: str = "accuracy", *, names: tuple[str, str] = ("A", "B"), seed: int = 0,
    resamples: int = RESAMPLES, groups: str | Sequence[Any] | np.ndarray | None = None,
) -> Comparison:  # fmt: skip
    """A against B on the same examples, by any metric of `ptlib.measures`; printed, it is one plain sentence.

    The interval of the difference is the percentile bootstrap (of calibration errors and AP of boxes the pivotal) of
    examples, drawn for both at once. `groups` draws and exchanges whole groups. InputError if the two were not made on
    the same examples with the same targets.
    """
    return leaderboard(dict(zip(names, (a, b), strict=True)), metric, seed=seed, resamples=resamples, groups=groups)[
        names
    ]


def leaderboard(
    runs: Mapping[str, Examples], metric: str = "accuracy", *, seed: int = 0, resamples: int = RESAMPLES,
    groups: str | Sequence[Any] | np.ndarray | None = None,
) -> Leaderboard:  # fmt: skip
    """Each of several models' metric with its interval, and each pair compared; Holm's correction over all pairs."""
    if resamples < 100:
        raise InputError(f"resamples is {resamples}; the ends of an interval need at least 100, better 10,000")
    if len(runs) < 2:
        raise InputError(
            f"there is only {', '.join(runs) or 'nothing'} to compare; give at least two (runs that differ in nothing "
            "but their seed count as one)"
        )
    found = aligned(runs)
    first = next(iter(found.values()))
    labels = group_labels(first, groups)
    drawn = paired_bootstrap(list(found.values()), metric, resamples, seed, labels)
    estimates = {
        name: Bootstrap(p, resamples=resamples, seed=seed, groups=labels).estimates([metric])[metric]
        for name, p in found.items()
    }
    pairs = []
    for i, j in combinations(range(len(found)), 2):
        pairs.append(_pair(list(found)[i], list(found)[j], found, metric, estimates, drawn[:, [i, j]], seed, labels))
    if len(pairs) > 1:
        adjusted = stats.holm(np.array([c.p_value for c in pairs]))
        pairs = [replace(c, p_adjusted=float(p)) for c, p in zip(pairs, adjusted, strict=True)]
    sign = -1 if lower_is_better(metric) else 1
    ranked = np.where(np.isnan(drawn), -np.inf, sign * drawn)
    ranked = ranked[np.isfinite(ranked).any(1)]  # where it is undefined for all, none is the best
    ranked = ranked if len(ranked) else np.full((1, len(found)), np.nan)
    top = ranked == ranked.max(1, keepdims=True)
    share = dict(zip(found, (top / np.maximum(top.sum(1, keepdims=True), 1)).mean(0).tolist(), strict=True))
    order = sorted(
        found, key=lambda name: -math.inf if math.isnan(v := estimates[name].value) else sign * v, reverse=True
    )
    return Leaderboard(metric, len(first), {n: estimates[n] for n in order}, {n: share[n] for n in order}, tuple(pairs))


def aligned(runs: Mapping[str, E]) -> dict[str, E]:
    """The same predictions with their examples in the order of the first; InputError if they are not the same."""
    (name, first), *rest = runs.items()
    found = {name: first}
    for other, p in rest:
        if p.kind != first.kind:
            raise InputError(f"{other} is of {p.kind}, {name} of {first.kind}; compare what is of one kind")
        if p.class_names != first.class_names:
            raise InputError(
                f"{other} has classes {p.class_names[:9]}, {name} {first.class_names[:9]}; they must agree"
            )
        if p.multilabel != first.multilabel:
            raise InputError(f"an example may have several labels in one of {name} and {other}, and one in the other")
        if p.split != first.split:
            raise InputError(f"{other} was made on {p.split!r}, {name} on {first.split!r}; compare on one split")
        place = {example: i for i, example in enumerate(p.ids)}
        lacking = [example for example in first.ids if example not in place]
        if lacking or len(p) != len(first):
            what = (
                f"lacks {len(lacking)} of them, such as {lacking[0]!r}"
                if lacking
                else f"has {len(p) - len(first)} more"
            )
            raise InputError(f"{name} was made on {len(first)} examples; {other} {what}: compare on the same examples")
        p = p.take([place[example] for example in first.ids])
        wrong = np.flatnonzero((p.targets != first.targets).reshape(len(p), -1).any(1))
        if len(wrong):
            raise InputError(f"the target of {first.ids[wrong[0]]!r} differs between {name} and {other}")
        found[other] = p
    return found


def _pair(
    a: str, b: str, found: Mapping[str, Any], metric: str, estimates: Mapping[str, Estimate],
    drawn: np.ndarray, seed: int, groups: np.ndarray | None,
) -> Comparison:  # fmt: skip
    one, two = estimates[a], estimates[b]
    gap = one.value - two.value
    differences = drawn[:, 0] - drawn[:, 1]
    # What is biased upwards is so by more for the better one; the pivot takes that out.
    pivotal = metric.startswith(BIASED)
    low, high = stats.pivotal(gap, differences, gap) if pivotal else stats.percentile(differences)
    reason = None
    if math.isnan(gap):
        reason = one.reason or two.reason
    elif math.isnan(low):
        reason = "undefined in over 5 % of resamples"
    method = f"paired bootstrap, {len(differences):,} resamples"
    shuffled = shuffles([found[a], found[b]], metric, len(differences), seed + 1, groups)
    p, as_large = stats.permutation_p(gap, shuffled)
    shares = metric if is_proportion(metric) else "accuracy"
    whole = isinstance(found[a], Predictions)  # an image of many boxes or pixels is not right or wrong as a whole
    right = [of_each(shares, found[name]) > 0 if whole else np.zeros(1, dtype=bool) for name in (a, b)]
    only_a, only_b = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
    odds, bounds = stats.discordant_odds(only_a, only_b)
    why = None if only_a + only_b else "they agree on every example" if whole else "an image is not right as a whole"
    ratio = Estimate(odds, *bounds, "Clopper-Pearson", reason=why)
    n, exact = len(found[a]), is_proportion(metric) and groups is None
    smallest = stats.smallest_difference(n, (only_a + only_b) / n).smallest if exact else math.nan
    # Another test set's difference scatters about the true one as this one does: both errors are drawn. (The chance
    # that the same one is ahead again can't be had so: for equal models it would come out near 0.7, and is 0.5.)
    other = differences + np.random.default_rng(seed + 2).permutation(differences) - gap
    another = stats.pivotal(gap, other, gap) if pivotal else stats.percentile(other)
    return Comparison(
        a, b, metric, n, one.value, two.value, Estimate(gap, low, high, method, reason=reason),
        stats.mcnemar(only_a, only_b) if exact else p, "exact McNemar" if exact else "permutation", as_large,
        len(shuffled), only_a, only_b, ratio,
        another, smallest,
    )  # fmt: skip


def _against(c: Comparison) -> str:
    if math.isnan(c.difference.low):
        return "can't be compared"
    worse = "worse" if c.better else "can't be told apart"
    return f"{worse}, p = {c.p:.2g}"
