"""One label for each text: a linear head on features of its tokens, cross-entropy, accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Generator, Tensor

from ptlib.errors import InputError
from ptlib.kinds.image_classification import DENSE, loss, make_head, score

__all__ = ["DENSE", "loss", "make_head", "prepare", "score"]


def prepare(
    model: Any, inputs: Tensor, targets: Tensor, names: Sequence[str], generator: Generator, n_classes: int
) -> tuple[Tensor, Tensor]:
    """Token ids (B, T) and labels as they are. InputError for augmentations, which are of images."""
    if names:
        raise InputError(f"augment is {list(names)}; texts are not augmented, so it must be empty")
    return inputs, targets
