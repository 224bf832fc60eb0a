"""Several processes that train one model: each computes its part of every batch, and the gradients are added up.

torchrun starts them, on this machine (`ptlib.worker.launch`) or on several. All of them do everything else alike, each
for itself: they read the same data, draw the same order and the same augmentations, and decide the same by the same
numbers.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from ptlib.errors import InputError


def size() -> int:
    """How many processes train together; 1 where this one is alone."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this one is, from 0."""
    return dist.get_rank() if size() > 1 else 0


def join(device: torch.device, both: bool = False) -> None:
    """Join the others, if torchrun started this process as one of several; `both` to send what lies on CPUs, too.

    InputError if they have joined on GPUs without that.
    """
    if both and size() > 1 and device.type == "cuda" and "gloo" not in str(dist.get_backend_config()):
        raise InputError("shard=True after a training without it in these processes; give shard=True from the first on")
    if int(os.environ.get("WORLD_SIZE", 1)) < 2 or dist.is_initialized():
        return
    store, number, count = next(rendezvous("env://"))
    # The store outlives processes that torchrun starts anew, and what the dead ones left there must not be found.
    mine = PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
    how = ("cpu:gloo,cuda:nccl" if both else "nccl") if device.type == "cuda" else "gloo"
    dist.init_process_group(how, store=mine, rank=number, world_size=count)


def leave() -> None:
    """Leave the others, once all of them are here: who went before would cut off what the last of them still reads."""
    if size() > 1:
        dist.barrier()
        dist.destroy_process_group()


def own(n: int) -> slice:
    """This process's part of `n` examples: of nearly one size, in order, none left out; empty if there are too few."""
    return slice(rank() * n // size(), (rank() + 1) * n // size())


def add_up(tensors: Sequence[Tensor]) -> None:
    """Sum each tensor over the processes, in place: one message for each type of number."""
    if size() == 1:
        return
    for dtype in dict.fromkeys(t.dtype for t in tensors):
        alike = [t for t in tensors if t.dtype == dtype]
        flat = torch.cat([t.reshape(-1) for t in alike])
        dist.all_reduce(flat)
        for tensor, part in zip(alike, flat.split([t.numel() for t in alike]), strict=True):
            tensor.copy_(part.view_as(tensor))


def first_says(value: bool) -> bool:
    """What the first process says; no device is waited for."""
    held = torch.tensor(value)
    dist.broadcast(held, 0)
    return bool(held)


def from_first(value: Any) -> Any:
    """What the first process has."""
    if size() == 1:
        return value
    held = [value]
    dist.broadcast_object_list(held, 0)
    return held[0]


@torch.no_grad()
def agree(tensors: Sequence[Tensor]) -> None:
    """Make each tensor that of the first process, in place: machines of two kinds may round differently."""
    for tensor in tensors if size() > 1 else ():
        sent = tensor.detach().contiguous()
        dist.broadcast(sent, 0)
        tensor.copy_(sent)


def gather(mine: Tensor, sizes: Sequence[int]) -> Tensor:
    """The rows of all processes, one process after the other; `sizes` are how many each has, this one's included."""
    padded = mine.new_zeros(max(sizes), *mine.shape[1:])
    padded[: len(mine)] = mine
    raw = padded.view(torch.uint8) if padded.dtype == torch.bool else padded
    found = [torch.empty_like(raw) for _ in sizes]
    dist.all_gather(found, raw)
    return torch.cat([f.view(padded.dtype)[:n] for f, n in zip(found, sizes, strict=True)])
