"""What sets runs apart besides what they were asked: named once, in plain sentences, and nothing where nothing does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ptlib as pt
from ptlib.comparable import differences
from ptlib.runtime import environment, switches
from tests.conftest import make_task, silent

SAID = pt.Predictions.of([0, 1, 1], np.eye(2)[[0, 1, 0]])
MADE = {"python": "3.11.7", "platform": "Linux-6.1-x86_64-with-glibc2.36", "threads": 2, "cpu_capability": "AVX512",
        "tf32": False, "cudnn_tf32": True, "cudnn": 91002, "cudnn_benchmark": False, "cublas_workspace": ":4096:8",
        "cpu_matmul": "fp32", "packages": {"torch": "2.10.0", "numpy": "2.3.0"}}  # fmt: skip
RECORD = {"task": {"fingerprint": "f"}, "device": "cpu", "precision": "fp32", "environment": MADE,
          "selected_on": "epoch 3 of stage 'all', the best of 5 on val"}  # fmt: skip


def run(name: str, said: Any = SAID, **changes: Any) -> pt.Run:
    made = {**MADE, **{k: v for k, v in changes.items() if k in {**MADE, "device_name": ""}}}
    return pt.Run(name, {**RECORD, **changes, "environment": made}, {said.split: said})


def test_runs_made_alike_differ_in_nothing() -> None:
    assert differences([]) == []
    assert differences([run("a")]) == []
    assert differences([run("a"), run("b"), run("c", SAID.take([2, 0, 1]))]) == []


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"threads": 1}, "threads: 2 in a and b, 1 in c"),
        ({"cpu_capability": "AVX2"}, "CPU capability: AVX512 in a and b, AVX2 in c"),
        ({"cpu_matmul": "bf16"}, "products on a CPU: fp32 in a and b, bf16 in c"),
        ({"precision": "bf16"}, "precision: fp32 in a and b, bf16 in c"),
        ({"device": "cuda:0"}, "device: cpu in a and b, cuda in c"),
        ({"task": {"fingerprint": "g"}}, "data: one set in a and b, another in c"),
        ({"python": "3.12.1"}, "Python: 3.11.7 in a and b, 3.12.1 in c"),
        ({"platform": "macOS-15.1-arm64"}, "system: Linux in a and b, macOS in c"),
        ({"packages": {"torch": "2.11.0", "numpy": "2.3.0"}}, "torch: 2.10.0 in a and b, 2.11.0 in c"),
    ],
)
def test_small_differences_may_come_from_each_of_these(changes: dict[str, Any], says: str) -> None:
    assert differences([run("a"), run("b"), run("c", **changes)]) == [f"Small differences may come from {says}."]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"tf32": True}, "TF32: off in a, on in b"),
        ({"cudnn_tf32": False}, "TF32 in cuDNN: on in a, off in b"),
        ({"cublas_workspace": ":16:8"}, "cuBLAS workspace: :4096:8 in a, :16:8 in b"),
        ({"device_name": "NVIDIA H100"}, "device name: NVIDIA A100 in a, NVIDIA H100 in b"),
    ],
)
def test_what_is_of_gpus_counts_where_the_run_was_on_one(changes: dict[str, Any], says: str) -> None:
    gpu = {"device": "cuda:0", "device_name": "NVIDIA A100"}
    there = [run("a", **gpu), run("b", **{**gpu, "device": "cuda:1", "threads": 9, **changes})]
    assert differences(there) == [f"Small differences may come from {says}."]
    if "device_name" not in changes:
        assert differences([run("a"), run("b", **changes)]) == []


def test_what_makes_numbers_incomparable_comes_first() -> None:
    other = pt.Predictions.of([1, 1, 1], np.eye(2)[[0, 1, 0]])
    val = replace(SAID, split="val")
    assert differences([run("a", threads=1), run("b", other), run("c", val, precision="bf16")]) == [
        "Not comparable, split: test in a and b, val in c.",
        "Not comparable, test examples: one set in a and c, another in b.",
        "Not comparable, selection: on the split that is reported, in c.",
        "Small differences may come from precision: fp32 in a and b, bf16 in c.",
        "Small differences may come from threads: 1 in a, 2 in b and c.",
    ]
    asked = "a linear probe, the best of 3 on test"
    (only,) = differences([run("a", selected_on=asked), run("b")])
    assert only == "Not comparable, selection: on the split that is reported, in a."


def test_a_lone_file_and_older_records_are_told_from_what_agrees() -> None:
    file = pt.Run("/home/me/secret/predictions", {}, {"test": SAID})
    again = pt.Run("/home/me/other/predictions", {}, {"test": SAID})
    assert differences([run("a"), file, again]) == [
        "Nothing is recorded of how it was made in predictions and predictions (2)."
    ]
    older = {k: v for k, v in MADE.items() if k in ("threads", "tf32", "packages")}
    assert differences([run("a"), pt.Run("b", {"device": "cpu", "environment": older}, {"test": SAID})]) == []


def test_many_runs_make_one_sentence() -> None:
    many = [run(f"run {i}", threads=1 + i // 5) for i in range(6)]
    (line,) = differences(many)
    assert line == "Small differences may come from threads: 1 in run 0, run 1, run 2 and 2 more, 2 in run 5."


def test_boxes_and_maps_are_told_apart_by_their_targets() -> None:
    boxes = np.array([[[0, 1, 1, 5, 5, 0, 16.0]]])
    one = pt.Boxes(("x",), boxes, np.zeros((1, 0, 6)), "test", ("dog",))
    assert differences([run("a", one), run("b", replace(one, scores=boxes[..., :6]))]) == []
    assert len(differences([run("a", one), run("b", replace(one, targets=boxes * 1.1))])) == 1


def test_saved_runs_record_what_is_compared(
    tiny: pt.Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PTLIB_OUTPUTS", str(tmp_path))
    task, found, before = make_task(), list[pt.Run](), torch.get_num_threads()
    for name, threads in (("one", before), ("other", before + 1)):
        torch.set_num_threads(threads)
        try:
            model = pt.build_model(tiny, task)
            history = pt.finetune(model, task, [pt.Stage("all", epochs=1, lr=1e-3)], device="cpu", log=silent)
            made: dict[str, Any] = {"task": task, "model": model, "history": history, "reports": {}}
            path = pt.save_run("finetune", {}, **made, predictions=pt.predict(model, task.test, task), run_name=name)
        finally:
            torch.set_num_threads(before)
        found.append(pt.read_run(path))
    assert differences(found) == [f"Small differences may come from threads: {before} in one, {before + 1} in other."]
    assert differences([found[0], found[0]]) == []
    assert switches().items() <= found[0].record["environment"].items()


def test_the_environment_can_be_read_whoever_set_the_switches() -> None:
    """`allow_tf32` raises RuntimeError once other code has used the newer names."""
    backends: Any = torch.backends
    assert environment()["tf32"] is False
    before = backends.cuda.matmul.fp32_precision, torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        assert switches()["tf32"] is True
        assert switches()["cpu_matmul"] == "tf32"
        backends.cuda.matmul.fp32_precision = "ieee"
        assert switches()["tf32"] is False
    finally:
        torch.set_float32_matmul_precision(before[1])
        backends.cuda.matmul.fp32_precision = before[0]
