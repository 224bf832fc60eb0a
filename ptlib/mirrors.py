"""What a model says, averaged over mirror images of what it is shown: slower, and often better."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import torch
from torch import Tensor

from ptlib.models import Model

DIMENSIONS = {"flip": 3, "upside-down": 2}  # of images (B, C, H, W)


def over_mirrors(model: Model) -> Callable[[Tensor], Any]:
    """The model as a function whose outputs are means over all the mirror images that its preprocessing's `flips` make.

    Logits are averaged: of the image, or of each of its places; of boxes the distributions of their sides, as logits.
    """
    dims = [DIMENSIONS[name] for name in getattr(model.preprocessing, "flips", ())]
    if not dims:
        return model
    views = [[d for d, on in zip(dims, chosen, strict=True) if on] for chosen in product((0, 1), repeat=len(dims))]

    def averaged(x: Tensor) -> Any:
        said = [_turned_back(model(x.flip(view).contiguous(memory_format=model.layout)), view, x) for view in views]
        return torch.stack(said).mean(0) if isinstance(said[0], Tensor) else said[0].mean(said)

    return averaged


def _turned_back(said: Any, view: list[int], x: Tensor) -> Any:
    if isinstance(said, Tensor):
        return said.flip(view) if said.ndim == 4 else said
    return said.mirrored(view, x.shape[-2:])
