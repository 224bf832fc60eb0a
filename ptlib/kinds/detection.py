"""Boxes around things of several classes: what a detector is taught, what is kept of its outputs, average precision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Generator, Tensor

from ptlib.core import Split, Task
from ptlib.data.canvas import to_image
from ptlib.data.places import augment_places, check_places
from ptlib.errors import InputError
from ptlib.metrics import boxes as m
from ptlib.results import Boxes
from ptlib.stages import Stage

DENSE = True


def prepare(
    model: Any, inputs: Tensor, targets: Tensor, names: Sequence[str], generator: Generator, n_classes: int
) -> tuple[Tensor, Tensor]:
    """A batch as the network wants it, boxes in its pixels: uint8 (B, H, W, 3) and (B, M, 7), augmented, resized."""
    x, y = augment_places(inputs.permute(0, 3, 1, 2), targets, names, generator)
    y = y.clone()
    for side, (new, old) in enumerate(zip(model.resized(x.shape)[::-1], x.shape[:-3:-1], strict=True)):
        y[..., 1 + side : 5 : 2] *= new / old
    return model.preprocess(x.permute(0, 2, 3, 1)), y


def check(task: Task, stages: Sequence[Stage]) -> None:
    """InputError for label smoothing, augmentations that leave boxes behind, and a val without a box."""
    for stage in stages:
        check_places(stage.augment or ())
        if stage.label_smoothing:
            smoothing = stage.label_smoothing
            raise InputError(f"label_smoothing is {smoothing}; a detector's classes have no shares, so it must be 0")
    if not ((task.val.targets[..., 0] >= 0) & (task.val.targets[..., 5] == 0)).any():
        raise InputError(f"val of {task.name} has no box that counts, to choose by; take more val images")


def loss(outputs: Any, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """The loss that belongs to the head whose outputs these are."""
    return outputs.loss(targets)  # type: ignore[no-any-return]


def kept(outputs: Any, seen: Sequence[int], resized: Sequence[int], canvas: Sequence[int]) -> Tensor:
    """What is kept of a batch: (B, 100, 6), rows of class (-1 for none), x1, y1, x2, y2 in the canvas's pixels, score.

    `resized` is height and width of the images in what the network saw, `canvas` of what the data hold.
    """
    found: Tensor = outputs.decode()
    for side, (there, here) in enumerate(zip(canvas[::-1], resized[::-1], strict=True)):
        found[..., 1 + side : 5 : 2] = (found[..., 1 + side : 5 : 2] * (there / here)).clamp(0, there)
    return found


def score(found: Tensor, targets: Tensor) -> dict[str, float]:
    """COCO's AP and AP at an IoU of 0.5, in pixels of the canvas."""
    truth, said, names = targets.cpu().numpy(), found.cpu().numpy(), ("ap", "ap50")
    n_classes = 1 + int(max(truth[..., 0].max(initial=0), said[..., 0].max(initial=0)))
    matches = m.match(truth, said, n_classes, *m.needed(names))
    values = m.coco(matches, np.ones((1, len(truth))), names)
    return {name: float(np.nan_to_num(value[0])) for name, value in values.items()}


def predictions(found: Tensor, split: Split, task: Task) -> Boxes:
    """What was found on a split's images, and what is true of them, in pixels of the images as they came."""
    targets, rows = split.targets.numpy().astype(np.float64), found.cpu().numpy().astype(np.float64)
    if split.sizes is not None:
        canvas, sizes = (split.inputs.shape[1], split.inputs.shape[2]), split.sizes.numpy()
        targets[..., 1:5], rows[..., 1:5] = (to_image(part[..., 1:5], sizes, canvas) for part in (targets, rows))
        rows[..., 1:5] = np.clip(rows[..., 1:5], 0, np.tile(sizes[:, ::-1], 2)[:, None])
        rows[(rows[..., 3:5] <= rows[..., 1:3]).any(-1)] = [-1, 0, 0, 0, 0, 0]  # it lay beside the image
    return Boxes(tuple(split.ids), targets, rows, split.name, task.class_names)
