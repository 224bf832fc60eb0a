"""What holds up: confidence by hand and by others' numbers, corruption errors, second sets, averaged weights."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.special import ndtr
from scipy.stats import beta

from ptlib import metrics as m
from ptlib import runs, shift, stats
from ptlib.attribution import attribution, rank_correlation, shuffled_weights
from ptlib.core import Checkpoint, Split, Task
from ptlib.corruptions import COMMON, VIEWS, corrupt
from ptlib.data import load_task
from ptlib.data.duplicates import Duplicates
from ptlib.data.second import (
    corrupted_examples,
    load_second,
    load_unknown,
    make_corrupted,
    read_corrupted,
    usual_unknown,
)
from ptlib.diagnosis import by_duplicate, worst_slice
from ptlib.errors import InputError
from ptlib.models import Model, build_model
from ptlib.prediction import features, predict
from ptlib.reading import with_columns
from ptlib.report import evaluate
from ptlib.results import Predictions
from ptlib.similarity import averaged
from ptlib.stages import Stage
from ptlib.train import finetune
from tests.conftest import make_task, rehash

NOTEBOOK = Path(__file__).parent.parent / "notebooks" / "generalize.ipynb"
QUICK = [Stage("head", ("head",), optimizer="lbfgs", augment=())]


def said(n: int = 200, classes: int = 4, seed: int = 0, sharp: float = 2.0) -> Predictions:
    """Predictions whose labels are drawn from the stated probabilities: calibrated in truth."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, classes)) * sharp
    p = Predictions.of(np.zeros(n, dtype=int), logits, class_names="abcdefgh"[:classes])
    drawn = (p.probabilities.cumsum(1) < rng.random((n, 1))).sum(1).clip(0, classes - 1)
    return replace(p, targets=drawn)


def bits(model: torch.nn.Module) -> bytes:
    return b"".join(v.numpy().tobytes() for v in model.state_dict().values())


def tripled(p: Predictions) -> Predictions:
    """Every example three times, with a column that says which is which."""
    ids = tuple(f"{i} {k}" for k in range(3) for i in p.ids)
    scores = np.tile(p.scores, (3, 1))
    return Predictions(ids, np.tile(p.targets, 3), scores, "test", p.class_names, {"image": p.ids * 3})


# Confidence


def by_hand(confidence: np.ndarray, wrong: np.ndarray, seed: int = 0, times: int = 4000) -> float:
    """The mean of the risks of the k surest over k, ties broken at random many times."""
    rng, total = np.random.default_rng(seed), 0.0
    for _ in range(times):
        order = np.lexsort((rng.random(len(wrong)), -confidence))
        total += float((wrong[order].cumsum() / np.arange(1, len(wrong) + 1)).mean())
    return total / times


def test_aurc_is_the_mean_risk_of_the_surest() -> None:
    confidence = np.array([0.9, 0.8, 0.7, 0.6])
    assert m.aurc(confidence, np.array([0, 1, 0, 1])) == pytest.approx((0 + 1 / 2 + 1 / 3 + 2 / 4) / 4)
    ties = np.array([0.9, 0.5, 0.5, 0.5, 0.2, 0.2])
    wrong = np.array([0.0, 1, 0, 0, 1, 0])
    assert m.aurc(ties, wrong) == pytest.approx(by_hand(ties, wrong), abs=4e-3)
    assert m.aurc(np.ones(8), np.arange(8) < 3) == pytest.approx(3 / 8)  # no order: the error rate


def test_aurc_beside_torch_uncertainty() -> None:
    # torch-uncertainty 0.13.0 on these arrays: the trapezoid rule from one example on, by its length.
    rng = np.random.default_rng(0)
    rng.normal(size=(4, 6)), rng.integers(0, 4, 400), rng.normal(size=(400, 6)), rng.integers(0, 4, 50)
    rng.normal(size=(50, 6)), rng.normal(size=(60, 6))
    p = Predictions.of(np.zeros(200, dtype=int), rng.normal(size=(200, 5)) * 2)
    targets = rng.integers(0, 5, 200)
    targets[:120] = p.predicted[:120]
    confidence, wrong = p.probabilities.max(1), p.predicted != targets
    curve = m.risk_coverage(confidence, wrong)
    assert curve.coverage[-1] == 1
    assert np.trapezoid(curve.risk, curve.coverage) / (1 - 1 / 200) == pytest.approx(0.3235989925, abs=1e-7)
    assert m.aurc(confidence, wrong) == pytest.approx(0.3227809980, abs=1e-9)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 30), st.integers(1, 6))
