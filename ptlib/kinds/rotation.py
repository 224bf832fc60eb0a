"""No labels: by which multiple of 90 degrees was an image turned (Gidaris et al. 2018)?

A task of this kind holds images in val that are turned already, with the turns as labels; those of train are not looked
at. Images are augmented before they are turned, so a mirrored one is labelled right.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from ptlib.data.augment import augment
from ptlib.errors import InputError
from ptlib.kinds.image_classification import DENSE, loss, make_head, score
from ptlib.runtime import to_device

__all__ = ["DENSE", "loss", "make_head", "prepare", "score", "turn"]


def prepare(
    model: Any, inputs: Tensor, targets: Tensor, names: Sequence[str], generator: Generator, n_classes: int
) -> tuple[Tensor, Tensor]:
    """A batch (B, H, W, 3) augmented, each image turned by a draw of its own: (B, 3, S, S) and the turns (B,)."""
    turns = torch.randint(4, (len(inputs),), generator=generator)
    images = augment(inputs.permute(0, 3, 1, 2), names, generator).permute(0, 2, 3, 1)
    return model.preprocess(turn(images, turns)), to_device(turns, inputs.device)


def turn(images: Tensor, turns: Tensor) -> Tensor:
    """Square images (B, H, H, C), each turned counter-clockwise `turns` (B,) times by 90 degrees."""
    if images.shape[1] != images.shape[2]:
        raise InputError(f"images of {images.shape[1]} x {images.shape[2]} can't be turned in place; make them square")
    turned = images.clone()
    for k in (1, 2, 3):
        rows = to_device((turns == k).nonzero()[:, 0], images.device)
        turned[rows] = images[rows].rot90(k, (1, 2))
    return turned
