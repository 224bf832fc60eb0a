"""Batches: which rows, and how they come to the device: once where they fit, else fetched ahead into pinned memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Generator, Tensor

from ptlib.runtime import to_device
from ptlib.texts import Tokens

ALIKE = 64  # batches whose texts are sorted by length together: little is padded, and which meet stays chance


def shuffled(inputs: Any, steps: int, generator: Generator) -> Sequence[Tensor]:
    """Rows of each of an epoch's batches, of nearly one size: no example is left out, and no small last batch pulls as
    hard as a full one. Texts of one length come together, in batches whose order is chance."""
    order = torch.randperm(len(inputs), generator=generator)
    if not isinstance(inputs, Tokens):
        return list(order.tensor_split(steps))
    lengths = inputs.lengths
    parts = order.split(-(-len(order) * ALIKE // steps))
    alike = torch.cat([part[lengths[part].argsort(stable=True)] for part in parts]).tensor_split(steps)
    return [alike[i] for i in torch.randperm(steps, generator=generator).tolist()]


def batched(inputs: Any, size: int) -> Sequence[Tensor]:
    """Rows of each batch, to be looked at in any order: as they come, `size` at once; texts from the longest down, as
    many as hold `size` tokens."""
    if not isinstance(inputs, Tokens):
        return list(torch.arange(len(inputs)).split(size))
    order = inputs.lengths.argsort(descending=True, stable=True)
    lengths, parts, start = inputs.lengths[order].tolist(), [], 0
    while start < len(order):
        parts.append(order[start : start + max(1, size // lengths[start])])
        start += len(parts[-1])
    return parts


def resident(inputs: Any, device: torch.device) -> Any:
    """`inputs` on the device if they take at most a quarter of its free memory, else as they are."""
    if isinstance(inputs, Tokens) or device.type != "cuda" or inputs.device.type == "cuda":
        return inputs
    return inputs if inputs.nbytes > torch.cuda.mem_get_info(device)[0] // 4 else inputs.to(device)


def fetch(inputs: Any, rows: Sequence[Tensor], device: torch.device) -> Iterator[Tensor]:
    """`inputs[r]` on the device for each r of `rows` (int64, on the CPU), in order; a GPU is never waited for."""
    if inputs.device.type == device.type:
        for r in rows:
            yield inputs[to_device(r, device)]
        return
    # One thread gathers the next batch while the device works on this one.
    with ThreadPoolExecutor(1) as pool:
        pin = device.type == "cuda"

        def gather(r: Tensor) -> Tensor:
            batch: Tensor = inputs[r]
            return batch.pin_memory() if pin else batch

        ahead: Future[Tensor] | None = None
        for r in rows:
            following = pool.submit(gather, r)
            if ahead is not None:
                yield ahead.result().to(device, non_blocking=True)
            ahead = following
        if ahead is not None:
            yield ahead.result().to(device, non_blocking=True)
