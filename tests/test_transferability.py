"""Transferability scores: golden values, dense references, published invariances, and input that must be refused."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.stats import spearmanr
from sklearn.covariance import ledoit_wolf
from sklearn.datasets import load_digits, load_iris
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.neighbors import KNeighborsClassifier

from ptlib import transferability as tr
from ptlib.errors import InputError

IRIS, DIGITS = load_iris(return_X_y=True), load_digits(return_X_y=True)
ON_FEATURES = list(tr.FEATURE_SCORES.items())


@pytest.mark.parametrize(
    ("score", "iris", "digits"),
    [
        (tr.log_me, -0.16006, 0.27028),
        (tr.h_score, 1.191899, 5.917909),
        (tr.FEATURE_SCORES["h_score_shrunk"], 1.177842, 5.851433),
        (tr.trans_rate, 0.589405, 50.286431),
        (lambda x, y: tr.trans_rate(x, y, equal_weights=True), 0.589405, 50.279312),
        (lambda x, y: tr.nearest_neighbours(x, y, k=1), 0.96, None),
        (lambda x, y: tr.nearest_neighbours(x, y, k=3), 0.96, None),
        (lambda x, y: tr.nearest_neighbours(x, y, k=5), 0.966667, None),
        (lambda x, y: tr.nearest_neighbours(x, y, k=13), 0.966667, None),
    ],
)  # fmt: skip
def test_golden_values(score: Callable[..., float], iris: float, digits: float | None) -> None:
    assert score(*IRIS) == pytest.approx(iris, rel=1e-4)
    if digits is not None:
        assert score(*DIGITS) == pytest.approx(digits, rel=1e-4)


def test_golden_values_with_few_digits() -> None:
    assert round(tr.gbc(*DIGITS), 6) == -0.000120
    assert tr.nce(np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1])) == pytest.approx(-0.477386, abs=1e-6)
    y = np.array([7, -3, 7, 100])
    assert tr.leep(np.eye(3)[[0, 1, 0, 2]], y) == 0
    entropy = -(0.5 * math.log(0.5) + 2 * 0.25 * math.log(0.25))
    assert tr.leep(np.full((4, 6), 1 / 6), y) == pytest.approx(-entropy, abs=1e-12)
    assert tr.nce(np.full((4, 6), 1 / 6), y) == pytest.approx(-entropy, abs=1e-12)


def dense_log_evidence(f: np.ndarray, y: np.ndarray, alpha: float, beta: float) -> float:
    """By the definition: y is normal with covariance I / beta + F F' / alpha."""
    cov = np.eye(len(f)) / beta + f @ f.T / alpha
    return float(-0.5 * (len(f) * math.log(2 * math.pi) + np.linalg.slogdet(cov)[1] + y @ np.linalg.solve(cov, y)))


def dense_log_me(f: np.ndarray, labels: np.ndarray) -> float:
    """Dense evidences along alpha / beta, beta the best for each; there may be two hills, so a grid comes first."""
    n, found = len(f), []
    ratios = np.exp(np.arange(-16.0, 20.0, 0.25)) * float((f**2).mean())
    gram = f @ f.T
    covariances = np.eye(n) + gram / ratios[:, None, None]
    inverses, logs = np.linalg.inv(covariances), np.linalg.slogdet(covariances)[1]

    def best_beta(y: np.ndarray, ratio: float) -> float:
        return float(n / (y @ np.linalg.solve(np.eye(n) + gram / ratio, y)))

    for c in np.unique(labels):
        y = (labels == c).astype(float)
        top = math.log(ratios[(-n * np.log(np.einsum("i,tij,j->t", y, inverses, y)) - logs).argmax()])

        def loss(log_ratio: float, y: np.ndarray = y) -> float:
            beta = best_beta(y, math.exp(log_ratio))
            return -dense_log_evidence(f, y, math.exp(log_ratio) * beta, beta)

        end = minimize_scalar(loss, bounds=(top - 0.3, top + 0.3), method="bounded", options={"xatol": 1e-7})
        found.append(-float(end.fun) / n)
    return float(np.mean(found))


