"""Augmentation: one draw an image, the same on every run, and pictures that stay pictures."""

from __future__ import annotations

import pytest
import torch

from ptlib.data.augment import IMAGE_WISE, OPERATIONS, augment, crop, flip, mix
from ptlib.data.places import PLACES
from ptlib.runtime import generator
from ptlib.stages import AUGMENTATIONS


def batch(n: int = 32, side: int = 24) -> torch.Tensor:
    """The same picture n times, smooth and lopsided."""
    ramp = torch.linspace(0, 255, side)
    image = torch.stack([ramp.expand(side, side), ramp[:, None].expand(side, side), (ramp[:, None] + ramp) / 2])
    return image.expand(n, 3, side, side).contiguous(memory_format=torch.channels_last)


def test_every_name_a_stage_may_use_is_an_operation() -> None:
    assert set(AUGMENTATIONS) == {*IMAGE_WISE, *PLACES, "mixup", "cutmix"}


@pytest.mark.parametrize("name", IMAGE_WISE)
def test_draws_differ_by_image_and_depend_on_the_generator_alone(name: str) -> None:
    x = batch()
    before = x.clone()
    torch.manual_seed(1)
    one = augment(x, [name], generator(0, name))
    torch.manual_seed(2)
    two = augment(x, [name], generator(0, name))
    assert torch.equal(one, two)
    assert torch.equal(x, before)
    assert not torch.equal(one, augment(x, [name], generator(1, name)))
    assert len({image.numpy().tobytes() for image in one}) > (1 if name == "flip" else 8)
    assert one.shape == x.shape
    assert -1e-3 <= float(one.min()) <= float(one.max()) <= 255 + 1e-3


@pytest.mark.parametrize("k", range(len(OPERATIONS)))
def test_each_operation_at_no_strength_changes_little_and_at_full_strength_much(k: int) -> None:
    x = batch(2)
    still = OPERATIONS[k](x, torch.zeros(2, 1, 1, 1))
    strong = OPERATIONS[k](x, torch.full((2, 1, 1, 1), 0.9))
    name = OPERATIONS[k].__name__
    if name not in ("_autocontrast", "_equalize", "_solarize"):
        assert (still - x).abs().mean() < 1.01, name  # posterize rounds down
    if name not in ("_identity", "_autocontrast", "_sharpness", "_equalize"):
        assert (strong - x).abs().mean() > 5, name


def test_crop_shifts_whole_pixels_by_up_to_an_eighth() -> None:
    x = torch.arange(24.0)[None, None, None, :].expand(64, 3, 24, 24)
    shifts = crop(x, generator("c"))[:, 0, 12, 12] - 12
    assert set(shifts.tolist()) == {-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0}


def test_flip_mirrors_about_half() -> None:
    x = batch(400)
    flipped = flip(x, generator("f"))
    mirrored = (flipped == x.flip(3)).flatten(1).all(1)
    assert 160 < int(mirrored.sum()) < 240
    assert torch.equal(flipped[~mirrored], x[~mirrored])


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_mixed_targets_say_what_the_pictures_hold(name: str) -> None:
    # Image i is i everywhere, so its mean tells the shares it was mixed in, and the targets must say the same.
    values = torch.arange(8.0)
    x = values[:, None, None, None].expand(8, 3, 32, 32).contiguous()
    mixed, targets = mix(x, torch.arange(8), 8, [name], generator("m"))
    assert torch.allclose(targets.sum(1), torch.ones(8))
    assert torch.allclose(targets @ values, mixed.mean((1, 2, 3)), atol=1e-4)
    assert ((targets > 0.01) & (targets < 0.99)).any()


def test_without_mixing_targets_stay_labels() -> None:
    y = torch.arange(4)
    assert mix(batch(4), y, 4, ["flip"], generator(0))[1] is y
