"""Where a model looks: maps of what its answer depends on, by captum, and whether they depend on its weights at all."""

from __future__ import annotations

import copy
from typing import Any, Literal

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn import functional as F

from ptlib.errors import InputError
from ptlib.models import Model
from ptlib.runtime import choose_device, deterministic, generator, place
from ptlib.texts import Texts

Method = Literal["integrated gradients", "grad-cam"]


def attribution(
    model: Model, images: Tensor, targets: Tensor, method: Method = "integrated gradients", *, steps: int = 32,
    device: str = "auto",
) -> np.ndarray:  # fmt: skip
    """How much each place of each image, uint8 (N, H, W, 3), counts for the logit of its target (N,): (N, H, W), >= 0.

    `integrated gradients` (Sundararajan, Taly and Yan 2017) from an image of the preprocessing's mean, in so many
    `steps`, absolute values summed over channels: for any network. `grad-cam` (Selvaraju et al. 2017) on the last layer
    that has positions: coarse, and of little use where that layer has few. In fp32, whatever the model is used with.
    InputError for texts, which have no such places.
    """
    if isinstance(images, Texts):
        raise InputError("maps are of images, uint8 (N, H, W, 3); these are texts, of which there are none")
    if images.dtype != torch.uint8 or images.ndim != 4:
        raise InputError(f"maps are of images, uint8 (N, H, W, 3); got {images.dtype} of shape {tuple(images.shape)}")
    where = choose_device(device)
    place(model, where)
    model.eval()
    with deterministic(where):
        maps = _maps(model, model.preprocess(images.to(where)).requires_grad_(), targets.to(where), method, steps)
    maps = F.interpolate(maps.detach().float(), images.shape[1:3], mode="bilinear", antialias=True)
    return maps[:, 0].clamp_min(0).cpu().numpy()


def _maps(model: Model, x: Tensor, y: Tensor, method: str, steps: int) -> Tensor:
    """Maps (N, 1, h, w) of preprocessed images (N, 3, S, S)."""
    from captum.attr import IntegratedGradients, LayerGradCam

    if method == "integrated gradients":
        found: Tensor = IntegratedGradients(model).attribute(
            x, target=y, n_steps=steps, internal_batch_size=max(64, len(x))
        )
        return found.abs().sum(1, keepdim=True)
    if method == "grad-cam":
        maps: Tensor = LayerGradCam(model, _last_map(model, x)).attribute(x, target=y, relu_attributions=True)
        return maps
    raise InputError(f"method is {method!r}; it must be 'integrated gradients' or 'grad-cam'")


def _last_map(model: Model, x: Tensor) -> nn.Module:
    """The last module of the backbone, in the order of a pass, whose output has more than one position."""
    if any(isinstance(m, nn.LayerNorm | nn.MultiheadAttention) for m in model.backbone.modules()):
        raise InputError("the layers of this network are no maps of features over positions; use integrated gradients")
    found: list[nn.Module] = []

    def see(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and min(output.shape[2:]) > 1:
            found.append(module)

    handles = [m.register_forward_hook(see) for m in model.backbone.modules() if not list(m.children())]
    with torch.no_grad():
        model(x[:1])
    for handle in handles:
        handle.remove()
    if not found:
        raise InputError("no layer of this network has positions to map; use integrated gradients")
    return found[-1]


def shuffled_weights(model: Model, part: Literal["all", "head"] = "all", seed: int = 0) -> Model:
    """A copy whose weights, or the head's, are shuffled within each tensor; BatchNorm's statistics stay."""
    shuffled = copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in shuffled.named_parameters():
            if part == "all" or name.startswith("head."):
                order = torch.randperm(parameter.numel(), generator=generator(seed, "shuffle", name))
                parameter.copy_(parameter.flatten()[order.to(parameter.device)].view_as(parameter))
    return shuffled


def rank_correlation(maps: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation between the maps of each image, (N,).

    Maps that stay alike when weights are shuffled show the image, not the model (Adebayo et al. 2018). NaN for a map
    without any difference between its places.
    """
    pairs = zip(maps.reshape(len(maps), -1), others.reshape(len(others), -1), strict=True)
    return np.array([spearmanr(a, b).statistic if np.ptp(a) and np.ptp(b) else np.nan for a, b in pairs])