def test_log_me_is_the_maximum_evidence_on_200_problems() -> None:
    rng = np.random.default_rng(0)
    for i in range(200):
        n, c = int(rng.integers(8, 24)), int(rng.integers(2, 4))
        d = int(rng.integers(1, n - 1)) if i % 2 else int(rng.integers(n + 1, 3 * n))
        y = np.concatenate([np.arange(c), rng.integers(0, c, n - c)])
        f = rng.normal(size=(n, d)) * 10 ** rng.uniform(-2, 2)
        f += rng.normal(size=(c, d))[y] * rng.uniform(0, 2) + rng.normal()
        # With more features than examples the maximum may lie at alpha / beta = 0, short of which the grid ends.
        assert tr.log_me(f, y) == pytest.approx(dense_log_me(f, y), abs=1e-7 if d < n else 1e-4), (i, n, d)


@pytest.mark.parametrize("kind", ["plain", "wide", "dead", "collapsed", "scaled", "repeated"])
def test_the_quick_way_through_float32_is_the_exact_one(kind: str) -> None:
    """Products of the features with themselves, or the triangle where those would not tell rank from rounding."""
    rng = np.random.default_rng(3)
    n, d = (40, 90) if kind == "wide" else (120, 30)
    y = np.arange(n) % 4
    x = np.maximum(rng.normal(size=(n, d)) + rng.normal(size=(4, d))[y], 0)
    if kind == "dead":
        x[:, 5:20] = 0
    if kind == "collapsed":
        x = np.eye(4)[y] + 1e-6 * rng.normal(size=(n, 4))
    if kind == "scaled":
        x *= 10.0 ** rng.uniform(-9, 9, d)
    if kind == "repeated":
        x[1::2], y[1::2] = x[::2], y[::2]
    x32 = x.astype(np.float32)
    quick, exact = tr.sample(x32, y), tr.sample(x32.astype(np.float64), y)
    assert (quick._by_product(True) is None) == (kind in ("collapsed", "scaled"))
    for centred in (quick.centred, quick.raw), (exact.centred, exact.raw):
        assert all(len(part.s) <= min(n, d) for part in centred)
    for a, b in ((quick.centred, exact.centred), (quick.raw, exact.raw)):
        assert a.s == pytest.approx(b.s, rel=1e-9)
        assert (a.projected**2).sum(0) == pytest.approx((b.projected**2).sum(0), rel=1e-9)
        assert a.rest == pytest.approx(b.rest, rel=1e-8, abs=1e-18)
    for score in (tr.log_me, tr.h_score, tr.FEATURE_SCORES["h_score_shrunk"], tr.nleep):
        assert score(quick) == pytest.approx(score(exact), rel=1e-9)


def test_the_best_beta_is_the_best() -> None:
    rng = np.random.default_rng(1)
    f, y = rng.normal(size=(20, 5)), (rng.random(20) < 0.4).astype(float)
    beta = 20 / (y @ np.linalg.solve(np.eye(20) + f @ f.T / 3.0, y))
    values = [dense_log_evidence(f, y, 3.0 * b, b) for b in (float(beta) * share for share in (0.99, 1.0, 1.01))]
    assert max(values) == values[1]


def test_log_me_of_features_that_have_all_but_collapsed() -> None:
    """Where the noise that is left is a millionth the best alpha / beta is some 1e-12: it must be looked for there."""
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    for noise in (1e-2, 1e-4, 1e-6):
        f = np.eye(3)[labels] + noise * rng.normal(size=(60, 3))

        def evidence(log_ratio: float, c: int, f: np.ndarray = f) -> float:
            """The formula of the paper, in A = alpha I + beta F'F and m; beta the best for each alpha / beta."""
            y, t = (labels == c).astype(float), math.exp(log_ratio)
            m = np.linalg.solve(t * np.eye(3) + f.T @ f, f.T @ y)
            residual, size = float(((f @ m - y) ** 2).sum()), float(m @ m)
            beta = 60 / (residual + t * size)
            logs = 60 * math.log(beta) + 3 * math.log(t * beta) - 60 * math.log(2 * math.pi)
            return 0.5 * float(
                logs - beta * (residual + t * size) - np.linalg.slogdet(beta * (t * np.eye(3) + f.T @ f))[1]
            )

        best = [max(evidence(v, c) for v in np.arange(-45.0, 10.0, 0.01)) / 60 for c in range(3)]
        assert tr.log_me(f, labels) == pytest.approx(np.mean(best), abs=1e-5), noise


