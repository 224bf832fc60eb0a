"""Reports: every metric by name, its interval, its reason; what is said when a name or an example makes no sense."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics as sk

from ptlib.errors import InputError
from ptlib.measures import ALL, applies, prepare
from ptlib.report import evaluate, expect
from ptlib.results import Estimate, Predictions, Report
from ptlib.stats import clopper_pearson


def predictions(y: list[int], z: list[int], c: int) -> Predictions:
    names = tuple(f"class {i}" for i in range(c))
    return Predictions(tuple(map(str, range(len(y)))), np.array(y), np.eye(c, dtype=np.float32)[z], "test", names)


def scored(n: int = 300, c: int = 4, signal: float = 1.5, seed: int = 0, **more: Any) -> Predictions:
    rng = np.random.default_rng(seed)
    y, z = rng.integers(0, c, n), rng.normal(size=(n, c))
    z[np.arange(n), y] += signal
    return Predictions.of(y, z, **more)


def several(n: int = 200, c: int = 3, seed: int = 0) -> Predictions:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, (n, c))
    return Predictions.of(y, rng.normal(size=(n, c)) + 2 * y - 1)


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
    report = evaluate(predictions([0], [0], 2), metrics="all")
    assert report["accuracy"].value == 1
    assert report["accuracy"].low == pytest.approx(0.2065, abs=1e-4)
    absent = "1 of 2 classes have no examples, such as 'class 1'"
    unsaid = "1 of 2 classes are never predicted, such as 'class 1'"
    reasons = {"macro_f1": absent, "macro_recall": absent, "balanced_accuracy": absent, "macro_precision": unsaid,
               "matthews": "targets or predictions are all of one class",
               "macro_auroc": "2 of 2 classes have no examples, or no others, such as 'class 0'"}  # fmt: skip
    for name, reason in reasons.items():
        assert np.isnan(report[name].value)
        assert report[name].reason == reason
    for name, e in [*report.items(), *((n, e) for row in report.per_class.values() for n, e in row.items())]:
        assert not (np.isnan(e.value) and not e.reason), f"{name} is undefined without a reason"


def test_every_metric_equals_scikit_learns_by_name() -> None:
    p = scored()
    y, z, q = p.targets, p.predicted, p.probabilities
    report = evaluate(p, metrics="all", resamples=200)
    for average in ("macro", "weighted"):
        values = sk.precision_recall_fscore_support(y, z, average=average)
        for name, value in zip(("precision", "recall", "f1"), values[:3], strict=True):
            assert report[f"{average}_{name}"].value == pytest.approx(value, abs=1e-12)
        auroc = sk.roc_auc_score(y, q, multi_class="ovr", average=average)
        assert report[f"{average}_auroc"].value == pytest.approx(auroc, abs=1e-12)
        ap = sk.average_precision_score(y[:, None] == np.arange(4), q, average=average)
        assert report[f"{average}_average_precision"].value == pytest.approx(ap, abs=1e-12)
    expected = {
        "accuracy": sk.accuracy_score(y, z), "balanced_accuracy": sk.balanced_accuracy_score(y, z),
        "matthews": sk.matthews_corrcoef(y, z), "cohen_kappa": sk.cohen_kappa_score(y, z),
        "macro_f2": sk.fbeta_score(y, z, beta=2, average="macro"),
        "macro_f0.5": sk.fbeta_score(y, z, beta=0.5, average="macro"),
        "log_loss": sk.log_loss(y, q), "brier": sk.brier_score_loss(y, q),
    }  # fmt: skip
    for name, value in expected.items():
        assert report[name].value == pytest.approx(value, abs=1e-12), name
    top = evaluate(p, metrics=["top_2_accuracy", "micro_f1", "recall:2", "auroc:1"], resamples=200)
    assert top["top_2_accuracy"].value == pytest.approx(sk.top_k_accuracy_score(y, q, k=2), abs=1e-12)
    assert top["micro_f1"].value == pytest.approx(sk.accuracy_score(y, z), abs=1e-12)
    assert top["recall:2"].value == pytest.approx(sk.recall_score(y, z, average=None)[2], abs=1e-12)
    assert top["auroc:1"].value == pytest.approx(sk.roc_auc_score(y == 1, q[:, 1]), abs=1e-12)
    assert top.per_class["1"]["auroc"].value == top["auroc:1"].value


@pytest.mark.parametrize("p", [scored(), scored(c=2), several()], ids=["classes", "two classes", "several labels"])
def test_every_interval_holds_its_value_and_has_a_width(p: Predictions) -> None:
    for interval in ("percentile", "bca"):
        report = evaluate(p, metrics="all", interval=interval, resamples=2000)
        assert set(report) == {name for name in ALL if applies(name, p)}
        for name, e in report.items():
            assert e.low < e.value < e.high, name
            assert e.method.startswith(("Wilson", "pivotal", "BCa" if interval == "bca" else "percentile")), name


def test_several_labels_equal_scikit_learns(tmp_path: Path) -> None:
    p = several()
    y, z, q = p.targets, p.predicted, p.probabilities
    report = evaluate(p, metrics="all", resamples=200)
    expected = {
        "accuracy": sk.accuracy_score(y, z), "macro_f1": sk.f1_score(y, z, average="macro"),
        "weighted_recall": sk.recall_score(y, z, average="weighted"), "macro_auroc": sk.roc_auc_score(y, q),
        "macro_average_precision": sk.average_precision_score(y, q),
        "log_loss": np.mean([sk.log_loss(y[:, k], q[:, k]) for k in range(3)]),
        "brier": np.mean((q - y) ** 2),
    }  # fmt: skip
    for name, value in expected.items():
        assert report[name].value == pytest.approx(value, abs=1e-12), name
    assert evaluate(p, metrics=["micro_f1"])["micro_f1"].value == pytest.approx(sk.f1_score(y, z, average="micro"))
    assert (report.confusion == sk.multilabel_confusion_matrix(y, z)).all()
    assert Report.load(report.save(tmp_path / "r.json")).to_dict() == report.to_dict()
    with pytest.raises(InputError, match="matthews is not defined where an example may have several labels"):
        evaluate(p, metrics=["matthews"])


@pytest.mark.usefixtures("with_nbval")
@pytest.mark.parametrize("name", ["macro_f1", "matthews", "macro_auroc", "weighted_average_precision", "log_loss"])
def test_the_bootstrap_of_weights_is_the_bootstrap_of_examples(name: str) -> None:
    p, rng = scored(150), np.random.default_rng(5)
    ours = evaluate(p, metrics=[name], resamples=20_000)[name]
    values = []
    for _ in range(1500):
        rows = rng.integers(0, 150, 150)
        drawn = Predictions.of(p.targets[rows], p.scores[rows])
        (statistic,) = prepare([name], [drawn])
        values.append(statistic.values(np.bincount(statistic.rows)[None])[0, 0])
    scale = np.std(values)
    assert (ours.low, ours.high) == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])), abs=0.17 * scale)


def test_a_perfect_score_is_not_certain() -> None:
    p = Predictions.of([0, 1] * 6, 9 * np.eye(2)[[0, 1] * 6])
    report = evaluate(p, metrics=["accuracy", "binary_recall", "binary_precision", "binary_f1", "macro_auroc"])
    for name in ("binary_f1", "macro_auroc"):
        assert report[name].value == 1
        assert np.isnan(report[name].low)
        assert "nothing of its uncertainty" in str(report[name].reason)
    assert report["binary_recall"].low == report["binary_precision"].low == pytest.approx(0.6097, abs=1e-4)


def test_an_average_that_no_resample_has_is_a_value_without_interval() -> None:
    y = np.repeat(np.arange(200), 2)  # some class is missing from every resample
    report = evaluate(Predictions.of(y, 9 * np.eye(200)[y] + np.arange(200)), metrics=["macro_recall", "macro_auroc"])
    for name in report:
        assert not np.isnan(report[name].value)
        assert np.isnan(report[name].low)
        assert "stratified=True" in str(report[name].reason)


def test_groups_widen_what_is_not_independent() -> None:
    """Each example ten times over: as if it were ten examples, an interval lies; by group it is that of the one."""
    one = scored(60)
    many = Predictions.of(np.repeat(one.targets, 10), np.repeat(one.scores, 10, 0),
                          columns={"patient": np.repeat(np.arange(60), 10).tolist()})  # fmt: skip
    names = ["accuracy", "macro_f1", "macro_auroc", "log_loss", "ece"]
    for interval in ("percentile", "bca"):
        how: dict[str, Any] = {"metrics": names, "interval": interval, "resamples": 4000}
        honest, false = evaluate(many, groups="patient", **how), evaluate(many, **how)
        single = evaluate(one, groups=np.arange(60), **how)
        for name in names:
            wide, narrow, true = (r[name].high - r[name].low for r in (honest, false, single))
            assert wide > 2 * narrow, name
            assert wide == pytest.approx(true, rel=0.15), name
    assert honest["accuracy"].method == "by group, BCa bootstrap, 4,000 resamples"
    with pytest.raises(InputError, match="no column 'doctor'; there are patient"):
        evaluate(many, groups="doctor")
    with pytest.raises(InputError, match="3 group labels for 600 examples"):
        evaluate(many, groups=["a", "b", "c"])


def test_strata_take_the_class_sizes_as_given() -> None:
    """Targets alone vary a prior's metric; with class sizes fixed it can't."""
    y = np.r_[np.zeros(150, int), np.ones(50, int)]
    p = Predictions.of(y, np.tile([2.0, 1.0], (200, 1)))  # always class 0: accuracy is the share of class 0
    fixed = evaluate(p, metrics=["accuracy"], stratified=True)["accuracy"]
    assert fixed.value == 0.75
    assert np.isnan(fixed.low)
    assert fixed.reason == "all resamples have this value, so they say nothing of its uncertainty"
    assert fixed.method.startswith("stratified")
    free = evaluate(p, metrics=["accuracy"])["accuracy"]
    assert free.high - free.low > 0.1


@pytest.mark.usefixtures("with_nbval")
def test_intervals_cover() -> None:
    """150 samples of 150 from a population: 95 % intervals hold its value in 89 to 99 % of them."""
    from ptlib.diagnosis import coverage

    names = ["accuracy", "macro_f1", "macro_auroc", "ece_debiased"]
    for interval in ("percentile", "bca"):
        table = coverage(scored(4000, signal=2.0), names, 150, trials=150, resamples=200, interval=interval)
        assert (table["coverage"] >= 0.89).all(), table.to_string()
        assert (table["coverage"] < 0.99).all(), table.to_string()


def test_a_calibrated_models_error_may_be_nil() -> None:
    rng = np.random.default_rng(0)
    q = rng.dirichlet(np.ones(3), 400)
    y = (q.cumsum(1) > rng.random((400, 1))).argmax(1)
    names = ["ece", "ece_debiased", "ece_equal_mass"]
    calibrated = evaluate(Predictions.of(y, probabilities=q), metrics=names)
    over = evaluate(Predictions.of(y, 4 * np.log(q)), metrics=names)
    for name in names:
        assert calibrated[name].low == 0
        assert over[name].low > 0.05
    assert (
        evaluate(Predictions.of(y, probabilities=q), metrics=["ece_debiased"])["ece_debiased"]
        == (calibrated["ece_debiased"])
    )  # alone or in company


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"metrics": ["acuracy"]}, "no metric 'acuracy'; did you mean 'accuracy'"),
        ({"metrics": ["f1"]}, "say how 'f1' is averaged, macro_f1 for example, or of which class: f1:<class>"),
        ({"metrics": ["recall:cat"]}, "'recall:cat' names no class of 0, 1, 2, 3"),
        ({"metrics": ["macro_f1:1"]}, "'macro_f1:1' is both averaged and of one class; drop macro_ or :1"),
        ({"metrics": ["binary_f1"]}, "'binary_f1' is for two classes, there are 4"),
        ({"metrics": "accuracy"}, r"give a list of names, such as \['accuracy'\], or 'all'"),
        ({"interval": "normal"}, "interval is 'normal'"),
        ({"resamples": 10}, "resamples is 10; the ends"),
        ({"metrics": ["top_9_accuracy"]}, "top_9_accuracy: with 4 classes, k lies in 1..4"),
        ({"metrics": ["macro_f0"]}, "macro_f0: beta is 0"),
        ({"metrics": ["ece_mass"]}, "no metric 'ece_mass'"),
        ({"metrics": ["micro_auroc"]}, "no metric 'micro_auroc'"),
    ],
)
def test_slips_are_named(how: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        evaluate(scored(), **how)


def test_half_precision_is_measured_in_double() -> None:
    z = torch.randn(2000, 5, generator=torch.Generator().manual_seed(0))
    y = (z + torch.randn(2000, 5, generator=torch.Generator().manual_seed(1))).argmax(1).numpy()
    half = z.half()
    a, b = (Predictions.of(y, v.numpy()) for v in (half, half.double()))
    for name in ("accuracy", "log_loss", "brier", "ece", "macro_auroc"):
        values = [evaluate(p, metrics=[name], resamples=100)[name].value for p in (a, b)]
        assert values[0] == pytest.approx(values[1], abs=1e-12), name


def test_reports_are_a_function_of_their_seed() -> None:
    p = scored()
    names = ["macro_f1", "macro_auroc", "ece"]
    a, b, c = (evaluate(p, metrics=names, seed=s, resamples=500).to_dict()["metrics"] for s in (1, 1, 2))
    assert a == b
    assert a != c


def test_cells_of_100_classes_are_resampled_10000_times_in_seconds() -> None:
    p = scored(10_000, 100, 2.8)
    start = time.perf_counter()
    report = evaluate(p)
    assert time.perf_counter() - start < 3  # measured: 0.8; room for a busy machine
    assert "10,000 resamples" in report["macro_f1"].method


def test_expect_speaks_when_a_number_moved(capsys: pytest.CaptureFixture[str]) -> None:
    expect("accuracy", 0.93, 0.9, 0.04)
    expect("accuracy", 0.95, 0.9, 0.04)
    expect("accuracy", float("nan"), 0.9, 0.04)
    assert capsys.readouterr().out.splitlines() == [
        "accuracy 0.9 ± 0.04: as expected",
        "accuracy 0.950: the text describes a run with 0.9 ± 0.04",
        "accuracy nan: the text describes a run with 0.9 ± 0.04",
    ]


def test_an_estimate_prints_plainly() -> None:
    assert str(Estimate(0.5, 0.4, 0.6, "Wilson")) == "0.500 [0.400, 0.600]"
    assert str(Estimate(float("nan"), *clopper_pearson(1, 2), "x", reason="no examples")) == "undefined (no examples)"
