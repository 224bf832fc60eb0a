"""How far to trust a ranking: scores against fine-tuned accuracy, beside baselines and chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ptlib.errors import InputError
from ptlib.files import html_table, text_table
from ptlib.selection.ranking import Ranking
from ptlib.stats import percentile, weighted_tau

BASELINES = {"imagenet_top1": "ImageNet top-1", "parameters": "parameters", "random": "random order"}
TIES = 5000  # orders drawn to break ties


class Trusted(NamedTuple):
    """One predictor of fine-tuned accuracy, over all targets.

    `tau` is the mean over targets of the weighted Kendall tau, `low` and `high` its interval over candidates drawn
    anew, `p` how often a random order does as well, `worst` and `best` its range with one candidate left out, `regret`
    and `regret_3` the mean accuracy lost by its first pick and by the best of its first three, `regret_max` the most
    its first pick lost on any target. `known` and `of` count the candidates of which it says something.
    """

    kind: str
    tau: float
    low: float
    high: float
    p: float
    worst: float
    best: float
    regret: float
    regret_max: float
    regret_3: float
    known: int
    of: int


@dataclass(frozen=True)
class Trust:
    """Every predictor of fine-tuned accuracy on the same targets, best tau first.

    `chance` is the tau that 1 of 20 random orders exceeds; `chance_of_best` the one that the best of the scores and
    the probe exceeds as often when accuracies are exchanged among the candidates: with many scores, one looks good.
    `ceiling` is the tau of the order measured with the same models measured on other test sets of the same size.
    """

    targets: tuple[str, ...]
    n_candidates: tuple[int, ...]
    predictors: dict[str, Trusted]
    chance: float
    chance_of_best: float
    ceiling: float
    seconds: dict[str, float]

    def __getitem__(self, name: str) -> Trusted:
        if name not in self.predictors:
            raise KeyError(f"no predictor {name!r}; there are {', '.join(self.predictors)}")
        return self.predictors[name]

    @property
    def first(self) -> str:
        """The score, or the probe, that ordered the candidates best."""
        return next(name for name, t in self.predictors.items() if t.kind in ("score", "probe"))

    def frame(self) -> Any:
        """A row for each predictor as a pandas DataFrame."""
        import pandas as pd

        return pd.DataFrame({name: t._asdict() for name, t in self.predictors.items()}).T

    def table(self) -> list[tuple[str, ...]]:
        rows: list[tuple[str, ...]] = [("predictor", "kind", "weighted tau", "95 % interval", "p", "leaving one out",
                                        "regret of the first", "worst", "best of three")]  # fmt: skip
        for name, t in self.predictors.items():
            kind = t.kind + f", known for {t.known} of {t.of}" * (t.known < t.of)
            regrets = [points(r) for r in (t.regret, t.regret_max, t.regret_3)]
            rows.append((name, kind, two(t.tau), span(t.low, t.high), f"{t.p:.2g}", span(t.worst, t.best), *regrets))
        return rows

    def __str__(self) -> str:
        head = f"{', '.join(self.targets)}: fine-tuned accuracy against what was known before; regrets in points"
        foot = (
            f"1 of 20 random orders exceeds {two(self.chance)}, the best of the scores by chance "
            f"{two(self.chance_of_best)}; the order on another test set would have {two(self.ceiling)}"
        )
        return "\n".join([head, *text_table(self.table()), foot])

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        lines = str(self).splitlines()
        return html_table(self.table(), f"{lines[0]}; {lines[-1]}")


class _Target(NamedTuple):
    """One target's ranked candidates with a known accuracy, laid out over the names of all targets (U,).

    `truth` is NaN for those the target lacks; `said` holds each predictor's values as ranks, likewise.
    """

    truth: np.ndarray
    said: dict[str, np.ndarray]
    n_test: int


def trust(rankings: Ranking | Sequence[Ranking], *, resamples: int = 1000, seed: int = 0) -> Trust:
    """Scores, probe and baselines of rankings whose candidates' accuracies after fine-tuning are known.

    Several rankings, on several targets, are pooled: taus and regrets are averaged over them. Intervals draw candidates
    with replacement, the same for all targets; the null exchanges their accuracies, likewise. Both take candidates, not
    examples, seeds or targets, for the source of chance. In 200 simulated pools a 95 % interval held the mean tau of
    such pools, 0.67, in 0.90 of cases with six candidates, in 0.96 with twelve. Where a predictor says nothing of a
    candidate (no published accuracy), the candidate stands last; ties are broken at random. Candidates that have seen
    the target's data are left out, and so is a score or baseline that says nothing of any candidate.

    InputError where fewer than three candidates of a target have a known accuracy.
    """
    given = [rankings] if isinstance(rankings, Ranking) else list(rankings)
    if not given:
        raise InputError("there is no ranking to judge; give at least one")
    if resamples < 100:
        raise InputError(f"resamples is {resamples}; the ends of an interval need at least 100, better 1,000")
    shared = [s for s in given[0].scores if all(s in r.scores for r in given)]
    kinds = {"probe": "probe", **dict.fromkeys(shared, "score"), "this ranking": "pick",
             **dict.fromkeys(BASELINES, "baseline")}  # fmt: skip
    kinds = {name: kind for name, kind in kinds.items() if kind == "probe" or any(_says(r, name)[0] for r in given)}
    names = sorted({n for r in given for n in _known(r)})
    targets = [_laid_out(r, names, list(kinds)) for r in given]
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, len(names), (resamples, len(names)))
    keys, noise = rng.random((2, resamples, len(names)))
    shuffled = [_exchanged(t.truth, keys) for t in targets]
    found, nulls = {}, {}
    for name, kind in kinds.items():
        nulls[name] = np.mean([_tau(t.said[name], s) for t, s in zip(targets, shuffled, strict=True)], axis=0)
        known = [_says(r, name) for r in given]
        found[BASELINES.get(name, name)] = _judge(kind, [t.said[name] for t in targets], [t.truth for t in targets],
                                                  drawn, nulls[name], known, seed)  # fmt: skip
    best = np.max([null for name, null in nulls.items() if kinds[name] in ("score", "probe")], axis=0)
    chance = np.mean([_tau(noise, t.truth) for t in targets], axis=0)
    low, high = percentile(chance)
    found["random order"] = found["random order"]._replace(low=low, high=high)
    ceiling = float(np.mean([_measured_again(t, resamples, rng) for t in targets]))
    order = sorted(found.items(), key=lambda item: np.nan_to_num(item[1].tau, nan=-2.0), reverse=True)
    spent = ("seconds_features", "seconds_probe", "seconds_tuned")
    seconds = {
        "ranking": sum(float(np.nansum(r.column(c))) for r in given for c in spent),
        "scores": sum(float(np.nansum(r.column("seconds_scores"))) for r in given),
        "fine-tuning all": sum(float(np.nansum(r.column("seconds_finetuned"))) for r in given),
    }
    sizes = tuple(int((~np.isnan(t.truth)).sum()) for t in targets)
    return Trust(tuple(r.task for r in given), sizes, dict(order), float(np.quantile(chance, 0.95)),
                 float(np.quantile(best, 0.95)), ceiling, seconds)  # fmt: skip


def _known(r: Ranking) -> list[str]:
    """Ranked candidates whose accuracy is known."""
    names = [n for n in r.names if r.rows[n].get("finetuned") is not None]
    if len(names) < 3:
        raise InputError(f"{r.task}: {len(names)} candidates have a known accuracy after fine-tuning; trust needs "
                         "three, from fine_tune_all() or with_truth()")  # fmt: skip
    return names


def _laid_out(r: Ranking, names: list[str], predictors: list[str]) -> _Target:
    known = set(_known(r))
    there = np.array([n in known for n in names])
    present = [n for n in names if n in known]

    def spread(values: np.ndarray) -> np.ndarray:
        wide = np.full(len(names), np.nan)
        wide[there] = values
        return wide

    # Ranks stand for values: infinities become numbers, and what is not known stands last.
    said = {p: spread(np.unique(_values(r, present, p), return_inverse=True)[1].ravel().astype(np.float64))
            for p in predictors}  # fmt: skip
    return _Target(spread(r.column("finetuned", present)), said, r.n_test)


def _values(r: Ranking, names: list[str], predictor: str) -> np.ndarray:
    """What a predictor says of the candidates (M,), higher being better; -inf where it says nothing."""
    if predictor == "random":
        return np.zeros(len(names))
    if predictor == "this ranking":
        return -np.array([r.names.index(n) for n in names], dtype=np.float64)
    values = r.column(predictor, names)
    return np.where(np.isnan(values), -np.inf, values)


def _says(r: Ranking, predictor: str) -> tuple[int, int]:
    """Of how many candidates a predictor says something, and of how many it could."""
    names = _known(r)
    return len(names) - int(np.isneginf(_values(r, names, predictor)).sum()), len(names)


def _judge(
    kind: str, said: list[np.ndarray], truths: list[np.ndarray], drawn: np.ndarray, null: np.ndarray,
    known: list[tuple[int, int]], seed: int,
) -> Trusted:  # fmt: skip
    pairs = list(zip(said, truths, strict=True))
    tau = float(np.mean([_tau(s, t) for s, t in pairs]))
    low, high = percentile(np.mean([_tau(s[drawn], t[drawn]) for s, t in pairs], axis=0))
    without = []
    for i in range(len(truths[0])):
        hidden = np.where(np.arange(len(truths[0])) == i, np.nan, 0.0)
        without.append(float(np.mean([_tau(s + hidden, t + hidden) for s, t in pairs])))
    first, three = (np.array([_regret(s, t, k, seed) for s, t in pairs]) for k in (1, 3))
    p = (1 + int((null >= tau - 1e-12).sum())) / (1 + len(null)) if not math.isnan(tau) else math.nan
    of_all = np.sum(known, axis=0)
    return Trusted(kind, tau, low, high, p, *_ends(without), float(first.mean()), float(first.max()),
                   float(three.mean()), int(of_all[0]), int(of_all[1]))  # fmt: skip


def _ends(values: list[float]) -> tuple[float, float]:
    """The least and the greatest of those that are defined."""
    known = [v for v in values if not math.isnan(v)] or [math.nan]
    return min(known), max(known)


def _tau(s: np.ndarray, t: np.ndarray) -> Any:
    """Weighted tau; 0 where a predictor tells no candidates apart that differ, NaN where none differ."""
    there = ~np.isnan(np.broadcast_to(s, np.broadcast_shapes(s.shape, t.shape)) + t)
    spread = np.where(there, t, -np.inf).max(-1) > np.where(there, t, np.inf).min(-1)
    return np.where(spread, np.nan_to_num(weighted_tau(s, t), nan=0.0), np.nan)


def _exchanged(truth: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Accuracies (U,) exchanged among the candidates that have one, in the order of keys (R, U): (R, U)."""
    there = ~np.isnan(truth)
    shuffled = np.full(keys.shape, np.nan)
    shuffled[:, there] = truth[there][np.argsort(keys[:, there], axis=1)]
    return shuffled


def _measured_again(t: _Target, resamples: int, rng: np.random.Generator) -> float:
    """The mean tau of the accuracies with those of other test sets of as many independent examples."""
    truth, n = t.truth[~np.isnan(t.truth)], max(t.n_test, 1)
    again = rng.binomial(n, truth, (resamples, len(truth))) / n
    return float(np.nanmean(_tau(truth, again)))


def _regret(s: np.ndarray, t: np.ndarray, k: int, seed: int) -> float:
    """Accuracy of the best less that of the best of the first k by the predictor, ties broken at random."""
    s, t = s[~np.isnan(t)], t[~np.isnan(t)]
    chance = np.random.default_rng(seed).random((TIES, len(s)))
    order = np.lexsort((chance, np.broadcast_to(-s, chance.shape)), axis=1)[:, :k]
    return float((t.max() - t[order].max(1)).mean())


def two(value: float) -> str:
    return "?" if math.isnan(value) else f"{value:.2f}"


def span(low: float, high: float) -> str:
    return "none" if math.isnan(low) else f"{low:.2f} to {high:.2f}"


def points(value: float) -> str:
    return f"{100 * value:.1f}"