def test_log_me_of_more_features_than_examples_is_the_evidence_and_not_the_usual_code_s_value() -> None:
    # The usual code drops -(D - k)/2 log alpha where D > N; with it the value would grow with D by columns of zeros.
    x, y = IRIS[0][::5], IRIS[1][::5]
    wide = np.concatenate([x, np.zeros((len(x), 100))], axis=1)
    assert tr.log_me(wide, y) == pytest.approx(tr.log_me(x, y), abs=1e-9)


def test_h_score_shrunk_by_scikit_learn_s_ledoit_wolf() -> None:
    rng = np.random.default_rng(1)
    for n, d in ((40, 7), (30, 60), (25, 1)):
        x, y = rng.normal(size=(n, d)) @ rng.normal(size=(d, d)), rng.integers(0, 3, n)
        cov, alpha = ledoit_wolf(x)
        means = np.stack([x[y == c].mean(0) for c in range(3)])[y] - x.mean(0)
        expected = (1 - alpha) * np.trace(np.linalg.solve(cov, means.T @ means / (n - 1)))
        assert tr.h_score(x, y, shrinkage=True) == pytest.approx(expected, rel=1e-8)


def dense(name: str, x: np.ndarray, y: np.ndarray) -> float:
    """The definition, densely, in float64: no chunks, no rotation, no shortcuts."""
    classes, y = np.unique(y, return_inverse=True)
    n, d = x.shape
    z = x - x.mean(0)
    means = np.stack([x[y == c].mean(0) for c in range(len(classes))])
    if name == "h_score":
        g = means[y] - x.mean(0)
        return float(np.trace(np.linalg.pinv(z.T @ z / n, rcond=1e-13) @ (g.T @ g / n)))
    if name == "gbc":
        v = np.maximum(np.stack([x[y == c].var(0) for c in range(len(classes))]), 1e-4)
        total = 0.0
        for i in range(len(classes)):
            for j in range(len(classes)):
                s = (v[i] + v[j]) / 2
                b = ((means[i] - means[j]) ** 2 / s).sum() / 8 + 0.5 * np.log(s / np.sqrt(v[i] * v[j])).sum()
                total += math.exp(-b) * (i != j)
        return -total
    if name == "trans_rate":

        def rate(z: np.ndarray) -> float:
            return float(0.5 * np.linalg.slogdet(np.eye(d) + z.T @ z / (len(z) * 1e-4))[1])

        return rate(z) - sum(float((y == c).mean()) * rate(z[y == c]) for c in range(len(classes)))
    if name == "parc":
        std = x.std(0)
        s = z / np.where(std > 1e-12 * std.max(), std, np.inf)
        pairs = np.triu_indices(n, 1)
        one_hot = np.eye(len(classes))[y]
        far = [np.asarray(1 - np.corrcoef(v))[pairs].round(12) for v in (s, one_hot)]
        return float(spearmanr(*far).statistic)
    assert name == "sfda"

    def log_posterior(x: np.ndarray, shrinkage: float | None) -> tuple[np.ndarray, float]:
        means = np.stack([x[y == c].mean(0) for c in range(len(classes))])
        within = (x - means[y]).T @ (x - means[y]) / n
        shrinkage = shrinkage or max(math.exp(-5 * np.linalg.eigvalsh(within)[-1]), 1e-10)
        inverse = np.linalg.inv((1 - shrinkage) * within + shrinkage * np.trace(within) / d * np.eye(d))
        scores = np.stack([-0.5 * np.einsum("nd,de,ne->n", x - m, inverse, x - m) for m in means], axis=1)
        scores += np.log(np.bincount(y) / n)
        return scores - np.log(np.exp(scores - scores.max(1, keepdims=True)).sum(1, keepdims=True)) - scores.max(
            1, keepdims=True
        ), shrinkage

    log_p, shrinkage = log_posterior(x, None)
    soft = np.exp(np.exp(log_p))
    own = (soft / soft.sum(1, keepdims=True))[np.arange(n), y][:, None]
    others = (means.sum(0) - means) / (len(classes) - 1)
    log_p, _ = log_posterior(own * x + (1 - own) * others[y], shrinkage)
    return float(log_p[np.arange(n), y].mean())


