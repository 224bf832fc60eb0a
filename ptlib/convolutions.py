"""Convolutions that a CPU computes faster another way than PyTorch asks it to, with the same result.

To halve a map, timm's Conv2dSame copies it with one more row and column of zeros behind it than before it; a row and a
column of zeros before the kernel do the same. And oneDNN's gradient of a depthwise kernel wider than 3 takes up to ten
times as long as the convolution itself; of three columns of it at a time, a third of that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

Convolve = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def faster(convolution: nn.Conv2d) -> Convolve | None:
    """The convolution as a function of a map, a kernel and a bias; None where it is best left as it is."""
    size, step, c = convolution.kernel_size[0], convolution.stride[0], convolution.groups
    same, half = type(convolution).__name__ == "Conv2dSame", size // 2
    square = convolution.kernel_size == (size, size) and convolution.stride == (step, step)
    plain = square and size % 2 and convolution.dilation == (1, 1) and convolution.padding_mode == "zeros"
    depthwise, halves = 1 < c == convolution.in_channels == convolution.out_channels, same and step == 2 and size > 1
    around = convolution.padding == (half, half) or (same and step == 1)
    if not plain or not (halves or (depthwise and around and size > 3)):
        return None

    def convolve(x: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
        zeros = tuple(int(halves and n % 2 == 0) for n in x.shape[-2:])
        if depthwise and kernel.requires_grad and not torch.is_autocast_enabled("cpu"):
            return _Depthwise.apply(x, kernel, bias, step, zeros)  # type: ignore[no-any-return]
        return F.conv2d(x, _behind(zeros, kernel), bias, step, half, 1, c)

    return convolve


def _behind(zeros: tuple[int, ...], kernel: Tensor) -> Tensor:
    """A kernel behind so many rows and columns of zeros."""
    return F.pad(kernel, (zeros[1], 0, zeros[0], 0)) if any(zeros) else kernel


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Tensor, bias: Tensor | None, step: int, zeros: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(x, kernel)
        ctx.step, ctx.zeros = step, zeros
        return F.conv2d(x, _behind(zeros, kernel), bias, step, kernel.shape[-1] // 2, 1, len(kernel))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        (x, kernel), step, zeros = ctx.saved_tensors, ctx.step, ctx.zeros
        size, half = kernel.shape[-1], kernel.shape[-1] // 2

        def gradients(x: Tensor, kernel: Tensor, padding: int, *wanted: bool) -> tuple[Tensor, ...]:
            how = [step] * 2, [padding] * 2, [1, 1], False, [0, 0], len(kernel), [*wanted, False]
            return torch.ops.aten.convolution_backward(g, x, kernel, None, *how)  # type: ignore[no-any-return]

        of_x = gradients(x, _behind(zeros, kernel), half, True, False)[0] if ctx.needs_input_grad[0] else None
        x = F.pad(x, (half - zeros[1], half, half - zeros[0], half))
        rows, columns = ((n - 1) * step for n in g.shape[-2:])
        parts = [
            gradients(x[..., : rows + size, at : at + columns + part.shape[-1]], part.contiguous(), 0, False, True)[1]
            for at, part in zip(range(0, size, 3), kernel.split(3, dim=3), strict=True)
        ]
        of_bias = g.sum((0, 2, 3)) if ctx.needs_input_grad[2] else None
        return of_x, torch.cat(parts, dim=3), of_bias, None, None