def test_aurc_of_weights_is_that_of_repeated_examples(seed: int, n: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    confidence, wrong = rng.integers(0, levels, n) / levels, rng.integers(0, 2, n).astype(float)
    weights = rng.integers(0, 4, (3, n))
    weights[:, 0] += 1
    found = m.aurc(confidence, wrong, weights)
    for row, value in zip(weights, found, strict=True):
        assert value == pytest.approx(float(m.aurc(np.repeat(confidence, row), np.repeat(wrong, row))))
    order = rng.permutation(n)
    assert m.aurc(confidence[order], wrong[order]) == pytest.approx(float(m.aurc(confidence, wrong)))
    assert float(m.aurc(-wrong, wrong)) <= float(m.aurc(confidence, wrong)) + 1e-12


def test_risk_and_conformity_refuse_nonsense() -> None:
    with pytest.raises(ValueError, match="not empty"):
        m.aurc(np.array([]), np.array([]))
    with pytest.raises(ValueError, match="NaN"):
        m.risk_coverage(np.array([np.nan, 1]), np.array([0, 1]))
    with pytest.raises(ValueError, match="alpha is 1"):
        m.conformal_threshold(np.array([0.1]), 1)
    with pytest.raises(ValueError, match="lac or aps"):
        m.nonconformity(np.array([[0.5, 0.5]]), "raps")  # type: ignore[arg-type]


def test_conformal_threshold_by_hand() -> None:
    scores = np.arange(1, 10) / 10  # nine: the 90 % threshold is the ninth of ten
    assert m.conformal_threshold(scores, 0.1) == 0.9
    assert m.conformal_threshold(scores, 0.2) == 0.8
    assert m.conformal_threshold(scores, 0.05) == np.inf
    assert m.nonconformity(np.array([[0.5, 0.2, 0.3]]), "aps")[0] == pytest.approx([0.5, 1.0, 0.8])
    assert m.promised_coverage(9, 50, 0.05) == (1.0, 1.0)
    assert m.promised_coverage(99, 10**6, 0.1) == pytest.approx(tuple(beta(90, 10).ppf([0.025, 0.975])), abs=1e-4)
    sure = Predictions.of([0, 1, 1], probabilities=np.array([[0.9, 0.1], [0.2, 0.8], [0.55, 0.45]]))
    val = Predictions.of([0] * 9, probabilities=np.stack([np.arange(1, 10) / 10, 1 - np.arange(1, 10) / 10], 1))
    row = shift.conformal(val, {"few": sure}, 0.5).loc["few"]  # the fifth of ten: classes of at least 0.5
    assert (row["coverage"], row["size"]) == (pytest.approx(2 / 3), 1.0)
    same = replace(sure.take([0, 1]), columns={"group": ("x", "y")})
    assert np.isnan(shift.conformal(val, {"few": same}, 0.5, groups={"few": "group"}).loc["few", "low"])


@pytest.mark.parametrize("kind", ["lac", "aps"])
def test_conformal_sets_hold_what_they_promise(kind: m.Nonconformity) -> None:
    held = inside = 0
    for seed in range(150):
        p = said(260, seed=seed)
        frame = shift.conformal(p.take(slice(0, 120)), {"rest": p.take(slice(120, None))}, 0.2, kind)
        row = frame.loc["rest"]
        held += row["coverage"]
        inside += row["promised from"] <= row["coverage"] <= row["to"]
        assert 0 < row["size"] < 4
    assert held / 150 > 0.79
    assert held / 150 < 0.95
    if kind == "lac":
        assert held / 150 < 0.83
        assert inside / 150 > 0.9  # a beta-binomial law, of 95 %


def test_tempering_changes_confidence_alone() -> None:
    p = said(4000, sharp=1.0)
    sharp = replace(p, scores=p.scores * 3)
    temperature = shift.fitted_temperature(sharp)
    assert temperature == pytest.approx(3, rel=0.15)
    cooler = shift.tempered(sharp, temperature)
    assert (cooler.predicted == p.predicted).all()
    table = shift.calibration({"sharp": sharp}, temperature, resamples=200)
    assert table.loc["sharp", "error"].value > 0.2
    assert table.loc["sharp", "error, tempered"].value < 0.03
    assert table.loc["sharp", "accuracy"].value == pytest.approx(float((p.predicted == p.targets).mean()))
    for bad in (0, -1, np.nan):
        with pytest.raises(InputError, match="must be above 0"):
            shift.tempered(p, bad)


def test_abstaining_is_said_with_its_bounds() -> None:
    p = said(300)
    row = shift.selective_prediction({"all": p}, resamples=300).loc["all"]
    assert row["best order"] <= row["aurc"].value <= row["no order"]
    assert row["aurc"].low < row["aurc"].value < row["aurc"].high
    perfect = Predictions.of([0, 1, 0], np.eye(2)[[0, 1, 0]] * 9)
    assert shift.selective_prediction({"all": perfect}, resamples=100).loc["all", "aurc"].reason
    thrice = tripled(p)
    together = shift.selective_prediction({"all": thrice}, groups={"all": "image"}).loc["all", "aurc"]
    assert together.high - together.low == pytest.approx(row["aurc"].high - row["aurc"].low, rel=0.25)
    wrong = p.predicted != p.targets
    assert row["no order"] == wrong.mean()
    surer = np.argsort(-p.probabilities.max(1))[:150]
    assert row["accuracy of the surer half"] == pytest.approx(1 - wrong[surer].mean())


def test_val_is_restricted_to_a_sets_classes() -> None:
    """Perfectly calibrated, three of eight classes: what is said them must come from val's examples of these alone."""
    val, other = said(6000, 8), said(6000, 8, seed=1).among(["a", "b", "c"])
    row = shift.conformal(val, {"few": other}, 0.1).loc["few"]
    assert row["coverage"] == pytest.approx(0.9, abs=0.02)
    guess = shift.estimated_accuracy(val, {"few": other}).loc["few"]
    for name in ("as on val", "difference of confidences", "ATC, confidence", "ATC, entropy"):
        assert guess[name] == pytest.approx(guess["accuracy"], abs=0.03), name


def test_examples_that_belong_together_count_once() -> None:
    p = said(400)
    frame = shift.conformal(said(300, seed=2), {"once": p, "thrice": tripled(p)}, groups={"thrice": "image"})
    assert frame.loc["thrice", "coverage"] == pytest.approx(frame.loc["once", "coverage"])
    assert frame.loc["thrice", "promised from"] == frame.loc["once", "promised from"]
    assert frame.loc["thrice", "high"] - frame.loc["thrice", "low"] == pytest.approx(
        frame.loc["once", "high"] - frame.loc["once", "low"], rel=0.2
    )


def test_guesses_by_hand_and_where_nothing_changed() -> None:
    scores, right = np.array([0.1, 0.2, 0.3, 0.4, 0.5]), np.array([0, 1, 0, 1, 1])
    # Two of five are wrong, so the third lowest, 0.3, is the threshold.
    assert m.thresholded_confidence(scores, right, np.array([0.3, 0.29, 0.9])) == pytest.approx(2 / 3)
    assert m.thresholded_confidence(scores, np.zeros(5), scores) == 0
    assert m.difference_of_confidences(scores, right, scores - 0.1) == pytest.approx(0.5)
    p = said(3000)
    frame = shift.estimated_accuracy(p, {"same": p, "other": said(3000, seed=1)})
    for name in ("difference of confidences", "ATC, confidence", "ATC, entropy"):
        assert frame.loc["same", name] == pytest.approx(frame.loc["same", "accuracy"], abs=1e-9)
        assert frame.loc["other", name] == pytest.approx(frame.loc["other", "accuracy"], abs=0.04)


# Corruption


def tuned(tiny: Checkpoint, task: Task) -> Model:
    model = build_model(tiny, task)
    finetune(model, task, QUICK, log=lambda line: None, device="cpu", precision="fp32")
    return model


def test_corruption_errors_by_hand(tiny: Checkpoint, task: Task) -> None:
    a, b = tuned(tiny, task), build_model(tiny, task, seed=3)
    clean, examples = corrupted_examples(task, ("gaussian_noise", "fog"), (2, 4), device="cpu")
    found = shift.predict_corrupted({"a": a, "b": b}, task, clean, examples, "cpu", "fp32")
    wrong = {
        (way, name): np.mean([
            float((predict(model, replace(task.test, inputs=corrupt(task.test.inputs, name, k, 0, "cpu")), task, "cpu",
                           "fp32").predicted != task.test.targets.numpy()).mean()) for k in (2, 4)])
        for way, model in (("a", a), ("b", b)) for name in ("gaussian_noise", "fog")
    }  # fmt: skip
    mean = np.mean([wrong["a", name] / wrong["b", name] for name in ("gaussian_noise", "fog")])
    error = found["a"].mean_corruption_error(found["b"])
    assert error.value == pytest.approx(mean)
    assert error.low < error.value < error.high
    assert found["a"].accuracy().value == pytest.approx(1 - np.mean([wrong["a", n] for n in ("gaussian_noise", "fog")]))
    same = found["b"].mean_corruption_error(found["b"])
    assert same.value == 1
    assert same.reason
    by_name = found["a"].mean_corruption_error({"gaussian_noise": 0.5, "fog": 0.25})
    assert by_name.value == pytest.approx((wrong["a", "gaussian_noise"] / 0.5 + wrong["a", "fog"] / 0.25) / 2)
    with pytest.raises(InputError, match="no error for 'fog'"):
        found["a"].mean_corruption_error({"gaussian_noise": 0.5})
    with pytest.raises(InputError, match="no error for 'clean'"):
        found["a"].mean_corruption_error({"gaussian_noise": 0.5, "fog": 0.25}, relative=True)
    part = found["a"].mean_corruption_error({"gaussian_noise": 0.5, "fog": 0.0})
    assert part.value == pytest.approx(wrong["a", "gaussian_noise"] / 0.5)
    assert part.method.endswith("1 corruptions left out")
    table = found["a"].table()
    assert list(table.columns) == [2, 4, "mean"]
    assert table.loc["fog", "mean"] == pytest.approx(1 - wrong["a", "fog"])
    pooled = found["a"].pooled()
    assert len(pooled) == 4 * len(task.test)
    assert evaluate(pooled, metrics=["accuracy"], groups="example", resamples=200)["accuracy"].value == pytest.approx(
        found["a"].accuracy().value
    )
    with pytest.raises(InputError, match="no corrupted examples"):
        shift.predict_corrupted({"a": a}, task, clean, [])
    shuffled = task.test.take(np.arange(len(task.test))[::-1])
    mixed = [("fog", 1, task.test), ("fog", 2, shuffled)]
    with pytest.raises(InputError, match="same examples in the same order"):
        shift.predict_corrupted({"a": a}, task, clean, mixed, "cpu", "fp32")


def test_relative_errors_take_the_clean_error_off(tiny: Checkpoint, task: Task) -> None:
    a, b = tuned(tiny, task), build_model(tiny, task, seed=3)
    clean, examples = corrupted_examples(task, ("contrast",), (5,), device="cpu")
    found = shift.predict_corrupted({"a": a, "b": b}, task, clean, examples, "cpu", "fp32")
    costs = {way: c.wrong("contrast").mean() - c.wrong("clean").mean() for way, c in found.items()}
    base = {"contrast": 0.9, "clean": 0.4}
    assert found["a"].mean_corruption_error(base, relative=True).value == pytest.approx(costs["a"] / 0.5)
    both = found["a"].mean_corruption_error(found["b"], relative=True) if costs["b"] > 0 else None
    assert both is None or both.value == pytest.approx(costs["a"] / costs["b"])
    few, part = corrupted_examples(task, ("contrast",), (5,), 12, device="cpu")
    assert len(few) == 12
    other = shift.predict_corrupted({"a": a}, task, task.test, part, "cpu", "fp32")["a"]
    with pytest.raises(InputError, match="needs the same"):
        other.mean_corruption_error(base, relative=True)
    with pytest.raises(InputError, match="must be the same"):
        other.mean_corruption_error(found["a"])
    with pytest.raises(InputError, match="take all five"):
        found["a"].mean_corruption_error(dict(shift.ALEXNET))
    assert set(shift.ALEXNET) == set(COMMON)
    every = make_corrupted(task.test, ("contrast",), (1, 2, 3, 4, 5), 0, "cpu")
    whole = shift.predict_corrupted({"a": a}, task, task.test, every, "cpu", "fp32")["a"]
    assert whole.mean_corruption_error(shift.ALEXNET).value == pytest.approx(whole.wrong("contrast").mean() / 0.853)
    with pytest.raises(InputError, match="nothing to divide by"):
        found["a"].mean_corruption_error({"contrast": 0.0})
    with pytest.raises(InputError, match=r"unknown corruption 'fogg'; did you mean 'fog'"):
        corrupted_examples(task, ("fogg",))
    with pytest.raises(InputError, match=r"severities are \[0\]"):
        corrupted_examples(task, ("fog",), (0,))


def test_published_arrays_are_read(tmp_path: Path, task: Task) -> None:
    n = len(task.test)
    labels = np.tile(task.test.targets.numpy().astype(np.uint8), 5)
    np.save(tmp_path / "labels.npy", labels)
    made = [corrupt(task.test.inputs, "fog", k, 0, "cpu").numpy() for k in range(1, 6)]
    np.save(tmp_path / "fog.npy", np.concatenate(made))
    found = list(read_corrupted(tmp_path, task, ("fog", "snow"), (1, 5)))
    assert [(name, severity) for name, severity, _ in found] == [("fog", 1), ("fog", 5)]
    for (_, severity, split), k in zip(found, (1, 5), strict=True):
        assert severity == k
        assert split.inputs.numpy().tobytes() == made[k - 1].tobytes()
        assert torch.equal(split.targets, task.test.targets)
    assert list(found[0][2].ids) == list(found[1][2].ids) == [str(i) for i in range(n)]
    part = [split for *_, split in read_corrupted(tmp_path, task, ("fog",), (1, 2), n=6)]
    assert list(part[0].ids) == list(part[1].ids)
    assert len(part[0]) == 6
    np.save(tmp_path / "labels.npy", np.sort(labels))
    with pytest.raises(InputError, match="not five times the same"):
        list(read_corrupted(tmp_path, task, ("fog",)))
    np.save(tmp_path / "labels.npy", labels + 1)
    with pytest.raises(InputError, match=r"labels from 1 to 3; colours has 3 classes, 0 to 2"):
        list(read_corrupted(tmp_path, task, ("fog",)))
    np.save(tmp_path / "labels.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="can't be read as an array"):
        list(read_corrupted(tmp_path, task, ("fog",)))
    (tmp_path / "empty").mkdir()
    for folder in ("none", "empty"):  # at once, not when the first image is asked for
        with pytest.raises(InputError, match="no folder|neither labels.npy"):
            corrupted_examples(task, folder=tmp_path / folder)
    for severities in ((0,), (6,), ()):
        with pytest.raises(InputError, match="severities are"):
            list(read_corrupted(tmp_path, task, ("fog",), severities))
    np.save(tmp_path / "labels.npy", np.array(["a"] * len(labels)))
    with pytest.raises(InputError, match="labels of <U1"):
        list(read_corrupted(tmp_path, task, ("fog",)))


def write(split: Split, folder: Path, names: tuple[str, ...]) -> None:
    for i, (image, target) in enumerate(zip(split.inputs, split.targets.tolist(), strict=True)):
        (folder / names[target]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.numpy()).save(folder / names[target] / f"{i:03}.png")


def test_published_folders_are_read(tmp_path: Path, task: Task) -> None:
    for name, severity, split in make_corrupted(task.test, ("fog", "snow"), (1, 3), 0, "cpu"):
        write(split, tmp_path / "weather" / name / str(severity), task.class_names)
    found = list(read_corrupted(tmp_path, task, ("snow", "fog"), (3,)))
    assert [(name, severity, len(split)) for name, severity, split in found] == [("snow", 3, 30), ("fog", 3, 30)]
    # In folders the classes come one after the other.
    assert found[0][2].targets.tolist() == sorted(task.test.targets.tolist())
    part = list(read_corrupted(tmp_path, task, ("snow", "fog"), (1, 3), n=6))
    assert len({tuple(split.ids) for *_, split in part}) == 1  # the same images everywhere
    assert len(part[0][2]) == 6


# Second sets and strangers


def test_second_sets_take_the_tasks_classes(tmp_path: Path, task: Task) -> None:
    write(task.test, tmp_path / "all", task.class_names)
    whole = load_second(str(tmp_path / "all"), task)
    assert whole.targets.tolist() == sorted(task.test.targets.tolist())
    part = task.test.take(np.flatnonzero(task.test.targets.numpy() != 0))
    write(part, tmp_path / "some", task.class_names)
    some = load_second("some", task, tmp_path, n=6)
    assert set(some.targets.tolist()) == {1, 2}
    assert len(some) == 6
    write(task.test, tmp_path / "numbers", ("0", "1", "2"))
    assert torch.equal(load_second(str(tmp_path / "numbers"), task).targets, whole.targets)
    write(task.test, tmp_path / "others", ("a", "b", "unheard of"))
    with pytest.raises(InputError, match="1 classes that colours lacks, such as 'unheard of'"):
        load_second(str(tmp_path / "others"), task)
    (tmp_path / "arrays").mkdir()
    np.save(tmp_path / "arrays" / "v6_data.npy", task.test.inputs.numpy())
    with pytest.raises(InputError, match="give one folder with one, and its labels"):
        load_second(str(tmp_path / "arrays"), task)
    np.save(tmp_path / "arrays" / "v6_labels.npy", task.test.targets.numpy())
    arrays = load_second(str(tmp_path / "arrays"), task)
    assert torch.equal(arrays.inputs, task.test.inputs)
    with pytest.raises(InputError, match="unknown dataset 'gray'"):
        load_second("gray", task)


def test_ten_numbered_folders_are_read_as_numbers(tmp_path: Path) -> None:
    task = make_task(60, classes=10)
    rng = np.random.default_rng(0)
    wide = replace(task, class_names=tuple("klmnopqrst"))
    for c in range(10):
        (tmp_path / f"{c}").mkdir()
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(tmp_path / f"{c}" / "x.png")
    assert load_second(str(tmp_path), wide).targets.tolist() == list(range(10))


def test_sets_known_by_name_are_seconds() -> None:
    task = load_task("photos[:4]", n_train=40)
    grey = load_second("photos-grey[:4]", task)
    assert len(grey) == len(task.test)
    assert torch.equal(grey.targets, task.test.targets)
    assert (grey.inputs[..., 0] == grey.inputs[..., 1]).all()
    for view in VIEWS:
        seen = load_second(view, task, n=8)
        assert len(seen) == 8
    with pytest.raises(InputError, match=r"lacks, such as"):
        load_second("photos[4:8]", task)


def test_only_shared_classes_are_compared(tiny: Checkpoint, task: Task) -> None:
    model = tuned(tiny, task)
    second = task.test.take(np.flatnonzero(task.test.targets.numpy() != 1))
    inside, outside = shift.predict_second(model, task, second, "cpu", "fp32")
    assert inside.class_names == outside.class_names == ("a", "c")
    assert inside.ids == outside.ids == tuple(second.ids)
    whole = predict(model, task.test, task, "cpu", "fp32")
    assert inside.scores == pytest.approx(whole.scores[whole.targets != 1][:, [0, 2]])
    full = shift.predict_second(model, task, task.test, "cpu", "fp32", inside=whole)
    assert full[0] is whole
    for classes in (["a"], ["a", "unheard of"]):
        with pytest.raises(InputError, match="takes two of them or more"):
            whole.among(classes)
    swapped = whole.among(["c", "a"])
    assert swapped.class_names == ("c", "a")
    assert [swapped.class_names[t] for t in swapped.targets] == [inside.class_names[t] for t in inside.targets]
    assert whole.among(whole.class_names) is whole


def test_strangers_from_folders_and_sets(tmp_path: Path, task: Task) -> None:
    write(task.test, tmp_path / "deep" / "er", task.class_names)
    task = replace(task, name="other", test=make_task(seed=9).test)
    (tmp_path / "deep" / "note.txt").write_text("no image")
    found = load_unknown(str(tmp_path / "deep"), task, n=7)
    assert len(found) == 7
    assert found.targets.tolist() == [0] * 7
    assert len(load_unknown("digits", task, n=20)) == 20
    assert list(load_unknown("digits", task, n=20).ids) == list(load_unknown("digits", task, n=20).ids)
    (tmp_path / "none").mkdir()
    black = replace(task.test, inputs=torch.zeros_like(task.test.inputs))
    write(black, tmp_path / "night", task.class_names)
    assert len(load_unknown("night", replace(task, test=black), tmp_path)) == 30  # alike, and no leak
    with pytest.raises(InputError, match="30 of 30 images of .* are test images of colours"):
        load_unknown(str(tmp_path / "deep"), make_task())
    assert usual_unknown(task) == ["photos", "digits"]
    assert usual_unknown(replace(task, name="photos[0:9]")) == ["photos[9:]", "digits"]
    assert usual_unknown(replace(task, name="photos-grey[0:17]")) == usual_unknown(replace(task, name="photos"))
    assert usual_unknown(replace(task, name="digits")) == ["photos"]
    with pytest.raises(InputError, match="holds no images"):
        load_unknown(str(tmp_path / "none"), task)
    (tmp_path / "none" / "x.png").write_text("no image")
    with pytest.raises(InputError, match="no image of .* could be read"):
        load_unknown(str(tmp_path / "none"), task)


# The line


def test_models_on_a_line_have_no_effective_robustness() -> None:
    z = np.array([-1.0, 0.0, 1.0])
    points = np.arange(10_000) / 10_000  # accuracies in steps of a ten-thousandth, on the line
    straight = stats.off_the_line(points < ndtr(z)[:, None], points < ndtr(0.5 * z - 0.3)[:, None], np.arange(3), 100)
    assert straight.slope == pytest.approx(0.5, abs=1e-3)
    assert straight.intercept == pytest.approx(-0.3, abs=1e-3)
    assert np.abs(straight.effective).max() < 1e-3
    rng = np.random.default_rng(0)
    inside, outside = (np.sort(rng.random((1, 4000)), axis=1) for _ in range(2))
    probit = 0.8 * np.array([-0.4, 0.2, 0.8, 1.4])
    models_in = (inside < ndtr(probit / 0.8)[:, None]).astype(float)
    models_out = (outside < ndtr(probit - 0.2)[:, None]).astype(float)
    models_out[3] = outside[0] < ndtr(probit[3] - 0.2) + 0.06
    found = stats.off_the_line(models_in, models_out, np.array([0, 1, 2]))
    assert np.abs(found.effective[:3]).max() < 0.01
    assert found.effective[3] == pytest.approx(0.06, abs=0.015)
    assert found.low[3] > 0
    assert (found.low <= found.effective).all()
    assert (found.effective <= found.high).all()
    for k in (3, 6, 7):  # reference models that don't differ make no line, however their mean is rounded
        for right in range(1, 40, 4):
            same = np.tile(np.arange(40) < right, (k + 1, 1))
            level = stats.off_the_line(same, rng.random((k + 1, 40)) < 0.5, np.arange(k), 50)
            assert np.isnan(np.stack([level.effective, level.low, level.high])).all(), (k, right)
    p = said(50)
    with pytest.raises(InputError, match="the line needs three"):
        shift.effective_robustness({"a": p, "b": p}, {"a": p, "b": p}, ["a", "b"])
    three = {"a": p, "b": p, "c": p.take(slice(1, None))}
    with pytest.raises(InputError, match="the same examples and classes; c was not"):
        shift.effective_robustness(three, three, ["a", "b", "c"])


def test_effective_robustness_is_that_of_the_hits() -> None:
    four = {name: said(120, seed=k, sharp=0.5 + k) for k, name in enumerate("abcd")}
    elsewhere = {name: replace(said(90, seed=9 + k, sharp=0.3 + k), split="other") for k, name in enumerate("abcd")}
    truth = {split: next(iter(of.values())).targets for split, of in (("in", four), ("out", elsewhere))}
    four = {name: replace(p, targets=truth["in"]) for name, p in four.items()}
    elsewhere = {n: replace(p, targets=truth["out"], ids=tuple(f"o{i}" for i in p.ids)) for n, p in elsewhere.items()}
    for outside, paired in ((elsewhere, False), (four, True)):
        frame = shift.effective_robustness(four, outside, ["a", "b", "c"], resamples=200)
        hits = [np.stack([p.predicted == p.targets for p in of.values()]) for of in (four, outside)]
        direct = stats.off_the_line(hits[0], hits[1], np.arange(3), 200, paired=paired)
        assert frame["effective"].tolist() == direct.effective.tolist()
        assert frame["low"].tolist() == direct.low.tolist()
        assert frame["inside"].tolist() == hits[0].mean(1).tolist()
        assert frame["reference"].tolist() == [True, True, True, False]
        assert frame.attrs["line"] == (direct.slope, direct.intercept)
    with pytest.raises(InputError, match="with predictions of both sets"):
        shift.effective_robustness(four, {"a": four["a"]}, ["a", "b", "c"])


def test_all_right_and_all_wrong_stay_finite() -> None:
    rng = np.random.default_rng(1)
    hits = np.stack([np.ones(50), np.zeros(50), rng.random(50) < 0.5, rng.random(50) < 0.8]).astype(float)
    for part in stats.off_the_line(hits, hits[:, ::-1].copy(), np.arange(4), resamples=200, paired=True):
        assert np.isfinite(part).all()


def test_models_that_scatter_about_a_line_stay_within_their_interval() -> None:
    """New models of the reference's own kind, of true effective robustness 0 in the mean, scattered as they are."""
    rng, outside_of = np.random.default_rng(2), 0
    for trial in range(150):
        z = rng.uniform(-0.5, 1.5, 9)
        out = 0.7 * z - 0.2 + rng.normal(0, 0.1, 9)
        hits = [rng.random((9, 500)) < ndtr(v)[:, None] for v in (z, out)]
        found = stats.off_the_line(hits[0], hits[1], np.arange(8), resamples=300, seed=trial)
        outside_of += not found.low[8] <= 0 <= found.high[8]
    assert outside_of / 150 < 0.12


# Groups, duplicates, metadata


def test_the_worst_group_has_an_interval_that_holds() -> None:
    rng, held = np.random.default_rng(0), 0
    truth = np.array([0.7, 0.72, 0.74, 0.9, 0.71])
    for _ in range(300):
        group = np.arange(300) % 5
        right = rng.random(300) < truth[group]
        p = Predictions.of(np.zeros(300, dtype=int), np.where(right[:, None], [1.0, 0], [0.0, 1]))
        _, e = worst_slice(p, [str(g) for g in group])
        held += e.low <= 0.7 <= e.high
        assert e.low <= e.value <= e.high
    assert held / 300 > 0.94


def test_the_score_without_duplicates() -> None:
    p = Predictions.of([0, 0, 1, 1], np.eye(2)[[0, 1, 1, 1]], ids=["a", "b", "c", "d"])
    frame = by_duplicate(p, Duplicates([("t", "a")], [("u", "c"), ("v", "c")]))
    assert frame["n"].tolist() == [4, 1, 1, 2]
    assert frame["accuracy"].tolist() == [0.75, 1, 1, 0.5]
    assert np.isnan(by_duplicate(p, Duplicates([], [])).loc["exact duplicates", "accuracy"])


def test_metadata_is_joined_by_id(tmp_path: Path) -> None:
    p = Predictions.of([0, 1, 0], np.eye(2)[[0, 1, 1]], ids=["x/1", "x/2", "x/3"])
    (tmp_path / "m.csv").write_text("camera,id\nNA,x/3\nb,x/1\nb,x/2\nc,x/9\n")
    joined = with_columns(p, tmp_path / "m.csv")
    assert joined.columns["camera"] == ("b", "b", "NA")
    for text, says in (
        ("camera\nb\n", "must be called id"), ("id,camera\nx/1,b\n", "no row for 2 examples, such as 'x/2'"),
        ("id,id\nx/1,a\n", "two columns 'id'"), ("", "can't be read"),
        ("id,c\nx/1,a\nx/1,b\nx/2,a\nx/3,a\n", "two rows for 'x/1'"),
    ):  # fmt: skip
        (tmp_path / "m.csv").write_text(text)
        with pytest.raises(InputError, match=says):
            with_columns(p, tmp_path / "m.csv")
    with pytest.raises(InputError, match="no .csv or .parquet"):
        with_columns(p, tmp_path / "none.csv")


def test_light_falls_into_thirds(task: Task) -> None:
    p = Predictions.of(task.test.targets.numpy(), np.eye(3)[task.test.targets], ids=list(task.test.ids))
    light = np.array(shift.with_light(p, task.test).columns["light"])
    mean = task.test.inputs.double().mean((1, 2, 3)).numpy()
    assert mean[light == "dark"].max() < mean[light == "bright"].min()
    assert set(light) == {"dark", "medium", "bright"}


# Weights, ways, sensitivity


def test_averaged_weights(tiny: Checkpoint, task: Task) -> None:
    a, b = tuned(tiny, task), build_model(tiny, task, seed=5)
    for share, end in ((0.0, a), (1.0, b)):
        mixed = averaged((a, b), (1 - share, share))
        assert all(torch.equal(v, end.state_dict()[k]) for k, v in mixed.state_dict().items())
    half = averaged((a, b)).state_dict()
    for name, value in half.items():
        if value.is_floating_point():
            assert torch.allclose(value, (a.state_dict()[name] + b.state_dict()[name]) / 2, atol=1e-6)
    with pytest.raises(InputError, match="which add up to 1"):
        averaged((a, b), (0.5, 0.6))
    with pytest.raises(InputError, match="which add up to 1"):
        averaged([])
    with pytest.raises(InputError, match=r"one architecture only; head.weight differs"):
        averaged((a, build_model(tiny, make_task(classes=4))))


def test_ways_are_what_they_are_called(tiny: Checkpoint) -> None:
    task = make_task(200, noise=90)  # hard enough for fine-tuning to end elsewhere than at the probe
    how = {"epochs": 4, "lr": 0.03, "soup": 2, "device": "cpu", "precision": "fp32", "log": lambda line: None}
    found = shift.adapt_in_ways(tiny, task, **how)  # type: ignore[arg-type]
    assert list(found.models) == list(shift.WAYS)
    probe, tuned_one = found.models["probe"], found.models["lp-ft"]
    fresh = build_model(tiny, task).backbone.state_dict()
    assert all(torch.equal(v, fresh[k]) for k, v in probe.backbone.state_dict().items())
    assert found.probe is probe
    wise = averaged((probe, tuned_one), (0.5, 0.5)).state_dict()
    assert all(torch.equal(v, wise[k]) for k, v in found.models["wise-ft"].state_dict().items())
    soup = averaged(found.runs).state_dict()
    assert all(torch.equal(v, soup[k]) for k, v in found.models["soup"].state_dict().items())
    different = [probe, *found.runs]
    assert len({bits(model) for model in different}) == 3
    quarter = shift.adapt_in_ways(tiny, task, ["wise-ft"], alpha=0.25, **how)  # type: ignore[arg-type]
    assert bits(quarter.models["wise-ft"]) == bits(averaged((probe, tuned_one), (0.75, 0.25)))
    score = {
        name: float((p.predicted == p.targets).mean())
        for name, p in ((name, predict(model, task.val, task, "cpu", "fp32")) for name, model in found.models.items())
    }
    assert score["lp-ft"] >= score["probe"]
    with pytest.raises(InputError, match="soup is 0"):
        shift.adapt_in_ways(tiny, task, ["lp-ft"], soup=0)
    again = shift.adapt_in_ways(tiny, task, ["lp-ft"], **how)  # type: ignore[arg-type]
    assert all(torch.equal(v, tuned_one.state_dict()[k]) for k, v in again.models["lp-ft"].state_dict().items())
    path = shift.weight_path(probe, tuned_one, task, {"test": task.test}, (0, 1), device="cpu", precision="fp32")
    own = predict(tuned_one, task.test, task, "cpu", "fp32")
    assert path.loc[1, "test"] == pytest.approx(float((own.predicted == own.targets).mean()))
    two = task.test.take(np.flatnonzero(task.test.targets.numpy() < 2))
    among = predict(probe, two, task, "cpu", "fp32").among(["a", "b"])
    part = shift.weight_path(probe, tuned_one, task, {"two": two}, (0,), device="cpu", precision="fp32")
    assert part.loc[0, "two"] == pytest.approx(float((among.predicted == among.targets).mean()))
    with pytest.raises(InputError, match="unknown way 'wise'; did you mean 'wise-ft'"):
        shift.adapt_in_ways(tiny, task, ["wise"])


def test_sensitivity_names_what_it_costs(tiny: Checkpoint) -> None:
    task = make_task(120)
    frame = shift.sensitivity(tiny, task, draws=2, device="cpu", precision="fp32")
    assert frame.loc["nothing", "points"] == 0
    assert any(name.startswith("1/2 of the labels") for name in frame.index)
    assert "images of 8 pixels instead of 16" in frame.index
    assert "at test: bicubic instead of bilinear" in frame.index
    assert (frame["low"] <= frame["points"] + 1e-9).all()
    assert (frame["points"] <= frame["high"] + 1e-9).all()
    reference = frame.loc["nothing", "accuracy"]
    assert frame["points"].to_numpy() == pytest.approx(100 * (frame["accuracy"] - reference).to_numpy())


def test_another_preprocessing_feeds_the_same_weights(tiny: Checkpoint, task: Task) -> None:
    model = build_model(tiny, task)
    other = model.fed(mean=(0.0, 0.0, 0.0), antialias=False)
    assert other.backbone is model.backbone
    assert model.preprocessing.mean == (0.5, 0.5, 0.5)
    assert not torch.equal(model.preprocess(task.test.inputs[:2]), other.preprocess(task.test.inputs[:2]))
    large = (
        build_model(tiny, make_task(side=48), 16).fed(antialias=False).preprocess(make_task(side=48).test.inputs[:1])
    )
    assert large.shape[-1] == 16


def test_probes_on_fewer_labels_are_weaker(tiny: Checkpoint) -> None:
    task = make_task(300, noise=90)
    model = build_model(tiny, task)
    probes = shift.probes_on_fewer(model, task, {"test": task.test}, (0.02, 1.0), device="cpu", precision="fp32")
    assert list(probes) == ["probe on 6 labels, draw 1", "probe on 6 labels, draw 2", "probe on 300 labels"]
    few, _, all_of = (float((p["test"].predicted == p["test"].targets).mean()) for p in probes.values())
    assert few < all_of
    assert features(model, task.test, "cpu", "fp32").shape == (150, 16)


# Where it looks


def test_maps_show_what_counts(tiny: Checkpoint, task: Task) -> None:
    model = tuned(tiny, task)
    images, targets = task.test.inputs[:4], task.test.targets[:4]
    for method in ("integrated gradients", "grad-cam"):
        found = attribution(model, images, targets, method, device="cpu")
        assert found.shape == (4, 16, 16)
        assert (found >= 0).all()
        assert found.reshape(4, -1).max(1).min() > 0
        assert np.array_equal(found, attribution(model, images, targets, method, device="cpu"))
    with pytest.raises(InputError, match="'integrated gradients' or 'grad-cam'"):
        attribution(model, images, targets, "saliency", device="cpu")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="maps are of images"):
        attribution(model, torch.zeros(2, 5), targets[:2], device="cpu")


def test_a_pixel_that_counts_is_found(tiny: Checkpoint, task: Task) -> None:
    class Corner(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x[:, :, 2:5, 3:6].flatten(1)

    head = torch.nn.Linear(27, 3)
    model = Model(Corner(), head, replace(tiny.preprocessing, size=16), tiny)
    found = attribution(model, task.test.inputs[:3], task.test.targets[:3], device="cpu")
    outside = np.ones((16, 16), dtype=bool)
    outside[2:5, 3:6] = False
    assert found[:, outside].max() == pytest.approx(0, abs=1e-7)
    # A linear network's integrated gradients are its weights times its inputs.
    x = model.preprocess(task.test.inputs[:3])[:, :, 2:5, 3:6]
    weight = head.weight[task.test.targets[:3]].view(3, 3, 3, 3)
    assert found[:, 2:5, 3:6] == pytest.approx((x * weight).abs().sum(1).detach().numpy(), rel=1e-4, abs=1e-6)
    with pytest.raises(InputError, match="no layer of this network has positions"):
        attribution(model, task.test.inputs[:3], task.test.targets[:3], "grad-cam", device="cpu")


def test_shuffled_weights_keep_sizes_and_lose_the_rest(tiny: Checkpoint, task: Task) -> None:
    model = tuned(tiny, task)
    blind = shuffled_weights(model)
    for (name, a), (_, b) in zip(model.named_parameters(), blind.named_parameters(), strict=True):
        assert torch.equal(a.flatten().sort().values, b.flatten().sort().values), name
        assert a.ndim < 2 or not torch.equal(a, b), name
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), blind.buffers(), strict=True))
    assert bits(blind) == bits(shuffled_weights(model))
    head_only = shuffled_weights(model, "head")
    own = model.backbone.state_dict()
    assert all(torch.equal(v, own[k]) for k, v in head_only.backbone.state_dict().items())
    assert not torch.equal(head_only.head.weight, model.head.weight)  # type: ignore[arg-type]
    maps = np.random.default_rng(0).random((3, 4, 4))
    assert rank_correlation(maps, maps**3) == pytest.approx(np.ones(3))
    assert rank_correlation(maps, -maps) == pytest.approx(-np.ones(3))
    assert np.isnan(rank_correlation(np.zeros((1, 2, 2)), maps[:1, :2, :2]))[0]


