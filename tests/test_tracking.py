"""Each epoch's row in somebody else's tracker, off unless asked for; what fails there stops nothing here."""

from __future__ import annotations

import math
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import ptlib as pt
from ptlib import runs
from ptlib.core import Checkpoint, Task
from ptlib.train import finetune
from tests.conftest import silent

STAGES = [pt.Stage("head", ("head",), optimizer="lbfgs"), pt.Stage("all", epochs=2, batch_size=20)]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: Task) -> Path:
    monkeypatch.setenv("PTLIB_OUTPUTS", str(tmp_path))
    return runs.start_run("finetune", {"epochs": 2, "dataset": "$(touch x)"}, task, run_name="mine")


def small(tiny: Checkpoint, task: Task, run: Path) -> pt.History:
    return finetune(pt.build_model(tiny, task), task, STAGES, resume=run / "fine-tune", log=silent)


def test_nothing_is_tracked_unless_asked_for(tiny: Checkpoint, task: Task, run: Path, tmp_path: Path) -> None:
    small(tiny, task, run)
    assert not (tmp_path / "tracking").exists()


def test_tensorboard_holds_every_row(
    tiny: Checkpoint, task: Task, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.setenv("PTLIB_TRACKING", "tensorboard")
    history = small(tiny, task, run)
    events = accumulator.EventAccumulator(str(tmp_path / "tracking" / "mine" / "fine-tune"))
    events.Reload()
    for metric in ("train_loss", "val_accuracy", "examples_per_s"):
        told = [(e.step, e.value) for e in events.Scalars(metric)]
        assert [step for step, _ in told] == [1, 2, 3]
        for (_, value), row in zip(told, history.rows, strict=True):
            assert math.isclose(value, row[metric], rel_tol=1e-6)
    assert "parameters/text_summary" in events.Tags()["tensors"]


class Fake(types.ModuleType):
    """What MLflow and Weights & Biases are asked, with a disk that fills up after `room` rows."""

    def __init__(self, name: str, room: int = 99):
        super().__init__(name)
        self.__spec__ = types.SimpleNamespace(name=name)  # type: ignore[assignment]
        self.told: list[Any] = []
        self.room = room

    @contextmanager
    def start_run(self, **how: Any) -> Iterator[None]:
        self.told.append(how)
        yield
        self.told.append("end")

    @contextmanager
    def init(self, **how: Any) -> Iterator[Fake]:
        self.told.append(how)
        yield self
        self.told.append("end")

    def active_run(self) -> None:
        return None

    def log_params(self, params: dict[str, str]) -> None:
        self.told.append(params)

    def log_metrics(self, numbers: dict[str, float], step: int) -> None:
        self.log(numbers, step)

    def log(self, numbers: dict[str, float], step: int) -> None:
        if step > self.room:
            raise OSError("no space left on device")
        self.told.append((step, numbers["val_accuracy"]))


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_others_are_told_the_same(
    name: str, tiny: Checkpoint, task: Task, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = Fake(name)
    monkeypatch.setitem(sys.modules, name, fake)
    monkeypatch.setenv("PTLIB_TRACKING", name)
    history = small(tiny, task, run)
    assert fake.told[0]["run_name" if name == "mlflow" else "name"] == "mine/fine-tune"
    assert fake.told[-4:-1] == [(i + 1, row["val_accuracy"]) for i, row in enumerate(history.rows)]
    assert fake.told[-1] == "end"
    if name == "wandb":
        assert fake.told[0]["mode"] == "offline"
        assert fake.told[0]["config"]["epochs"] == 2


def test_a_tracker_that_fails_is_left_out(
    tiny: Checkpoint, task: Task, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = small(tiny, task, run.with_name("other"))
    fake = Fake("mlflow", room=1)
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    monkeypatch.setenv("PTLIB_TRACKING", "mlflow")
    with pytest.warns(RuntimeWarning, match="mlflow takes no more rows: no space left on device"):
        history = small(tiny, task, run)
    assert [row["val_loss"] for row in history.rows] == [row["val_loss"] for row in alone.rows]


@pytest.mark.parametrize(
    ("when", "says"), [("begin", "mlflow takes no rows: no server"), ("end", "was not ended: no server")]
)
def test_a_tracker_without_a_server_stops_nothing(
    when: str, says: str, tiny: Checkpoint, task: Task, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Deaf(Fake):
        @contextmanager
        def start_run(self, **how: Any) -> Iterator[None]:
            if when == "end":
                yield
            raise ConnectionError("no server")

    monkeypatch.setitem(sys.modules, "mlflow", Deaf("mlflow"))
    monkeypatch.setenv("PTLIB_TRACKING", "mlflow")
    with pytest.warns(RuntimeWarning, match=says):
        history = small(tiny, task, run)
    assert len(history.rows) == 3
    assert small(tiny, task, run).rows == history.rows, "whole, it is taken up and told of no more"


@pytest.mark.parametrize(
    ("name", "says"), [("comet", "it must be one of tensorboard"), ("mlflow", "pip install mlflow")]
)
def test_a_tracker_that_is_not_there_is_refused_at_the_start(
    name: str, says: str, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PTLIB_OUTPUTS", str(tmp_path))
    monkeypatch.setenv("PTLIB_TRACKING", name)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(pt.InputError, match=says):
        runs.start_run("finetune", {}, task, run_name="mine")
    assert list(tmp_path.iterdir()) == []
