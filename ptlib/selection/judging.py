"""How far to trust a ranking: scores against fine-tuned accuracy, beside baselines and chance, and in plain words."""

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
    its first pick lost on any target.
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


@dataclass(frozen=True)
class Trust:
    """Every predictor of fine-tuned accuracy on the same targets, best tau first.

    `chance` is the upper end of what 95 of 100 random orders reach; `ceiling` the tau that the true order itself would
    have against accuracies measured on other test sets of the same size: no score can be seen to do better.
    """

    targets: tuple[str, ...]
    n_candidates: tuple[int, ...]
    predictors: dict[str, Trusted]
    chance: float
    ceiling: float
    seconds: dict[str, float]

    def __getitem__(self, name: str) -> Trusted:
        if name not in self.predictors:
            raise KeyError(f"no predictor {name!r}; there are {', '.join(self.predictors)}")
        return self.predictors[name]

    def frame(self) -> Any:
        """A row for each predictor as a pandas DataFrame."""
        import pandas as pd

        return pd.DataFrame({name: t._asdict() for name, t in self.predictors.items()}).T

    def table(self) -> list[tuple[str, ...]]:
        rows: list[tuple[str, ...]] = [("predictor", "kind", "weighted tau", "95 % interval", "p", "leaving one out",
                                        "regret of the first", "worst", "best of three")]  # fmt: skip
        for name, t in self.predictors.items():
            regrets = [_points(r) for r in (t.regret, t.regret_max, t.regret_3)]
            rows.append((name, t.kind, _3(t.tau), f"{_3(t.low)} to {_3(t.high)}", f"{t.p:.2g}",
                         f"{_3(t.worst)} to {_3(t.best)}", *regrets))  # fmt: skip
        return rows

    def __str__(self) -> str:
        head = f"{', '.join(self.targets)}: fine-tuned accuracy against what was known before; regrets in points"
        foot = (f"chance reaches {_3(self.chance)} in 1 of 40 cases; another test set's own order would have "
                f"{_3(self.ceiling)}")  # fmt: skip
        return "\n".join([head, *text_table(self.table()), foot])

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        lines = str(self).splitlines()
        return html_table(self.table(), f"{lines[0]}; {lines[-1]}")


def trust(rankings: Ranking | Sequence[Ranking], *, resamples: int = 1000, seed: int = 0) -> Trust:
    """Scores, probe and baselines of rankings whose candidates' accuracies after fine-tuning are known.

    Several rankings, on several targets, are pooled: taus and regrets are averaged over them. Intervals draw candidates
    with replacement, the same for all targets with equally many; the null exchanges their accuracies, likewise; both
    take candidates, not examples or targets, for the source of chance. Where a predictor says nothing of a candidate
    (no published accuracy), the candidate stands last; ties are broken at random. Candidates that have seen the
    target's data are left out. `resamples` counts bootstrap resamples and exchanges.

    InputError where fewer than three candidates of a target have a known accuracy.
    """
    given = [rankings] if isinstance(rankings, Ranking) else list(rankings)
    if not given:
        raise InputError("there is no ranking to judge; give at least one")
    if resamples < 100:
        raise InputError(f"resamples is {resamples}; the ends of an interval need at least 100, better 1,000")
    tables = [_known(r) for r in given]
    shared = [s for s in given[0].scores if all(s in r.scores for r in given)]
    kinds = {
        "probe": "probe",
        **dict.fromkeys(shared, "score"),
        "this ranking": "pick",
        **dict.fromkeys(BASELINES, "baseline"),
    }
    found = {}
    for name, kind in kinds.items():
        said = [_predicted(r, names, name) for r, (names, _) in zip(given, tables, strict=True)]
        shown = BASELINES.get(name, name)
        found[shown] = _judge(
            kind, said, [truth for _, truth in tables], [names for names, _ in tables], resamples, seed
        )
    drawn = _over_targets([_null(truth, resamples, seed, truth) for _, truth in tables])
    chance = float(np.quantile(drawn, 0.975))
    ordered = sorted(
        found.items(), key=lambda item: -math.inf if math.isnan(item[1].tau) else item[1].tau, reverse=True
    )
    seconds = {
        "ranking": sum(
            float(np.nansum(r.column(c))) for r in given for c in ("seconds_features", "seconds_probe", "seconds_tuned")
        ),
        "scores": sum(float(np.nansum(r.column("seconds_scores"))) for r in given),
        "fine-tuning all": sum(float(np.nansum(r.column("seconds_finetuned"))) for r in given),
    }
    sizes = tuple(len(names) for names, _ in tables)
    return Trust(
        tuple(r.task for r in given), sizes, dict(ordered), chance, _ceiling(given, tables, resamples, seed), seconds
    )


