"""Faults in their short form: see tests/faults.py, which also has a long one; and whole notebooks, killed."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import ptlib as pt
from ptlib import resume, runs
from ptlib.core import Checkpoint, Task
from ptlib.preprocessing import Preprocessing
from ptlib.step import Step
from ptlib.train import finetune
from tests.conftest import LONG, Tiny, silent
from tests.faults import CASES, STAGES

ROOT = Path(__file__).parent.parent


@pytest.mark.usefixtures("with_nbval")
def test_nothing_is_lost() -> None:
    command = [sys.executable, "-m", "tests.faults"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    rows = [line.strip("| ").rsplit(" | ", 2) for line in run.stdout.splitlines()[2:]]
    assert [row[0] for row in rows] == [fault for fault, _ in CASES.values()], run.stdout + run.stderr
    assert all(int(n.replace(",", "")) >= 5 for _, n, _ in rows), run.stdout
    assert [lost for *_, lost in rows] == ["0"] * len(rows), run.stdout
    assert run.returncode == 0, run.stderr


class Wide(Tiny):
    """With a linear layer in its backbone, for low-rank updates."""

    def __init__(self) -> None:
        super().__init__()
        del self.fc
        self.mix, self.fc = nn.Linear(16, 16), nn.Linear(16, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.blocks(torch.relu(self.bn(self.stem(x)))).mean((2, 3))
        return self.fc(self.drop(torch.relu(self.mix(x))))  # type: ignore[no-any-return]


def small(tiny: Checkpoint, task: Task, resume: Path | None, **how: Any) -> tuple[str, list[str]]:
    lines: list[str] = []
    model = pt.build_model(tiny, task)
    finetune(model, task, STAGES, resume=resume, log=lines.append, **how)
    return digest(model), lines


def digest(model: pt.Model) -> str:
    return resume.digest(model.state_dict())


def test_saving_changes_nothing_and_what_is_done_is_not_done_again(
    tiny: Checkpoint, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resume, "EVERY", 0.0)
    bits, plain = small(tiny, task, None)
    kept, lines = small(tiny, task, tmp_path / "run")
    assert bits == kept
    assert [line.split(":")[0] for line in lines] == [line.split(":")[0] for line in plain]
    again, told = small(tiny, task, tmp_path / "run")
    assert again == bits
    assert len(told) == 1
    assert told[0].startswith("going on from step")
    assert len(list((tmp_path / "run").iterdir())) == 2


def test_two_processes_do_not_train_in_one_folder(tiny: Checkpoint, task: Task, tmp_path: Path) -> None:
    code = "import sys, time; from pathlib import Path; from ptlib import folders; "
    code += "folders.lock(Path(sys.argv[1]), 'it'); print('held', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "run")], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(pt.InputError, match="is being written by another process"):
            small(tiny, task, tmp_path / "run")
        other.kill()
    assert small(tiny, task, tmp_path / "run")[0] == small(tiny, task, None)[0]


@pytest.mark.parametrize("recipe", ["lora", "probe"])
def test_other_stages_go_on_too(recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: Task) -> None:
    """Adapters are set up before their weights are taken up; a probe is fitted in one go."""
    monkeypatch.setattr(resume, "EVERY", 0.0)
    size = Preprocessing(16, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), "bilinear")
    start = Checkpoint("random/wide", "wide", "test", size, parameters=0, flops=0, factory=Wide)
    stages = [pt.Stage("head", optimizer="lbfgs", trainable=("head",))]
    if recipe == "lora":
        stages.append(pt.Stage("low rank", lora=2, epochs=2, batch_size=20, augment=()))

    def run(folder: Path | None, stop_after: int | None = None) -> str:
        model, calls = pt.build_model(start, task), [0]
        real = Step.__call__

        def spy(self: Step, *given: Any) -> Any:
            calls[0] += 1
            if calls[0] == stop_after:
                raise RuntimeError("stop")
            return real(self, *given)

        with monkeypatch.context() as m:
            m.setattr(Step, "__call__", spy)
            finetune(model, task, stages, resume=folder, log=silent)
        return digest(model)

    bits = run(None)
    if recipe == "lora":
        for k in (2, 3):
            with pytest.raises(RuntimeError, match="stop"):
                run(tmp_path, k)
    assert run(tmp_path) == bits
    assert run(tmp_path) == bits


def test_a_loss_that_is_not_finite_stops_at_once_and_the_last_good_checkpoint_stays(
    tiny: Checkpoint, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resume, "EVERY", 0.0)
    real, calls = Step._gradients, [0]

    def spoiled(self: Step, *of: Any) -> torch.Tensor:
        calls[0] += 1
        loss = real(self, *of)
        if calls[0] == 12:
            first = next(p for p in self.parameters if p.grad is not None)
            assert first.grad is not None
            first.grad.fill_(float(bad))
        return loss

    for bad in ("nan", "inf"):
        calls[0], folder = 0, tmp_path / bad
        with monkeypatch.context() as m:
            m.setattr(Step, "_gradients", spoiled)
            with pytest.raises(FloatingPointError, match=r"not finite"):
                small(tiny, task, folder)
        assert calls[0] in (12, 13), "a gradient that is not finite shows in the next step at the latest"
        assert small(tiny, task, folder)[0] == small(tiny, task, None)[0], "what was saved before it is good"


@pytest.mark.parametrize("limit", [16, 5, 1])
def test_out_of_memory_says_what_was_tried_and_retries_in_parts_if_asked(
    limit: int, tiny: Checkpoint, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Step._gradients

    def short(self: Step, x: torch.Tensor, *of: Any) -> torch.Tensor:
        if len(x) > limit * self.parts:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes")
        return real(self, x, *of)

    monkeypatch.setattr(Step, "_gradients", short)
    stage, lines = pt.Stage("all", epochs=2, batch_size=20, lr=1e-3, augment=()), list[str]()
    with pytest.raises(pt.InputError, match=r"out of memory in stage 'all', with 20 at once, .*accumulate=2"):
        finetune(pt.build_model(tiny, task), task, [stage], log=silent)
    model = pt.build_model(tiny, task)
    finetune(model, task, [stage], accumulate="auto", log=lines.append)
    parts = 1
    while limit * parts < 20:
        parts = min(2 * parts, 20)
    assert sum("out of memory" in line for line in lines) == {2: 1, 4: 2, 20: 5}[parts]
    monkeypatch.undo()
    alike = pt.build_model(tiny, task)
    finetune(alike, task, [stage], accumulate=parts, log=silent)
    for a, b in zip(model.state_dict().values(), alike.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
    monkeypatch.setattr(Step, "_gradients", lambda *of: (_ for _ in ()).throw(torch.OutOfMemoryError("no")))
    with pytest.raises(pt.InputError, match="with 1 at once, .* give a smaller image_size"):
        finetune(pt.build_model(tiny, task), task, [stage], accumulate="auto", log=silent)


@pytest.mark.usefixtures("with_nbval")
def test_a_notebook_goes_on_after_its_kernel_or_papermill_was_killed(tmp_path: Path) -> None:
    asked = {"epochs": 5, "n_train": 90, "n_test": 90, "image_size": 64, "control": False}
    command = [sys.executable, "-m", "papermill", "notebooks/finetune.ipynb", "--log-output", "--no-progress-bar"]
    command += [text for name, value in asked.items() for text in ("-p", name, str(value))]

    def started(name: str, note: Path) -> tuple[subprocess.Popen[str], Path]:
        log, around = tmp_path / f"{name}.log", {**os.environ, "PTLIB_OUTPUTS": str(tmp_path)}
        with open(log, "w") as f:
            where = {"cwd": ROOT, "env": around, "stdout": f, "stderr": subprocess.STDOUT}
            where["preexec_fn"] = partial(
                signal.signal, signal.SIGINT, signal.SIG_DFL
            )  # ignored by what runs behind a shell
            return subprocess.Popen([*command, str(note), "-p", "run_name", name], text=True, **where), log  # type: ignore[call-overload]

    def children(pid: int) -> list[int]:
        said = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True).stdout
        return [int(line) for line in said.split()]

    def weights(name: str) -> str:
        return hashlib.sha256((tmp_path / name / "predictions.safetensors").read_bytes()).hexdigest()

    os.environ["PTLIB_OUTPUTS"] = str(tmp_path)
    assert started("whole", tmp_path / "whole.ipynb")[0].wait(300) == 0
    kills = [("papermill", signal.SIGKILL), ("papermill", signal.SIGINT), ("kernel", signal.SIGTERM)]
    for whom, number in kills if LONG else kills[1:2]:
        name, note = f"{whom}-{number.name}", tmp_path / f"{whom}-{number.name}.ipynb"
        process, log = started(name, note)
        end = time.monotonic() + 120
        while "all 1/5" not in log.read_text() and time.monotonic() < end:
            time.sleep(0.05)
        family = children(process.pid)
        assert family, log.read_text()
        os.kill(process.pid if whom == "papermill" else family[0], number)
        assert process.wait(60) != 0, name
        end = time.monotonic() + 15
        while any(Path(f"/proc/{child}").exists() for child in family) and time.monotonic() < end:
            time.sleep(0.1)
        assert not any(Path(f"/proc/{child}").exists() for child in family), f"{name}: a kernel outlives papermill"
        assert runs.status(tmp_path / name) == "interrupted", name
        with pytest.raises(pt.InputError, match="is 'interrupted', not complete; run the same command again"):
            pt.read_run(tmp_path / name)
        with pytest.raises(pt.InputError, match="is not complete: its last cell holds no completion record"):
            next(pt.verify(note))
        process, log = started(name, note)
        assert process.wait(300) == 0, log.read_text()
        assert ("going on from step" in log.read_text()) == (number != signal.SIGKILL), name
        assert weights(name) == weights("whole"), name
        assert json.loads((tmp_path / name / "run.json").read_text())["status"] == "complete"
