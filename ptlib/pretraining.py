"""Pretraining: the same training loop, on many labels, on other labels, or on none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ptlib.checkpoints import load_checkpoint
from ptlib.core import Task
from ptlib.errors import InputError
from ptlib.kinds import one_class_each
from ptlib.kinds.contrastive import Projection
from ptlib.models import Model, build_model
from ptlib.pretext import pretext
from ptlib.runs import describe, save_model, save_results, start_run
from ptlib.stages import History, Stage
from ptlib.train import finetune

SMALL = "cifar_resnet8"


@dataclass(frozen=True)
class Pretrained:
    """A network, what it was pretrained on and how: `model` has its own classes' head, or, where it learned none, a
    linear one of width 1 that says nothing: zeros."""

    model: Model
    source: Task
    method: str
    history: History


def pretrain(
    source: Task, architecture: str | None = None, method: str = "supervised", *, epochs: int = 2,
    lr: float = 0.01, batch_size: int = 64, temperature: float = 0.5, image_size: int | None = None, seed: int = 0,
    device: str = "auto", precision: str = "auto", resume: Path | None = None, log: Callable[[str], None] = print,
) -> Pretrained:  # fmt: skip
    """Train `architecture` (a ResNet-8 by default) from random weights on `source.train`, by `method` (see `pretext`).

    One cycle of AdamW over all weights, BatchNorm learning; the weights are those of the last epoch: nothing is chosen.
    The network sees each image `epochs` times; SimCLR, which shows two views, takes half the epochs, rounded up.
    `temperature` divides SimCLR's similarities: the lower, the more the nearest wrong views weigh. `resume` is as in
    `finetune`.

    Raises InputError for a method or an architecture that does not exist.
    """
    one_class_each(source, "pretraining")
    if temperature <= 0:
        raise InputError(f"temperature is {temperature}; it must be above 0")
    task = pretext(source, method, seed)
    start = load_checkpoint(f"random/{(architecture or SMALL).removeprefix('random/')}")
    model = build_model(start, task, image_size, seed)
    if isinstance(model.head, Projection):
        model.head.temperature = temperature
    epochs = -(-epochs // 2) if method == "simclr" else epochs
    stage = Stage(method, epochs=epochs, lr=lr, batch_size=batch_size, schedule="one-cycle", batchnorm="train")
    how: dict[str, Any] = {"seed": seed, "device": device, "precision": precision, "resume": resume, "log": log}
    history = finetune(model, task, [stage], keep="last", **how)
    if task.kind != source.kind:  # what the backbone learned counts; the head was for the lesson alone
        head = nn.utils.skip_init(nn.Linear, model.width, 1)  # a usual one would draw from global random state
        for parameter in head.parameters():
            nn.init.zeros_(parameter)
        model.head = head.to(next(model.backbone.parameters()).device)
    return Pretrained(model, source, method, history)


def save_pretrained(
    notebook: str, parameters: Mapping[str, Any], pretrained: Pretrained, target: Task, tables: Mapping[str, Any], *,
    run: Path | None = None, run_name: str | None = None,
) -> Path:  # fmt: skip
    """Write a pretrained network and what it was found to be worth to `outputs/<run_name>/`; return that path.

    `run` is what `start_run` gave; without, it is begun here. Beside what `commit` puts there it holds
    `model.safetensors`, which `load_checkpoint` takes, `history.csv`, and `<name>.csv` for each of `tables` (pandas
    DataFrames).
    """
    source = pretrained.source
    provenance = describe(source, pretrained.model, pretrained.history)
    run = run or start_run(notebook, parameters, source, target, run_name=run_name)
    tables = {"history": pretrained.history.frame().set_index("stage"), **tables}
    record = {**provenance, "method": pretrained.method,
              "target": {"name": target.name, "fingerprint": target.fingerprint}}  # fmt: skip

    def fill(folder: Path) -> None:
        save_model(pretrained.model, source, folder / "model.safetensors")

    return save_results(run, record, tables=tables, fill=fill)
