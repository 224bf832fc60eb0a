"""Low-rank adaptation (Hu et al. 2021, arXiv 2106.09685) by peft: there while a stage learns, then part of the weights.

A linear layer's weight W stays as it is, and W + 2 B A is learnt, A (rank, in) and B (out, rank), B zero at first.
"""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from ptlib.errors import InputError
from ptlib.sharding import gathered

SCALE = 2  # what updates are multiplied by, for ranks to learn at one rate


@contextlib.contextmanager
def adapted(model: nn.Module, names: Sequence[str], rank: int | None, seed: int) -> Iterator[list[str]]:
    """While inside, linear layers of the backbone among `names` learn by updates of `rank`; None: as they are.

    Gives the names of what learns: the updates, and of `names` those of the head. InputError if no layer is linear.
    """
    if rank is None:
        yield list(names)
        return
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.lora import LoraLayer
    from transformers.pytorch_utils import Conv1D

    backbone: nn.Module = model.backbone  # type: ignore[assignment]
    linear = [path for path, module in backbone.named_modules() if isinstance(module, nn.Linear | Conv1D)]
    chosen = [path for path in linear if f"backbone.{path}.weight" in names]
    if not chosen:
        raise InputError(f"lora is {rank}, and no linear layer of the backbone is among what learns; leave lora out")
    exactly = "|".join(map(re.escape, chosen))  # a list would take ends of paths, and so other layers too
    learnt = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    how = LoraConfig(r=rank, lora_alpha=SCALE * rank, target_modules=exactly)
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            torch.default_generator.manual_seed(seed)
            warnings.simplefilter("ignore", UserWarning)  # of layers that hold their weight the other way round
            inject_adapter_in_model(how, backbone)
        own = [n for n, _ in model.named_parameters() if ".lora_" in n]
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in own or (name in names and name.startswith("head.")))
        yield [n for n, p in model.named_parameters() if p.requires_grad]
    finally:
        for path, module in list(backbone.named_modules()):
            if isinstance(module, LoraLayer):
                parent, _, last = path.rpartition(".")
                setattr(backbone.get_submodule(parent), last, module.base_layer)
        for parameter, before in learnt:
            parameter.requires_grad_(before)
        vars(backbone).pop("peft_config", None)


def plain_state(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the model's weights, whole, as they are without adapters, which have become part of them."""
    held = model.state_dict()
    state = {name: value.clone() if value is held[name] else value for name, value in gathered(held).items()}
    if not any(".lora_" in name for name in state):
        return state
    with torch.no_grad():
        for path, module in model.named_modules():
            if f"{path}.base_layer.weight" in state:
                a, b = (state[f"{path}.lora_{which}.default.weight"] for which in "AB")
                update = SCALE * (b @ a)
                state[f"{path}.base_layer.weight"] += update.T if module.fan_in_fan_out else update
    return {name.replace(".base_layer.", "."): value for name, value in state.items() if ".lora_" not in name}
