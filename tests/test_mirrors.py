"""Predictions over mirror images: of the mirrored image they are the mirrored predictions, whatever the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch

import ptlib as pt
from ptlib.core import Checkpoint, Split, Task
from ptlib.dense.fcos import BINS, STRIDES, Said
from ptlib.preprocessing import Preprocessing
from ptlib.runs import save_model
from tests.test_dense import marked

BOTH = ("flip", "upside-down")


def mirrored(split: Split, flips: Sequence[str]) -> Split:
    """Its images mirrored; the targets stay, and are not looked at."""
    return replace(split, inputs=split.inputs.flip([{"flip": 2, "upside-down": 1}[name] for name in flips]))


def test_what_a_head_says_is_turned_back() -> None:
    shape = (64, 96)
    draw = torch.Generator().manual_seed(0)
    points, strides = [], []
    for stride in STRIDES:
        row, column = ((torch.arange(n // stride) + 0.5) * stride for n in shape)
        points.append(torch.cartesian_prod(row, column).flip(1))
        strides.append(torch.full((len(points[-1]),), float(stride)))
    n = sum(map(len, points))
    said = Said(torch.randn(2, n, 3, generator=draw), torch.randn(2, n, 4, BINS + 1, generator=draw),
                torch.cat(points), torch.cat(strides))  # fmt: skip
    for dims in ([3], [2], [2, 3]):
        turned = said.mirrored(dims, shape)
        place, boxes = said.points.clone(), said.boxes.clone()
        for dim in dims:
            axis, length = (0, shape[1]) if dim == 3 else (1, shape[0])
            place[:, axis] = length - place[:, axis]
            boxes[..., [axis, axis + 2]] = length - boxes[..., [axis + 2, axis]]
        for i in range(n):
            j = int(((said.points == place[i]).all(1) & (said.strides == said.strides[i])).nonzero())
            assert torch.equal(turned.logits[:, j], said.logits[:, i])
            torch.testing.assert_close(turned.boxes[:, j], boxes[:, i])


@pytest.mark.parametrize("flips", [("flip",), ("upside-down",), BOTH])
def test_a_mirrored_image_is_of_the_same_class(flips: tuple[str, ...], tiny: Checkpoint, task: Task) -> None:
    model = pt.build_model(tiny, task)
    over = model.fed(flips=flips)
    said, plain = (pt.predict(m, task.test, task, "cpu", "fp32").scores for m in (over, model))
    turned = mirrored(task.test, flips)
    other, other_plain = (pt.predict(m, turned, task, "cpu", "fp32").scores for m in (over, model))
    np.testing.assert_allclose(other, said, atol=1e-6)
    assert np.abs(other_plain - plain).max() > 1e-4
    views = [view for n in range(len(flips) + 1) for view in combinations(flips, n)]
    each = [pt.predict(model, mirrored(task.test, view), task, "cpu", "fp32").scores for view in views]
    np.testing.assert_allclose(said, np.mean(each, axis=0), atol=1e-6)
    assert pt.predict(model.fed(flips=()), task.test, task, "cpu", "fp32").scores.tolist() == plain.tolist()


@pytest.mark.parametrize("kind", ["detection", "segmentation"])
def test_what_is_found_in_a_mirrored_image_is_mirrored(kind: str) -> None:
    task = marked(kind=kind)
    model = pt.build_model(pt.load_checkpoint("random/timm/mobilenetv3_small_050"), task, 64).fed(flips=BOTH)
    said, other = (pt.predict(model, split, task, "cpu").scores for split in (task.test, mirrored(task.test, ["flip"])))
    if kind == "segmentation":
        assert (other == said[:, :, ::-1]).mean() > 0.999  # equal logits may be decided either way
        return
    side = task.test.inputs.shape[1]
    said[..., [1, 3]] = side - said[..., [3, 1]]
    for one, two in zip(said, other, strict=True):
        one, two = one[one[:, 0] >= 0], two[two[:, 0] >= 0]
        near = np.abs(one[:10, None] - two[None]).max(2) < 1e-3
        assert near.any(1).all()


def test_a_saved_model_looks_at_mirror_images_too(tmp_path: Path) -> None:
    task = marked(kind="segmentation")
    model = pt.build_model(pt.load_checkpoint("random/timm/mobilenetv3_small_050"), task, 64).fed(flips=BOTH)
    again = pt.load_checkpoint(str(save_model(model, task, tmp_path / "it.safetensors")))
    assert again.preprocessing == model.preprocessing
    assert "mean over flip, upside-down" in again.preprocessing.said()
    same = pt.predict(pt.build_model(again, task, own_head=True), task.test, task, "cpu")
    assert np.array_equal(same.scores, pt.predict(model, task.test, task, "cpu").scores)
    four, one = (pt.cost(m, task.test, "cpu", repeats=1)["flops"] for m in (model, model.fed(flips=())))
    assert four == 4 * one


def test_mirrors_that_cannot_be_are_refused_by_name() -> None:
    for bad in (("zoom",), ("flip", "flip")):
        with pytest.raises(ValueError, match="they may be flip and upside-down, each once"):
            Preprocessing(16, (0.5,) * 3, (0.5,) * 3, flips=bad)
    model = pt.build_model(pt.load_checkpoint("random/torchvision/ssdlite320_mobilenet_v3_large"), marked(2))
    with pytest.raises(pt.InputError, match="can't be averaged over mirror images; leave flips out"):
        model.fed(flips=("flip",))
