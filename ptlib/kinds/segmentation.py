"""A class for each pixel: a decoder on maps of several strides, cross-entropy and overlap, mean IoU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from ptlib.arrays import VOID
from ptlib.core import Split, Task
from ptlib.data.places import augment_places, check_places
from ptlib.errors import InputError
from ptlib.metrics import masks as m
from ptlib.results import Masks
from ptlib.stages import Stage

DENSE = True


def prepare(
    model: Any, inputs: Tensor, targets: Tensor, names: Sequence[str], generator: Generator, n_classes: int
) -> tuple[Tensor, Tensor]:
    """A batch and its label maps as the network sees them: uint8 (B, H, W, 3) and (B, H, W), augmented, resized."""
    x, y = augment_places(inputs.permute(0, 3, 1, 2), targets, names, generator)
    height, width = model.resized(x.shape)
    x = model.preprocess(x.permute(0, 2, 3, 1))
    y = F.interpolate(y[:, None], (height, width), mode="nearest-exact")[:, 0]
    return x, F.pad(y, (0, x.shape[-1] - width, 0, x.shape[-2] - height), value=VOID)


def check(task: Task, stages: Sequence[Stage]) -> None:
    """InputError for augmentations that leave maps behind, and a val in which all is void."""
    for stage in stages:
        check_places(stage.augment or ())
    if (task.val.targets == VOID).all():
        raise InputError(f"val of {task.name} is void throughout, so nothing can be chosen by it; take more val images")


def loss(outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy in nats over pixels that are not void, plus one minus the mean over classes of soft Dice.

    Logits (B, C, h, w) are brought to the targets' (B, H, W). Both terms keep rare classes from being forgotten: a
    pixel weighs one over the root of its class's pixels in the batch, and the Dice (Milletari et al. 2016, arXiv
    1606.04797) counts every class alike that the batch shows.
    """
    logits = _at(outputs.float(), targets.shape[-2:])
    classes = logits.shape[1]
    truth, known = targets.long(), targets != VOID
    bins = truth.clamp_max(classes).flatten()  # void goes to one more, which is then left out: no device is waited for
    nothing = logits.new_zeros(classes + 1)
    actual = nothing.index_add(0, bins, logits.new_ones(len(bins)))[:classes]
    weight = actual.clamp_min(1).rsqrt()
    likely = logits.log_softmax(1)  # once for both terms: a second logarithm of it changes nothing, but costs
    index = truth.clamp_max(classes - 1)
    own = likely.gather(1, index[:, None])[:, 0]
    # By hand: torch's cross_entropy would weigh the share of each wrong class by that class's weight, not the pixel's.
    plain = (1 - label_smoothing) * own + (label_smoothing * likely.mean(1) if label_smoothing else 0)
    entropy = -(plain * (weight[index] * known)).sum() / (weight * actual).sum().clamp_min(1e-9)
    said = (likely.exp() * known[:, None]).sum((0, 2, 3))
    dice = 2 * nothing.index_add(0, bins, own.exp().flatten())[:classes] / (actual + said).clamp_min(1)
    there = (actual > 0).to(dice.dtype)
    return entropy + ((1 - dice) * there).sum() / there.sum().clamp_min(1)


def kept(outputs: Tensor, seen: Sequence[int], resized: Sequence[int], canvas: Sequence[int]) -> Tensor:
    """What is kept of a batch: the likeliest class of each pixel of the data's canvas, uint8 (B, H, W).

    `seen` is height and width of what the network saw, of which images fill the upper left part, `resized`.
    """
    whole = [round(here * s / r) for here, s, r in zip(canvas, seen, resized, strict=True)]
    logits = _at(outputs.float(), whole)
    return logits[..., : canvas[0], : canvas[1]].argmax(1).to(torch.uint8)


def _at(logits: Tensor, shape: Sequence[int]) -> Tensor:
    """Logits brought to height and width `shape`."""
    return logits if logits.shape[-2:] == tuple(shape) else F.interpolate(logits, tuple(shape), mode="bilinear")


def score(said: Tensor, targets: Tensor) -> dict[str, float]:
    """Mean IoU over the classes there are, and the share of pixels that are right."""
    truth, found = targets.cpu().numpy(), said.cpu().numpy()
    classes = 1 + max(int(truth[truth != VOID].max(initial=0)), int(found.max()))
    values = m.scores_of(m.confusion_by_image(truth, found, classes).sum(0))
    return {"mean_iou": float(values.mean_iou), "pixel_accuracy": float(values.pixel_accuracy)}


def predictions(said: Tensor, split: Split, task: Task) -> Masks:
    """The maps of a split's images, true and said, on the canvas of the data."""
    return Masks(tuple(split.ids), split.targets.numpy(), said.cpu().numpy(), split.name, task.class_names)
