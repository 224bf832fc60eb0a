"""Common corruptions: of images those of ImageNet-C and CIFAR-10-C (Hendrycks and Dietterich 2019), as batched tensor
code; of texts slips at the keyboard, lost capitals, marks and words (see `ptlib.corruptions.words`)."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from ptlib.core import Split
from ptlib.corruptions import pixels, weather, words
from ptlib.corruptions.pixels import Corruption
from ptlib.corruptions.strengths import SIDES, STRENGTHS, strength
from ptlib.errors import InputError, did_you_mean
from ptlib.runtime import choose_device, generator
from ptlib.texts import Texts

__all__ = [
    "COMMON", "EXTRA", "FAMILIES", "SIDES", "STRENGTHS", "TEXT_COMMON", "TEXT_VIEWS", "VIEWS", "corrupt", "corrupted",
    "strength",
]  # fmt: skip

FAMILIES = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
    "extra": ("speckle_noise", "gaussian_blur", "spatter", "saturate"),
}
EXTRA = FAMILIES["extra"]
COMMON = tuple(name for family, names in FAMILIES.items() if family != "extra" for name in names)
VIEWS = ("grey", "rotated", "rescaled")  # the same things seen otherwise: of one strength
_FUNCTIONS: dict[str, Corruption] = {
    name: getattr(weather if name in ("fog", "frost", "snow", "spatter") else pixels, name)
    for name in (*COMMON, *EXTRA, *VIEWS)
}
TEXT_COMMON, TEXT_VIEWS = tuple(words.STRENGTHS), words.VIEWS
Inputs = TypeVar("Inputs", Tensor, Texts)


def corrupt(inputs: Inputs, name: str, severity: int = 3, seed: int = 0, device: str = "auto") -> Inputs:
    """Images, uint8 (N, H, W, 3), or texts under one corruption at severity 1 to 5, or seen as one of VIEWS, of texts
    TEXT_VIEWS, which have no severity. Images are made on `device`, given back on the CPU.

    Parameters are the published ones for images of the nearest side among 32, 64 and 224. Draws depend on the seed, the
    corruption, an example's place and, of images, how many there are, not on the severity: what differs is the strength
    alone. Equal arguments give equal bits on one machine.

    InputError for a name that is none, another severity, and data that are neither.
    """
    known = words.FUNCTIONS if isinstance(inputs, Texts) else _FUNCTIONS
    if name not in known:
        what = " of texts" if isinstance(inputs, Texts) else ""
        raise InputError(
            f"unknown corruption {name!r}{what}{did_you_mean(name, list(known)) or ';'} there are {', '.join(known)}"
        )
    if isinstance(severity, bool) or not isinstance(severity, int) or not 1 <= severity <= 5:
        raise InputError(f"severity is {severity!r}; it must be 1, 2, 3, 4 or 5")
    if isinstance(inputs, Texts):
        return words.corrupt_texts(inputs, name, severity, seed)
    return _corrupt_images(inputs, name, severity, seed, device)


def _corrupt_images(images: Tensor, name: str, severity: int, seed: int, device: str) -> Tensor:
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise InputError(
            f"corruptions are of images, uint8 (N, H, W, 3); got {images.dtype} of shape {tuple(images.shape)}"
        )
    where = choose_device(device)
    side = min(images.shape[1:3])
    c = None if name in VIEWS else strength(name, severity, side)
    size = 256 if side <= 96 else 32  # of one image size always the same, since draws are by batch
    done = []
    for k, batch in enumerate(images.split(size)):
        x = batch.to(where).permute(0, 3, 1, 2).float() / 255
        x = _FUNCTIONS[name](x, c, generator(seed, "corruption", name, k))
        done.append((x.clamp(0, 1) * 255 + 1e-3).to(torch.uint8).permute(0, 2, 3, 1).cpu())  # 254.9999 is 255
    return torch.cat(done)


def corrupted(split: Split, name: str, severity: int = 3, seed: int = 0, device: str = "auto") -> Split:
    """The split with its images or texts under one corruption (see `corrupt`), its targets and ids as they are."""
    return replace(split, inputs=corrupt(split.inputs, name, severity, seed, device))
