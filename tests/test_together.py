"""Two processes beside one: the same gradient, the same decisions; nothing lost or doubled; killed ones."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import ptlib as pt
from ptlib import together
from ptlib.core import Checkpoint, Task
from ptlib.prediction import forward
from ptlib.preprocessing import Preprocessing
from ptlib.step import Step
from ptlib.train import finetune
from ptlib.worker import launch
from tests.conftest import Tiny, make_task, silent

ROOT = Path(__file__).parent.parent
SIZE = Preprocessing(16, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), "bilinear")
STAGES = [
    pt.Stage("head", ("head",), optimizer="lbfgs"),
    pt.Stage("all", epochs=3, lr=0.01, batch_size=14, ema=0.9, l2_sp=0.01, clip_norm=1.0),
]


class Plain(Tiny):
    """Without dropout, which draws otherwise for parts of a batch than for the whole."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = torch.nn.Dropout(0.0)


def start() -> Checkpoint:
    return Checkpoint("random/plain", "plain", "test", SIZE, parameters=0, flops=0, factory=Plain)


def trained(devices: int, task: Task, stages: list[pt.Stage] | None = None, **how: Any) -> tuple[pt.Model, pt.History]:
    model = pt.build_model(start(), task)
    return model, finetune(model, task, stages or STAGES, devices=devices, precision="fp32", **{"log": silent, **how})


def test_two_processes_train_as_one() -> None:
    """61 examples in batches of 13 and 12, so that parts differ in size; augmented, mixed, averaged, clipped."""
    task = replace(make_task(61), augment=("crop", "flip", "mixup"))
    lines: list[str] = []
    (one, alone), (two, both) = trained(1, task), trained(2, task, log=lines.append)
    for name, value in one.state_dict().items():
        torch.testing.assert_close(two.state_dict()[name], value, atol=1e-4, rtol=1e-3, msg=name)
    for a, b in zip(alone.rows, both.rows, strict=True):
        for key in ("train_loss", "val_loss", "val_accuracy"):
            assert b[key] == pytest.approx(a[key], abs=1e-3), (a, b)
    assert [line.partition(":")[0] for line in lines] == ["head", "head", "all 1/3", "all 2/3", "all 3/3"]
    said = [pt.predict(model, task.test, task) for model in (one, two)]
    assert abs(said[0].scores - said[1].scores).max() < 1e-3
    assert said[0].ids == said[1].ids


def look(folder: str, log: Callable[[str], None]) -> None:
    """In each of two processes: what is gathered of data sets of all sizes, beside what one computes alone."""
    together.join(torch.device("cpu"))
    assert together.size() == 2
    model = pt.build_model(start(), make_task(6))
    wrong = []
    for n in (1, 2, 3, 4, 5, 7, 8, 9, 31, 32, 33):
        x = torch.randint(256, (n, 16, 16, 3), generator=torch.Generator().manual_seed(n), dtype=torch.uint8)
        found = forward(model, model, x, torch.device("cpu"), "fp32", batch_size=4)
        with torch.no_grad():
            alone = model.eval()(model.preprocess(x))
        wrong += [n] if found.shape != alone.shape or (found - alone).abs().max() > 1e-5 else []
    raw = Tensor([together.rank()])
    marks = [together.gather(t, [1, 1]).tolist() for t in (raw, raw.bool(), raw.to(torch.uint8), raw.long())]
    parts = [len(range(n)[together.own(n)]) for n in range(6)]
    facts = {"wrong": wrong, "marks": marks, "parts": parts, "first": together.from_first(together.rank())}
    (Path(folder) / f"{together.rank()}.json").write_text(json.dumps(facts))
    log(f"process {together.rank()} has looked")


def test_what_is_gathered_is_whole(tmp_path: Path) -> None:
    lines: list[str] = []
    launch(2, look, {"folder": str(tmp_path)}, lines.append)
    assert lines == ["process 0 has looked"]
    zero, one = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert zero["wrong"] == one["wrong"] == []
    assert zero["marks"] == one["marks"] == [[0, 1], [False, True], [0, 1], [0, 1]]
    assert [a + b for a, b in zip(zero["parts"], one["parts"], strict=True)] == [0, 1, 2, 3, 4, 5]
    assert zero["first"] == one["first"] == 0


def doomed(marker: str, after: int, log: Callable[[str], None], **given: Any) -> None:
    """A training of which the second process is killed once, after so many steps."""
    real, calls = Step.__call__, [0]

    def step(self: Step, *of: Any) -> Any:
        calls[0] += 1
        if calls[0] == after and os.environ["RANK"] == "1" and not Path(marker).exists():
            Path(marker).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return real(self, *of)

    Step.__call__ = step  # type: ignore[assignment, method-assign]
    finetune(**given, log=log)


@pytest.mark.usefixtures("with_nbval")
@pytest.mark.parametrize(("restarts", "shard"), [(0, False), (1, False), (1, True)])
def test_a_killed_process_ends_the_training_or_begins_it_anew(restarts: int, shard: bool, tmp_path: Path) -> None:
    task, folder = make_task(61), tmp_path / "training"
    given = {
        "model": pt.build_model(start(), task),
        "task": task,
        "stages": STAGES,
        "devices": 2,
        "shard": shard,
        "resume": folder,
        "precision": "fp32",
    }
    lines: list[str] = []
    asked = {"marker": str(tmp_path / "killed"), "after": 8, **given}
    if restarts:
        launch(2, doomed, asked, lines.append, restarts=restarts)
    else:
        with pytest.raises(RuntimeError, match="a process of the training was killed"):
            launch(2, doomed, asked, lines.append)
    assert (tmp_path / "killed").exists()
    again = trained(2, task, resume=folder, shard=shard)[0].state_dict()
    for name, value in trained(2, task, shard=shard)[0].state_dict().items():
        assert torch.equal(again[name], value), name


