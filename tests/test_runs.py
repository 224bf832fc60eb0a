"""Run directories: whole or not there, and usable afterwards."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptlib import runs
from ptlib.core import Checkpoint, Task
from ptlib.errors import InputError
from ptlib.models import Model, build_model, load_checkpoint
from ptlib.prediction import predict
from ptlib.report import evaluate
from ptlib.results import Predictions, Report
from ptlib.stages import Stage
from ptlib.train import finetune
from tests.conftest import Tiny, make_task


def finished(tiny: Checkpoint, task: Task) -> dict[str, Any]:
    model = build_model(tiny, task)
    history = finetune(model, task, [Stage("all", epochs=1, lr=1e-2)], log=lambda line: None)
    said = predict(model, task.test, task)
    return {"task": task, "model": model, "history": history, "predictions": said, "reports": {"test": evaluate(said)}}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PTLIB_OUTPUTS", str(tmp_path / "outputs"))
    return tmp_path / "outputs"


def test_a_run_says_what_made_it_and_gives_it_back(root: Path, tiny: Checkpoint, task: Task) -> None:
    parts = finished(tiny, task)
    path = runs.save_run("finetune", {"epochs": 1, "lr": None}, **parts)
    record = json.loads((path / "run.json").read_text())
    assert record["status"] == "complete"
    assert record["parameters"] == {"epochs": 1, "lr": None}
    assert record["task"]["fingerprint"] == task.fingerprint
    assert record["stages"][0]["lr"] == 0.01
    assert record["environment"]["threads"] >= 1
    for name, digest in record["files"].items():
        assert hashlib.sha256((path / name).read_bytes()).hexdigest() == digest
    assert {p.name for p in path.iterdir()} == {*record["files"], "run.json"}
    again = Predictions.load(path / "predictions.safetensors")
    assert evaluate(again).to_dict() == Report.load(path / "report.json").to_dict()


def test_its_weights_are_a_checkpoint(root: Path, tiny: Checkpoint, task: Task) -> None:
    parts = finished(tiny, task)
    path = runs.save_run("finetune", {}, **parts)
    c = load_checkpoint(str(path / "model.safetensors"), Tiny)
    assert c.preprocessing == parts["model"].preprocessing
    assert c.trained_on == "random weights, then colours"
    again = predict(build_model(c), task.test, task)
    np.testing.assert_array_equal(again.scores, parts["predictions"].scores)
    assert build_model(c, make_task(classes=5)).head.out_features == 5


def test_weights_of_a_known_architecture_need_no_name(root: Path, task: Task) -> None:
    model = build_model(load_checkpoint("random/timm/resnet10t"), task, image_size=32)
    path = runs.save_model(model, task, root / "m.safetensors")
    c = load_checkpoint(str(path))
    assert c.architecture == "timm/resnet10t"
    again: Model = build_model(c)
    np.testing.assert_array_equal(predict(again, task.test, task).scores, predict(model, task.test, task).scores)


def test_names_follow_parameters_and_stay_inside(root: Path, tiny: Checkpoint, task: Task) -> None:
    parts = finished(tiny, task)
    one, two = (runs.save_run("finetune", {"seed": s}, **parts) for s in (0, 1))
    assert one != two
    assert runs.save_run("finetune", {"seed": 0}, **parts) == one
    assert runs.save_run("finetune", {}, **parts, run_name="mine") == root / "mine"
    assert all(p.parent == root for p in (one, two))


def test_what_is_no_run_is_never_replaced(root: Path, tiny: Checkpoint, task: Task) -> None:
    (root / "mine").mkdir(parents=True)
    (root / "mine" / "thesis.txt").write_text("all I have")
    with pytest.raises(InputError, match="exists and is no run"):
        runs.save_run("finetune", {}, **finished(tiny, task), run_name="mine")
    assert (root / "mine" / "thesis.txt").read_text() == "all I have"


def test_a_failed_save_leaves_the_run_before_it(
    root: Path, tiny: Checkpoint, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = finished(tiny, task)
    path = runs.save_run("finetune", {"n": 1}, **parts, run_name="mine")
    before = {p.name: p.read_bytes() for p in path.iterdir()}

    def full(*a: object, **k: object) -> None:
        raise OSError(28, "No space left on device")

    for step in ("save_model", "_write_json"):
        with monkeypatch.context() as m:
            m.setattr(runs, step, full)
            with pytest.raises(OSError, match="No space"):
                runs.save_run("finetune", {"n": 2}, **parts, run_name="mine")
        assert {p.name: p.read_bytes() for p in path.iterdir()} == before
        assert [p.name for p in root.iterdir()] == ["mine"]
