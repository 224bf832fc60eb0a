"""How a checkpoint wants what it is shown: images at their size and scale, texts as tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

Pooling = Literal["mean", "cls", "last"]


@dataclass(frozen=True)
class Preprocessing:
    """How a checkpoint wants its images: side in pixels, per-channel mean and std of values in 0..1, resampling.

    Images become squares of `size`; with `keep_aspect` they keep their shape, and `size` is the longer side's.
    `antialias` smooths what is made smaller, as Pillow does; without it images are sampled as older code did. With
    `flips` ("flip", "upside-down") what is predicted of an image is the mean over its mirror images.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"
    crop: float = 1.0
    antialias: bool = True
    keep_aspect: bool = False
    flips: tuple[str, ...] = ()

    def example(self, n: int) -> Tensor:
        """`n` blank images: what a network is measured with."""
        return torch.zeros(n, 3, self.size, self.size)

    def said(self) -> str:
        """For a table."""
        over = f", mean over {', '.join(self.flips)}" if self.flips else ""
        return f"{self.interpolation}, mean {_short(self.mean)}, std {_short(self.std)}{over}"

    def __post_init__(self) -> None:
        object.__setattr__(self, "flips", tuple(self.flips))
        if set(self.flips) - {"flip", "upside-down"} or len(set(self.flips)) < len(self.flips):
            raise ValueError(f"flips are {list(self.flips)}; they may be flip and upside-down, each once")
        if not 1 <= self.size <= 16384 or not 0 < self.crop <= 1 or self.interpolation not in ("bilinear", "bicubic"):
            raise ValueError(
                f"size {self.size} must lie in 1..16384, crop {self.crop} in 0..1, and interpolation "
                f"{self.interpolation!r} be bilinear or bicubic"
            )
        if not all(math.isfinite(m) and s > 0 for m, s in zip(self.mean, self.std, strict=True)):
            raise ValueError(f"mean {self.mean} must be finite and std {self.std} positive")


@dataclass(frozen=True)
class Tokenization:
    """How a checkpoint wants its texts: the most tokens that are read of one, and how features come from theirs.

    `pooling` is "mean" over the tokens, "cls" (the first token, which an encoder was trained to sum up by) or "last"
    (the only token that has seen all others where each sees but those before it).
    """

    size: int
    pooling: Pooling

    def __post_init__(self) -> None:
        if not 2 <= self.size <= 2**20 or self.pooling not in get_args(Pooling):
            raise ValueError(
                f"size {self.size} must lie in 2..{2**20}, and pooling {self.pooling!r} be one of "
                f"{', '.join(get_args(Pooling))}"
            )

    def example(self, n: int) -> Tensor:
        """`n` texts of 128 tokens, or of as many as are read: what a network is measured with."""
        return torch.zeros(n, min(self.size, 128), dtype=torch.int32)

    def said(self) -> str:
        """For a table."""
        return f"up to {self.size:,} tokens, pooled by {self.pooling}"


def _short(values: Sequence[float]) -> str:
    return f"{values[0]:g}" if len(set(values)) == 1 else "/".join(f"{v:g}" for v in values)
