"""Predict once, score many times: what a model says of a split, and the features it says it from."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ptlib.core import Split, Task
from ptlib.data.batches import fetch, resident
from ptlib.models import Model
from ptlib.results import Predictions
from ptlib.runtime import autocast, choose_device, choose_precision, place

EVAL_BATCH = 128


def predict(
    model: Model, split: Split, task: Task, device: str = "auto", precision: str = "auto", batch_size: int = EVAL_BATCH
) -> Predictions:
    """The model's logits on every example of `split`, in its order.

    Raises ValueError naming the first example whose logits are not finite.
    """
    where = choose_device(device)
    place(model, where)
    logits = forward(model, model, split.inputs, where, choose_precision(precision, where, model), batch_size)
    return Predictions(tuple(split.ids), split.targets.numpy(), logits.cpu().numpy(), split.name, task.class_names)


def features(
    model: Model, split: Split, device: str = "auto", precision: str = "auto", batch_size: int = EVAL_BATCH
) -> Tensor:
    """What the backbone makes of every example of `split`: float32 (N, D), on the device."""
    where = choose_device(device)
    place(model, where)
    chosen = choose_precision(precision, where, model)
    return forward(model, model.backbone, split.inputs, where, chosen, batch_size)


@torch.no_grad()
def forward(
    model: Model, part: Callable[[Tensor], Tensor], inputs: Tensor, device: torch.device, precision: str,
    batch_size: int = EVAL_BATCH,
) -> Tensor:  # fmt: skip
    """`part` of the model, in eval mode, on all images: float32 (N, ...) on the device."""
    model.eval()
    rows = torch.arange(len(inputs)).split(batch_size)
    outputs = []
    with autocast(device, precision):
        for x in fetch(resident(inputs, device), rows, device):
            outputs.append(part(model.preprocess(x)).float())
    return torch.cat(outputs)