@pytest.mark.parametrize("name", ["h_score", "gbc", "trans_rate", "parc", "sfda"])
def test_scores_equal_their_definitions(name: str) -> None:
    rng = np.random.default_rng(5)
    for i in range(200):
        n, d, c = int(rng.integers(12, 40)), int(rng.integers(2, 50)), int(rng.integers(2, 6))
        y = np.concatenate([np.arange(c), rng.integers(0, c, n - c)]) * 17 - 40  # labels are any integers
        x = rng.normal(size=(n, d)) + rng.normal(size=(200, d))[y] * rng.uniform(0, 1)
        if i % 3 == 0:
            x[:, 0] = 3.7  # a constant column
        if i % 4 == 0:
            x[-1], y[-1] = x[-2], y[-2]  # a repeated row
        if i % 2 == 0:
            x = x.astype(np.float32).astype(np.float64)
            assert tr.FEATURE_SCORES[name](tr.sample(x.astype(np.float32), y)) == pytest.approx(
                tr.FEATURE_SCORES[name](tr.sample(x, y)), rel=1e-8, abs=1e-10
            )
        assert tr.FEATURE_SCORES[name](tr.sample(x, y)) == pytest.approx(dense(name, x, y), rel=1e-8, abs=1e-10), (
            i,
            n,
            d,
        )


@pytest.mark.parametrize("k", [1, 4, 9])
def test_nearest_neighbours_equal_scikit_learn_s_where_nothing_is_tied(k: int) -> None:
    rng = np.random.default_rng(k)
    x, y = rng.normal(size=(150, 5)), rng.integers(0, 2, 150)
    hits = []
    for i in range(150):
        rest = np.arange(150) != i
        votes = KNeighborsClassifier(k).fit(x[rest], y[rest])
        share = votes.predict_proba(x[i : i + 1])[0]
        if share.max() == 0.5:  # the nearest member decides
            nearest = [np.linalg.norm(x[rest & (y == c)] - x[i], axis=1).min() for c in (0, 1)]
            hits.append(int(np.argmin(nearest)) == y[i])
        else:
            hits.append(int(share.argmax()) == y[i])
    assert tr.nearest_neighbours(x, y, k=k) == pytest.approx(np.mean(hits), abs=1e-12)
    assert tr.nearest_neighbours(x, y, k=k, memory=1) == tr.nearest_neighbours(x, y, k=k)  # a row at a time


def test_ties_of_neighbours_count_by_chance() -> None:
    x = np.zeros((4, 2))  # all examples are the same: each has three neighbours, of which one is of its class
    assert tr.nearest_neighbours(x, np.array([0, 0, 1, 1]), k=1) == 0
    assert tr.nearest_neighbours(x, np.array([0, 1, 2, 3]), k=1) == 0
    x = np.array([[0.0], [1.0], [-1.0]])
    assert tr.nearest_neighbours(x, np.array([0, 0, 1]), k=1) == pytest.approx((0.5 + 1 + 0) / 3)


def test_linear_probe_is_right_where_a_line_separates_and_at_chance_where_nothing_does() -> None:
    rng = np.random.default_rng(3)
    y = rng.integers(0, 2, 200)
    x = rng.normal(size=(200, 30))
    assert 0.35 < tr.linear_probe(x, y) < 0.65
    x[:, 4] += 8 * y
    assert tr.linear_probe(x, y) > 0.98
    wide = rng.normal(size=(60, 200))
    wide[:, :40] += 2 * y[:60, None]
    assert tr.linear_probe(wide, y[:60]) > 0.9
    y[0] = 9  # a class of one example: wrong, and no error
    assert tr.linear_probe(x, y) == pytest.approx(199 / 200)


