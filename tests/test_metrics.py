"""Metrics against scikit-learn and the papers' formulas, on nasty inputs."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from ptlib import metrics
from ptlib.metrics import Ranking

Labels = tuple[np.ndarray, np.ndarray, int]
Scores = tuple[np.ndarray, np.ndarray]
CASES = settings(max_examples=200, deadline=None)


@st.composite
def labels(draw: Callable[..., Any]) -> Labels:
    """Targets and predictions of up to 5 classes, absent ones, N = 1 and one class only included."""
    n, c = draw(st.integers(1, 40)), draw(st.integers(2, 5))
    rows = st.lists(st.integers(0, c - 1), min_size=n, max_size=n)
    return np.array(draw(rows)), np.array(draw(rows)), c


@st.composite
def scored(draw: Callable[..., Any]) -> Scores:
    """Targets and probabilities with ties, zeros and ones, absent classes, N = 1 and one class only."""
    n, c = draw(st.integers(1, 25)), draw(st.integers(2, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    kind = draw(st.sampled_from(["coarse", "fine", "extreme", "one-hot"]))
    make: dict[str, Callable[[], np.ndarray]] = {
        "coarse": lambda: rng.integers(0, 3, (n, c)).astype(float),
        "fine": lambda: rng.normal(size=(n, c)),
        "extreme": lambda: rng.normal(size=(n, c)) * 300,
        "one-hot": lambda: 1e4 * np.eye(c)[rng.integers(0, c, n)],
    }
    z = make[kind]()
    z = np.exp(z - z.max(1, keepdims=True))
    y = rng.integers(0, draw(st.integers(1, c)), n)
    return y, z / z.sum(1, keepdims=True)


def quietly(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*args, **kwargs)


@settings(max_examples=150, deadline=None)
@given(labels())
def test_confusion_metrics_equal_scikit_learns_where_both_are_defined(data: Labels) -> None:
    y, z, c = data
    names = list(range(c))
    matrix = metrics.confusion_matrix(y, z, c)
    assert (matrix == sk.confusion_matrix(y, z, labels=names)).all()
    assert metrics.accuracy(matrix) == pytest.approx(sk.accuracy_score(y, z), abs=1e-12)
    ours: list[tuple[Callable[[Any], Any], int, float]] = [
        (lambda average: metrics.precision(matrix, average), 0, 1.0),
        (lambda average: metrics.recall(matrix, average), 1, 1.0),
        (lambda average: metrics.f1(matrix, average), 2, 1.0),
        (lambda average: metrics.f_beta(matrix, 2, average), 2, 2.0),
        (lambda average: metrics.f_beta(matrix, 0.5, average), 2, 0.5),
    ]
    for mine, which, beta in ours:
        asked = {"labels": names, "beta": beta, "zero_division": np.nan}
        each = quietly(sk.precision_recall_fscore_support, y, z, average=None, **asked)[which]
        micro = quietly(sk.precision_recall_fscore_support, y, z, average="micro", **asked)[which]
        # An F score of a class seen or predicted but never both is 0; only the absent class has none.
        np.testing.assert_allclose(mine(None), each, atol=1e-12)
        assert mine("micro") == pytest.approx(micro, abs=1e-12)
        np.testing.assert_allclose(mine("macro"), each.mean(), atol=1e-12)  # NaN if any class has none
        support = matrix.sum(1)
        if not np.isnan(each[support > 0]).any():
            weighted = np.nansum(np.where(support > 0, each * support, 0)) / support.sum()
            np.testing.assert_allclose(mine("weighted"), weighted, atol=1e-12)
        if c == 2:
            np.testing.assert_allclose(mine("binary"), each[1], atol=1e-12)


@CASES
@given(labels())
def test_agreement_beyond_chance_equals_scikit_learns(data: Labels) -> None:
    y, z, c = data
    matrix = metrics.confusion_matrix(y, z, c)
    if len(set(y)) > 1 and len(set(z)) > 1:
        assert metrics.matthews(matrix) == pytest.approx(sk.matthews_corrcoef(y, z), abs=1e-12)
    else:
        assert np.isnan(metrics.matthews(matrix))  # scikit-learn says 0
    kappa = quietly(sk.cohen_kappa_score, y, z, labels=list(range(c)))
    np.testing.assert_allclose(metrics.cohen_kappa(matrix), kappa, atol=1e-12)
    if len(set(y)) == c:
        assert metrics.balanced_accuracy(matrix) == pytest.approx(sk.balanced_accuracy_score(y, z), abs=1e-12)


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 20), st.integers(1, 4), st.integers(0, 2**31))
def test_several_labels_equal_scikit_learns(n: int, c: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    y, z = (rng.random((2, n, c)) < rng.random(c)).astype(int)
    counts = metrics.label_counts(y, z)
    for mine, which in ((metrics.precision, 0), (metrics.recall, 1), (metrics.f1, 2)):
        for average in (None, "micro"):
            theirs = quietly(sk.precision_recall_fscore_support, y, z, average=average, zero_division=np.nan)[which]
            if c > 1:
                np.testing.assert_allclose(mine(counts, average), theirs, atol=1e-12)


@CASES
@given(scored())
def test_ranking_metrics_equal_scikit_learns_and_permute(data: Scores) -> None:
    y, p = data
    auroc, average = metrics.auroc(y, p, None), metrics.average_precision(y, p, None)
    order = np.random.default_rng(0).permutation(len(y))
    np.testing.assert_array_equal(metrics.auroc(y[order], p[order], None), auroc)
    np.testing.assert_array_equal(metrics.average_precision(y[order], p[order], None), average)
    for k in range(p.shape[1]):
        truth = y == k
        if truth.any() and not truth.all():
            assert auroc[k] == pytest.approx(sk.roc_auc_score(truth, p[:, k]), abs=1e-12)
        else:
            assert np.isnan(auroc[k])
        if truth.any():
            assert average[k] == pytest.approx(sk.average_precision_score(truth, p[:, k]), abs=1e-12)
        else:
            assert np.isnan(average[k])  # scikit-learn says 0
    np.testing.assert_allclose(metrics.auroc(y, p, "macro"), auroc.mean(), atol=1e-12)
    shares = np.bincount(y, minlength=p.shape[1]) / len(y)
    if not np.isnan(auroc[shares > 0]).any():
        np.testing.assert_allclose(metrics.auroc(y, p, "weighted"), np.nansum(auroc * shares), atol=1e-12)


def test_averages_of_auroc_equal_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    y, p = rng.integers(0, 4, 200), rng.dirichlet(np.ones(4), 200)
    for average in ("macro", "weighted"):
        theirs = sk.roc_auc_score(y, p, multi_class="ovr", average=average)
        assert metrics.auroc(y, p, average) == pytest.approx(theirs, abs=1e-12)
    several = rng.integers(0, 2, (200, 4))
    assert metrics.auroc(several, p, "macro") == pytest.approx(sk.roc_auc_score(several, p), abs=1e-12)
    assert metrics.average_precision(several, p, "weighted") == pytest.approx(
        sk.average_precision_score(several, p, average="weighted"), abs=1e-12
    )
    two = rng.integers(0, 2, 200)
    assert metrics.auroc(two, p[:, 0], "binary") == pytest.approx(sk.roc_auc_score(two, p[:, 0]), abs=1e-12)
    assert metrics.average_precision(two, p[:, 0], "binary") == pytest.approx(
        sk.average_precision_score(two, p[:, 0]), abs=1e-12
    )


@CASES
@given(scored(), st.integers(0, 2**31))
def test_weights_are_repeated_examples(data: Scores, seed: int) -> None:
    """What makes a bootstrap of weights the bootstrap of examples, for curves and for areas."""
    y, p = data
    weights = np.random.default_rng(seed).integers(0, 4, len(y))
    if weights.sum() == 0:
        weights[0] = 1
    truth = y[:, None] == np.arange(p.shape[1])
    auroc, average, size = Ranking(truth, p).values(np.stack([weights, weights]))
    copies = np.repeat(np.arange(len(y)), weights)
    np.testing.assert_allclose(auroc[1], metrics.auroc(y[copies], p[copies], None), atol=1e-12)
    np.testing.assert_allclose(average[0], metrics.average_precision(y[copies], p[copies], None), atol=1e-12)
    np.testing.assert_array_equal(size[0], truth[copies].sum(0))
    fractions = Ranking(truth, p).values(weights[None] / 3)
    np.testing.assert_allclose(fractions[0][0], auroc[0], atol=1e-12)
    c, whole = metrics.curve(truth[:, 0], p[:, 0], weights), metrics.curve(truth[copies, 0], p[copies, 0])
    if truth[copies, 0].any() and not truth[copies, 0].all():
        fpr, tpr, _ = sk.roc_curve(truth[copies, 0], p[copies, 0], drop_intermediate=False)
        np.testing.assert_allclose(np.trapezoid(tpr, fpr), sk.roc_auc_score(truth[copies, 0], p[copies, 0]), atol=1e-12)
        np.testing.assert_allclose(whole.recall, tpr[1:], atol=1e-12)
        np.testing.assert_allclose(whole.false_alarm_rate, fpr[1:], atol=1e-12)
    kept = np.isin(c.thresholds, whole.thresholds)
    np.testing.assert_array_equal(c.hits[kept], whole.hits)
    np.testing.assert_array_equal(c.alarms[kept], whole.alarms)


def test_influence_is_the_slope_of_a_weight() -> None:
    rng = np.random.default_rng(3)
    y, z = rng.integers(0, 3, 40), rng.integers(0, 9, (40, 3)).astype(float)
    ranking, h = Ranking(y[:, None] == np.arange(3), z), 1e-6
    nudged = np.ones((40, 40)) + h * np.eye(40)
    base = ranking.values(np.ones((1, 40)))
    for found, moved, start in zip(ranking.influence(), ranking.values(nudged), base, strict=False):
        np.testing.assert_allclose(found, (moved - start) / h, atol=1e-5)


@CASES
@given(scored())
def test_probability_metrics_equal_scikit_learns(data: Scores) -> None:
    y, p = data
    names = list(range(p.shape[1]))
    loss = metrics.log_loss(y, p)
    own = p[np.arange(len(y)), y]
    assert (np.isinf(loss) == (own == 0)).all()  # scikit-learn clips instead
    if own.min() > 1e-12:
        assert loss.mean() == pytest.approx(sk.log_loss(y, p, labels=names), abs=1e-12)
    theirs = sk.brier_score_loss(y, p if len(names) > 2 else p[:, 1], labels=names)
    assert metrics.brier(y, p).mean() == pytest.approx(theirs, abs=1e-12)
    k = len(names) - 1
    strict = np.array([len(set(row)) == len(row) for row in p])
    if strict.all() and k < len(names):
        theirs = quietly(sk.top_k_accuracy_score, y, p if len(names) > 2 else p[:, 1], k=k, labels=names)
        assert metrics.top_k(y, p, k).mean() == pytest.approx(theirs, abs=1e-12)
    assert (metrics.top_k(y, p, 1) == (p.argmax(1) == y)).all()
    assert metrics.top_k(y, p, len(names)).all()


def expected_calibration_error(confidence: np.ndarray, right: np.ndarray, bins: int) -> float:
    """Naeini et al. 2015, written down once more."""
    total = 0.0
    for b in range(bins):
        inside = (confidence > b / bins) & (confidence <= (b + 1) / bins)
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return total


@CASES
@given(scored(), st.integers(1, 20))
def test_calibration_error_is_the_papers(data: Scores, bins: int) -> None:
    y, p = data
    confidence, right = p.max(1), p.argmax(1) == y
    found = metrics.calibration_error(confidence, right, bins)
    assert found == pytest.approx(expected_calibration_error(confidence, right, bins), abs=1e-12)
    order = np.random.default_rng(1).permutation(len(y))
    for by in ("width", "mass"):
        a = metrics.calibration_error(confidence, right, bins, by)
        b = metrics.calibration_error(confidence[order], right[order], bins, by)
        assert a == pytest.approx(b, abs=1e-12)
    assert metrics.reliability(confidence, right, bins, "mass").n.sum() == len(y)


def test_calibration_error_golden() -> None:
    # A confidence of 1 shares the last bin: a bin of its own would say 0.525.
    confidence, right = np.array([1.0, 0.95]), np.array([True, False])
    assert metrics.calibration_error(confidence, right) == pytest.approx(0.475)
    assert metrics.calibration_error(np.ones(3), np.ones(3)) == 0
    equal = metrics.reliability(np.linspace(0.1, 1, 90), np.ones(90), 9, "mass")
    assert (equal.n == 10).all()


def test_debiased_calibration_error_is_nearer_the_truth() -> None:
    rng = np.random.default_rng(0)
    for over, truth in ((0.1, 0.1), (0.0, 0.0)):
        plain, debiased = [], []
        for _ in range(200):
            confidence = rng.uniform(0.5, 1.0, 300)
            right = rng.random(300) < confidence - over
            plain.append(metrics.calibration_error(confidence, right))
            debiased.append(metrics.calibration_error(confidence, right, debiased=True))
        assert abs(np.mean(debiased) - truth) < 0.75 * abs(np.mean(plain) - truth)
    # The mean of a folded normal by simulation, once: one bin, accuracy 0.6 of 50, confidence 0.7.
    right = np.arange(50) < 30
    noise = np.abs(rng.normal(-0.1, np.sqrt(0.6 * 0.4 / 50), 400_000)).mean()
    found = metrics.calibration_error(np.full(50, 0.7), right, 1, debiased=True)
    assert found == pytest.approx(2 * 0.1 - noise, abs=5e-4)


def test_temperature_undoes_what_was_done_to_the_logits() -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(size=(20_000, 5)) * 2
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    y = (p.cumsum(1) > rng.random((len(z), 1))).argmax(1)
    assert metrics.fit_temperature(3 * z, y) == pytest.approx(3, rel=0.03)
    assert metrics.fit_temperature(0.2 * z, y) == pytest.approx(0.2, rel=0.03)


@given(labels())
@settings(max_examples=100, deadline=None)
def test_order_changes_nothing(data: Labels) -> None:
    y, z, c = data
    order = np.random.default_rng(0).permutation(len(y))
    assert (metrics.confusion_matrix(y, z, c) == metrics.confusion_matrix(y[order], z[order], c)).all()


@pytest.mark.parametrize(
    ("y", "z", "c"),
    [([0], [2], 2), ([-1], [0], 2), ([], [], 2), ([0, 1], [0], 2), ([0.0], [0.0], 2), ([[0]], [[0]], 2)],
)
def test_bad_labels_are_refused(y: list[int], z: list[int], c: int) -> None:
    with pytest.raises(ValueError, match=r"targets|predictions"):
        metrics.confusion_matrix(np.array(y), np.array(z), c)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: metrics.f1(np.eye(2, dtype=int), "mean"), "'mean'; use 'macro'"),  # type: ignore[arg-type]
        (lambda: metrics.f1(np.eye(3, dtype=int), "binary"), "two classes, this is a problem of 3"),
        (lambda: metrics.f_beta(np.eye(2, dtype=int), 0, "macro"), "beta is 0"),
        (lambda: metrics.auroc(np.array([0, 1]), np.array([[np.nan, 1], [0, 1]]), None), "1 scores are NaN"),
        (lambda: metrics.auroc(np.array([0, 1]), np.eye(2), "micro"), "unknown average 'micro'"),
        (lambda: metrics.auroc(np.array([0]), np.eye(2), None), "must be of one shape"),
        (lambda: metrics.top_k(np.array([0]), np.eye(1, 3), 4), "k is 4; with 3 classes"),
        (lambda: metrics.brier(np.array([0]), np.array([[1.5, -0.5]])), "must lie in 0..1"),
        (lambda: metrics.log_loss(np.array([[0]]), np.eye(2)), r"with targets \(N,\), got \(1, 1\)"),
        (lambda: metrics.calibration_error(np.array([1.2]), np.array([1])), "must lie in 0..1"),
        (lambda: metrics.label_counts(np.array([[2]]), np.array([[1]])), "must be 0 or 1"),
        (lambda: metrics.reliability(np.ones(2), np.ones(2), by="count"), "by 'width' or by 'mass'"),  # type: ignore[arg-type]
    ],
)
def test_what_makes_no_sense_is_refused(call: Callable[[], object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call()


def test_a_confusion_matrix_of_many_classes_counts_as_one_of_few() -> None:
    rng = np.random.default_rng(0)
    targets, said = rng.integers(0, 40, (2, 5000))
    few, many = (metrics.confusion_matrix(targets, said, n) for n in (40, 1100))
    assert few.dtype == np.int64
    assert many.dtype == np.int32
    assert np.array_equal(many[:40, :40], few)
    assert many.sum() == 5000
    for a, b in zip(metrics.counts_of(few), metrics.counts_of(many[:40, :40]), strict=True):
        assert np.array_equal(a, b)
        assert a.dtype == b.dtype
