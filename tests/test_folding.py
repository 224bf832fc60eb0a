"""BatchNorm folded into convolutions: the same function and the same gradients, and only where it may be."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn
from torch.nn import functional as F

from ptlib import Model, build_model, load_checkpoint
from ptlib.convolutions import faster
from ptlib.folding import folded

CPU = torch.device("cpu")


def shaken(model: Model) -> Model:
    """Statistics, scales and shifts that say something, in double precision."""
    draw = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.affine:
            for values, low, high in ((module.running_mean, -0.2, 0.2), (module.running_var, 0.5, 1.5),
                                      (module.weight.data, 0.5, 1.5), (module.bias.data, -0.2, 0.2)):  # fmt: skip
                assert values is not None
                values.uniform_(low, high, generator=draw)
    return model.double().eval()


def built(name: str) -> Model:
    return shaken(build_model(load_checkpoint(name)))


def of(network: nn.Module) -> Model:
    like = build_model(load_checkpoint("random/cifar_resnet20"))
    return shaken(Model(network, nn.Identity(), like.preprocessing, like.checkpoint))


def images(model: Model) -> tuple[Tensor, Tensor]:
    """Three images as a split has them and as the backbone wants them."""
    x = torch.randint(0, 256, (3, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    own = model.preprocess
    model.preprocess = lambda x: own(x).double()  # type: ignore[method-assign]
    return x, model.preprocess(x)


def said(model: Model, x: Tensor) -> list[Tensor]:
    """The backbone's output, and the gradients of all its weights."""
    output = model.backbone(x)
    return [output.detach(), *torch.autograd.grad(output.square().sum(), list(model.backbone.parameters()))]


@pytest.mark.parametrize(
    ("name", "n"), [("random/cifar_resnet20", 19), ("random/timm/tf_efficientnet_lite0", 49),
                    ("random/timm/mobilenetv3_small_050", 34), ("random/timm/densenet121", 59)],
)  # fmt: skip
def test_the_same_function_and_gradients(name: str, n: int) -> None:
    model = built(name)
    inputs, x = images(model)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    plain = said(model, x)
    with folded(model, inputs, CPU):
        inside = said(model, x)
        with torch.no_grad():
            torch.testing.assert_close(model.backbone(x), plain[0], rtol=1e-9, atol=1e-9)
    assert len(model.foldable or ()) == n
    for a, b in zip(plain, inside, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9 * float(a.abs().max()))
    assert not torch.equal(plain[0], inside[0])  # it was computed another way
    assert all(torch.equal(after, b) for after, b in zip(said(model, x), plain, strict=True))
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


class Odd(nn.Module):
    """Convolutions that must be left as they are, each for another reason, and one that need not."""

    class Conv2d(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return F.conv2d(x, self.weight / self.weight.std(), None, 1, 1)

    def __init__(self) -> None:
        super().__init__()
        self.plain, self.shared, self.twice = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
        self.standardized = self.Conv2d(3, 3, 3, bias=False)
        self.between, self.last = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(2))
        self.norms = nn.ModuleList(nn.BatchNorm2d(3) for _ in range(6))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norms[0](self.plain(x))
        y = self.shared(x)
        x = self.norms[1](y) + y
        x = self.norms[2](self.twice(self.twice(x)))
        x = self.norms[3](self.standardized(x))
        x = self.norms[4](self.between(x).relu_())
        return torch.cat([self.norms[5](self.last(x)).mean((2, 3)), self.last(x).mean((2, 3))], 1)


@pytest.mark.parametrize("learning", [True, False])
@pytest.mark.parametrize("make", [nn.Conv2d, Conv2dSame])
@pytest.mark.parametrize("shape", [(6, 8), (7, 9), (6, 9), (1, 2)])
def test_convolutions_the_other_way(make: Any, shape: tuple[int, int], learning: bool) -> None:
    tried = 0
    for size, step, groups, bias in itertools.product((1, 2, 3, 4, 5, 7), (1, 2, 3), (1, 2, 6), (True, False)):
        padding = {} if make is Conv2dSame else {"padding": size // 2}
        layer = make(6, 6, size, step, groups=groups, bias=bias, **padding).double()
        layer.requires_grad_(learning)
        if (way := faster(layer)) is None:
            continue
        tried += 1
        x = torch.randn(2, 6, *shape, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
        x.requires_grad_()
        asked = [x, *(p for p in layer.parameters() if learning)]
        found = []
        for said in (layer(x), way(x, layer.weight, layer.bias)):
            found.append([said, *torch.autograd.grad(said.square().sum(), asked)])
        for a, b in zip(*found, strict=True):
            torch.testing.assert_close(b, a, rtol=1e-9, atol=1e-9)
    assert tried == (22 if make is Conv2dSame else 12)


def test_convolutions_that_are_left() -> None:
    like: dict[str, Any] = {"in_channels": 6, "out_channels": 6, "kernel_size": 5, "padding": 2, "groups": 6}
    assert faster(nn.Conv2d(**like)) is not None
    for other in ({"groups": 1}, {"dilation": 2}, {"padding": 1}, {"padding_mode": "circular"}, {"kernel_size": (5, 3)},
                  {"out_channels": 12}, {"stride": (1, 2)}):  # fmt: skip
        assert faster(nn.Conv2d(**{**like, **other})) is None, other


def test_what_others_read_too_is_left() -> None:
    model = of(Odd())
    inputs, x = images(model)
    plain = said(model, x)
    with folded(model, inputs, CPU):
        inside = said(model, x)
    assert model.foldable == [("plain", "norms.0")]
    for a, b in zip(plain, inside, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9 * float(a.abs().max()))


def test_what_is_set_otherwise_is_left() -> None:
    """A BatchNorm that learns its statistics, a convolution somebody listens to, another device."""
    model = built("random/cifar_resnet20")
    inputs, _ = images(model)
    network = model.backbone
    heard: list[Tensor] = []
    network.get_submodule("bn1").train()
    network.get_submodule("layer1.0.conv1").register_forward_hook(lambda module, inputs, output: heard.append(output))
    for device in (CPU, torch.device("cuda")):
        with folded(model, inputs, device):
            inside = [path for path, module in network.named_modules() if "forward" in module.__dict__]
        assert not {"conv1", "bn1", "layer1.0.conv1", "layer1.0.bn1"}.intersection(inside)
        assert ("layer2.0.bn1" in inside) == (device == CPU)
    assert [network.get_submodule(path).training for path in ("bn1", "layer1")] == [True, False]


def test_weights_may_change_inside_where_gradients_are_wanted() -> None:
    model = built("random/cifar_resnet20")
    inputs, x = images(model)
    with folded(model, inputs, CPU):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.1)
        inside = model.backbone(x).detach()
    torch.testing.assert_close(inside, model.backbone(x).detach(), rtol=1e-9, atol=1e-9)


def test_it_is_undone_whatever_happens_inside() -> None:
    model = built("random/cifar_resnet20")
    inputs, x = images(model)
    before = model.backbone(x).detach()
    with pytest.raises(KeyboardInterrupt), folded(model, inputs, CPU), folded(model, inputs, CPU):
        raise KeyboardInterrupt
    assert not any("forward" in module.__dict__ for module in model.modules())
    assert torch.equal(model.backbone(x).detach(), before)
