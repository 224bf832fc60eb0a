"""Paired comparisons against enumeration and simulation, and what they refuse."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import scipy.stats

from ptlib import stats
from ptlib.comparison import Comparison, compare, leaderboard
from ptlib.decisions import cost_at, cost_curve, precision_recall, roc
from ptlib.errors import InputError
from ptlib.measures import prepare
from ptlib.plots import on_front
from ptlib.results import Predictions


def pair(n: int = 300, c: int = 3, gain: float = 0.3, seed: int = 0) -> tuple[Predictions, Predictions]:
    """Two models that share half of their noise; the first has the stronger signal."""
    rng = np.random.default_rng(seed)
    y, shared = rng.integers(0, c, n), rng.normal(size=(n, c))
    models = []
    for signal in (1.5 + gain, 1.5):
        z = shared + rng.normal(size=(n, c))
        z[np.arange(n), y] += signal
        models.append(Predictions.of(y, z))
    return models[0], models[1]


def value(name: str, p: Predictions) -> float:
    (statistic,) = prepare([name], [p])
    return float(statistic.values(np.bincount(statistic.rows)[None])[0, 0])


def mixed(a: Predictions, b: Predictions, from_b: np.ndarray) -> Predictions:
    return Predictions.of(a.targets, np.where(from_b[:, None], b.scores, a.scores), class_names=a.class_names)


@pytest.mark.parametrize("name", ["accuracy", "macro_f1", "matthews", "log_loss", "ece", "top_2_accuracy"])
def test_shuffles_are_all_exchanges_of_answers(name: str) -> None:
    """Eight examples have 256 exchanges: their p-value, computed, is the limit of the sampled one."""
    a, b = pair(8, gain=1.5, seed=3)
    observed = value(name, a) - value(name, b)
    every = []
    for swap in product([False, True], repeat=8):
        s = np.array(swap)
        every.append(value(name, mixed(a, b, s)) - value(name, mixed(a, b, ~s)))
    found = compare(a, b, name, resamples=20_000)
    if not np.isnan(every).any():
        exact = np.mean(np.abs(every) >= abs(observed) - 1e-12)
        assert found.as_large / found.shuffles == pytest.approx(exact, abs=0.015)
    assert found.difference.value == pytest.approx(observed, abs=1e-12)


def test_exchanges_of_a_ranking_go_by_each_models_own_ranks() -> None:
    a, b = pair(7, 2, gain=1.0, seed=2)
    ranks = [np.stack([scipy.stats.rankdata(p.log_probabilities[:, k], "dense") for k in range(2)], 1) for p in (a, b)]
    x, y = (Predictions.of(a.targets, r) for r in ranks)
    every = []
    for swap in product([False, True], repeat=7):
        s = np.array(swap)[:, None]
        areas = []
        for first, second in ((x, y), (y, x)):
            scores = np.where(s, second.scores, first.scores)
            wins = [(i > j) + 0.5 * (i == j) for k in range(2) for i in scores[a.targets == k, k]
                    for j in scores[a.targets != k, k]]  # fmt: skip
            areas.append(np.mean(wins))  # both classes have as many pairs
        every.append(areas[0] - areas[1])
    found = compare(a, b, "macro_auroc", resamples=20_000)
    exact = np.mean(np.abs(every) >= abs(value("macro_auroc", a) - value("macro_auroc", b)) - 1e-12)
    assert found.as_large / found.shuffles == pytest.approx(exact, abs=0.015)


@pytest.mark.usefixtures("with_nbval")
@pytest.mark.parametrize("name", ["accuracy", "macro_f1", "macro_auroc", "log_loss"])
def test_the_interval_is_that_of_examples_drawn_for_both(name: str) -> None:
    a, b = pair(120)
    rng = np.random.default_rng(9)
    differences = []
    for _ in range(1500):
        rows = rng.integers(0, 120, 120)
        drawn = [Predictions.of(p.targets[rows], p.scores[rows], class_names=p.class_names) for p in (a, b)]
        differences.append(value(name, drawn[0]) - value(name, drawn[1]))
    d = compare(a, b, name).difference
    assert (d.low, d.high) == pytest.approx(
        tuple(np.quantile(differences, [0.025, 0.975])), abs=0.2 * float(np.std(differences))
    )
    alone = [value(name, a), value(name, b)]
    assert d.value == pytest.approx(alone[0] - alone[1], abs=1e-12)


@pytest.mark.usefixtures("with_nbval")
def test_equal_models_are_told_apart_in_at_most_one_of_twenty_test_sets() -> None:
    for name in ("accuracy", "macro_f1"):
        found = [compare(*pair(80, gain=0.0, seed=s), name, resamples=200) for s in range(200)]
        assert np.mean([c.p_value <= 0.05 for c in found]) < 0.095
        covered = np.mean([c.difference.low <= 0 <= c.difference.high for c in found])
        assert 0.91 < covered < 0.99


def test_groups_are_exchanged_whole() -> None:
    a, b = pair(30, gain=1.0, seed=1)
    a8, b8 = (Predictions.of(np.repeat(p.targets, 8), np.repeat(p.scores, 8, 0)) for p in (a, b))
    one, false = compare(a, b, "macro_f1"), compare(a8, b8, "macro_f1")
    honest = compare(a8, b8, "macro_f1", groups=np.repeat(np.arange(30), 8))
    assert honest.p_value == pytest.approx(one.p_value, abs=0.03)
    assert false.p_value < 0.2 * one.p_value
    width = honest.difference.high - honest.difference.low
    assert width == pytest.approx(one.difference.high - one.difference.low, rel=0.1)
    assert compare(a8, b8, groups=np.repeat(np.arange(30), 8)).test == "permutation"  # McNemar wants independence


def test_sentences_say_who_by_how_much_and_how_sure() -> None:
    a, b = pair(1000, gain=0.6)
    c = compare(a, b, names=("lite1", "lite0"))
    only = (a.predicted == a.targets).astype(int) - (b.predicted == b.targets)
    assert (c.only_a, c.only_b) == ((only == 1).sum(), (only == -1).sum())
    assert c.p_value == stats.mcnemar(c.only_a, c.only_b)
    assert c.better == "lite1"
    d = 100 * c.difference.value
    assert str(c).startswith(f"lite1 is better than lite0 by {d:.3g} points of accuracy, 95 % interval ")
    assert f"; {c.as_large:,} of 10,000 shuffles were as large (exact McNemar p = " in str(c)
    back = compare(b, a, names=("lite0", "lite1"))
    assert back.better == "lite1"
    assert back.difference.value == -c.difference.value
    level = compare(*pair(50, gain=0.0))
    assert level.better is None
    assert "can't be told apart" in str(level)
    assert "With 50 examples, four of five differences of" in str(level)
    lower = compare(a, b, "log_loss", names=("lite1", "lite0"))
    assert lower.difference.value < 0
    assert lower.better == "lite1"
    assert "nats of log loss" in str(lower)


def test_equal_predictions_are_level() -> None:
    a, _ = pair(40)
    c = compare(a, a)
    assert (c.p_value, c.difference.value, c.only_a, c.only_b, c.better) == (1, 0, 0, 0, None)
    assert c.another == (0, 0)
    assert not c.survives


@pytest.mark.parametrize("gain", [0.0, 0.25, 0.8])
@pytest.mark.usefixtures("with_nbval")
def test_another_test_set_shows_a_difference_where_it_was_foretold(gain: float) -> None:
    held, survived, same = [], [], []
    for s in range(150):
        c = compare(*pair(100, gain=gain, seed=s), resamples=200)
        other = compare(*pair(100, gain=gain, seed=1000 + s), resamples=100)
        held.append(c.another[0] <= other.difference.value <= c.another[1])
        survived.append(c.survives)
        same.append(other.difference.value * c.difference.value > 0)
    assert 0.91 < np.mean(held) < 0.985
    assert np.mean(np.array(survived) & ~np.array(same)) < 0.06  # foretold, and not so: 5 % at most, and chance
    assert np.mean(survived) > 0.5 or gain < 0.8


def test_leaderboards_correct_for_their_number_of_pairs() -> None:
    models = {f"m{k}": p for k, p in enumerate([*pair(400, gain=0.9), *pair(400, gain=0.05)])}
    first = models["m0"]
    models = {k: Predictions.of(first.targets, p.scores if p.targets is first.targets else np.roll(p.scores, 0, 0))
              for k, p in models.items()}  # fmt: skip
    board = leaderboard(models)
    assert len(board.comparisons) == 6
    raw = np.array([c.p_value for c in board.comparisons])
    assert [c.p_adjusted for c in board.comparisons] == pytest.approx(stats.holm(raw))
    values = [e.value for e in board.estimates.values()]
    assert values == sorted(values, reverse=True)
    assert sum(board.led.values()) == pytest.approx(1)
    assert board["m1", "m0"] is board["m0", "m1"]
    assert board.matrix().loc["m1", "m0"] == -board.matrix().loc["m0", "m1"]
    assert (board.p_values().to_numpy() == board.p_values().to_numpy().T)[~np.eye(4, dtype=bool)].all()
    assert "<table class=" in board._repr_html_()
    assert str(board).splitlines()[0] == "400 examples, best first"
    low = leaderboard(models, "log_loss", resamples=200)
    losses = [e.value for e in low.estimates.values()]
    assert losses == sorted(losses)
    assert max(low.led, key=lambda k: low.led[k]) == low.best
    with pytest.raises(KeyError, match="no comparison"):
        board["m0", "m9"]


def test_examples_may_come_in_any_order_but_must_be_the_same() -> None:
    a, b = pair(50)
    order = np.random.default_rng(0).permutation(50)
    assert compare(a, b.take(order)) == compare(a, b)
    other = Predictions.of((b.targets + 1) % 3, b.scores)
    for bad, says in (
        (b.take(range(40)), "A was made on 50 examples; B lacks 10 of them, such as '40'"),
        (other, "the target of '0' differs between A and B"),
        (Predictions.of(b.targets, b.scores, class_names=["x", "y", "z"]), "B has classes"),
        (Predictions.of(b.targets, b.scores, split="val"), "B was made on 'val', A on 'test'"),
    ):
        with pytest.raises(InputError, match=says):
            compare(a, bad)
    with pytest.raises(InputError, match="B has 10 more"):
        compare(a.take(range(40)), b)
    with pytest.raises(InputError, match="only a to compare; give at least two"):
        leaderboard({"a": a})


def test_scales_of_scores_do_not_matter_to_a_ranking() -> None:
    """One model's scores rounded to few levels: their ranks still mix with the other's."""
    a, b = pair(400, 2, gain=1.0)
    coarse = Predictions.of(b.targets, np.round(b.scores, 0))
    c = compare(a, coarse, "macro_auroc", resamples=1000)
    assert c.difference.value > 0.03
    assert c.p_value < 0.02


def test_an_undefined_metric_is_said_to_be() -> None:
    y = np.array([0, 1, 0, 1])
    a, b = (Predictions.of(y, np.eye(3)[z]) for z in ([0, 1, 1, 1], [0, 1, 0, 1]))
    c: Comparison = compare(a, b, "macro_f1", resamples=200)
    assert np.isnan(c.difference.value)
    assert "can't be compared by macro f1: 1 of 3 classes have no examples" in str(c)
    assert c.better is None


def binary(n: int = 400, seed: int = 0, share: float = 0.2) -> Predictions:
    rng = np.random.default_rng(seed)
    y = (rng.random(n) < share).astype(int)
    return Predictions.of(y, 1.5 * (2 * y - 1) + rng.normal(size=n) * 2 - 1.0, class_names=["no", "yes"])


def test_the_cheapest_threshold_is_the_cheapest() -> None:
    p = binary()
    score, truth = p.probabilities[:, 1], p.targets == 1
    curve = cost_curve(p, "yes", 5, 1)
    tried = np.r_[0, np.sort(score), 1.1]
    costs = [np.mean(5 * (truth & (score < t)) + 1 * (~truth & (score >= t))) for t in tried]
    assert curve.cost.min() == pytest.approx(min(costs), abs=1e-12)
    e = cost_at(p, "yes", curve.cheapest, 5, 1)
    assert e.value == pytest.approx(min(costs), abs=1e-12)
    assert e.low < e.value < e.high
    dear = cost_curve(p, "yes", 1e-6, 1)
    never = cost_curve(Predictions.of([0, 1], [800.0, 1.0], class_names=["no", "yes"]), "yes", 1e-6, 1)
    assert never.cheapest == np.inf  # above a probability of 1 too
    assert cost_at(p, "yes", dear.cheapest, 1e-6, 1).value == pytest.approx(dear.cost.min(), abs=1e-12)
    with pytest.raises(InputError, match="both must be above 0"):
        cost_curve(p, "yes", 0, 1)
    with pytest.raises(InputError, match="no class 'maybe'; there are no, yes"):
        roc(p, "maybe")
    with pytest.raises(InputError, match="none of the examples are 'yes'"):
        roc(p.take(p.targets == 0), "yes")


def test_bands_hold_the_curve_of_the_population() -> None:
    big = binary(50_000, 1)
    for make, inside in ((roc, slice(10, 150)), (precision_recall, slice(20, 190))):
        truth = make(big, "yes", resamples=4).y
        held: list[Any] = []
        for s in range(60):
            band = make(binary(300, 10 + s), "yes", resamples=300)
            assert (band.low <= band.y + 1e-9).mean() > 0.95
            held.append(((band.low - 1e-9 <= truth) & (truth <= band.high + 1e-9))[inside])
        assert 0.88 < np.mean(held) < 0.99


def test_the_front_is_what_none_beats() -> None:
    cost, v = np.array([1.0, 2, 3, 1, 4]), np.array([0.5, 0.7, 0.6, 0.4, 0.7])
    assert on_front(cost, v).tolist() == [True, True, False, False, False]
    assert on_front(np.ones(2), np.ones(2)).all()
