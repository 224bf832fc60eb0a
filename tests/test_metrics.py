"""Metrics and intervals against scikit-learn, golden values and simulation."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from ptlib import metrics
from ptlib.report import evaluate, expect
from ptlib.results import Predictions
from ptlib.stats import bootstrap_confusion, wilson

Labels = tuple[np.ndarray, np.ndarray, int]


@st.composite
def labels(draw: Callable[..., object]) -> Labels:
    """Targets and predictions of up to 5 classes, absent ones, N = 1 and one class only included."""
    n, c = int(draw(st.integers(1, 40))), int(draw(st.integers(2, 5)))  # type: ignore[call-overload]
    rows = st.lists(st.integers(0, c - 1), min_size=n, max_size=n)
    return np.array(draw(rows)), np.array(draw(rows)), c


@settings(max_examples=500, deadline=None)
@given(labels())
def test_confusion_metrics_equal_scikit_learns_where_both_are_defined(data: Labels) -> None:
    y, z, c = data
    names = list(range(c))
    matrix = metrics.confusion_matrix(y, z, c)
    assert (matrix == sk.confusion_matrix(y, z, labels=names)).all()
    assert metrics.accuracy(matrix) == pytest.approx(sk.accuracy_score(y, z), abs=1e-12)
    for ours, theirs in ((metrics.precision, 0), (metrics.recall, 1), (metrics.f1, 2)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            each = sk.precision_recall_fscore_support(y, z, labels=names, average=None, zero_division=np.nan)[theirs]
            micro = sk.precision_recall_fscore_support(y, z, labels=names, average="micro")[theirs]
        mine = ours(matrix, None)
        # An F1 of a class seen or predicted but never both is 0; only the absent class has none.
        np.testing.assert_allclose(mine, each, atol=1e-12)
        assert ours(matrix, "micro") == pytest.approx(micro, abs=1e-12)
        np.testing.assert_allclose(ours(matrix, "macro"), mine.mean(), atol=1e-12)  # NaN if any class has none
        support = matrix.sum(1)
        weighted = np.nansum(np.where(support > 0, mine * support, 0)) / support.sum()
        if not np.isnan(mine[support > 0]).any():
            np.testing.assert_allclose(ours(matrix, "weighted"), weighted, atol=1e-12)


@settings(max_examples=100, deadline=None)
@given(labels(), st.randoms())
def test_order_changes_nothing(data: Labels, random: object) -> None:
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


def test_unknown_average_is_refused() -> None:
    with pytest.raises(ValueError, match="'mean'; use 'macro'"):
        metrics.f1(np.eye(2, dtype=int), "mean")  # type: ignore[arg-type]


def test_wilson_golden() -> None:
    # Newcombe (1998), Statistics in Medicine 17, table I, method 3 (score, without continuity correction).
    for r, n, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        assert wilson(r, n) == pytest.approx((low, high), abs=5e-5)


def test_wilson_covers() -> None:
    rng = np.random.default_rng(0)
    for p in (0.5, 0.9, 0.98):
        hits = rng.binomial(100, p, 4000)
        inside = [wilson(int(k), 100)[0] <= p <= wilson(int(k), 100)[1] for k in hits]
        assert 0.92 < np.mean(inside) < 0.985


def test_bootstrap_of_cells_is_the_bootstrap_of_examples() -> None:
    rng = np.random.default_rng(1)
    y = rng.integers(0, 4, 300)
    z = np.where(rng.random(300) < 0.7, y, rng.integers(0, 4, 300))
    matrix = metrics.confusion_matrix(y, z, 4)
    cells = bootstrap_confusion(matrix, lambda m: metrics.f1(m, "macro")[:, None], 20_000, seed=0)[0]
    examples = []
    for _ in range(4000):
        rows = rng.integers(0, 300, 300)
        examples.append(metrics.f1(metrics.confusion_matrix(y[rows], z[rows], 4), "macro"))
    assert cells == pytest.approx(np.quantile(examples, [0.025, 0.975]), abs=0.006)


def test_bootstrap_is_a_function_of_its_seed() -> None:
    matrix = np.array([[30, 5], [8, 40]])

    def run(seed: int) -> np.ndarray:
        return bootstrap_confusion(matrix, lambda m: metrics.accuracy(m)[:, None], 1000, seed=seed)

    assert (run(3) == run(3)).all()
    assert (run(3) != run(4)).any()


def predictions(y: list[int], z: list[int], c: int) -> Predictions:
    names = tuple(f"class {i}" for i in range(c))
    return Predictions(tuple(map(str, range(len(y)))), np.array(y), np.eye(c, dtype=np.float32)[z], "test", names)


def test_report_has_values_intervals_and_reasons() -> None:
    report = evaluate(predictions([0, 0, 1, 1, 2] * 20, [0, 1, 1, 1, 1] * 20, 3))
    assert report["accuracy"].value == 0.6
    assert report["accuracy"].low < 0.6 < report["accuracy"].high
    assert np.isnan(report["macro_precision"].value)
    assert report["macro_precision"].reason == "1 of 3 classes are never predicted, such as 'class 2'"
    assert report["macro_recall"].value == pytest.approx(0.5)
    assert report.per_class["class 2"]["precision"].reason == "it is never predicted"
    assert report.per_class["class 2"]["f1"].value == 0
    with pytest.raises(KeyError, match="no metric 'f1'; this report has accuracy"):
        report["f1"]


def test_report_of_one_example() -> None:
    report = evaluate(predictions([0], [0], 2))
    assert report["accuracy"].value == 1
    assert report["accuracy"].low == pytest.approx(0.2065, abs=1e-4)
    assert report["macro_f1"].reason == (
        "1 of 2 classes have no examples, such as 'class 1'; 1 of 2 classes are never predicted, such as 'class 1'"
    )


def test_expect_speaks_when_a_number_moved(capsys: pytest.CaptureFixture[str]) -> None:
    expect("accuracy", 0.93, 0.9, 0.04)
    expect("accuracy", 0.95, 0.9, 0.04)
    expect("accuracy", float("nan"), 0.9, 0.04)
    assert capsys.readouterr().out.splitlines() == [
        "accuracy 0.9 ± 0.04: as expected",
        "accuracy 0.950: the text describes a run with 0.9 ± 0.04",
        "accuracy nan: the text describes a run with 0.9 ± 0.04",
    ]
