"""Where the errors are: slices that are planted are found, chance is not, and wrong labels come first."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from ptlib.diagnosis import by_slice, likely_label_errors
from ptlib.errors import InputError
from ptlib.results import Predictions
from ptlib.stats import holm, wilson


def model(n: int = 600, seed: int = 0, cameras: int = 5, weak: int | None = None) -> Predictions:
    rng = np.random.default_rng(seed)
    y, camera, z = rng.integers(0, 4, n), rng.integers(0, cameras, n), rng.normal(size=(n, 4))
    z[np.arange(n), y] += np.where(camera == weak, 0.5, 2.5)
    return Predictions.of(y, z, class_names="abcd", columns={"camera": [f"<{k}>" for k in camera]})


def test_a_weak_slice_is_found_and_measured() -> None:
    p = model(weak=3)
    table = by_slice(p, "camera")
    assert table.index[0] == "<3>"
    assert table["p"].iloc[0] < 0.001
    inside = np.array(p.columns["camera"]) == "<3>"
    right = p.predicted == p.targets
    assert table["accuracy"].iloc[0] == right[inside].mean()
    assert (table["low"].iloc[0], table["high"].iloc[0]) == wilson(int(right[inside].sum()), int(inside.sum()))
    assert table["n"].sum() == 600
    raw = []
    for name in table.index:
        inside = np.array(p.columns["camera"]) == name
        cells = [[(right & s).sum(), (~right & s).sum()] for s in (inside, ~inside)]
        raw.append(scipy.stats.fisher_exact(cells)[1])
    assert table["p"].to_numpy() == pytest.approx(holm(np.array(raw)))


def test_chance_is_not_a_finding() -> None:
    odd = [(by_slice(model(300, s, cameras=10), "camera")["p"] <= 0.05).any() for s in range(120)]
    assert np.mean(odd) < 0.12  # 5 % are promised, 16 tables of 120 would be odd by chance in less than 1 of 1,000


def test_slices_by_class_answer_confidence_and_values() -> None:
    p = model()
    right = p.predicted == p.targets
    assert by_slice(p, "class").loc["b", "accuracy"] == right[p.targets == 1].mean()
    assert by_slice(p, "predicted").loc["b", "n"] == (p.predicted == 1).sum()
    steps = by_slice(p, "confidence")
    assert steps["n"].sum() == 600
    assert steps.loc["0.9 to 0.99", "accuracy"] > steps.loc["0 to 0.5", "accuracy"]
    assert by_slice(p, (p.targets % 2).tolist()).loc["0", "n"] == (p.targets % 2 == 0).sum()
    assert np.isnan(by_slice(p, ["all"] * 600)["p"].iloc[0])
    with pytest.raises(
        InputError, match="no column 'lens' to slice by; use one of class, predicted, confidence, camera"
    ):
        by_slice(p, "lens")
    with pytest.raises(InputError, match="2 values for 600 examples"):
        by_slice(p, [1, 2])


def test_label_errors_are_those_of_confident_learning() -> None:
    # What cleanlab 2.9.0 lists, in its order: find_label_issues(filter_by="confident_learning",
    # return_indices_ranked_by="normalized_margin").
    rng = np.random.default_rng(0)
    true = rng.choice(5, 400, p=[0.4, 0.2, 0.2, 0.1, 0.1])
    z = rng.normal(size=(400, 5)) * 1.5
    z[np.arange(400), true] += 3
    flipped = rng.random(400) < 0.08
    y = true.copy()
    y[flipped] = (true[flipped] + rng.integers(1, 5, flipped.sum())) % 5
    found = likely_label_errors(Predictions.of(y, z))
    assert found["row"].tolist() == [
        228, 37, 389, 358, 60, 168, 259, 157, 82, 77, 71, 92, 308, 266, 17, 272, 35, 279, 2, 398, 349, 20, 294, 255,
        180, 245, 274, 376, 137, 260, 7, 372, 345, 232, 359, 251, 338, 134, 356, 375, 316, 100, 280,
    ]  # fmt: skip
    assert flipped[found["row"][:10]].mean() > 0.8
    assert (found["given"].to_numpy() != found["likely"].to_numpy()).all()


def test_no_label_is_suspect_where_all_agree_or_a_class_is_absent() -> None:
    y = np.array([0, 1, 0, 1])
    assert len(likely_label_errors(Predictions.of(y, 5 * np.eye(3)[y]))) == 0
    wrong = likely_label_errors(Predictions.of(np.array([0, 0, 0, 1]), 5 * np.eye(2)[[0, 0, 1, 1]], ids="wxyz"))
    assert wrong["id"].tolist() == ["y"]
