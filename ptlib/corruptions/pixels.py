"""Noise, blur and what digital processing does: batches (B, 3, H, W) of values in 0..1, `c` from `strengths`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from ptlib.corruptions.filters import box, eight_bit, luminance, motion, normal, smooth, uniform, zoom
from ptlib.runtime import to_device


def gaussian_noise(x: Tensor, c: float, draws: Generator) -> Tensor:
    """Noise of one standard deviation everywhere: low light."""
    return x + c * normal(tuple(x.shape), draws, x)


def shot_noise(x: Tensor, c: float, draws: Generator) -> Tensor:
    """Poisson noise: light comes in photons."""
    return to_device(torch.poisson(x.cpu() * c, generator=draws), x.device) / c


def impulse_noise(x: Tensor, c: float, draws: Generator) -> Tensor:
    """Salt and pepper: values set to 0 or to 1."""
    chance = uniform(tuple(x.shape), draws, x)
    return torch.where(chance < c / 2, 0.0, torch.where(chance < c, 1.0, x))


def speckle_noise(x: Tensor, c: float, draws: Generator) -> Tensor:
    """Noise that grows with the value."""
    return x + x * c * normal(tuple(x.shape), draws, x)


def defocus_blur(x: Tensor, c: tuple[float, float], draws: Generator) -> Tensor:
    """Out of focus: every point becomes a disk."""
    radius, edge = c
    reach = 8 if radius <= 8 else int(radius)
    y, z = torch.meshgrid(*[torch.arange(-reach, reach + 1)] * 2, indexing="ij")
    disk = ((y**2 + z**2) <= radius**2).float()
    near = torch.arange(-1, 2) if radius <= 8 else torch.arange(-2, 3)
    soft = torch.exp(-0.5 * (near / edge) ** 2)
    soft = soft / soft.sum()
    return box(x, box((disk / disk.sum())[None, None], soft[:, None] * soft)[0, 0])


def glass_blur(x: Tensor, c: tuple[float, int, int], draws: Generator) -> Tensor:
    """Frosted glass: each pixel shows one nearby. The published code, which meant to swap, copies, and so does this."""
    sigma, reach, times = c
    x = eight_bit(smooth(x, sigma))
    n, _, height, width = x.shape
    image = torch.arange(n, device=x.device)[:, None, None]
    rows, columns = torch.arange(height, device=x.device), torch.arange(width, device=x.device)
    moves = [(n > reach) & (n <= top - reach) for n, top in ((rows, height), (columns, width))]
    inside = moves[0][:, None] & moves[1]
    for _ in range(times):
        dy, dx = torch.randint(-reach, reach, (2, n, height, width), generator=draws)
        y = torch.where(inside, rows[:, None] + to_device(dy, x.device), rows[:, None])
        z = torch.where(inside, columns + to_device(dx, x.device), columns)
        # In place, line after line from the last to the first: what moved once may move again.
        pixels = x.permute(0, 2, 3, 1).contiguous()
        if reach == 1:  # offsets are -1 and 0: nothing that moved is looked at
            pixels = pixels[image, y.clamp(0, height - 1), z.clamp(0, width - 1)]
        else:
            for row in range(height - 1, -1, -1):
                there = y[:, row].clamp(0, height - 1), z[:, row].clamp(0, width - 1)
                pixels[:, row] = pixels[image[:, 0], *there]
        x = pixels.permute(0, 3, 1, 2)
    return smooth(x, sigma)


def motion_blur(x: Tensor, c: tuple[int, float], draws: Generator) -> Tensor:
    """A moving camera, each image in a direction of its own."""
    return motion(x, c[0], c[1], uniform((len(x),), draws, x, -45, 45))


def zoom_blur(x: Tensor, c: tuple[float, float], draws: Generator) -> Tensor:
    """A camera that moves towards what it sees."""
    factors = np.arange(1, *c)
    return (x + torch.stack([zoom(x, float(f)) for f in factors]).sum(0)) / (len(factors) + 1)


def gaussian_blur(x: Tensor, c: float, draws: Generator) -> Tensor:
    """A low-pass filter."""
    return smooth(x, c)


def contrast(x: Tensor, c: float, draws: Generator) -> Tensor:
    """Each channel drawn to its mean over the image."""
    mean = x.mean((2, 3), keepdim=True)
    return (x - mean) * c + mean


def brightness(x: Tensor, c: float, draws: Generator) -> Tensor:
    """The value of HSV raised."""
    value = x.amax(1, keepdim=True)
    raised = (value + c).clamp(0, 1)
    return torch.where(value > 0, x * (raised / value.clamp_min(1e-12)), raised)


def saturate(x: Tensor, c: tuple[float, float], draws: Generator) -> Tensor:
    """The saturation of HSV scaled and shifted; grey counts as red."""
    value = x.amax(1, keepdim=True)
    below = value - x
    saturation = below.amax(1, keepdim=True) / value.clamp_min(1e-12)
    wanted = (saturation * c[0] + c[1]).clamp(0, 1)
    red = x.new_tensor([0.0, 1.0, 1.0])[:, None, None] * value * wanted
    return value - torch.where(saturation > 0, below * (wanted / saturation.clamp_min(1e-12)), red)


def pixelate(x: Tensor, c: float, draws: Generator) -> Tensor:
    """Made small by averaging, and large again by repeating."""
    for n in (2, 3):
        side = x.shape[n]
        there = _boxes(side, max(1, int(side * c)), x)
        back = _boxes(max(1, int(side * c)), side, x)
        x = eight_bit((x.transpose(n, 3) @ there.T).transpose(n, 3) + 0.5 / 255)
        x = (x.transpose(n, 3) @ back.T).transpose(n, 3)
    return x


def _boxes(n: int, m: int, like: Tensor) -> Tensor:
    """Resampling of n pixels to m by means over boxes, as Pillow's BOX filter does it: (m, n)."""
    scale = max(n / m, 1.0)
    centres = (torch.arange(m, dtype=torch.float64) + 0.5) * (n / m)
    away = (torch.arange(n, dtype=torch.float64) + 0.5 - centres[:, None]) / scale
    weights = ((away > -0.5) & (away <= 0.5)).double()
    return to_device((weights / weights.sum(1, keepdim=True)).float(), like.device)


