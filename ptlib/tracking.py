"""For those who keep their trainings in TensorBoard, MLflow or Weights & Biases: each epoch's row, as it comes.

Off unless the environment variable PTLIB_TRACKING names one of them: nothing that is computed depends on it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from ptlib.errors import InputError
from ptlib.folders import UNFINISHED

Track = Callable[[Mapping[str, Any], int], None]  # a row of a history, and how many there are with it


def chosen() -> str | None:
    """What PTLIB_TRACKING names; InputError if it is unknown or not installed."""
    name = os.environ.get("PTLIB_TRACKING") or None
    if name and name not in TRACKERS:
        raise InputError(f"PTLIB_TRACKING is {name!r}; it must be one of {', '.join(TRACKERS)}, or not set")
    if name and importlib.util.find_spec(name) is None:
        raise InputError(f"PTLIB_TRACKING is {name!r}, which is not installed; pip install {name}, or leave it unset")
    return name


@contextlib.contextmanager
def tracked(training: Path | None) -> Iterator[Track]:
    """A context with a function that hands on each row of a history, under the name of the run and of its training.

    `training` is its folder in the run's. A tracker that fails is left out with a warning; the training goes on.
    """
    name = chosen()
    if training is None or name is None:
        yield lambda row, count: None
        return
    run = training.parent.name.removesuffix(UNFINISHED)
    stack, track = contextlib.ExitStack(), cast("Track | None", None)
    with _warned(f"{name} takes no rows"):
        track = stack.enter_context(
            TRACKERS[name](f"{run}/{training.name}", _parameters(training.parent), training.parent.parent / "tracking")
        )

    def note(row: Mapping[str, Any], count: int) -> None:
        nonlocal track
        asked, track = track, None
        if asked is not None:
            with _warned(f"{name} takes no more rows"):
                asked({k: float(v) for k, v in row.items() if isinstance(v, int | float) and k != "epoch"}, count)
                track = asked

    try:
        yield note
    finally:
        with _warned(f"{name} was not ended"):
            stack.__exit__(*sys.exc_info())


@contextlib.contextmanager
def _warned(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as e:  # whatever a server or a disk may do
        warnings.warn(f"{what}: {e}", RuntimeWarning, stacklevel=4)


def _parameters(run: Path) -> dict[str, Any]:
    """What the run was asked, where a notebook began it."""
    try:
        return dict(json.loads((run / "run.json").read_bytes())["parameters"])
    except (OSError, ValueError, KeyError):
        return {}


@contextlib.contextmanager
def _tensorboard(name: str, parameters: dict[str, Any], folder: Path) -> Iterator[Track]:
    from torch.utils.tensorboard.writer import SummaryWriter

    with SummaryWriter(str(folder / name)) as writer:
        writer.add_text("parameters", "\n".join(f"    {k}: {v!r}" for k, v in parameters.items()))

        def track(numbers: Mapping[str, float], step: int) -> None:
            for metric, value in numbers.items():
                writer.add_scalar(metric, value, step)
            writer.flush()

        yield track


@contextlib.contextmanager
def _mlflow(name: str, parameters: dict[str, Any], folder: Path) -> Iterator[Track]:
    import mlflow

    with mlflow.start_run(run_name=name, nested=mlflow.active_run() is not None):
        mlflow.log_params({k: str(v)[:500] for k, v in parameters.items()})
        yield lambda numbers, step: mlflow.log_metrics(dict(numbers), step=step)


@contextlib.contextmanager
def _wandb(name: str, parameters: dict[str, Any], folder: Path) -> Iterator[Track]:
    import wandb

    folder.mkdir(parents=True, exist_ok=True)
    how: dict[str, Any] = {"mode": os.environ.get("WANDB_MODE", "offline"), "reinit": "create_new"}
    with wandb.init(project="ptlib", name=name, config=parameters, dir=folder, **how) as run:
        yield lambda numbers, step: run.log(dict(numbers), step=step)


TRACKERS = {"tensorboard": _tensorboard, "mlflow": _mlflow, "wandb": _wandb}
