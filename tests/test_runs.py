"""Run directories: whole or not there, and usable afterwards."""

from __future__ import annotations

import hashlib
import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ptlib import runs
from ptlib.core import Checkpoint, Task
from ptlib.errors import InputError
from ptlib.models import Model, build_model, load_checkpoint
from ptlib.prediction import predict
from ptlib.report import evaluate
from ptlib.results import Predictions, Report
from ptlib.runs import writing
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
    sums = [line.split("  ") for line in (path / "SHA256SUMS").read_text().splitlines()]
    for digest, name in sums:
        assert hashlib.sha256((path / name).read_bytes()).hexdigest() == digest
    assert {p.name for p in path.iterdir()} == {*(name for _, name in sums), "SHA256SUMS"}
    assert subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=path).returncode == 0
    made = record["made_by"]
    assert (made["data"], made["device"]) == (task.fingerprint, "cpu")
    assert made["threads"] == torch.get_num_threads()
    assert set(made["code"]) in ({"sha256"}, {"sha256", "commit", "dirty"})
    again = Predictions.load(path / "predictions.safetensors")
    report = Report.load(path / "report.json")
    assert report.provenance.items() >= made.items()
    assert replace(report, provenance=evaluate(again).provenance).to_dict() == evaluate(again).to_dict()


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

    for step in ("save_model", "write_whole"):
        with monkeypatch.context() as m:
            m.setattr(writing, step, full)
            with pytest.raises(OSError, match="No space"):
                runs.save_run("finetune", {"n": 2}, **parts, run_name="mine")
        assert {p.name: p.read_bytes() for p in path.iterdir()} == before
        assert {p.name for p in root.iterdir()} <= {"mine", "mine.unfinished", ".locks"}
    assert runs.save_run("finetune", {"n": 2}, **parts, run_name="mine") == path
    assert {p.name for p in root.iterdir()} == {"mine", ".locks"}


def test_a_run_is_read_back_with_both_its_splits(root: Path, tiny: Checkpoint, task: Task) -> None:
    parts = finished(tiny, task)
    val = predict(parts["model"], task.val, task)
    parts["predictions"] = [parts["predictions"], val]
    path = runs.save_run("finetune", {"seed": 3}, **parts, run_name="mine", cost={"flops": 5})
    for name in (path, "mine", "outputs/mine"):  # a path, a name under outputs/, and the path that a notebook prints
        run = runs.read_run(name)
        assert run.name == "mine"
        assert run.record["cost"] == {"flops": 5}
        chosen, reported = run.val_and_test()
        np.testing.assert_array_equal(chosen.scores, val.scores)
        np.testing.assert_array_equal(reported.scores, parts["predictions"][0].scores)
    (path / "predictions-val.safetensors").write_bytes(b"another")
    with pytest.raises(InputError, match="not as it was saved: the SHA-256 of predictions-val.safetensors is not"):
        runs.read_run("mine")
    (path / "SHA256SUMS").unlink()
    with pytest.raises(InputError, match="not as it was saved: SHA256SUMS can't be read"):
        runs.read_run("mine")
    (path / "run.json").unlink()
    with pytest.raises(InputError, match="is no run"):
        runs.read_run("mine")
    with pytest.raises(InputError, match="there is no run 'yours'"):
        runs.read_run("yours")


def test_one_split_is_halved_and_groups_stay_together(tmp_path: Path) -> None:
    patients = [f"p{i % 7}" for i in range(40)]
    p = Predictions.of(np.arange(40) % 2, np.eye(2)[np.arange(40) % 2], columns={"patient": patients})
    run = runs.read_run(p.save(tmp_path / "a.safetensors"))
    for groups in (None, "patient"):
        chosen, reported = run.val_and_test(5, groups)
        assert sorted(chosen.ids + reported.ids) == sorted(p.ids)
        assert run.val_and_test(5, groups)[0].ids == chosen.ids
        assert run.val_and_test(6, groups)[0].ids != chosen.ids
    assert not set(chosen.columns["patient"]) & set(reported.columns["patient"])
    with pytest.raises(InputError, match="can't be halved"):
        runs.Run("one", {}, {"test": p.take([0])}).val_and_test()


def test_runs_that_differ_in_their_seed_alone_are_one_recipe(tmp_path: Path) -> None:
    p = Predictions.of([0, 1], np.eye(2))

    def made(name: str, **asked: Any) -> runs.Run:
        return runs.Run(name, {"notebook": "finetune", "parameters": asked}, {"test": p})

    a, b, c = made("a", lr=1, seed=0), made("b", lr=1, seed=1, run_name="x"), made("c", lr=2, seed=0)
    same = made("a", lr=3, seed=0)
    assert {k: [r.name for r in g] for k, g in runs.by_recipe([a, b, c, same]).items()} == {
        "a": ["a", "b"], "c": ["c"], "a (2)": ["a"],
    }  # fmt: skip
    files = []
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        files.append(runs.read_run(p.save(tmp_path / folder / "predictions.safetensors")))
    assert len(runs.by_recipe(files)) == 2
