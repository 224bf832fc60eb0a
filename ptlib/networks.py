"""Networks that no library has: CIFAR-10's small ResNets, and any network up to one of its layers."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeGuard, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ptlib.errors import InputError, did_you_mean

# Weight files that people have, and that don't say what they are: by SHA-256, what network they are for and what it
# has seen. Idelbayev's ResNets for CIFAR-10, BSD-2-Clause.
KNOWN_FILES = {
    "12fca82f0bebc4135bf1f32f6e3710e61d5108578464b84fd6d7f5c1b04036c8": ("cifar_resnet20", "CIFAR-10"),
    "d509ac1820d7f25398913559d7e81a13229b1e7adc5648e3bfa5e22dc137f850": ("cifar_resnet32", "CIFAR-10"),
    "014dd6541728a1c700b1642ab640e211dc6eb8ed507d70697458dc8f8a0ae2e4": ("cifar_resnet44", "CIFAR-10"),
    "4bfd97631478d6b638d2764fd2baff3edb1d7d82252d54439343b6596b9b5367": ("cifar_resnet56", "CIFAR-10"),
}


class CifarResNet(nn.Module):
    """He et al. (2016), section 4.2, with parameter-free shortcuts; 6n + 2 layers for images of 32 pixels."""

    class Block(nn.Module):
        def __init__(self, inputs: int, outputs: int, stride: int):
            super().__init__()
            self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(outputs)
            self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(outputs)
            self.stride, self.extra = stride, (outputs - inputs) // 2

        def forward(self, x: Tensor) -> Tensor:
            y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
            short = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.extra, self.extra))
            return F.relu(y + short)

    def __init__(self, depth: int):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        for i, (inputs, outputs, stride) in enumerate(((16, 16, 1), (16, 32, 2), (32, 64, 2)), 1):
            first = self.Block(inputs, outputs, stride)
            rest = [self.Block(outputs, outputs, 1) for _ in range((depth - 2) // 6 - 1)]
            setattr(self, f"layer{i}", nn.Sequential(first, *rest))
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        for i in (1, 2, 3):
            x = self.get_submodule(f"layer{i}")(x)
        return self.linear(x.mean((2, 3)))  # type: ignore[no-any-return]


NUMBERED = re.compile(r"\d[a-z]?$")  # blocks.3, layer2, inception4b


def numbered(name: str) -> str | None:
    """The path up to the first numbered part of a parameter's name, None if no part of it is.

    >>> numbered("encoder.layer.7.attention.weight")
    'encoder.layer.7'
    """
    parts = name.split(".")[:-1]
    first = next((i for i, part in enumerate(parts) if NUMBERED.search(part)), None)
    return None if first is None else ".".join(parts[: first + 1])


class _Reached(Exception):
    """Carries a layer's output out of the network: what comes after is not computed."""

    def __init__(self, layer: nn.Module, output: Any):
        super().__init__()
        self.layer, self.output = layer, output


def _stop(module: nn.Module, inputs: Any, output: Any) -> None:
    raise _Reached(module, output)


def is_batchnorm(module: nn.Module) -> TypeGuard[nn.modules.batchnorm._BatchNorm]:
    """Whether a module keeps running statistics of its batches."""
    return isinstance(module, nn.modules.batchnorm._BatchNorm)


def stops(module: nn.Module) -> bool:
    """Whether `cut_behind` has made a network stop in this part of it."""
    return any(_stop in part._forward_hooks.values() for part in module.modules())


class UpTo(nn.Module):
    """A network up to one of its layers, whose output is pooled over positions, and a linear classifier `fc` on it.

    What lies behind the layer is taken out, so that parameters, FLOPs and time are those of the part.
    """

    def __init__(self, network: nn.Module, layer: str, example: Tensor):
        super().__init__()
        known = [path for path, _ in network.named_modules() if path]
        wrapped = (f"{'network.' * depth}{layer}" for depth in range(4))  # a part of a part of what is wrapped itself
        layer = next((path for path in wrapped if path in known), layer)
        if layer not in known:
            shallow = [path for path in known if path.count(".") <= 1 and not re.search(r"act|drop|norm|bn", path)]
            raise InputError(f"{type(network).__name__} has no layer {layer!r}{did_you_mean(layer, known) or ';'} some "
                             f"of its layers are {', '.join(shallow[:30])}")  # fmt: skip
        head = head_path(network)
        if f"{head}.".startswith(f"{layer}."):
            raise InputError(f"layer {layer!r} of {type(network).__name__} is, or holds, its head; take the whole")
        self.network, self.layer = network, layer
        features = cut_behind(network, layer, example, self.features)
        self.fc = nn.Linear(features.shape[1], 1)

    def features(self, x: Tensor) -> Tensor:
        """(B, D)."""
        return _pooling_of(self.network)(until(self.network, self.layer, x))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x))  # type: ignore[no-any-return]


