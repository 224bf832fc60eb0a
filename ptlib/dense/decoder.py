"""A decoder for label maps: a feature pyramid whose levels are summed at a quarter of the input's side.

The semantic branch of panoptic feature pyramids (Kirillov et al. 2019, arXiv 1901.02446), with less in it.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ptlib.dense.pyramid import TopDown, block, draw_weights


class Decoder(nn.Module):
    """The head: maps of strides 4 to 32 to logits (B, C, H/4, W/4)."""

    kind = "segmentation"

    def __init__(self, channels: Sequence[int], n_classes: int, width: int = 64):
        super().__init__()
        self.pyramid = TopDown(channels[1:], width)
        self.mix = block(width, width)
        self.classes = nn.Conv2d(width, n_classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        levels = self.pyramid(maps[1:])
        shape = levels[0].shape[-2:]
        for level in levels[1:]:
            levels[0] = levels[0] + F.interpolate(level, shape, mode="bilinear")
        return self.classes(self.mix(levels[0]))  # type: ignore[no-any-return]

    def renew(self, n_classes: int, generator: Generator) -> None:
        """A new class layer, with no preference for any class."""
        self.classes = nn.Conv2d(self.classes.in_channels, n_classes, 1)
        nn.init.normal_(self.classes.weight, 0, 0.01, generator=generator)
        nn.init.zeros_(self.classes.bias)  # type: ignore[arg-type]


def make_decoder(channels: Sequence[int], n_classes: int, generator: Generator) -> Decoder:
    """A head for a pyramid of these channels, its weights drawn by `generator`."""
    head = Decoder(channels, n_classes)
    draw_weights(head, generator)
    head.renew(n_classes, generator)
    return head