def test_pool_scores_are_relative_and_say_which_is_better() -> None:
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(4), 30)
    good, bad = (rng.normal(size=(120, 20)) + gap * rng.normal(size=(4, 20))[y] for gap in (1.0, 0.0))
    worse = rng.normal(size=(120, 8))
    constant = np.ones((120, 3))
    for score in (tr.etran, tr.ncti):
        found = score([(good, y), (bad, y), (worse, y), (constant, y)])
        assert found[0] > max(found[1:3])
        assert np.isnan(found[3])
        without = score([(good, y), (bad, y)])
        assert not np.allclose(without, found[:2])
    with pytest.raises(InputError, match="pool is empty"):
        tr.etran([])


def test_ncti_s_discriminants_are_scikit_learn_s() -> None:
    x, y = DIGITS
    z = x - x.mean(0)
    z = z @ np.linalg.svd(z, full_matrices=False)[2][:61].T  # three pixels never vary
    lda = LinearDiscriminantAnalysis().fit(z, y)
    seli, ncc, _ = tr.ncti_parts(tr.sample(x, y))
    assert ncc == pytest.approx(lda.predict_proba(z)[np.arange(len(y)), y].mean(), rel=1e-6)
    low = lda.transform(z)
    assert seli == pytest.approx(np.linalg.norm(low - low.mean(0), "nuc"), rel=1e-6)


# What a score must not depend on: rotation, shift, scale of all, scale of each feature.
INVARIANCES = {
    "log_me": (1, 0, 1, 0), "h_score": (1, 1, 1, 1), "h_score_shrunk": (1, 1, 1, 0), "gbc": (0, 1, 0, 0),
    "trans_rate": (1, 1, 0, 0), "sfda": (1, 1, 0, 0), "parc": (0, 1, 1, 1), "nearest_neighbours": (1, 1, 1, 0),
    "linear_probe": (0, 1, 1, 1), "nleep": (1, 1, 1, 0),
}  # fmt: skip


@pytest.mark.parametrize(("name", "score"), ON_FEATURES, ids=[n for n, _ in ON_FEATURES])
def test_scores_have_the_invariances_they_state_and_change_nothing(name: str, score: Callable[..., float]) -> None:
    rng = np.random.default_rng(11)
    for n, d in ((60, 12), (40, 55)):
        y = rng.integers(0, 3, n)
        x = rng.normal(size=(n, d)) + rng.normal(size=(3, d))[y]
        before, held = x.copy(), score(x, y)
        rotation = np.linalg.qr(rng.normal(size=(d, d)))[0]
        order = rng.permutation(n)
        variants = {
            "rotation": x @ rotation, "shift": x + rng.normal(size=d) * 3, "scale": x * 3.5,
            "each": x * rng.uniform(0.5, 2, d),
        }  # fmt: skip
        for holds, (what, changed) in zip(INVARIANCES[name], variants.items(), strict=True):
            if holds:
                assert score(changed, y) == pytest.approx(held, rel=1e-6, abs=1e-9), what
        assert score(x.astype(np.float32).astype(np.float64), y) == pytest.approx(
            score(x.astype(np.float32), y), abs=1e-12
        )
        assert score(x, 5 - 3 * y) == pytest.approx(held, rel=1e-7, abs=1e-7 if name == "nleep" else 1e-9), (
            "names of classes"
        )
        if name not in ("linear_probe", "nleep"):  # folds and the mixture's start go by the order given
            assert score(x[order], y[order]) == pytest.approx(held, rel=1e-7, abs=1e-9), "order of examples"
        assert (x == before).all()