def until(network: nn.Module, layer: str, x: Tensor) -> Any:
    """What `layer` makes of `x`, if `cut_behind` has made the network stop there; InputError if it is never reached."""
    try:
        network(x)
    except _Reached as reached:
        if reached.layer is not network.get_submodule(layer):  # the network is itself a part, of a larger part
            raise
        return reached.output
    raise InputError(f"{type(network).__name__} does not pass through its layer {layer!r}; name another")


def cut_behind(network: nn.Module, layer: str, example: Tensor, part: Callable[[Tensor], Tensor]) -> Tensor:
    """Make a network stop at `layer` and take out whatever `part`, a function of its inputs, then needs no more.

    Returns what `part` gives for the `example`, two blank inputs.
    """
    mode = network.training
    network.eval()  # statistics are not to move
    network.get_submodule(layer).register_forward_hook(_stop)
    named = list(network.requires_grad_(True).named_parameters())
    example = example.to(named[0][1].device)
    with torch.enable_grad():
        features = part(example.requires_grad_() if example.is_floating_point() else example)
        used = torch.autograd.grad(features.sum(), [p for _, p in named], allow_unused=True)
    network.train(mode)
    needed = {name for (name, _), gradient in zip(named, used, strict=True) if gradient is not None}
    for path, module in list(network.named_modules()):  # parents first; inside what was taken out nothing is left
        inside = [f"{path}.{name}" for name, _ in module.named_parameters()]
        if path and inside and not needed.intersection(inside) and not f"{layer}.".startswith(f"{path}."):
            parent, _, last = path.rpartition(".")
            setattr(network.get_submodule(parent), last, nn.Identity())
    return features


def head_path(network: nn.Module) -> str:
    """Where a network's head is, its last linear layer; InputError if it has none."""
    found = [(path, module) for path, module in network.named_modules() if isinstance(module, nn.Linear)]
    get = getattr(network, "get_classifier", None)
    if get is not None:
        found = [(path, module) for path, module in found if module is get()]
    if not found:
        raise InputError(f"{type(network).__name__} does not end in a linear layer; it has no head to replace")
    return str(found[-1][0])


def split_head(network: nn.Module) -> tuple[nn.Module, nn.Linear]:
    """A network without its head, its last linear layer, and that layer."""
    path = head_path(network)
    head = network.get_submodule(path)
    parent, _, last = path.rpartition(".")
    setattr(network.get_submodule(parent), last, nn.Identity())
    return network, head  # type: ignore[return-value]


@contextlib.contextmanager
def tapped(network: nn.Module, layers: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """While inside, a pass of the network leaves each layer's output, pooled, in the dictionary given; clear it before.

    A module may run several times in a pass: its first output counts.
    """
    taps: dict[str, Tensor] = {}
    pool = _pooling_of(network)

    def keep(layer: str) -> Callable[..., None]:
        def hook(module: Any, inputs: Any, output: Any) -> None:
            if layer not in taps:
                taps[layer] = pool(output).clone()  # what follows may write into the output

        return hook

    handles = [network.get_submodule(layer).register_forward_hook(keep(layer)) for layer in layers]
    try:
        yield taps
    finally:
        for handle in handles:
            handle.remove()


def _pooling_of(network: nn.Module) -> Callable[[Any], Tensor]:
    """How the outputs of a network's layers are pooled: one that reads texts knows which tokens count."""
    inner = network
    while isinstance(inner, UpTo):
        inner = inner.network
    return cast(Callable[[Any], Tensor], getattr(inner, "pooled", pooled))


def pooled(output: Any) -> Tensor:
    """A layer's output as features (B, D): the mean over positions of (B, D, H, W), (B, H, W, D) or (B, T, D)."""
    if isinstance(output, tuple | list):
        output = output[0]
    if not isinstance(output, Tensor) or output.ndim not in (2, 3, 4):
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise InputError(f"a layer gave {shape}; (B, D), (B, T, D), (B, D, H, W) or (B, H, W, D) can be pooled")
    if output.ndim == 4:
        return output.mean((1, 2) if channels_last(output) else (2, 3))
    return output.mean(1) if output.ndim == 3 else output


def channels_last(output: Tensor) -> bool:
    """Whether a layer's output for square images is (B, H, W, D), not (B, D, H, W).

    The odd one out of three sides is the channels'; between equals it is the first.
    """
    return output.shape[1] == output.shape[2] != output.shape[3]
