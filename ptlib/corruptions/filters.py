"""What several corruptions need: smoothing, shifting along a line, zooming, clouds; on batches (B, C, H, W)."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from ptlib.runtime import to_device


def normal(shape: tuple[int, ...], draws: Generator, like: Tensor) -> Tensor:
    """Standard normal values, drawn on the CPU, on the device of `like`."""
    return to_device(torch.randn(shape, generator=draws), like.device)


def uniform(shape: tuple[int, ...], draws: Generator, like: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Values uniform in low..high, drawn on the CPU, on the device of `like`."""
    return to_device(torch.rand(shape, generator=draws) * (high - low) + low, like.device)


def eight_bit(x: Tensor) -> Tensor:
    """Values in 0..1 as a byte would hold them: cut off, not rounded, as the published sets were made."""
    return (x.clamp(0, 1) * 255).floor() / 255


def mirrored(index: Tensor, n: int, edge_twice: bool) -> Tensor:
    """Positions beyond 0..n-1 mirrored back: `edge_twice` as in (b a | a b c), else as in (c b | a b c)."""
    if n == 1:
        return torch.zeros_like(index)
    period = 2 * n if edge_twice else 2 * n - 2
    index = index.remainder(period)
    return torch.where(index >= n, period - int(edge_twice) - index, index)


def pad(x: Tensor, n: int) -> Tensor:
    """n pixels on each side, mirrored about the edge pixels, however small the image."""
    rows = mirrored(torch.arange(-n, x.shape[2] + n, device=x.device), x.shape[2], False)
    columns = mirrored(torch.arange(-n, x.shape[3] + n, device=x.device), x.shape[3], False)
    return x[:, :, rows][..., columns]


def smooth(x: Tensor, sigma: float, truncate: float = 4.0, mirror: bool = False) -> Tensor:
    """A Gaussian blur cut off at `truncate` sigma; the edge pixel goes on beyond the edge, or the image mirrored."""
    if sigma <= 0:
        return x
    return _smoothing(x.shape[2], sigma, truncate, mirror, x) @ x @ _smoothing(x.shape[3], sigma, truncate, mirror, x).T


def _smoothing(n: int, sigma: float, truncate: float, mirror: bool, like: Tensor) -> Tensor:
    """The blur of a line of n pixels as a matrix (n, n): any radius, without padding."""
    radius = int(truncate * sigma + 0.5)
    offsets = torch.arange(-radius, radius + 1)
    weights = torch.exp(-0.5 * (offsets.double() / sigma) ** 2)
    places = torch.arange(n)[:, None] + offsets
    places = mirrored(places, n, True) if mirror else places.clamp(0, n - 1)
    matrix = torch.zeros(n, n, dtype=torch.float64).scatter_add_(1, places, weights.expand(n, -1))
    return to_device((matrix / weights.sum()).float(), like.device)


def box(x: Tensor, kernel: Tensor) -> Tensor:
    """Each channel filtered by one odd square kernel, the image mirrored about its edge pixels."""
    n = kernel.shape[0] // 2
    found = F.conv2d(pad(x, n).flatten(0, 1)[:, None], kernel.to(x)[None, None])
    return found.reshape(x.shape)


def motion(x: Tensor, radius: int, sigma: float, degrees: Tensor) -> Tensor:
    """Smeared along a line by half a Gaussian, for each image at its own angle (B,)."""
    width = 2 * radius + 1
    weights = torch.exp(-0.5 * (torch.arange(width) / sigma) ** 2)
    weights = weights / weights.sum()
    angle = torch.deg2rad(degrees)
    _, _, height, breadth = x.shape
    image = torch.arange(len(x), device=x.device)[:, None, None]
    rows, columns = torch.arange(height, device=x.device), torch.arange(breadth, device=x.device)
    pixels, total = x.permute(0, 2, 3, 1), torch.zeros_like(x)
    for i in range(width):
        dy, dx = (-torch.ceil(i * part - 0.5).long() for part in (angle.sin(), angle.cos()))
        y = (rows - dy[:, None]).clamp(0, height - 1)  # (B, H)
        z = (columns - dx[:, None]).clamp(0, breadth - 1)  # (B, W)
        total += float(weights[i]) * pixels[image, y[:, :, None], z[:, None, :]].permute(0, 3, 1, 2)
    return total


def zoom(x: Tensor, factor: float) -> Tensor:
    """The middle of each image, enlarged to its size, bilinearly."""
    height, width = x.shape[2:]
    inner = [math.ceil(n / factor) for n in (height, width)]
    top, left = (height - inner[0]) // 2, (width - inner[1]) // 2
    part = x[..., top : top + inner[0], left : left + inner[1]]
    size = [max(round(n * factor), full) for n, full in zip(inner, (height, width), strict=True)]
    large = F.interpolate(part, size=size, mode="bilinear", align_corners=True)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return large[..., top : top + height, left : left + width]


def clouds(n: int, height: int, width: int, decay: float, draws: Generator, like: Tensor) -> Tensor:
    """Fractal clouds in 0..1 by midpoint displacement on a torus (Fournier et al. 1982): (n, 1, height, width)."""
    side = 1 << (max(height, width) - 1).bit_length()
    field = torch.zeros(n, side, side)
    step, reach = side, 100.0

    def moved(total: Tensor) -> Tensor:
        return total / 4 + reach * reach * (2 * torch.rand(total.shape, generator=draws) - 1)

    while step >= 2:
        half = step // 2
        corners = field[:, ::step, ::step]
        across = corners + corners.roll(-1, 1)
        field[:, half::step, half::step] = moved(across + across.roll(-1, 2))
        middles = field[:, half::step, half::step]
        field[:, ::step, half::step] = moved(middles + middles.roll(1, 1) + corners + corners.roll(-1, 2))
        field[:, half::step, ::step] = moved(middles + middles.roll(1, 2) + corners + corners.roll(-1, 1))
        step, reach = half, reach / decay
    field = field - field.amin((1, 2), keepdim=True)
    field = field / field.amax((1, 2), keepdim=True).clamp_min(1e-12)
    return to_device(field[:, None, :height, :width].contiguous(), like.device)


def luminance(x: Tensor) -> Tensor:
    """Grey levels of RGB (B, 3, H, W), as ITU-R BT.601 weighs them: (B, 1, H, W)."""
    return (0.299 * x[:, 0] + 0.587 * x[:, 1] + 0.114 * x[:, 2])[:, None]