def _known(r: Ranking) -> tuple[list[str], np.ndarray]:
    """Ranked candidates whose accuracy is known, in order of name, and the accuracies (M,)."""
    names = sorted(n for n in r.names if r.rows[n].get("finetuned") is not None)
    if len(names) < 3:
        raise InputError(f"{r.task}: {len(names)} candidates have a known accuracy after fine-tuning; trust needs "
                         "three, from fine_tune_all() or with_truth()")  # fmt: skip
    return names, r.column("finetuned", names)


def _predicted(r: Ranking, names: list[str], predictor: str) -> np.ndarray:
    """What a predictor says of the candidates (M,), higher being better; -inf where it says nothing."""
    if predictor == "random":
        return np.zeros(len(names))
    if predictor == "this ranking":
        return -np.array([r.names.index(n) for n in names], dtype=np.float64)
    values = r.column(predictor, names)
    return np.where(np.isnan(values), -np.inf, values)


def _judge(
    kind: str, said: list[np.ndarray], truths: list[np.ndarray], names: list[list[str]], resamples: int, seed: int
) -> Trusted:  # fmt: skip
    said = [_as_ranks(s) for s in said]
    taus = np.array([_tau(s, t) for s, t in zip(said, truths, strict=True)])
    tau = float(taus.mean())
    drawn = _over_targets([_bootstrap(s, t, resamples, seed) for s, t in zip(said, truths, strict=True)])
    null = _over_targets([_null(s, resamples, seed, t) for s, t in zip(said, truths, strict=True)])
    without = []
    for name in sorted({n for group in names for n in group}):
        kept = [np.array([n != name for n in group]) for group in names]
        without.append(np.mean([_tau(s[k], t[k]) for s, t, k in zip(said, truths, kept, strict=True)]))
    first = np.array([_regret(s, t, 1, seed) for s, t in zip(said, truths, strict=True)])
    three = np.array([_regret(s, t, 3, seed) for s, t in zip(said, truths, strict=True)])
    low, high = percentile(drawn)
    p = (1 + float((null >= tau - 1e-12).sum())) / (1 + len(null))
    return Trusted(kind, tau, low, high, p, float(np.min(without)), float(np.max(without)), float(first.mean()),
                   float(first.max()), float(three.mean()))  # fmt: skip


def _as_ranks(values: np.ndarray) -> np.ndarray:
    """Values as ranks, ties alike: infinities become numbers."""
    return np.unique(values, return_inverse=True)[1].ravel().astype(np.float64)


def _tau(s: np.ndarray, t: np.ndarray) -> Any:
    """Weighted tau; 0 where the predictor tells nothing apart."""
    return np.nan_to_num(weighted_tau(s, t), nan=0.0)


