"""The nouns: what they refuse, and that what is written comes back the same."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ptlib.core import Split, Task
from ptlib.files import write_whole
from ptlib.report import evaluate
from ptlib.results import Predictions, Report
from ptlib.stages import Stage
from tests.conftest import make_task

HOSTILE = (
    "../x",
    "<img src=x onerror=alert(1)>",
    "$\\frac",
    "=cmd()",
    "NA",
    "no",
    "01",
    "שלום",
    "é",
    "e\u0301",
    "x" * 255,
)


def predictions(names: tuple[str, ...] = HOSTILE) -> Predictions:
    rng = np.random.default_rng(0)
    n, c = 50, len(names)
    ids = tuple(f"{names[i % c]}/{i}" for i in range(n))
    return Predictions(ids, rng.integers(0, c, n), rng.normal(size=(n, c)).astype(np.float32), "test", names)


def test_predictions_come_back_exactly(tmp_path: Path) -> None:
    before = predictions()
    after = Predictions.load(before.save(tmp_path / "p.safetensors"))
    assert (after.ids, after.class_names, after.split) == (before.ids, before.class_names, before.split)
    assert (after.scores == before.scores).all()
    assert (after.targets == before.targets).all()


def test_reports_come_back_exactly_and_show_no_active_tag(tmp_path: Path) -> None:
    before = evaluate(predictions())
    after = Report.load(before.save(tmp_path / "r.json"))
    assert after.class_names == HOSTILE
    assert after.to_dict() == before.to_dict()
    assert "<img" not in before._repr_html_()
    assert "NaN" not in (tmp_path / "r.json").read_text()


def test_predictions_refuse_nan_and_wrong_shapes() -> None:
    p = predictions()
    scores = p.scores.copy()
    scores[7, 0] = np.nan
    with pytest.raises(ValueError, match="1 of 50 rows hold NaN or infinity, first for example"):
        replace(p, scores=scores)
    with pytest.raises(ValueError, match="ask for scores"):
        replace(p, scores=p.scores[:, :2])
    with pytest.raises(ValueError, match="targets"):
        replace(p, targets=p.targets[:3])


def test_probabilities_of_extreme_logits_are_finite() -> None:
    p = Predictions(("a",), np.array([0]), np.array([[3e38, -3e38]], dtype=np.float32), "test", ("x", "y"))
    assert p.probabilities.tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"lr": -1}, "lr is -1"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"optimizer": "adam"}, "one of adamw, sgd, lbfgs"),
        ({"schedule": "step"}, "cosine, linear, constant"),
        ({"augment": ("flop",)}, "unknown augmentation 'flop'"),
        ({"augment": "flip"}, "must be a list"),
        ({"trainable": "head"}, "must be a list"),
        ({"trainable": ()}, "trains nothing"),
        ({"clip_norm": 0}, "clip_norm is 0"),
        ({"ema": 1.0}, "ema is 1.0"),
        ({"layer_decay": 0}, "layer_decay is 0"),
        ({"optimizer": "lbfgs"}, "fits the head alone"),
        ({"epochs": -1}, "epochs is -1"),
        ({"batchnorm": "off"}, "eval, train"),
        ({"optimizer": "lbfgs", "trainable": ("head",), "augment": ("flip",)}, "without augmentation"),
    ],
)
def test_stages_refuse_what_makes_no_sense(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        replace(Stage("s"), **change)


def test_tasks_refuse_overlap_bad_labels_and_one_class(task: Task) -> None:
    with pytest.raises(ValueError, match="is in both 'train' and 'val'"):
        replace(task, val=replace(task.val, ids=list(task.train.ids[: len(task.val)])))
    with pytest.raises(ValueError, match="targets run from 1 to 3"):
        replace(task, val=replace(task.val, targets=task.val.targets + 1))
    with pytest.raises(ValueError, match="at least two"):
        replace(task, class_names=("a",))
    with pytest.raises(ValueError, match="names a class twice"):
        replace(task, class_names=("a", "a", "b"))


def test_splits_refuse_wrong_shapes(task: Task) -> None:
    for change in ({"inputs": task.val.inputs.float()}, {"targets": task.val.targets.int()}, {"ids": ["a"]}):
        with pytest.raises(ValueError, match="split 'val'"):
            replace(task.val, **change)
    with pytest.raises(ValueError, match="empty"):
        Split("val", torch.zeros(0, 4, 4, 3, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64), [])


def test_fingerprint_sees_a_pixel_a_label_a_name_and_an_order() -> None:
    task = make_task()
    pixel = task.train.inputs.clone()
    pixel[3, 0, 0, 0] += 1
    label = task.test.targets.clone()
    label[0] = 1
    others = [
        replace(task, train=replace(task.train, inputs=pixel)),
        replace(task, test=replace(task.test, targets=label)),
        replace(task, class_names=("a", "b", "d")),
        replace(task, val=task.val.take(np.arange(len(task.val))[::-1])),
    ]
    assert make_task().fingerprint == task.fingerprint
    assert len({t.fingerprint for t in [task, *others]}) == 5


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.json"
    write_whole(path, b"old")

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_loading_what_is_no_predictions_says_so(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"a": np.zeros(3)}, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match="holds no predictions: its header lacks class_names, ids, split"):
        Predictions.load(tmp_path / "w.safetensors")


def test_report_json_is_plain(tmp_path: Path) -> None:
    path = evaluate(predictions(("a", "b"))).save(tmp_path / "r.json")
    assert json.loads(path.read_text())["metrics"]["accuracy"]["method"] == "Wilson"