def test_errors_are_those_of_the_process() -> None:
    task = make_task(61)
    with pytest.raises(FloatingPointError, match="the loss is not finite in stage .all., epoch "):
        trained(2, task, [pt.Stage("all", epochs=2, lr=1000.0, batch_size=12, optimizer="sgd")])

    class Local(Plain):
        pass

    model = pt.build_model(replace(start(), factory=Local), task)
    with pytest.raises(pt.InputError, match="devices is 2, and this model or data can't be sent"):
        finetune(model, task, STAGES, devices=2)


@pytest.mark.parametrize(
    ("devices", "device", "world", "says"),
    [
        (4096, "cpu", None, "devices is 4096; it must be 1 to"),
        (3, "cpu", "2", "torchrun started 2 processes, so it must be that or 1"),
        (2, "cpu:0", None, "device is 'cpu:0', which is one, for 2; give 'cpu'"),
    ],
)
def test_devices_that_cannot_be(
    devices: int, device: str, world: str | None, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if world:
        monkeypatch.setenv("WORLD_SIZE", world)
    with pytest.raises(pt.InputError, match=says):
        pt.choose_device(device, devices)


SCRIPT = """
import sys
from pathlib import Path
from ptlib import resume
from tests.conftest import make_task
from tests.test_together import STAGES, trained
from dataclasses import replace
if __name__ == "__main__":
    long = [STAGES[0], replace(STAGES[1], epochs=int(sys.argv[2]))]
    how = {"resume": Path(sys.argv[1]), "shard": sys.argv[3] == "True", "log": lambda line: print(line, flush=True)}
    model, _ = trained(2, make_task(61), long, **how)
    print(resume.digest(model.state_dict()))
"""


@pytest.mark.usefixtures("with_nbval")
@pytest.mark.parametrize(
    ("number", "shard"), [(signal.SIGTERM, False), (signal.SIGTERM, True), (signal.SIGKILL, False)]
)
def test_told_to_stop_it_saves_and_goes_on_to_the_same_bits(number: int, shard: bool, tmp_path: Path) -> None:
    """Also where whoever launched the processes is gone without a word."""
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "training"), "30", str(shard)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        for line in process.stdout:
            if line.startswith("all 10/"):
                break
        told = time.monotonic()
        process.send_signal(number)
        rest = process.communicate(timeout=60)[0]
    assert time.monotonic() - told < 20
    assert process.returncode not in (0, None)
    assert number == signal.SIGKILL or "interrupted by SIGTERM; saved" in rest

    def whole(name: str) -> subprocess.CompletedProcess[str]:
        asked = [*command[:3], str(tmp_path / name), *command[4:]]
        return subprocess.run(asked, cwd=ROOT, capture_output=True, text=True)

    while "is being written by another process" in (again := whole("training")).stderr:
        assert time.monotonic() - told < 30, "the processes outlive who launched them"
    assert again.stdout.startswith("going on from step"), again.stderr
    assert again.stdout.splitlines()[-1] == whole("anew").stdout.splitlines()[-1]


@pytest.mark.usefixtures("with_nbval")
def test_a_notebook_of_two_devices_is_as_one_of_one(tmp_path: Path) -> None:
    """finetune.ipynb by papermill; then by two torchruns as on two machines, a share of the model in each process."""
    small = "-p n_train 90 -p n_val 60 -p n_test 90 -p epochs 1 -p control False -p checkpoint random/cifar_resnet8"
    small += " -p recipe full -p batch_size 30"
    around = {**os.environ, "PTLIB_OUTPUTS": str(tmp_path)}
    papermill = ["papermill", "notebooks/finetune.ipynb"]

    def metric(name: str) -> float:
        found = json.loads((tmp_path / name / "report.json").read_text())
        return float(found["metrics"]["accuracy"]["value"])

    for devices in (1, 2):
        name = ["-p", "devices", str(devices), "-p", "run_name", f"by-{devices}"]
        subprocess.run(
            [*papermill, str(tmp_path / "out.ipynb"), *small.split(), *name], cwd=ROOT, env=around, check=True
        )
    inner = f"{' '.join(papermill)} {tmp_path}/out-$RANK.ipynb {small} -p shard True -p run_name by-torchrun"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = s.getsockname()[1]
    torchrun += ["--rdzv-backend=c10d", f"--rdzv-endpoint=localhost:{port}", f"--rdzv-id={port}", "--no-python"]
    agents = [subprocess.Popen([*torchrun, "bash", "-c", inner], cwd=ROOT, env=around) for _ in range(2)]
    notes, end = [tmp_path / f"out-{i}.ipynb" for i in range(2)], time.monotonic() + 200
    try:  # torchrun itself may hang at its end, waiting for the other one
        while not all(note.exists() and "The run is complete: " in note.read_text() for note in notes):
            assert not any(agent.poll() for agent in agents)
            assert time.monotonic() < end
            time.sleep(0.2)
        for agent in agents:
            with contextlib.suppress(subprocess.TimeoutExpired):
                assert agent.wait(20) == 0
    finally:
        for agent in agents:
            agent.terminate()
            try:
                agent.wait(30)
            except subprocess.TimeoutExpired:
                agent.kill()
    assert metric("by-2") == pytest.approx(metric("by-1"), abs=1e-3)
    assert metric("by-torchrun") == pytest.approx(metric("by-1"), abs=1e-3)
    subprocess.run([sys.executable, "-m", "ptlib.cli", "verify", str(tmp_path / "by-2")], cwd=ROOT, check=True)
