"""A class for each pixel: a decoder on maps of several strides, cross-entropy and overlap, mean IoU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from ptlib.core import VOID, Split, Task
from ptlib.data.places import augment_places
from ptlib.metrics import masks as m
from ptlib.results import Masks

DENSE = True


def prepare(
    model: Any, inputs: Tensor, targets: Tensor, names: Sequence[str], generator: Generator, n_classes: int
) -> tuple[Tensor, Tensor]:
    """A batch and its label maps as the network sees them: uint8 (B, H, W, 3) and (B, H, W), augmented, resized."""
    x, y = augment_places(inputs.permute(0, 3, 1, 2), targets, names, generator)
    x = model.preprocess(x.permute(0, 2, 3, 1))
    return x, F.interpolate(y[:, None], x.shape[-2:], mode="nearest-exact")[:, 0]


def loss(outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy in nats over pixels that are not void, plus one minus the mean over classes of soft Dice.

    Logits (B, C, h, w) are brought to the targets' (B, H, W). Classes that a batch lacks have no share in the Dice
    (Milletari et al. 2016, arXiv 1606.04797), which counts every class alike, however few pixels it has.
    """
    logits = F.interpolate(outputs.float(), targets.shape[-2:], mode="bilinear")
    truth = targets.long()
    scored = truth != VOID
    plain = F.cross_entropy(logits, truth, ignore_index=VOID, label_smoothing=label_smoothing, reduction="sum")
    said = logits.softmax(1) * scored[:, None]
    classes = said.shape[1]
    actual = torch.bincount(truth[scored], minlength=classes)[:classes].to(said.dtype)
    hit = torch.zeros_like(actual).scatter_add_(
        0, truth[scored], said.gather(1, truth.clamp_max(classes - 1)[:, None])[:, 0][scored]
    )
    dice = 2 * hit / (actual + said.sum((0, 2, 3))).clamp_min(1)
    return plain / scored.sum().clamp_min(1) + 1 - dice[actual > 0].mean()


def kept(outputs: Tensor, seen: Sequence[int], canvas: Sequence[int]) -> Tensor:
    """What is kept of a batch: the likeliest class of each pixel of the data's canvas, uint8 (B, H, W)."""
    return F.interpolate(outputs.float(), list(canvas), mode="bilinear").argmax(1).to(torch.uint8)


def score(said: Tensor, targets: Tensor) -> dict[str, float]:
    """Mean IoU over the classes there are, and the share of pixels that are right."""
    truth, found = targets.cpu().numpy(), said.cpu().numpy()
    classes = 1 + max(int(truth[truth != VOID].max(initial=0)), int(found.max()))
    values = m.scores_of(m.confusion_by_image(truth, found, classes).sum(0))
    return {"mean_iou": float(values.mean_iou), "pixel_accuracy": float(values.pixel_accuracy)}


def predictions(said: Tensor, split: Split, task: Task) -> Masks:
    """The maps of a split's images, true and said, on the canvas of the data."""
    return Masks(tuple(split.ids), split.targets.numpy(), said.cpu().numpy(), split.name, task.class_names)
