"""Augmentation of images together with what is marked in them: boxes and label maps move as their image does.

The operations are torchvision.transforms.v2's, which know images, boxes and masks apart; its transforms draw once for a
whole batch, so the draws are made here, one for each image, from a CPU generator.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn import functional as F
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as v2

from ptlib.arrays import VOID
from ptlib.data.augment import colour
from ptlib.data.canvas import GREY
from ptlib.errors import InputError

LEAST_SEEN = 0.3  # share of a box that must stay in view for it to stay marked


def augment_places(x: Tensor, y: Tensor, names: Sequence[str], generator: Generator) -> tuple[Tensor, Tensor]:
    """Images (B, 3, H, W) of 0..255 and their boxes (B, M, 7) or label maps (B, H, W), as `Split` has them, augmented.

    A box of which less than 30 % stays in view, or less than a pixel in height or width, is no longer marked.
    InputError for an augmentation that does not move boxes and maps along.
    """
    check_places(names)
    if "colour" in names:
        x = colour(x.float(), generator)
    moves = [PLACES[name] for name in PLACES if name in names]
    if not moves:
        return x, y
    draws = torch.rand(len(x), len(moves), 3, generator=generator).tolist()
    images, marks = [], []
    for image, mark, drawn in zip(x, y, draws, strict=True):
        sample: tuple[Any, Any] = tv_tensors.Image(image), _wrap(mark, x.shape[-2:])
        boxes = mark[:, 1:5]
        scale = 1.0
        for move, d in zip(moves, drawn, strict=True):
            sample, by = move(sample, d)
            scale *= by
        images.append(sample[0].as_subclass(Tensor))
        moved = sample[1].as_subclass(Tensor)
        marks.append(moved[0] if mark.ndim == 2 and mark.dtype == torch.uint8 else _kept(mark, boxes, moved, scale))
    return torch.stack(images), torch.stack(marks)


def check_places(names: Sequence[str]) -> None:
    """InputError for an augmentation that does not move boxes and label maps along with their image."""
    odd = [name for name in names if name not in PLACES and name != "colour"]
    if odd:
        raise InputError(f"{odd[0]!r} does not move boxes and label maps along; there are {', '.join(PLACES)}, colour")


def _wrap(mark: Tensor, shape: Any) -> Any:
    if mark.dtype == torch.uint8:
        return tv_tensors.Mask(mark[None])
    return tv_tensors.BoundingBoxes(mark[:, 1:5].clone(), format="XYXY", canvas_size=tuple(shape))


def _kept(mark: Tensor, before: Tensor, after: Tensor, scale: float) -> Tensor:
    """Rows of boxes moved; those that left the view are unmarked."""
    area = (before[:, 2:] - before[:, :2]).prod(1) * scale**2
    seen = (after[:, 2:] - after[:, :2]).clamp_min(0)
    gone = (seen.prod(1) < LEAST_SEEN * area) | (seen.amin(1) < 1)
    label = mark[:, :1].masked_fill(gone[:, None], -1)
    return torch.cat([label, after, mark[:, 5:]], dim=1)


def _flip(sample: tuple[Any, Any], d: Sequence[float]) -> tuple[tuple[Any, Any], float]:
    return (tuple(map(v2.horizontal_flip, sample)) if d[0] < 0.5 else sample), 1.0


def _upside_down(sample: tuple[Any, Any], d: Sequence[float]) -> tuple[tuple[Any, Any], float]:
    return (tuple(map(v2.vertical_flip, sample)) if d[0] < 0.5 else sample), 1.0


def _zoom(sample: tuple[Any, Any], d: Sequence[float], low: float = 0.6, high: float = 1.6) -> Any:
    """Nearer or farther by a factor of 0.6 to 1.6: a part of the image enlarged, or the whole made smaller, on grey."""
    scale = math.exp(math.log(low) + d[0] * math.log(high / low))
    height, width = sample[0].shape[-2:]
    if scale >= 1:
        tall, wide = round(height / scale), round(width / scale)
        top, left = round(d[1] * (height - tall)), round(d[2] * (width - wide))
        parts = (v2.crop(part, top, left, tall, wide) for part in sample)
        return tuple(_resized(part, [height, width]) for part in parts), height / tall
    tall, wide = round(height * scale), round(width * scale)
    top, left = round(d[1] * (height - tall)), round(d[2] * (width - wide))
    around = [left, top, width - wide - left, height - tall - top]
    smaller = (_resized(part, [tall, wide]) for part in sample)
    fills = (GREY, VOID)
    return tuple(v2.pad(part, around, fill=fill) for part, fill in zip(smaller, fills, strict=True)), tall / height


def _resized(part: Any, size: list[int]) -> Any:
    """Of height and width `size`; a map by the labels nearest to the centres of pixels, where the image is sampled too:
    torchvision takes those at their upper left corners."""
    if isinstance(part, tv_tensors.Mask):
        return tv_tensors.Mask(F.interpolate(part.as_subclass(Tensor)[None], size, mode="nearest-exact")[0])
    return v2.resize(part, size, antialias=True)


PLACES: dict[str, Callable[..., Any]] = {"flip": _flip, "upside-down": _upside_down, "zoom": _zoom}