# ITU-T T.81, annex K: the quantisation of luminance and of chrominance that encoders scale by their quality.
LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61), (12, 12, 14, 19, 26, 58, 60, 55), (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62), (18, 22, 37, 56, 68, 109, 103, 77), (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101), (72, 92, 95, 98, 112, 100, 103, 99),
)  # fmt: skip
CHROMINANCE = (
    (17, 18, 24, 47, 99, 99, 99, 99), (18, 21, 26, 66, 99, 99, 99, 99), (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99), *[(99,) * 8] * 4,
)  # fmt: skip
TO_YCBCR = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))


def jpeg_compression(x: Tensor, c: int, draws: Generator) -> Tensor:
    """What JPEG leaves: 8 x 8 cosine transforms rounded to the quality's steps, colours at half the resolution.

    All but the entropy coding, which loses nothing; so that a batch stays on its device.
    """
    height, width = x.shape[2:]
    levels = F.pad((x * 255).round(), (0, -width % 16, 0, -height % 16), mode="replicate")
    to = torch.tensor(TO_YCBCR, device=x.device)
    ycc = (torch.einsum("kc,bchw->bkhw", to, levels)).round() - to.new_tensor([128.0, 0, 0])[:, None, None]
    light, colour = ycc[:, :1], F.avg_pool2d(ycc[:, 1:], 2).round()
    light, colour = _quantised(light, LUMINANCE, c), _quantised(colour, CHROMINANCE, c)
    colour = F.interpolate(colour, scale_factor=2, mode="bilinear", align_corners=False).round()
    whole = torch.cat([light + 128, colour], dim=1)[..., :height, :width]
    return (torch.einsum("ck,bkhw->bchw", torch.linalg.inv(to.cpu()).to(x.device), whole)).round() / 255


def _quantised(x: Tensor, table: tuple[Any, ...], quality: int) -> Tensor:
    """Blocks of 8 x 8 of (B, C, H, W), in -128..127, through the transform, its rounding, and back."""
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    steps = ((torch.tensor(table) * percent + 50) // 100).clamp(1, 255).to(x)
    k = torch.arange(8, dtype=torch.float64)
    cosines = torch.cos((2 * k + 1) * k[:, None] * math.pi / 16) * 0.5
    cosines[0] /= math.sqrt(2)
    to = cosines.to(x)
    blocks = x.unfold(2, 8, 8).unfold(3, 8, 8)  # (B, C, H / 8, W / 8, 8, 8)
    kept = (to @ blocks @ to.T / steps).round() * steps
    back = (to.T @ kept @ to).round().clamp(-128, 127)
    return back.transpose(3, 4).reshape(x.shape)


def elastic_transform(x: Tensor, c: tuple[float, float, float], draws: Generator) -> Tensor:
    """Bent: three corners pulled apart by an affine map, then every pixel moved by a smooth random field."""
    n, _, height, width = x.shape
    side = min(height, width)
    size, sigma, reach = (share * side for share in c)
    middle, third = torch.tensor([width // 2, height // 2], dtype=torch.float64), side // 3
    before = middle + third * torch.tensor([[1, 1], [1, -1], [-1, -1]], dtype=torch.float64)  # (3, 2), as (x, y)
    after = before + (2 * torch.rand(n, 3, 2, generator=draws) - 1) * reach
    ones = torch.ones(n, 3, 1, dtype=torch.float64)
    back = to_device(torch.linalg.solve(torch.cat([after, ones], 2), before.expand(n, 3, 2)).float(), x.device)
    z, y = torch.meshgrid(
        torch.arange(width, device=x.device).float(), torch.arange(height, device=x.device).float(), indexing="xy"
    )
    places = torch.stack([z, y, torch.ones_like(z)], dim=-1)  # (H, W, 3)
    bent = _sample(x, torch.einsum("hwi,bij->bhwj", places, back), edge_twice=False)
    field = smooth(uniform((n, 2, height, width), draws, x, -1, 1), sigma, truncate=3, mirror=True) * size
    return _sample(bent, places[..., :2] + field.permute(0, 2, 3, 1), edge_twice=True)


def _sample(x: Tensor, at: Tensor, edge_twice: bool) -> Tensor:
    """Images (B, C, H, W) at places (B, H, W, 2) in pixels (x, y), bilinearly, mirrored beyond the edge."""
    size = at.new_tensor([x.shape[3], x.shape[2]])
    grid = (2 * at + 1) / size - 1 if edge_twice else 2 * at / (size - 1).clamp_min(1) - 1
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=not edge_twice)


def grey(x: Tensor, c: Any, draws: Generator) -> Tensor:
    """Colours dropped."""
    return luminance(x).expand_as(x)


def rotated(x: Tensor, c: Any, draws: Generator) -> Tensor:
    """A quarter turn, counter-clockwise."""
    return x.rot90(1, (2, 3))


def rescaled(x: Tensor, c: Any, draws: Generator) -> Tensor:
    """The middle at twice its size."""
    return zoom(x, 2.0)


Corruption = Callable[[Tensor, Any, Generator], Tensor]
