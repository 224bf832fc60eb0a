"""A run is verified: files, metrics, predictions; and what was edited is named, hashes made again or not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ptlib as pt
from ptlib import cli, runs
from ptlib.results import Boxes, Predictions
from ptlib.verification import disagreement, verify
from tests.conftest import rehash, silent

ASKED = {"dataset": "digits", "n_train": 60, "n_test": 40, "seed": 0, "checkpoint": "random/cifar_resnet8"}


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    task = pt.load_task("digits", None, 60, 0, n_test=40)
    model = pt.build_model(pt.load_checkpoint("random/cifar_resnet8"), task, 16)
    history = pt.finetune(model, task, [pt.Stage("all", epochs=1)], log=silent, device="cpu", precision="fp32")
    said = pt.predict(model, task.test, task, "cpu", "fp32")
    other = replace(said, scores=said.scores[:, ::-1].copy())
    reports = {name: pt.evaluate(p, resamples=100) for name, p in (("test", said), ("another", other))}
    return {"task": task, "model": model, "history": history, "predictions": {"test": said, "another": other},
            "reports": reports}  # fmt: skip


@pytest.fixture
def run(made: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PTLIB_OUTPUTS", str(tmp_path))
    return pt.save_run("finetune", ASKED, **made, run_name="run")


def notebook(path: Path, *cells: str) -> Path:
    outputs = [[{"output_type": "stream", "name": "stdout", "text": [text]}] for text in cells]
    code = [{"cell_type": "code", "source": ["..."], "outputs": each} for each in outputs]
    path.write_text(json.dumps({"cells": [*code, {"cell_type": "markdown", "source": ["The end."]}]}))
    return path


def edit(file: Path, change: Any) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content, indent=1))
    rehash(file.parent)


def test_what_is_as_it_was_saved_is_verified(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = list(verify("run", device="cpu"))
    assert [line.split(" ", 1)[1] for line in said[:1]] == ["7 files of run are as they were saved (SHA-256)"]
    assert "every number of report.json follows from predictions.safetensors" in said
    assert "every number of report-another.json follows from predictions-another.safetensors" in said
    assert said[-1] == "predictions of 40 of 40 examples follow from the weights: difference 0 <= 0.001"
    assert list(verify(run, sample=7, device="cpu"))[-1].startswith("predictions of 7 of 40 examples follow")
    note = notebook(tmp_path / "out.ipynb", "anything\n", f"a result\n{pt.completed(run)}\n")
    assert cli.main(["verify", str(note), "--all", "--device", "cpu"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{note} is verified"
    assert runs.read_run("run").test.split == "test", "another model's predictions do not stand in the way"


def test_what_was_edited_is_named_though_its_hash_was_made_again(
    run: Path, made: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    def refuses(says: str) -> None:
        with pytest.raises(pt.InputError, match=says):
            list(verify(run, device="cpu"))

    kept = {p.name: p.read_bytes() for p in run.iterdir()}

    def restore() -> None:
        for name, content in kept.items():
            (run / name).write_bytes(content)

    (run / "report.json").write_bytes(kept["report.json"] + b" ")
    refuses("the SHA-256 of report.json is not the one in SHA256SUMS")
    edit(run / "report.json", lambda r: r["metrics"]["accuracy"].update(value=0.99))
    refuses(r"report.json does not follow from predictions.safetensors: metrics.accuracy.value was 0.99, is 0")
    assert cli.main(["verify", "run"]) == 1
    assert capsys.readouterr().err.startswith("differs: report.json does not follow")
    restore()
    edit(run / "report.json", lambda r: r["provenance"].update(seed=1))
    refuses("was made by another seed than run.json says: 1, not 0")
    restore()
    edit(run / "report.json", lambda r: r.update(provenance=[]))
    refuses("can't be read as a report")
    restore()
    better = replace(made["predictions"]["test"], scores=np.eye(10)[made["predictions"]["test"].targets] * 9.0)
    better.save(run / "predictions.safetensors")
    provenance = json.loads(kept["report.json"])["provenance"]
    report = pt.evaluate(better, resamples=100)
    replace(report, provenance={**provenance, "how": report.provenance["how"]}).save(run / "report.json")
    rehash(run)
    refuses("predictions.safetensors does not follow from model.safetensors: the difference is 0.9.*, at most 0.001")
    restore()
    (run / "predictions-another.safetensors").unlink()
    edit(run / "run.json", lambda r: r["predictions"].pop("predictions-another.safetensors"))
    refuses("holds no predictions of 'another'")
    restore()
    assert list(verify(run, device="cpu"))


def test_a_notebook_is_complete_if_its_last_cell_says_so(run: Path, tmp_path: Path) -> None:
    record = pt.completed(run)
    for cells in (["nothing"], [record, "nothing"], [record.replace("complete", "done")], [f"x {record}"]):
        with pytest.raises(pt.InputError, match="is not complete: its last cell holds no completion record"):
            next(verify(notebook(tmp_path / "out.ipynb", *cells)))
    with pytest.raises(pt.InputError, match="was made again since"):
        next(verify(notebook(tmp_path / "out.ipynb", record[:-3] + "00]")))
    with pytest.raises(pt.InputError, match="there is no run 'elsewhere'"):
        next(verify(notebook(tmp_path / "out.ipynb", record.replace(str(run), "elsewhere"))))
    (tmp_path / "out.ipynb").write_text("{}")
    with pytest.raises(pt.InputError, match="can't be read as a notebook"):
        next(verify(tmp_path / "out.ipynb"))


def test_what_can_not_be_made_again_is_said(
    made: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PTLIB_OUTPUTS", str(tmp_path))
    said = made["predictions"]["test"]
    reports = {"test": pt.evaluate(said, resamples=100, groups=list(range(20)) * 2)}
    pt.save_run("mine", {"seed": 0}, **{**made, "reports": reports, "predictions": said}, run_name="mine")
    lines = list(verify("mine", device="cpu"))
    assert "report.json is not made again: its groups were given as values, which are not saved" in lines
    assert lines[-1] == "predictions are not made again: no parameter `dataset` says of which data"
    with pytest.raises(pt.InputError, match="two of 'a b', 'a-b' would be one file"):
        pt.save_results(pt.start_run("mine", {}), {}, predictions={"a b": said, "a-b": said})


def test_a_failed_shell_line_is_no_success(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.instance()
    try:
        shell.user_ns["_exit_code"] = 3
        with pytest.raises(pt.InputError, match="a shell line of this notebook ended with exit code 3"):
            pt.save_results(pt.start_run("mine", {}), {})
    finally:
        InteractiveShell.clear_instance()


def test_boxes_agree_within_a_pixel() -> None:
    found = np.array([[[0, 1, 1, 9, 9, 0.9], [1, 20, 20, 30, 30, 0.5], [-1, 0, 0, 0, 0, 0]]], dtype=np.float32)
    one = Boxes(("a",), np.zeros((1, 0, 7), np.float32), found, "test", ("x", "y"))
    near, far = (found + np.array(by, dtype=np.float32) for by in ([0, 0.4, 0, 0, 0, 0], [0, 0, 0, 2, 0, 0]))
    assert disagreement(one, replace(one, scores=near[:, ::-1].copy())) == 0
    assert disagreement(one, replace(one, scores=far)) == 1
    assert disagreement(one, replace(one, scores=found[:, :1])) == pytest.approx(1 / 3)
    said = Predictions.of(np.arange(2), np.log(np.array([[0.9, 0.1], [0.2, 0.8]])))
    assert disagreement(said, replace(said, scores=np.log(np.array([[0.9, 0.1], [0.5, 0.5]])))) == pytest.approx(0.3)
