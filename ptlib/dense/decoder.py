"""A decoder for label maps: a feature pyramid whose levels are summed at a quarter of the input's side.

The semantic branch of panoptic feature pyramids (Kirillov et al. 2019, arXiv 1901.02446), with less in it, and a
sub-pixel convolution at its end (Shi et al. 2016, arXiv 1609.05158): each place says the classes of the 4 x 4 pixels it
stands for, so that what is thinner than four pixels can be said at all.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ptlib.dense.pyramid import TopDown, block, draw_weights

FINER = 4  # the stride of the finest map


class Decoder(nn.Module):
    """The head: maps of strides 4 to 32 to logits (B, C, H, W)."""

    kind = "segmentation"

    def __init__(self, channels: Sequence[int], n_classes: int, width: int = 64):
        super().__init__()
        self.pyramid = TopDown(channels[1:], width)
        self.pyramid.smooth[0] = nn.Identity()  # the sum of all levels is smoothed
        self.mix = block(width, width)
        self.classes = nn.Conv2d(width, n_classes * FINER**2, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        levels = self.pyramid(maps[1:])
        shape = levels[0].shape[-2:]
        for level in levels[1:]:
            levels[0] = levels[0] + F.interpolate(level, shape, mode="bilinear")
        return F.pixel_shuffle(self.classes(self.mix(levels[0])), FINER)

    def renew(self, n_classes: int, generator: Generator) -> None:
        """A new class layer, with no preference for any class; at first a place says the same of all its pixels."""
        weight = torch.empty(n_classes, self.classes.in_channels, 1, 1).normal_(0, 0.01, generator=generator)
        self.classes = nn.Conv2d(self.classes.in_channels, n_classes * FINER**2, 1)
        self.classes.weight = nn.Parameter(weight.repeat_interleave(FINER**2, dim=0))
        nn.init.zeros_(self.classes.bias)  # type: ignore[arg-type]


def make_decoder(channels: Sequence[int], n_classes: int, generator: Generator) -> Decoder:
    """A head for a pyramid of these channels, its weights drawn by `generator`."""
    head = Decoder(channels, n_classes)
    draw_weights(head, generator)
    head.renew(n_classes, generator)
    return head
