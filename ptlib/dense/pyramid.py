"""Maps at several strides: what a classifier's backbone gives on the way, and the top-down pyramid over them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ptlib.errors import InputError
from ptlib.networks import channels_last, cut_behind, numbered, until

STRIDES = (4, 8, 16, 32)


class Pyramid(nn.Module):
    """A classifier's network up to its last map: images (B, 3, H, W) to [the images, maps of strides 4, 8, 16, 32].

    A map is what the last numbered part of the network (`blocks.3`, `layer2`) of its stride gives, (B, D, H/s, W/s);
    `channels` holds the D of each, 3 of the images first. What comes after the last is taken out.

    Raises InputError for a network without such maps, as a plain vision transformer is.
    """

    def __init__(self, network: nn.Module, size: int = 224):
        super().__init__()
        found = _maps_of(network, size)
        if set(STRIDES) - set(found):
            strides = ", ".join(map(str, sorted(found))) or "none"
            raise InputError(
                f"{type(network).__name__} gives maps of strides {strides}; 4, 8, 16 and 32 are needed: take a "
                "convolutional network, such as efficientnet_lite0, timm/resnet50 or torchvision/convnext_tiny"
            )
        self.taps = tuple(found[stride][0] for stride in STRIDES)
        self.channels = (3, *(found[stride][1] for stride in STRIDES))
        self.turned = found[STRIDES[0]][2]  # its maps are (B, H, W, D)
        for tap in self.taps[:-1]:
            network.get_submodule(tap).register_forward_hook(_remember)
        self.network = network
        cut_behind(
            network,
            self.taps[-1],
            torch.zeros(2, 3, size, size),
            lambda x: sum((m.sum() for m in self(x)[1:]), x.new_zeros(())),
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        last = until(self.network, self.taps[-1], x)
        found = [self.network.get_submodule(tap).__dict__.pop("remembered") for tap in self.taps[:-1]]
        return [x, *(m.permute(0, 3, 1, 2) if self.turned else m for m in (*found, last))]


def _remember(module: nn.Module, inputs: Any, output: Tensor) -> None:
    module.__dict__["remembered"] = output  # on the module, so that a copy of the network remembers its own


def _maps_of(network: nn.Module, size: int) -> dict[int, tuple[str, int, bool]]:
    """By stride, the last numbered part that gives a map of it, the map's channels, and whether these come last."""
    paths = {path for name, _ in network.named_parameters() if (path := numbered(name))}
    seen: dict[int, tuple[str, int, bool]] = {}

    def look(path: str, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 4:
            turned = channels_last(output)
            _, channels, height, width = (output.permute(0, 3, 1, 2) if turned else output).shape
            if height == width and size % height == 0:
                seen[size // height] = path, channels, turned

    handles = [
        network.get_submodule(path).register_forward_hook(lambda m, i, output, path=path: look(path, output))
        for path in paths
    ]
    mode = network.training
    try:
        with torch.inference_mode():
            network.eval()(torch.zeros(1, 3, size, size))
    finally:
        network.train(mode)
        for handle in handles:
            handle.remove()
    return seen


def block(inputs: int, outputs: int, size: int = 3) -> nn.Sequential:
    """A convolution, GroupNorm over 8 groups, SiLU."""
    convolution = nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False)
    return nn.Sequential(convolution, nn.GroupNorm(8, outputs), nn.SiLU())


class TopDown(nn.Module):
    """A feature pyramid (Lin et al. 2017, arXiv 1612.03144): to each map is added what the coarser ones know.

    Maps (B, C_i, H_i, W_i), the finest first, to as many (B, width, H_i, W_i).
    """

    def __init__(self, channels: Sequence[int], width: int):
        super().__init__()
        self.lateral = nn.ModuleList(block(c, width, 1) for c in channels)
        self.smooth = nn.ModuleList(block(width, width) for _ in channels)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        found = [layer(x) for layer, x in zip(self.lateral, maps, strict=True)]
        for i in range(len(found) - 2, -1, -1):
            found[i] = found[i] + F.interpolate(found[i + 1], found[i].shape[-2:])
        return [layer(x) for layer, x in zip(self.smooth, found, strict=True)]


def draw_weights(head: nn.Module, generator: Generator) -> None:
    """Weights of a new head, drawn by `generator` alone: He's for convolutions, biases 0."""
    for module in head.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