def _bootstrap(s: np.ndarray, t: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    drawn = np.random.default_rng(seed).integers(0, len(s), (resamples, len(s)))
    tau = weighted_tau(s[drawn], t[drawn])
    constant = (s[drawn] == s[drawn[:, :1]]).all(1) & ~(t[drawn] == t[drawn[:, :1]]).all(1)
    return np.where(constant, 0.0, tau)


def _null(s: np.ndarray, resamples: int, seed: int, t: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng([seed, 1])
    shuffled = np.argsort(rng.random((resamples, len(t))), axis=1)
    return np.asarray(_tau(np.broadcast_to(s, shuffled.shape), t[shuffled]))


def _over_targets(drawn: list[np.ndarray]) -> np.ndarray:
    return np.asarray(np.mean(drawn, axis=0))


def _regret(s: np.ndarray, t: np.ndarray, k: int, seed: int) -> float:
    """Accuracy of the best less that of the best of the first k by the predictor, ties broken at random."""
    chance = np.random.default_rng([seed, 2]).random((TIES, len(s)))
    order = np.lexsort((chance, np.broadcast_to(-s, chance.shape)), axis=1)[:, :k]
    return float((t.max() - t[order].max(1)).mean())


def _ceiling(given: list[Ranking], tables: list[tuple[list[str], np.ndarray]], resamples: int, seed: int) -> float:
    taus = []
    for r, (_, t) in zip(given, tables, strict=True):
        again = np.random.default_rng([seed, 3]).binomial(max(r.n_test, 1), t, (resamples, len(t))) / max(r.n_test, 1)
        taus.append(np.nanmean(weighted_tau(np.broadcast_to(t, again.shape), again)))
    return float(np.mean(taus))


def advice(ranking: Ranking, judged: Trust | None = None, seed: int = 0) -> str:
    """One paragraph of plain words: what to take, what it may cost to be wrong, and what would settle it."""
    pick, stage = ranking.pick, ranking.stage
    row = ranking.rows[pick]
    what = "a linear probe on its features" if stage == "probe" else "a short fine-tuning"
    said = [f"Take {pick}: {what} has {row[stage]:.3f} of val right "
            f"({row[f'{stage}_low']:.3f} to {row[f'{stage}_high']:.3f}, {ranking.n_val:,} images)."]  # fmt: skip
    board = ranking.board(seed)
    level = board.level if board else []
    if board and pick != board.best:  # equal accuracy: the lower log loss was taken
        level = [n for n in [board.best, *board.level] if n != pick]
    if level and board:
        bounds = [_lead(board, other, pick) for other in level]
        cheapest = min([pick, *level], key=lambda n: ranking.rows[n].get("flops") or math.inf)
        wrong = f"; one of them may be up to {_points(max(bounds))} points better" if max(bounds) > 0 else ""
        said.append(f"{_listed(level)} can't be told apart from it on so many images{wrong}.")
        if cheapest != pick:
            share = ranking.rows[cheapest]["flops"] / ranking.rows[pick]["flops"]
            said.append(f"If cost matters, {cheapest} is one of these at {share:.0%} of the arithmetic.")
    elif board:
        said.append("The paired tests tell it apart from all others.")
    if judged:
        mine, chance = judged["this ranking"], judged["random order"]
        where = "here" if len(judged.targets) == 1 else f"over {len(judged.targets)} targets"
        best_score = next(name for name, t in judged.predictors.items() if t.kind in ("score", "probe"))
        best = judged[best_score]
        said.append(f"After fine-tuning, such a pick lay {_points(mine.regret)} points below the best {where} (at "
                    f"worst {_points(mine.regret_max)}; a random pick {_points(chance.regret)}). Of what can be known "
                    f"before, {best_score} ordered the candidates best, weighted tau {_3(best.tau)} ({_3(best.low)} "
                    f"to {_3(best.high)}, chance up to {_3(judged.chance)}).")  # fmt: skip
    elif stage == "probe":
        said.append("A probe does not see what fine-tuning can change: candidates may change places.")
    settle = [pick, *level][:4]
    if not judged and len(settle) > 1:
        said.append(f"Fine-tuning {_listed(settle)} and comparing them on val would settle more of it.")
    elif level:
        said.append("More val images, or several seeds of those that are level, would settle it.")
    if ranking.apart:
        have = "have" if len(ranking.apart) > 1 else "has"
        said.append(f"{_listed(ranking.apart)} {have} seen this data in training: what it scores here says nothing of "
                    "new data of this kind, so it is ranked apart.")  # fmt: skip
    return " ".join(said)


def _lead(board: Any, other: str, pick: str) -> float:
    """The most by which `other` may be better than `pick`, the upper end of the paired interval."""
    c = board[other, pick]
    return float(max(0.0, c.difference.high if c.a == other else -c.difference.low))


def _listed(names: Sequence[str]) -> str:
    shown = list(names[:5]) + ([f"{len(names) - 5} more"] if len(names) > 5 else [])
    return " and ".join(shown) if len(shown) < 3 else f"{', '.join(shown[:-1])} and {shown[-1]}"


def _3(value: float) -> str:
    return "?" if math.isnan(value) else f"{value:.2f}"


def _points(value: float) -> str:
    return f"{100 * value:.1f}"