# A run, opened again


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PTLIB_OUTPUTS", str(tmp_path / "outputs"))
    task = load_task("digits", n_train=60, n_test=40)
    from ptlib.checkpoints import load_checkpoint

    model = build_model(load_checkpoint("random/cifar_resnet8"), task, 16)
    history = finetune(model, task, QUICK, log=lambda line: None, device="cpu", precision="fp32")
    test = predict(model, task.test, task, "cpu", "fp32")
    asked = {"dataset": "digits", "n_train": 60, "n_test": 40, "seed": 0, "checkpoint": "random/cifar_resnet8"}
    return runs.save_run("finetune", asked, task=task, model=model, history=history, predictions=test,
                         reports={"test": evaluate(test, resamples=100)}, run_name="mine")  # fmt: skip


def test_a_run_is_opened_with_its_model_and_data(saved: Path) -> None:
    model, task, record = runs.reopen("mine")
    assert record["parameters"]["dataset"] == "digits"
    again = predict(model, task.test, task, "cpu", "fp32")
    before = runs.read_run("mine").test
    assert again.ids == before.ids
    assert again.scores == pytest.approx(before.scores, abs=1e-5)
    opened, ways = shift.of_run("mine", device="cpu", precision="fp32", log=lambda line: None)
    assert opened.fingerprint == task.fingerprint
    assert list(ways.models) == ["probe", "run", "wise-ft"]