def refused(name: str, x: np.ndarray, y: np.ndarray) -> bool:
    """Whether a score has nothing to say of this input, and so must refuse it."""
    classes, sizes = np.unique(y, return_counts=True)
    flat = not np.ptp(x, axis=0).any()
    within = np.concatenate([x[y == c] - x[y == c][0] for c in classes])
    if name in ("sfda", "etran"):
        return not within.any()
    if name == "parc":  # pairs must differ in their classes, and in how their features correlate
        std = np.where(np.ptp(x, axis=0) > 0, x.std(0), np.inf)
        z = (x - x.mean(0)) / std
        z = z - z.mean(1, keepdims=True)
        length = np.linalg.norm(z, axis=1, keepdims=True)
        z = np.divide(z, length, out=np.zeros_like(z), where=length > 1e-12 * length.max())
        return sizes.max() == 1 or len(y) < 3 or len(np.unique((z @ z.T)[np.triu_indices(len(y), 1)].round(12))) == 1
    return flat if name == "nleep" else False


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 10**6))
def test_nasty_input_is_scored_or_refused_by_a_sentence(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, d = int(rng.integers(2, 12)), int(rng.integers(1, 15))
    x = rng.normal(size=(n, d)) * 10 ** rng.uniform(-8, 8)
    match rng.integers(6):
        case 0:
            x[:] = x[0]  # rank 0, of numbers whose mean rounds
        case 1:
            x[:, rng.integers(d)] = 0.1
        case 2:
            x[n // 2 :] = x[0]
        case 3:
            x = np.outer(x[:, 0], rng.normal(size=d))  # rank 1
        case 4:
            x[0] *= 1e6
    y = rng.integers(-2, 3, n)
    if len(np.unique(y)) < 2:
        with pytest.raises(InputError, match="of one class"):
            tr.sample(x, y)
        return
    scores = {n: s for n, s in ON_FEATURES if n not in ("linear_probe", "log_me", "nearest_neighbours")}
    scores |= {"neighbours": lambda s: tr.nearest_neighbours(s, k=1), "etran": lambda s: sum(tr.etran_parts(s))}
    for name, score in scores.items():
        if refused(name, x, y) and name != "etran":
            with pytest.raises(InputError):
                score(tr.sample(x, y))
        else:
            assert math.isnan(score(tr.sample(x, y))) == refused(name, x, y), name
    try:  # more is undefined of these: evidence without a maximum, a fold with one class
        assert math.isfinite(tr.log_me(x, y))
        assert seed % 10 or 0 <= tr.linear_probe(x, y, folds=2) <= 1
    except InputError as e:
        assert re.search("no maximum|two classes", str(e))  # noqa: PT017


@pytest.mark.parametrize("value", [0.1, 3.7, 1 / 3, 1e-9, 123456.789])
def test_features_that_never_vary(value: float) -> None:
    x, y = np.full((31, 4), value), np.arange(31) % 3
    assert tr.h_score(x, y) == tr.h_score(x, y, shrinkage=True) == tr.trans_rate(x, y) == 0
    for score in (tr.sfda, tr.nleep, tr.parc):
        with pytest.raises(InputError):
            score(x, y)
    assert np.isnan(tr.etran([(x, y)])).all()
    assert np.isnan(tr.ncti([(x, y)])).all()
    with pytest.raises(InputError, match="do not vary within any class"):
        tr.sfda(np.eye(3)[y] * value, y)


def test_an_outlier_ties_no_neighbours() -> None:
    x, y = IRIS
    far = np.concatenate([x, np.full((1, 4), 1e6)])
    plain = tr.nearest_neighbours(x, y)
    assert tr.nearest_neighbours(far, np.append(y, 2)) == pytest.approx((plain * 150 + 1) / 151, abs=1e-9)


def test_parc_thins_examples_and_classes() -> None:
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(1500), 3)
    x = rng.normal(size=(4500, 6)) + 2 * rng.normal(size=(1500, 6))[y]
    assert tr.parc(x, y) > tr.parc(rng.normal(size=x.shape), y)
    few = np.repeat(np.arange(3), 1000)
    z = rng.normal(size=(3000, 4)) + rng.normal(size=(3, 4))[few]
    assert tr.parc(z, few, n_max=1500) == pytest.approx(tr.parc(z, few, n_max=3000), abs=0.03)


def test_ranges_at_their_ends() -> None:
    rng = np.random.default_rng(2)
    y = np.repeat([0, 1, 2], 10)
    wide = rng.normal(size=(30, 40))
    assert tr.h_score(wide, y) == pytest.approx(2)  # C - 1 as soon as the features span everything
    assert tr.h_score(np.ones((30, 4)), y) == 0
    assert tr.gbc(np.ones((30, 4)), y) == pytest.approx(-6)  # C (C - 1) pairs that are the same
    assert tr.trans_rate(np.ones((30, 4)), y) == 0
    with pytest.raises(InputError, match="evidence has no maximum"):
        tr.log_me(np.eye(3)[y], y)
    with pytest.raises(InputError, match="do not vary within any class"):
        tr.sfda(np.eye(3)[y], y)
    with pytest.raises(InputError, match="the same for all examples"):
        tr.nleep(np.ones((30, 4)), y)


X, Y = np.ones((6, 2)) * np.arange(6)[:, None], np.array([0, 1, 0, 1, 0, 1])


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: tr.log_me(X, Y * 0), "of one class"),
        (lambda: tr.log_me(X, Y * 0.5), "labels must be 6 integers"),
        (lambda: tr.log_me(X, Y[:5]), "labels must be 6 integers"),
        (lambda: tr.log_me(X[:, 0], Y), r"shape \(N, D\), got float64 of shape \(6,\)"),
        (lambda: tr.log_me(X.astype(str), Y), r"features must be numbers"),
        (lambda: tr.log_me(np.where(X == 3, np.nan, X), Y), "features of row 3 hold NaN"),
        (lambda: tr.log_me(np.where(X == 4, np.inf, X), Y), "features of row 4 hold NaN"),
        (lambda: tr.nearest_neighbours(X, Y, k=6), "between 1 and 5"),
        (lambda: tr.trans_rate(X, Y, eps=0), "eps is 0"),
        (lambda: tr.gbc(X, Y, covariance="full"), "diagonal or spherical"),  # type: ignore[arg-type]
        (lambda: tr.gbc(X, Y, floor=0), "floor 0: diagonal or spherical, and above 0"),
        (lambda: tr.log_me(tr.sample(X, Y), Y), "a Sample has its labels"),
        (lambda: tr.log_me(X * 1e-90, Y), "too small to square"),
        (lambda: tr.log_me(X * 1e90, Y), "above 1e"),
        (lambda: tr.log_me([[1.0], [1.0, 2.0]], [0, 1]), "no rectangular array"),
        (lambda: tr.linear_probe(X, Y, folds=1), "folds is 1"),
        (lambda: tr.nleep(X, Y, energy=0), "energy 0"),
        (lambda: tr.leep(X / 10, Y), "probabilities of row 0 add up to 0"),
        (lambda: tr.leep(np.full((6, 2), np.nan), Y), "row 0"),
        (lambda: tr.leep(np.arange(6), Y), r"shape \(N, Z\)"),
        (lambda: tr.leep(np.full((6, 2), 0.5), Y[:3]), "labels must be 6 integers"),
        (lambda: tr.nce(np.arange(5), Y), "labels must be 5 integers"),
    ],
)  # fmt: skip
def test_bad_input_gets_one_sentence(call: Callable[[], Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        call()


def test_scores_share_what_they_have_in_common() -> None:
    x, y = DIGITS
    shared = tr.sample(x, y)
    for name, score in ON_FEATURES:
        if name not in ("linear_probe", "nleep"):
            assert score(shared) == score(tr.sample(x, y)), name


def test_leep_by_its_definition_with_classes_that_no_example_is_said_to_be() -> None:
    rng = np.random.default_rng(4)
    theta = rng.dirichlet(np.full(7, 0.3), 50)
    theta[:, 3] = 0
    theta /= theta.sum(1, keepdims=True)
    y = rng.integers(0, 3, 50)
    joint = np.stack([theta[y == c].sum(0) / 50 for c in range(3)])
    given_z = np.divide(joint, joint.sum(0), out=np.zeros_like(joint), where=joint.sum(0) > 0)
    expected = np.mean([math.log(given_z[y[i]] @ theta[i]) for i in range(50)])
    assert tr.leep(theta, y) == pytest.approx(expected, abs=1e-12)
    assert tr.leep(theta[:, ::-1], y) == pytest.approx(expected, abs=1e-12)
