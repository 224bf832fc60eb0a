"""ptlib: choose a pretrained model, adapt it in stages, and defend the number you report.

Everything a notebook needs is here by name; modules load when first used, so that `import ptlib` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from ptlib.checkpoints import list_checkpoints, load_checkpoint
    from ptlib.core import Checkpoint, Preprocessing, Split, Stage, Task
    from ptlib.data import find_duplicates, list_tasks, load_task
    from ptlib.errors import InputError
    from ptlib.models import Model, build_model
    from ptlib.params import check
    from ptlib.prediction import features, predict
    from ptlib.report import evaluate, expect
    from ptlib.results import Estimate, Predictions, Report
    from ptlib.runs import save_run
    from ptlib.runtime import Clock
    from ptlib.stages import recipe
    from ptlib.train import History, find_lr, finetune

_HOME = {
    "list_checkpoints": "checkpoints", "load_checkpoint": "checkpoints", "Checkpoint": "core", "Preprocessing": "core",
    "Split": "core", "Stage": "core", "Task": "core", "find_duplicates": "data", "list_tasks": "data",
    "load_task": "data", "InputError": "errors", "Model": "models", "build_model": "models", "check": "params",
    "features": "prediction", "predict": "prediction", "evaluate": "report", "expect": "report", "Estimate": "results",
    "Predictions": "results", "Report": "results", "save_run": "runs", "Clock": "runtime", "recipe": "stages",
    "History": "train", "find_lr": "train", "finetune": "train",
}  # fmt: skip

__all__ = [
    "list_checkpoints", "load_checkpoint", "Checkpoint", "Preprocessing", "Split", "Stage", "Task", "find_duplicates",
    "list_tasks", "load_task", "InputError", "Model", "build_model", "check", "features", "predict", "evaluate",
    "expect", "Estimate", "Predictions", "Report", "save_run", "Clock", "recipe", "History", "find_lr", "finetune",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'ptlib' has no attribute {name!r}")
    return getattr(importlib.import_module(f"ptlib.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