def test_a_run_whose_batchnorm_learned_gets_statistics_of_its_own(saved: Path) -> None:
    model, task, record = runs.reopen(saved)
    model = model.fed(flips=["flip"])
    stage = Stage("all", epochs=1, batchnorm="train", augment=())
    history = finetune(model, task, [stage], log=lambda line: None, device="cpu", precision="fp32", keep="last")
    test = predict(model, task.test, task, "cpu", "fp32")
    runs.save_run("finetune", record["parameters"], task=task, model=model, history=history, predictions=test,
                  reports={}, run_name="learned")  # fmt: skip
    _, ways = shift.of_run("learned", device="cpu", precision="fp32", log=lambda line: None)
    assert ways.relearned
    assert ways.probe is not None
    assert {len(way.preprocessing.flips) for way in ways.models.values()} == {1}, "all see mirror images"
    plain = averaged((ways.probe, ways.models["run"])).state_dict()
    mixed = ways.models["wise-ft"].state_dict()
    assert all(torch.equal(mixed[k], plain[k]) == ("running" not in k) for k in plain if "num_batches" not in k)
    measured = shift.weight_path(ways.probe, model, task, {"test": task.test}, (0.5,), relearned=True, device="cpu",
                                 precision="fp32")  # fmt: skip
    said_there = predict(ways.models["wise-ft"], task.test, task, "cpu", "fp32")
    assert measured.loc[0.5, "test"] == pytest.approx(float((said_there.predicted == said_there.targets).mean()))


