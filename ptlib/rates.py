"""The learning-rate range test: how fast a stage can learn."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import torch

from ptlib.core import Task
from ptlib.errors import InputError
from ptlib.kinds import kind_of
from ptlib.lora import adapted
from ptlib.models import Model, trainable_names
from ptlib.runtime import choose_device, choose_precision, derived_seed, deterministic, generator, place
from ptlib.stages import Stage
from ptlib.step import Step, augmentations_of, set_mode


def find_lr(
    model: Model, task: Task, stage: Stage, *, low: float = 1e-6, high: float = 1.0, steps: int = 60, seed: int = 0,
    device: str = "auto", precision: str = "auto",
) -> dict[str, Any]:  # fmt: skip
    """The learning-rate range test of Smith (2017): train a copy while the rate rises from `low` to `high`.

    Returns `lr` and `loss` (smoothed), arrays of equal length, and `suggestion`: the rate at which the loss fell
    fastest. It ends early when the loss reaches four times its minimum. `model` is left as it was.
    """
    if stage.optimizer == "lbfgs":
        raise InputError(f"stage {stage.name!r} uses lbfgs, which has no learning rate to find")
    where = choose_device(device)
    trial = copy.deepcopy(model)
    place(trial, where)
    names = trainable_names(trial, stage.trainable)
    for name, parameter in trial.named_parameters():
        parameter.requires_grad_(name in names)
    with adapted(trial, names, stage.lora, derived_seed(seed, "lora")) as names:
        return _tried(trial, task, stage, names, np.geomspace(low, high, steps), seed, where, precision)


def _tried(
    trial: Model, task: Task, stage: Stage, names: list[str], rates: np.ndarray, seed: int, where: torch.device,
    precision: str,
) -> dict[str, Any]:  # fmt: skip
    step = Step(trial, trial, stage, task, names, where, choose_precision(precision, where, trial), 1, False)
    kind, inputs = kind_of(task), trial.read(task.train.inputs)
    head_only = all(name.startswith("head.") for name in names)
    augmentations = augmentations_of(stage, task, head_only)
    smoothed: list[float] = []
    with deterministic(where):
        set_mode(trial, stage, names)
        order = torch.randperm(len(task.train), generator=generator(seed, "lr", "order"))
        size = min(stage.batch_size, len(order))
        for i, lr in enumerate(rates):
            rows = order[(torch.arange(size) + i * size) % len(order)]
            torch.manual_seed(derived_seed(seed, "lr", i))
            x, y = inputs[rows].to(where), task.train.targets[rows].to(where)
            x, y = kind.prepare(trial, x, y, augmentations, generator(seed, "lr", i), task.n_classes)
            loss = float(step(x, y, float(lr)))
            smoothed.append(loss if not smoothed else 0.8 * smoothed[-1] + 0.2 * loss)
            if not math.isfinite(loss) or smoothed[-1] > 4 * min(smoothed):
                break
    losses = np.array([v for v in smoothed if math.isfinite(v)])
    slope = np.gradient(losses) if len(losses) > 1 else np.zeros(1)
    return {"lr": rates[: len(losses)], "loss": losses, "suggestion": float(rates[int(slope.argmin())])}
