"""Detectors and segmenters: maps of any backbone, assignment and losses, boxes moved with their images, saved runs."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import ptlib as pt
from ptlib.arrays import VOID
from ptlib.checkpoints import network_of
from ptlib.core import Split, Task
from ptlib.data.places import augment_places
from ptlib.dense.fcos import BINS, Said, assign, make_fcos
from ptlib.dense.pyramid import Pyramid
from ptlib.kinds import detection, segmentation
from ptlib.models import layers, trainable_names
from ptlib.runs import read_run, reopen, save_model, save_run
from ptlib.runtime import generator
from tests.test_dense_data import annotation, lists, picture, voc

SMALL = "timm/mobilenetv3_small_050"


def marked(n: int = 6, side: int = 64, classes: int = 2, kind: str = "detection") -> Task:
    """White rectangles (class 0) or black ones (class 1) on grey: something to be found and easy to check."""
    rng = np.random.default_rng(0)

    def split(name: str, n: int) -> Split:
        pixels = np.full((n, side, side, 3), 128, dtype=np.uint8)
        boxes = np.zeros((n, 2, 7), dtype=np.float32)
        maps = np.zeros((n, side, side), dtype=np.uint8)
        boxes[..., 0] = -1
        for i in range(n):
            w, h = rng.integers(16, 40, 2)
            x, y = rng.integers(0, side - w), rng.integers(0, side - h)
            label = int(rng.integers(classes))
            pixels[i, y : y + h, x : x + w] = 255 * (1 - label)
            maps[i, y : y + h, x : x + w] = 1 + label
            boxes[i, 0] = label, x, y, x + w, y + h, 0, w * h
        targets = torch.from_numpy(boxes if kind == "detection" else maps)
        return Split(name, torch.from_numpy(pixels), targets, [f"{name}/{i}" for i in range(n)])

    names = ("white", "black") if kind == "detection" else ("ground", "white", "black")
    metric = "ap" if kind == "detection" else "mean_iou"
    return Task("marked", kind, names, split("train", n), split("val", 3), split("test", 4), metric, ("flip", "zoom"))


@pytest.fixture(scope="module")
def start() -> pt.Checkpoint:
    return pt.load_checkpoint(f"random/{SMALL}")


@pytest.mark.usefixtures("with_nbval")
@pytest.mark.parametrize(
    "name", ["efficientnet_lite0", "timm/resnet18", "torchvision/convnext_tiny", "timm/swin_tiny_patch4_window7_224"]
)
def test_a_pyramid_has_maps_of_four_strides(name: str) -> None:
    network = network_of(pt.load_checkpoint(f"random/{name}"))
    whole = sum(p.numel() for p in network.parameters())
    pyramid = Pyramid(network).eval()
    with torch.inference_mode():
        maps = pyramid(torch.randn(2, 3, 224, 224))
    assert [tuple(m.shape) for m in maps] == [
        (2, c, 224 // s, 224 // s) for c, s in zip(pyramid.channels, (1, 4, 8, 16, 32), strict=True)
    ]
    assert sum(p.numel() for p in pyramid.parameters()) < whole, "the classifier is taken out"
    assert not any("remembered" in m.__dict__ for m in pyramid.modules()), "no batch stays in memory"


def test_a_copy_of_a_pyramid_is_on_its_own(start: pt.Checkpoint) -> None:
    pyramid = Pyramid(network_of(start)).eval()
    other = copy.deepcopy(pyramid)
    x = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        before = pyramid(x)
        for p in other.parameters():
            p.zero_()
        assert all(torch.equal(a, b) for a, b in zip(before, pyramid(x), strict=True))
        assert not torch.equal(before[-1], other(x)[-1])


@pytest.mark.parametrize("name, strides", [("timm/vit_tiny_patch16_224", "none"), ("cifar_resnet20", "1, 2, 4")])
def test_a_network_without_such_maps_is_refused_by_name(name: str, strides: str) -> None:
    with pytest.raises(pt.InputError, match=f"gives maps of strides {strides}; 4, 8, 16 and 32 are needed"):
        pt.build_model(pt.load_checkpoint(f"random/{name}"), marked())


def test_layers_of_a_detector_run_from_the_stem_to_the_head(start: pt.Checkpoint) -> None:
    model = pt.build_model(start, marked())
    found = [name for name, _ in layers(model)]
    assert found[0] == "conv_stem"
    assert found[-1] == "head"
    last = trainable_names(model, ("last 2 blocks",))
    assert last
    assert all(name.startswith(("backbone.network.", "head.")) for name in last)


def said_of(targets: Tensor, sure: float = 6.0) -> Said:
    """What a perfect head says of images of 64 pixels: at each point of the finest map the box it lies in."""
    row = (torch.arange(8) + 0.5) * 8
    points = torch.cartesian_prod(row, row).flip(1)
    strides = torch.full((64,), 8.0)
    logits = torch.full((len(targets), 64, 2), -sure)
    sides = torch.full((len(targets), 64, 4, BINS + 1), -20.0)
    for i, rows in enumerate(targets):
        for label, x1, y1, x2, y2, *_ in rows[rows[:, 0] >= 0].tolist():
            inside = ((points > torch.tensor([x1, y1])) & (points < torch.tensor([x2, y2]))).all(1)
            logits[i, inside, int(label)] = sure
            reach = torch.cat([points - torch.tensor([x1, y1]), torch.tensor([x2, y2]) - points], 1)[inside] / 8
            low = reach.floor().clamp(0, BINS - 1)
            share = reach - low
            put = torch.full((len(reach), 4, BINS + 1), -20.0)
            put.scatter_(2, low.long()[..., None], (1 - share).clamp_min(1e-9).log()[..., None])
            put.scatter_(2, low.long()[..., None] + 1, share.clamp_min(1e-9).log()[..., None])
            sides[i, inside] = put
    return Said(logits, sides, points, strides)


def test_what_points_say_becomes_the_boxes_they_mean() -> None:
    targets = marked().train.targets
    found = said_of(targets).decode()
    assert found.shape == (6, 100, 6)
    torch.testing.assert_close(found[:, 0, 1:5], targets[:, 0, 1:5], atol=1e-3, rtol=0)
    assert torch.equal(found[:, 0, 0], targets[:, 0, 0])
    assert (found[:, 1:, 5] < 0.01).all(), "points of one box are one detection"


def test_every_box_has_its_points_and_padding_has_none() -> None:
    targets = marked().train.targets
    said = said_of(targets)
    owner, quality, free = assign(said.logits.sigmoid(), said.boxes, said.points, said.strides, targets)
    assert ((owner == 0).sum(1) >= 1).all()
    assert (owner <= 0).all(), "row 1 is padding"
    assert (quality <= 1).all()
    assert torch.equal(quality > 0, owner >= 0)
    assert (free == 1).all()
    tiny = targets.clone()
    tiny[:, 0, 1:5] = torch.tensor([13.0, 13.0, 15.0, 15.0])  # between the points
    owner, _, _ = assign(said.logits.sigmoid(), said.boxes, said.points, said.strides, tiny)
    assert ((owner == 0).sum(1) >= 1).all()


def test_boxes_that_do_not_count_teach_nothing() -> None:
    targets = marked().train.targets
    said = said_of(targets)
    flagged = targets.clone()
    flagged[:, 0, 5] = 1
    owner, _, free = assign(said.logits.sigmoid(), said.boxes, said.points, said.strides, flagged)
    assert (owner == -1).all()
    inside = said.logits.amax(2) > 0
    assert (free[inside] == 0).all()
    missing = targets.clone()
    missing[:, 0, 0] = -1
    assert said.loss(flagged) < said.loss(missing) / 10, (
        "to find what is difficult costs nothing, what is not there much"
    )


@pytest.mark.parametrize("m", [0, 2])
def test_images_without_boxes_have_a_loss(m: int) -> None:
    head = make_fcos((3, 8, 8, 8, 8), 2, generator(0))
    said = head([torch.randn(2, 8, 64 // s, 64 // s) for s in (8, 16, 32)])
    targets = torch.zeros(2, m, 7)
    targets[..., 0] = -1
    loss = said.loss(targets)
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in head.parameters())
    assert not any((p.grad != 0).any() for p in head.sides.parameters() if p.grad is not None)


def test_a_head_learns_by_heart() -> None:
    task = marked(4)
    head = make_fcos((3, 8, 8, 8, 8), 2, generator(0))
    maps = [F.adaptive_avg_pool2d(task.train.inputs.permute(0, 3, 1, 2).float() / 64 - 2, 64 // s) for s in (8, 16, 32)]
    place = [
        torch.stack(torch.meshgrid(*[torch.linspace(-1, 1, m.shape[-1])] * 2, indexing="ij")).expand(4, -1, -1, -1)
        for m in maps
    ]
    maps = [torch.cat([m, p, m[:, :1] * p, m[:, :1]], 1) for m, p in zip(maps, place, strict=True)]
    optimizer = torch.optim.AdamW(head.parameters(), lr=5e-3)
    first = 0.0
    for _ in range(120):
        loss = head(maps).loss(task.train.targets)
        first = first or loss.item()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < first / 4
    with torch.inference_mode():
        score = detection.score(head(maps).decode(), task.train.targets)
    assert score["ap50"] > 0.95


@pytest.mark.parametrize("names", [("flip",), ("upside-down",), ("zoom",), ("flip", "upside-down", "zoom")])
def test_boxes_and_maps_move_with_their_images(names: tuple[str, ...]) -> None:
    boxes, maps = marked(24, 96, 1), marked(24, 96, 1, "segmentation")
    x = boxes.train.inputs.permute(0, 3, 1, 2)
    moved, y = augment_places(x, boxes.train.targets, names, generator(1))
    again, z = augment_places(x, maps.train.targets, names, generator(1))
    assert torch.equal(moved, again), "the draws do not depend on what is marked"
    bright = moved.float().mean(1) > 190
    changed = gone = 0
    for i in range(24):
        white = z[i] == 1
        assert (bright[i] ^ white).float().mean() < 0.03, "the map covers what is white"
        row = y[i, 0]
        if row[0] < 0:
            gone += 1
            assert white.sum() < 0.35 * float(boxes.train.targets[i, 0, 6]) * 2.7
            continue
        seen = white.nonzero()
        tight = torch.tensor([*seen.amin(0).flip(0), *(seen.amax(0).flip(0) + 1)]).float()
        assert (tight - row[1:5]).abs().max() <= 1.01
        changed += int(not torch.equal(row[1:5], boxes.train.targets[i, 0, 1:5]))
    assert changed > 6
    assert gone < 8
    if names == ("zoom",):
        assert (z == VOID).any(), "what lies outside an image is void"


def test_maps_lie_where_their_images_do() -> None:
    """Not half a pixel beside them: an image's edge, between pixels, is where it crosses the middle grey."""
    edges = 32 + torch.arange(64) % 32
    maps = (torch.arange(96) >= edges[:, None]).to(torch.uint8)[:, None].expand(64, 96, 96).contiguous()
    x, y = augment_places((maps * 255)[:, None].expand(64, 3, 96, 96), maps, ("zoom",), generator(0))
    row = x[:, 0, 48].float().where(y[:, 48] != VOID, 0) / 255
    beside = row.sum(1) - (y[:, 48] == 1).sum(1)  # of a blurred edge the sum is where it was before
    assert beside.abs().max() <= 0.75
    assert beside.mean().abs() < 0.1