def test_what_is_not_the_run_that_was_saved_is_refused(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = json.loads((saved / "run.json").read_text())
    changed = {**record, "parameters": {**record["parameters"], "n_train": 70}}
    (saved / "run.json").write_text(json.dumps(changed))
    rehash(saved)
    with pytest.raises(InputError, match="not those the run in .* was made with"):
        runs.reopen(saved)
    gone = {**record, "parameters": {**record["parameters"], "checkpoint": "gone.safetensors"}}
    (saved / "run.json").write_text(json.dumps(gone))
    rehash(saved)
    lines: list[str] = []
    _, ways = shift.of_run(str(saved), device="cpu", log=lines.append)
    assert list(ways.models) == ["run"]
    assert "stands alone" in lines[0]
    (saved / "run.json").write_text(json.dumps(record))
    rehash(saved)
    weights = bytearray((saved / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (saved / "model.safetensors").write_bytes(weights)
    with pytest.raises(InputError, match=r"the SHA-256 of model.safetensors is not the one in SHA256SUMS"):
        runs.reopen(saved)
    (saved / "model.safetensors").unlink()
    rehash(saved)
    with pytest.raises(InputError, match="holds no fine-tuned model"):
        runs.reopen(saved)
    with pytest.raises(InputError, match="there is no run"):
        runs.reopen("another")


def test_another_notebooks_run_is_not_overwritten(saved: Path) -> None:
    with pytest.raises(InputError, match=r"a run of finetune.ipynb, which would be lost"):
        runs.start_run("generalize", {}, run_name="mine")
    assert (saved / "model.safetensors").is_file()
    said = runs.read_run("mine").test
    for _ in range(2):
        begun = runs.start_run("generalize", {}, run_name="tables")
        assert runs.status("tables") in ("running", "complete")
        path = runs.save_results(begun, {}, predictions=said)
        assert (path.name, runs.status("tables")) == ("tables", "complete")


@pytest.mark.usefixtures("with_nbval")
def test_the_notebook_takes_a_run_a_partial_set_and_metadata(saved: Path, tmp_path: Path) -> None:
    """On a run of digits: a second set of five of its classes, strangers from a folder, groups from a file."""
    task = runs.reopen(saved)[1]
    write(task.test.take(np.flatnonzero(task.test.targets.numpy() < 5)), tmp_path / "five", task.class_names)
    write(make_task(seed=9).test, tmp_path / "strange", ("a", "b", "c"))
    rows = "".join(f"{name},{'left' if i % 2 else 'right'}\n" for i, name in enumerate(task.test.ids))
    (tmp_path / "meta.csv").write_text(f"id,hand\n{rows}")
    asked = {
        "run": "mine", "second": '["rotated", "five"]', "unknown": '["strange"]', "metadata": "meta.csv",
        "slice_by": "hand", "corruptions": '["fog", "contrast"]', "severities": "[3]", "n_corrupted": "20", "maps": "2",
        "run_name": "shifted",
    }  # fmt: skip
    command = [sys.executable, "-m", "papermill", "--no-progress-bar", str(NOTEBOOK), "out.ipynb"]
    command += [part for name, value in asked.items() for part in ("-p", name, value)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    cells = json.loads((tmp_path / "out.ipynb").read_text())["cells"]
    shown = "".join(str(output) for cell in cells for output in cell.get("outputs", []))
    assert "five lacks classes; without those, run has" in shown
    assert "worst group by hand" in shown
    folder = tmp_path / "outputs" / "shifted"
    assert json.loads((folder / "run.json").read_text())["notebook"] == "generalize"
    assert {p.stem for p in folder.glob("*.csv")} >= {"corruption", "line", "conformal", "unknown", "summary"}
    assert "probe" in (folder / "summary.csv").read_text()
