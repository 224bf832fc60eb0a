"""Augmentation of whole batches on the device, with one draw for each image.

Draws come from a CPU generator, so that they are the same on every device and never make a GPU wait; pixels are
(B, 3, H, W) in 0..255. What is drawn is a function of the generator alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from ptlib.corruptions.filters import luminance, mirrored
from ptlib.errors import InputError
from ptlib.runtime import to_device


def augment(x: Tensor, names: Sequence[str], generator: Generator) -> Tensor:
    """The image-wise augmentations among `names`, in the order of `IMAGE_WISE`; (B, 3, H, W) to the same.

    What only moves whole pixels leaves uint8 as it is; the others make it float.
    """
    for name in names:
        if name not in IMAGE_WISE and name not in ("mixup", "cutmix"):
            known = ", ".join(IMAGE_WISE)
            raise InputError(f"{name!r} is for boxes and label maps; images with one label take {known}, mixup, cutmix")
    if not set(names) <= {"crop", "flip", "mixup", "cutmix"}:
        x = x.float()
    for name, function in IMAGE_WISE.items():
        if name in names:
            x = function(x, generator)
    return x


def mix(
    x: Tensor, targets: Tensor, n_classes: int, names: Sequence[str], generator: Generator
) -> tuple[Tensor, Tensor]:
    """mixup (Zhang et al. 2018) or cutmix (Yun et al. 2019) where `names` asks; of both, one by chance for each batch.

    Targets int64 (B,) become shares of classes (B, C). Coefficients are drawn for each image: Beta(0.2, 0.2) for
    mixup, uniform for cutmix.
    """
    wanted = [name for name in ("mixup", "cutmix") if name in names]
    if not wanted:
        return x, targets
    chosen = wanted[int(torch.randint(len(wanted), (), generator=generator))]
    n, _, height, width = x.shape
    partner = to_device(torch.randperm(n, generator=generator), x.device)
    if chosen == "mixup":
        # Beta(a, a) as a ratio of gamma draws, by the generator: torch.distributions would draw from global state.
        gammas = torch._standard_gamma(torch.full((2, n), 0.2), generator=generator).clamp_min(1e-30)
        share = to_device(gammas[0] / gammas.sum(0), x.device)
        x = torch.lerp(x[partner], x, share[:, None, None, None])
    else:
        keep = torch.rand(n, generator=generator)
        side = (1 - keep).sqrt()
        inside = to_device(_boxes(n, height, width, side, side, generator), x.device)
        x = torch.where(inside, x[partner], x)
        share = 1 - inside.float().mean((1, 2, 3))
    one_hot = F.one_hot(targets, n_classes).to(x.dtype)  # (B, C)
    return x, torch.lerp(one_hot[partner], one_hot, share[:, None])


def crop(x: Tensor, generator: Generator, share: float = 0.125) -> Tensor:
    """Shift by up to an eighth of the side in each direction, the edge mirrored into what comes free."""
    n, _, height, width = x.shape
    pad = max(1, round(share * min(height, width)))
    dy, dx = to_device(torch.randint(-pad, pad + 1, (2, n), generator=generator), x.device)
    rows = mirrored(torch.arange(height, device=x.device) + dy[:, None], height, False)  # (B, H)
    columns = mirrored(torch.arange(width, device=x.device) + dx[:, None], width, False)  # (B, W)
    image = torch.arange(n, device=x.device)[:, None, None]
    # Indexing the channels-last view moves whole pixels.
    return x.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def resized_crop(x: Tensor, generator: Generator, low: float = 0.35) -> Tensor:
    """A part of 35 to 100 % of the area at an aspect of 3/4 to 4/3, stretched to the whole (Szegedy et al. 2015)."""
    n = len(x)
    area = torch.empty(n).uniform_(low, 1, generator=generator)
    aspect = torch.empty(n).uniform_(-math.log(4 / 3), math.log(4 / 3), generator=generator).exp()
    half_width, half_height = (area * aspect).sqrt().clamp_max(1), (area / aspect).sqrt().clamp_max(1)
    centre = torch.empty(2, n).uniform_(-1, 1, generator=generator)
    zero = torch.zeros(n)
    theta = torch.stack(
        [half_width, zero, centre[0] * (1 - half_width), zero, half_height, centre[1] * (1 - half_height)], dim=1
    )
    return _warp(x, theta.view(n, 2, 3))


def flip(x: Tensor, generator: Generator) -> Tensor:
    """Mirrored left to right, every other image on average."""
    chosen = to_device(torch.rand(len(x), generator=generator) < 0.5, x.device)
    return torch.where(chosen[:, None, None, None], x.flip(3), x)


def erase(x: Tensor, generator: Generator) -> Tensor:
    """A box of 2 to 20 % of the area set to grey, in every other image on average (Zhong et al. 2020)."""
    n, _, height, width = x.shape
    area = torch.empty(n).uniform_(0.02, 0.2, generator=generator)
    aspect = torch.empty(n).uniform_(-math.log(3), math.log(3), generator=generator).exp()
    area = torch.where(torch.rand(n, generator=generator) < 0.5, area, 0.0)
    inside = to_device(_boxes(n, height, width, (area / aspect).sqrt(), (area * aspect).sqrt(), generator), x.device)
    return torch.where(inside, 127.5, x)


def trivial(x: Tensor, generator: Generator) -> Tensor:
    """TrivialAugment (Müller and Hutter 2021): for each image one operation at one strength, both drawn uniformly."""
    return _one_each(x, torch.rand(len(x), generator=generator), generator)


def rand(x: Tensor, generator: Generator, n_operations: int = 2, strength: float = 0.3) -> Tensor:
    """RandAugment (Cubuk et al. 2020): two operations for each image, drawn uniformly, at 9 of 30."""
    for _ in range(n_operations):
        x = _one_each(x, torch.full((len(x),), strength), generator)
    return x


def colour(x: Tensor, generator: Generator, strength: float = 0.3) -> Tensor:
    """Brightness, contrast and saturation changed by up to 30 % each way, drawn for each image; float.

    All three are linear, so each pixel's colours are multiplied once, by a matrix of its image's.
    """
    draws = 1 + torch.empty(3, len(x), 1, 1).uniform_(-strength, strength, generator=generator)
    bright, contrast, saturation = to_device(draws, x.device)
    x = x.float()
    weights = luminance(torch.eye(3, device=x.device)[..., None, None]).flatten()  # of red, green, blue
    matrix = bright * contrast * (saturation * torch.eye(3, device=x.device) + (1 - saturation) * weights)  # (B, 3, 3)
    ground = bright * (1 - contrast) * (x.mean((2, 3)) @ weights)[:, None, None]  # the mean luminance of its image
    flat = x.permute(0, 2, 3, 1).flatten(1, 2)  # (B, H * W, 3)
    mixed = torch.baddbmm(ground.expand(-1, 1, 3), flat, matrix.transpose(1, 2)).clamp_(0, 255)
    return mixed.view(len(x), x.shape[2], x.shape[3], 3).permute(0, 3, 1, 2)


IMAGE_WISE: dict[str, Callable[[Tensor, Generator], Tensor]] = {
    "resized-crop": resized_crop, "crop": crop, "flip": flip, "trivial": trivial, "rand": rand, "colour": colour,
    "erase": erase,
}  # fmt: skip


def _one_each(x: Tensor, strength: Tensor, generator: Generator) -> Tensor:
    """One operation for each image, run once for all images that drew it: 14 calls a batch, whatever its size."""
    n = len(x)
    operation = torch.randint(len(OPERATIONS), (n,), generator=generator)
    sign = torch.randint(0, 2, (n,), generator=generator) * 2 - 1
    out = x.clone()
    for k, function in enumerate(OPERATIONS):
        rows = (operation == k).nonzero()[:, 0]  # on the CPU, where asking costs nothing
        if len(rows):
            there = to_device(rows, x.device)
            amount = to_device(strength[rows] if function in UNSIGNED else strength[rows] * sign[rows], x.device)
            out[there] = function(x[there], amount[:, None, None, None])
    return out


def _identity(x: Tensor, a: Tensor) -> Tensor:
    return x


def _brightness(x: Tensor, a: Tensor) -> Tensor:
    return (x * (1 + 0.9 * a)).clamp(0, 255)


def _contrast(x: Tensor, a: Tensor) -> Tensor:
    return _blend(luminance(x).mean((1, 2, 3), keepdim=True), x, a)


def _saturation(x: Tensor, a: Tensor) -> Tensor:
    return _blend(luminance(x), x, a)


def _sharpness(x: Tensor, a: Tensor) -> Tensor:
    kernel = torch.ones(3, 1, 3, 3, device=x.device, dtype=x.dtype)
    kernel[:, :, 1, 1] = 5
    smooth = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), kernel / 13, groups=3)
    return _blend(smooth, x, a)


def _posterize(x: Tensor, a: Tensor) -> Tensor:
    step = 2 ** (6 * a).round()
    return (x / step).floor() * step


def _solarize(x: Tensor, a: Tensor) -> Tensor:
    return torch.where(x >= 255 * (1 - a), 255 - x, x)


def _autocontrast(x: Tensor, a: Tensor) -> Tensor:
    low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    return torch.where(high > low, (x - low) * (255 / (high - low).clamp_min(1)), x)


def _equalize(x: Tensor, a: Tensor) -> Tensor:
    """Each channel's grey levels to their ranks: the mean position, in the sorted channel, of equal values."""
    flat = x.flatten(2).round().contiguous()  # (B, 3, H*W)
    ordered = flat.sort(dim=2).values
    below = torch.searchsorted(ordered, flat)
    upto = torch.searchsorted(ordered, flat, right=True)
    return ((below + upto).to(x.dtype) * (127.5 / flat.shape[2])).view(x.shape)


