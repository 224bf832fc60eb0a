"""A model shared out among the processes that train it, for one whose training is more than a device can hold.

By PyTorch's fully_shard (FSDP2, after Zhao et al. 2023, arXiv 2304.11277): each process keeps a share of every weight,
of its gradient and of the optimizer's moments, and has the weights of a block whole while the block computes. What is
in no block, and the head, is whole through a step.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ptlib import together
from ptlib.errors import InputError
from ptlib.models import Model
from ptlib.networks import is_batchnorm, numbered, stops


def shared_out(model: Model, device: torch.device, head: bool, precision: str = "fp32") -> Model:
    """A copy of a model that is on the CPU, its backbone shared out on the device; its head whole, or with `head` too.

    Gradients of shares are summed over the processes. Each of them has to call this, and what it gives, equally often.
    InputError for a parameter that is a single number, which can't be shared.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

    if single := [name for name, p in model.named_parameters() if p.ndim == 0]:
        raise InputError(f"{model.checkpoint.name} can't be shared out: its parameter {single[0]} is a single number")
    copied = copy.deepcopy(model).to(memory_format=torch.contiguous_format)  # fully_shard takes no other
    copied.layout = torch.contiguous_format  # of the two mixed, BatchNorm's gradient on a CPU is wrong for one image
    # In bf16 weights are sent as that, or else a copy of all would be kept; BatchNorm takes its own in fp32 only.
    low = precision == "bf16" and not any(map(is_batchnorm, copied.modules()))
    mesh = init_device_mesh(device.type, (together.size(),))
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False) if low else None
    how: dict[str, Any] = {"mp_policy": policy} if policy else {}
    paths = dict.fromkeys(numbered(name) for name, _ in copied.backbone.named_parameters())
    blocks = [copied.backbone.get_submodule(path) for path in paths if path]
    # A container is never called, and what ends by an exception is not seen to end: they are the backbone's own.
    units = [block for block in blocks if not isinstance(block, nn.ModuleList | nn.ModuleDict) and not stops(block)]
    for unit in [*units, copied.backbone]:
        fully_shard(unit, mesh=mesh, **how)
    if head:  # in fp32, as detectors' heads compute
        fully_shard(copied.head, mesh=mesh)
    for module in copied.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo has no other
    return copied.to(device)


def let_go(model: nn.Module) -> None:
    """Forget weights that were put together of shares, which may have changed since."""
    for module in model.modules():
        reshard: Any = getattr(module, "reshard", lambda: None)
        reshard()


def is_share(tensor: Any) -> bool:
    """Whether this process has but a share of a tensor."""
    return hasattr(tensor, "full_tensor")


def gathered(tensors: Mapping[str, Any]) -> dict[str, Tensor]:
    """The same tensors; if any are shared out, in the first process these whole and on the CPU, in the others none.

    All processes have to ask for them at once.
    """
    alone, found = not any(map(is_share, tensors.values())), {}
    for name, tensor in tensors.items():
        whole = tensor.full_tensor() if is_share(tensor) else tensor
        if alone or together.rank() == 0:
            found[name] = whole.cpu() if is_share(tensor) else whole
    return found


def share_like(whole: Tensor, example: Any) -> Tensor:
    """A tensor that every process has, shared out as an example is; or a copy in the example's memory order."""
    if not is_share(example):
        return torch.empty_like(example).copy_(whole).detach()
    from torch.distributed.tensor import distribute_tensor

    here = whole.to(example.device)
    return distribute_tensor(here, example.device_mesh, example.placements, src_data_rank=None)
