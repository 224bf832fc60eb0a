"""BatchNorm of fixed statistics as part of the convolution before it: two passes over a map that need not be made.

With s = weight / sqrt(var + eps), (w x - mean) s + bias is (s w) x + (bias - s mean). The gradients are those of the
same function, so that a network learns as it would; only last digits differ. On CPUs, where passes over maps cost most.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ptlib.convolutions import faster
from ptlib.models import Model
from ptlib.networks import is_batchnorm
from ptlib.sharding import is_share

# Of these classes alone, not of what others derive from them, is known what they compute.
CONVOLUTIONS = ("torch.nn.modules.conv.Conv2d", "timm.layers.conv2d_same.Conv2dSame")
NORMS = ("torch.nn.modules.batchnorm.BatchNorm2d", "timm.layers.norm_act.BatchNormAct2d")


@contextlib.contextmanager
def folded(model: Model, inputs: Any, device: torch.device) -> Iterator[None]:
    """While inside, a backbone on a CPU computes with every BatchNorm that is in eval mode folded, where it can be.

    `inputs` are a split's. Weights may change inside, statistics and modes must not; with gradients turned off as one
    enters weights must not either: they are folded once.
    """
    patched: list[nn.Module] = []
    try:
        for convolution, norm in _pairs(model, inputs) if device.type == "cpu" else ():
            if not (norm.training or convolution._forward_hooks or "forward" in convolution.__dict__):
                patched += convolution, norm
                convolution.__dict__["forward"], norm.__dict__["forward"] = _folded(convolution, norm)
        yield
    finally:
        for module in patched:
            module.__dict__.pop("forward", None)


def _folded(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Callable[[Tensor], Tensor], ...]:
    """What the two compute from now on."""
    own: dict[str, Any] = convolution._parameters
    weight, bias, plain, act = own["weight"], own["bias"], convolution.forward, getattr(norm, "act", nn.Identity())
    mean, var = cast("list[Tensor]", [norm.running_mean, norm.running_var])
    by_std = (var + norm.eps).rsqrt()

    def fold() -> dict[str, Any]:
        scale = norm.weight * by_std
        moved = -mean if bias is None else bias - mean
        return {"weight": weight * scale.view(-1, 1, 1, 1), "bias": norm.bias + moved * scale}

    learning = any(p is not None and p.requires_grad for p in (weight, bias, norm.weight, norm.bias))
    fixed = None if learning and torch.is_grad_enabled() else fold()

    other_way = faster(convolution)

    def convolve(x: Tensor) -> Tensor:
        now = fixed or fold()
        if other_way:
            return other_way(x, now["weight"], now["bias"])
        try:
            own.update(now)
            return plain(x)
        finally:
            own.update(weight=weight, bias=bias)

    return convolve, lambda x: act(getattr(norm, "drop", nn.Identity())(x))


def _pairs(model: Model, inputs: Any) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    if not any(map(is_batchnorm, model.backbone.modules())) or any(map(is_share, model.parameters())):
        return []
    if model.foldable is None:
        model.foldable = _foldable(model.backbone, model.preprocess(inputs[:1]))
    at = model.backbone.get_submodule
    return [cast("tuple[nn.Conv2d, nn.BatchNorm2d]", (at(a), at(b))) for a, b in model.foldable]


@torch.enable_grad()
def _foldable(network: nn.Module, x: Tensor) -> list[tuple[str, str]]:
    """Paths of the convolutions whose output a BatchNorm reads, and nothing else, and of that BatchNorm.

    Read off the graph that autograd makes of a pass over `x`.
    """
    made: dict[Any, str] = {}
    read: dict[Any, str] = {}

    def convolved(path: str) -> Callable[..., None]:
        return lambda module, inputs, output: made.update({output.grad_fn: path})

    def normed(path: str) -> Callable[..., None]:
        return lambda module, inputs: read.update({inputs[0].grad_fn: path})

    modes, handles = [(module, module.training) for module in network.modules()], []
    for path, module in network.named_modules():
        which = f"{type(module).__module__}.{type(module).__qualname__}"
        if which in CONVOLUTIONS and "weight" in module._parameters:
            handles.append(module.register_forward_hook(convolved(path)))
        if which in NORMS and module.affine and module.track_running_stats:
            handles.append(module.register_forward_pre_hook(normed(path)))
    try:
        ends = [t.grad_fn for t in tree_leaves(network.eval()(x.detach().requires_grad_())) if isinstance(t, Tensor)]
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes:
            module.training = mode
    uses, ahead, seen = Counter(ends), ends, set()
    while ahead:
        node = ahead.pop()
        if node is not None and node not in seen:
            seen.add(node)
            below = [nearer for nearer, _ in node.next_functions]
            uses.update(below)
            ahead += below
    ran = Counter([*made.values(), *read.values()])
    return [(made[n], read[n]) for n in made if n in read and uses[n] == ran[made[n]] == ran[read[n]] == 1]