def test_colours_change_and_boxes_stay() -> None:
    task = marked()
    x = task.train.inputs.permute(0, 3, 1, 2)
    moved, y = augment_places(x, task.train.targets, ("colour",), generator(1))
    assert torch.equal(y, task.train.targets)
    assert (moved - x).flatten(1).abs().amax(1).gt(5).float().mean() > 0.5


def test_augmentation_that_leaves_boxes_behind_is_refused() -> None:
    task = marked()
    with pytest.raises(pt.InputError, match="'mixup' does not move boxes and label maps along; there are flip, "):
        augment_places(task.train.inputs.permute(0, 3, 1, 2), task.train.targets, ("mixup",), generator(0))


def test_images_of_different_sizes_give_boxes_in_their_own_pixels(start: pt.Checkpoint) -> None:
    task = marked()
    sizes = torch.tensor([[128, 128], [64, 64], [192, 192], [64, 64]])
    test = replace(task.test, sizes=sizes)
    rows = torch.zeros(4, 3, 6)
    rows[..., 0] = -1
    rows[:, 0, 1:5], rows[:, 0, 0], rows[:, 0, 5] = task.test.targets[:, 0, 1:5], task.test.targets[:, 0, 0], 0.9
    said = detection.predictions(rows, test, task)
    np.testing.assert_allclose(said.scores[:, 0, 1:5], said.targets[:, 0, 1:5])
    np.testing.assert_allclose(said.targets[0, 0, 1:5], 2 * task.test.targets[0, 0, 1:5].numpy())
    np.testing.assert_allclose(said.targets[3, 0, 1:5], task.test.targets[3, 0, 1:5].numpy())
    assert pt.evaluate(said, resamples=100)["ap"].value == 1
    low = replace(test, sizes=torch.tensor([[32, 64]] * 4), targets=torch.zeros(4, 0, 7))
    rows[:, 0, 1:5], rows[:, 1, 1:5] = torch.tensor([5.0, 10, 20, 60]), torch.tensor([5.0, 40, 20, 60])
    rows[:, 1, 0] = 1
    cut = detection.predictions(rows, low, task).scores
    assert cut[0, 0, 1:5].tolist() == [5, 10, 20, 32], "what reaches beside the image is cut off"
    assert cut[0, 1, 0] == -1, "what lies beside it is none"