def _rotate(x: Tensor, a: Tensor) -> Tensor:
    angle = a.flatten() * math.radians(45)
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    return _warp(x, torch.stack([cos, -sin, zero, sin, cos, zero], dim=1).view(-1, 2, 3))


def _affine(row: int, column: int, scale: float) -> Callable[[Tensor, Tensor], Tensor]:
    """A shear or a shift: the identity with one entry of its 2 x 3 matrix set to `scale` times the amount."""

    def function(x: Tensor, a: Tensor) -> Tensor:
        theta = torch.eye(2, 3, device=x.device).repeat(len(x), 1, 1)
        theta[:, row, column] = scale * a.flatten()
        return _warp(x, theta)

    return function


UNSIGNED = (_posterize, _solarize)
OPERATIONS: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
    _identity, _brightness, _contrast, _saturation, _sharpness, _posterize, _solarize, _autocontrast, _equalize,
    _rotate, _affine(0, 1, 0.5), _affine(1, 0, 0.5), _affine(0, 2, 0.5), _affine(1, 2, 0.5),
)  # fmt: skip


def _blend(ground: Tensor, x: Tensor, a: Tensor) -> Tensor:
    return (ground + (x - ground) * (1 + 0.9 * a)).clamp(0, 255)


def _warp(x: Tensor, theta: Tensor) -> Tensor:
    """Sample (B, C, H, W) through affine maps (B, 2, 3) of the square [-1, 1]^2, mirrored outside."""
    grid = F.affine_grid(
        theta if theta.device == x.device else to_device(theta, x.device), list(x.shape), align_corners=False
    )
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def _boxes(n: int, height: int, width: int, tall: Tensor, wide: Tensor, generator: Generator) -> Tensor:
    """True inside one box for each image, (B, 1, H, W); `tall` and `wide` are shares of the sides, (B,)."""
    tall, wide = tall.clamp_max(1), wide.clamp_max(1)
    top, left = torch.rand(2, n, generator=generator) * torch.stack([1 - tall, 1 - wide])
    y = (torch.arange(height) + 0.5) / height
    x = (torch.arange(width) + 0.5) / width
    rows = (y >= top[:, None]) & (y < (top + tall)[:, None])  # (B, H)
    columns = (x >= left[:, None]) & (x < (left + wide)[:, None])  # (B, W)
    inside: Tensor = rows[:, :, None] & columns[:, None, :]
    return inside[:, None]
