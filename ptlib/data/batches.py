"""Batches on the device: moved there once where they fit, else fetched ahead into pinned memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from ptlib.runtime import to_device


def resident(inputs: Tensor, device: torch.device) -> Tensor:
    """`inputs` on the device if they take at most a quarter of its free memory, else as they are."""
    if device.type != "cuda" or inputs.device.type == "cuda" or inputs.nbytes > torch.cuda.mem_get_info(device)[0] // 4:
        return inputs
    return inputs.to(device)


def fetch(inputs: Tensor, rows: Sequence[Tensor], device: torch.device) -> Iterator[Tensor]:
    """`inputs[r]` on the device for each r of `rows` (int64, on the CPU), in order; a GPU is never waited for."""
    if inputs.device.type == device.type:
        for r in rows:
            yield inputs[to_device(r, device)]
        return
    # One thread gathers the next batch while the device works on this one.
    with ThreadPoolExecutor(1) as pool:
        pin = device.type == "cuda"

        def gather(r: Tensor) -> Tensor:
            batch = inputs[r]
            return batch.pin_memory() if pin else batch

        ahead: Future[Tensor] | None = None
        for r in rows:
            following = pool.submit(gather, r)
            if ahead is not None:
                yield ahead.result().to(device, non_blocking=True)
            ahead = following
        if ahead is not None:
            yield ahead.result().to(device, non_blocking=True)