def test_outputs_are_scaled_back_to_the_canvas() -> None:
    class Fake:
        def decode(self) -> Tensor:
            return torch.tensor([[[0, 10.0, 20, 30, 400, 0.5]]])

    found = detection.kept(Fake(), (128, 160), (120, 160), (240, 320))
    assert found[0, 0].tolist() == [0, 20, 40, 60, 240, 0.5]


def test_the_loss_of_maps_ignores_void() -> None:
    g = torch.Generator().manual_seed(0)
    logits, truth = torch.randn(2, 3, 8, 8, generator=g), torch.randint(0, 3, (2, 16, 16), generator=g).to(torch.uint8)
    truth[:, :6] = VOID
    plain = segmentation.loss(logits, truth)
    other = truth.clone()
    big = F.interpolate(logits, (16, 16), mode="bilinear")
    scored = (truth != VOID)[:, None].expand_as(big)
    p = big.softmax(1)
    one_hot = F.one_hot(truth.long().clamp_max(2), 3).permute(0, 3, 1, 2) * scored
    dice = [2 * (p * one_hot)[:, c].sum() / ((p * scored)[:, c].sum() + one_hot[:, c].sum()) for c in range(3)]
    weight = one_hot.sum((0, 2, 3)).float() ** -0.5
    share = (weight[:, None, None] * one_hot).sum(1)
    nll = -(big.log_softmax(1) * one_hot).sum(1)
    torch.testing.assert_close(plain, (share * nll).sum() / share.sum() + 1 - torch.stack(dice).mean())
    other[:] = VOID
    nothing = segmentation.loss(logits.requires_grad_(), other)
    nothing.backward()
    assert nothing.item() == 0
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_label_smoothing_of_maps_is_by_pixel() -> None:
    """What a pixel's wrong classes get is weighted as the pixel is, however rare those are, or absent."""
    g = torch.Generator().manual_seed(0)
    logits, truth = torch.randn(2, 5, 16, 16, generator=g), torch.randint(0, 3, (2, 16, 16), generator=g)
    truth[:, :2], truth[:, 2] = VOID, 1
    known = truth != VOID
    each = F.cross_entropy(logits, truth.where(known, 0), label_smoothing=0.2, reduction="none")[known]
    weight = torch.bincount(truth[known]).float().rsqrt()[truth[known]]
    entropy = (each * weight).sum() / weight.sum()
    plain = F.cross_entropy(logits, truth.where(known, 0), reduction="none")[known]
    gained = entropy - (plain * weight).sum() / weight.sum()
    said = segmentation.loss(logits, truth.to(torch.uint8), 0.2) - segmentation.loss(logits, truth.to(torch.uint8))
    torch.testing.assert_close(said, gained)


