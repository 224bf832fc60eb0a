"""What weather does to a picture: batches (B, 3, H, W) of values in 0..1, `c` from `strengths`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from ptlib.corruptions.filters import (
    box,
    clouds,
    eight_bit,
    luminance,
    motion,
    normal,
    smooth,
    uniform,
    zoom,
)
from ptlib.runtime import to_device

# Mean colours of the published frost's photographs, and the contrast of each.
PANES = ((0.31, 0.59, 0.65, 0.08), (0.79, 0.81, 0.84, 0.09), (0.79, 0.81, 0.84, 0.09), (0.54, 0.60, 0.65, 0.11),
         (0.44, 0.48, 0.53, 0.17))  # fmt: skip
WATER, MUD = (175 / 255, 238 / 255, 238 / 255), (63 / 255, 42 / 255, 20 / 255)


def fog(x: Tensor, c: tuple[float, float], draws: Generator) -> Tensor:
    """Fractal clouds laid over it, then darkened to the brightest it was."""
    top = x.amax((1, 2, 3), keepdim=True)
    veiled = x + c[0] * clouds(len(x), x.shape[2], x.shape[3], c[1], draws, x)
    return veiled * top / (top + c[0])


def frost(x: Tensor, c: tuple[float, float], draws: Generator) -> Tensor:
    """Seen through a frosted pane. The published sets crop photographs of frost; here the crystals are drawn, as
    streaks of noise along several directions, with the photographs' mean colours and contrasts."""
    n, _, height, width = x.shape
    pane = to_device(torch.tensor(PANES)[torch.randint(len(PANES), (n,), generator=draws)], x.device)
    grain = torch.zeros(n, 1, height, width, device=x.device)
    radius = max(2, min(height, width) // 16)
    for _ in range(3):
        streaks = motion(normal((n, 1, height, width), draws, x), radius, radius, uniform((n,), draws, x, -180, 180))
        grain = torch.maximum(grain, streaks)  # crystals lie over one another
    grain = grain + smooth(normal((n, 1, height, width), draws, x), max(1.0, radius))
    grain = (grain - grain.mean((2, 3), keepdim=True)) / grain.std((2, 3), correction=0, keepdim=True).clamp_min(1e-6)
    ice = (pane[:, :3, None, None] + pane[:, 3:, None, None] * grain).clamp(0, 1)
    return c[0] * x + c[1] * ice


def snow(x: Tensor, c: tuple[Any, ...], draws: Generator) -> Tensor:
    """Flakes, smeared as they fall, once from each side, over a whitened picture."""
    mean, spread, size, threshold, radius, sigma, share = c
    flakes = zoom(mean + spread * normal((len(x), 1, *x.shape[2:]), draws, x), size)
    flakes = eight_bit(torch.where(flakes < threshold, 0.0, flakes))
    flakes = eight_bit(motion(flakes, radius, sigma, uniform((len(x),), draws, x, -135, -45)))
    white: Tensor = share * x + (1 - share) * torch.maximum(x, luminance(x) * 1.5 + 0.5)
    return white + flakes + flakes.rot90(2, (2, 3))


def spatter(x: Tensor, c: tuple[Any, ...], draws: Generator) -> Tensor:
    """Drops of water on the lens at low severities, of mud at high ones."""
    mean, spread, sigma, threshold, amount, mud = c
    liquid = smooth(mean + spread * normal((len(x), 1, *x.shape[2:]), draws, x), sigma)
    liquid = torch.where(liquid < threshold, 0.0, liquid)
    if mud:
        cover = smooth((liquid > threshold).float(), amount)
        cover = torch.where(cover < 0.8, 0.0, cover)
        return x * (1 - cover) + cover * x.new_tensor(MUD)[:, None, None]
    drops = (liquid * 255).floor().clamp(0, 255)
    depth = box(_distance(_edges(drops)).clamp_max(20), torch.full((3, 3), 1 / 9)).floor()
    relief = torch.tensor([[-2.0, -1, 0], [-1, 1, 1], [0, 1, 2]])
    shine = box(box(_equalized(depth), relief).round().clamp(0, 255), torch.full((3, 3), 1 / 9))
    light: Tensor = drops * shine
    light = amount * light / light.amax((2, 3), keepdim=True).clamp_min(1e-12)
    return x + light * x.new_tensor(WATER)[:, None, None]


def _edges(x: Tensor) -> Tensor:
    """Strong edges, thinned to one pixel (Canny 1986) and without the weak ones: bool (B, 1, H, W)."""
    slope = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    across, down = box(x, slope), box(x, slope.T)
    size = across.abs() + down.abs()
    around = F.pad(size, (1, 1, 1, 1))
    height, width = x.shape[2:]

    def beside(dy: int, dx: int) -> Tensor:
        return around[..., 1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width]

    flat, steep = down.abs() < 0.4142 * across.abs(), down.abs() > 2.4142 * across.abs()
    falling = (across * down) > 0
    one = torch.where(flat, beside(0, -1), torch.where(steep, beside(-1, 0),
                      torch.where(falling, beside(-1, -1), beside(-1, 1))))  # fmt: skip
    other = torch.where(flat, beside(0, 1), torch.where(steep, beside(1, 0),
                        torch.where(falling, beside(1, 1), beside(1, -1))))  # fmt: skip
    return (size > 150) & (size > one) & (size >= other)


def _distance(edges: Tensor, reach: int = 20) -> Tensor:
    """Euclidean distance in pixels to the nearest edge, `reach` at most: one axis after the other."""
    squares = torch.where(edges, 0.0, float(reach * reach))
    for axis in (2, 3):
        n = squares.shape[axis]
        best = squares.clone()
        for k in range(1, min(reach, n - 1) + 1):
            ahead, behind = squares.narrow(axis, k, n - k) + k * k, squares.narrow(axis, 0, n - k) + k * k
            best.narrow(axis, 0, n - k).copy_(torch.minimum(best.narrow(axis, 0, n - k), ahead))
            best.narrow(axis, k, n - k).copy_(torch.minimum(best.narrow(axis, k, n - k), behind))
        squares = best
    return squares.sqrt()


def _equalized(x: Tensor) -> Tensor:
    """Levels 0..255 to their ranks, the lowest to 0: histogram equalisation of each image."""
    flat = x.flatten(1).contiguous()  # (B, H * W)
    ordered = flat.sort(1).values
    upto = torch.searchsorted(ordered, flat, right=True).float()
    lowest = torch.searchsorted(ordered, ordered[:, :1].contiguous(), right=True).float()
    return ((upto - lowest) / (flat.shape[1] - lowest).clamp_min(1) * 255).round().view(x.shape)