@pytest.mark.usefixtures("with_nbval")
@pytest.mark.parametrize("kind", ["detection", "segmentation"])
def test_training_is_deterministic_and_a_saved_run_can_be_opened(
    kind: str, start: pt.Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PTLIB_OUTPUTS", str(tmp_path))
    task = marked(kind=kind)
    stages = pt.recipe("lp-ft", 1, 1, kind=kind)
    results: list[Any] = []
    for _ in range(2):
        torch.rand(3)  # whatever ran before
        model = pt.build_model(start, task, 64, seed=3)
        history = pt.finetune(model, task, stages, seed=3, device="cpu", log=lambda line: None)
        results.append((model, history, pt.predict(model, task.test, task, "cpu")))
    (model, history, said), (_, _, again) = results
    assert np.array_equal(said.scores, again.scores)
    assert {row["stage"] for row in history.rows} == {"head", "all"}
    report = pt.evaluate(said, history.selected_on, resamples=100)
    path = save_run("detect", {"dataset": "scenes"}, task=task, model=model, history=history, predictions=said,
                    reports={"test": report}, cost=pt.cost(model, task.test, "cpu"), run_name="it")  # fmt: skip
    kept = read_run(path).test
    assert type(kept) is type(said)
    assert np.array_equal(kept.scores, said.scores)
    loaded = pt.load_checkpoint(str(path / "model.safetensors"))
    assert loaded.architecture == f"{kind}/{SMALL}"
    same = pt.predict(pt.build_model(loaded, task, own_head=True), task.test, task, "cpu")
    assert np.array_equal(same.scores, said.scores)
    three = replace(task, class_names=(*task.class_names, "more"))
    new: Any = pt.build_model(loaded, three, 64).head
    old: Any = model.head
    assert new.classes.out_channels == three.n_classes * (16 if kind == "segmentation" else 1)
    assert torch.equal(new.pyramid.lateral[0][0].weight, old.pyramid.lateral[0][0].weight)
    with pytest.raises(pt.InputError, match="fingerprint"):
        reopen(path)


def test_a_detector_is_not_taken_for_a_segmenter(start: pt.Checkpoint, tmp_path: Path) -> None:
    task = marked()
    path = save_model(pt.build_model(start, task), task, tmp_path / "d.safetensors")
    with pytest.raises(pt.InputError, match="this is a network for detection, not for segmentation"):
        pt.build_model(pt.load_checkpoint(str(path)), marked(kind="segmentation"))


@pytest.mark.usefixtures("with_nbval")
@pytest.mark.parametrize(
    "name, size",
    [
        ("ssdlite320_mobilenet_v3_large", 160),
        ("fasterrcnn_mobilenet_v3_large_320_fpn", 96),
        ("lraspp_mobilenet_v3_large", 64),
    ],
)
def test_networks_of_torchvision_learn_and_are_saved(name: str, size: int, tmp_path: Path) -> None:
    kind = "segmentation" if name.startswith(("lraspp", "deeplab", "fcn_")) else "detection"
    task = marked(2, kind=kind)
    model = pt.build_model(pt.load_checkpoint(f"random/torchvision/{name}"), task, size)
    stages = [pt.Stage("head", ("head",), 1, 1e-4, 2), pt.Stage("all", ("all",), 1, 1e-5, 2)]
    history = pt.finetune(model, task, stages, device="cpu", log=lambda line: None)
    assert np.isfinite(history.frame()["train_loss"]).all()
    said = pt.predict(model, task.test, task, "cpu")
    loaded = pt.load_checkpoint(str(save_model(model, task, tmp_path / "m.safetensors")))
    same = pt.predict(pt.build_model(loaded, task, own_head=True), task.test, task, "cpu")
    np.testing.assert_allclose(same.scores, said.scores, atol=1e-4)
    assert pt.under_new_head(model, replace(task, class_names=(*task.class_names, "more"))) is not model
    if name.startswith("faster"):
        body: Any = model.backbone.body
        x = torch.zeros(1, 3, size, size)
        assert list(model(x).maps) == list(body(x)), "regions are pooled from the maps that the weights know"


@pytest.mark.usefixtures("with_nbval")
@pytest.mark.parametrize(
    "name",
    ["fcos_resnet50_fpn", "retinanet_resnet50_fpn_v2", "ssd300_vgg16", "deeplabv3_mobilenet_v3_large", "fcn_resnet50"],
)
def test_the_larger_networks_of_torchvision_too(name: str, tmp_path: Path) -> None:
    test_networks_of_torchvision_learn_and_are_saved(name, 300 if name.startswith("ssd") else 96, tmp_path)


def test_recipes_for_places_have_small_steps() -> None:
    head, everything = pt.recipe("lp-ft", 3, kind="detection")
    assert (head.trainable, head.epochs, head.optimizer) == (("head",), 2, "adamw")
    assert (everything.epochs, everything.batch_size, everything.ema) == (3, 4, 0.99)


@pytest.mark.parametrize("kind, name, says", [
    ("detection", "scene", "did you mean 'scenes'"), ("segmentation", "mosaic", "did you mean 'mosaics'"),
    ("boxes", "scenes", "must be image_classification, text_classification, detection, segmentation"),
])  # fmt: skip
def test_an_unknown_task_of_places_is_refused_by_name(kind: str, name: str, says: str) -> None:
    with pytest.raises(pt.InputError, match=says):
        pt.load_task(name, kind=kind)


def test_what_is_for_one_class_an_image_says_so(start: pt.Checkpoint) -> None:
    task = marked()
    for what in (lambda: pt.rank([start], task), lambda: pt.few(task, 1), lambda: pt.pretrain(task)):
        with pytest.raises(
            pt.InputError, match="is for images or texts with one class each; marked is a task of detection"
        ):
            what()
    model = pt.build_model(start, task, 64)
    with pytest.raises(pt.InputError, match="has maps, not one row of features"):
        pt.features(model, task.test)
    for wrong in (
        lambda: pt.predict(model, task.test, marked(kind="segmentation")),
        lambda: pt.under_new_head(model, marked(kind="segmentation")),
    ):
        with pytest.raises(pt.InputError, match="a model for detection can't serve marked, a task of segmentation"):
            wrong()


@pytest.mark.parametrize("kind, change, says", [
    ("detection", {"label_smoothing": 0.1}, "label_smoothing is 0.1"),
    ("detection", {"augment": ("mixup",)}, "'mixup' does not"),
    ("segmentation", {"augment": ("crop",)}, "'crop' does not move"),
])  # fmt: skip
def test_what_a_kind_cannot_do_is_refused_before_training(
    kind: str, change: dict[str, Any], says: str, start: pt.Checkpoint
) -> None:
    task = marked(kind=kind)
    stages = [pt.Stage("head", ("head",)), pt.Stage("all", **change)]
    with pytest.raises(pt.InputError, match=says):
        pt.finetune(pt.build_model(start, task, 64), task, stages, log=lambda line: pytest.fail("it was trained"))


def test_val_must_be_able_to_choose(start: pt.Checkpoint) -> None:
    task = marked()
    nothing = task.val.targets.clone()
    nothing[..., 0] = -1
    task = replace(task, val=replace(task.val, targets=nothing))
    with pytest.raises(pt.InputError, match="val of marked has no box that counts"):
        pt.finetune(pt.build_model(start, task, 64), task, [pt.Stage("head", ("head",))])


def test_a_folder_of_odd_images_is_trained_on(tmp_path: Path, start: pt.Checkpoint) -> None:
    """Portrait and landscape, one of 20 megapixels, one without boxes, and a class that the test set lacks."""
    sizes = {"a": (90, 60), "b": (40, 80), "c": (5000, 4000), "d": (64, 64), "e": (64, 48), "f": (48, 64)}
    contents = {}
    for name, (width, height) in sizes.items():
        label = "dog" if name in "ac" else "cat"
        marked = [] if name == "d" else [(label, width // 4, height // 4, width // 2, height // 2)]
        contents[name] = annotation(*marked, size=(width, height))
    voc(tmp_path, **contents)
    for name, size in sizes.items():
        picture(tmp_path / "JPEGImages" / f"{name}.jpg", size)
    lists(tmp_path, train=["a", "b", "c", "d"], val=["e"], test=["f"])
    task = pt.load_task(str(tmp_path), kind="detection")
    assert task.train.inputs.shape[1:3] == (410, 512)
    assert not task.skipped
    model = pt.build_model(start, task, 96)
    history = pt.finetune(model, task, pt.recipe("lp-ft", 1, 1, kind="detection"), device="cpu", log=lambda line: None)
    assert np.isfinite(history.frame()["train_loss"]).all()
    said = pt.predict(model, task.test, task, "cpu")
    found = said.scores[said.scores[..., 0] >= 0]
    assert len(found)
    assert (found[:, 3] <= 48).all()
    assert (found[:, 4] <= 64).all()
    report = pt.evaluate(said, resamples=100)
    assert np.isnan(report.per_class["dog"]["ap"].value), "it has no true box in test"
    assert not np.isnan(report.per_class["cat"]["ap"].value)
