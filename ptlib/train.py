"""Fine-tuning in stages: what a training is asked, where it runs, and how it begins and ends."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch

from ptlib import together
from ptlib.core import Task
from ptlib.errors import InputError
from ptlib.kinds import dense_kind_of
from ptlib.loop import Loop
from ptlib.models import Model, check_kind
from ptlib.resume import Place, code, digest, ended
from ptlib.runtime import choose_device, choose_precision, deterministic, place
from ptlib.stages import History, Stage
from ptlib.tracking import tracked
from ptlib.worker import launch


def finetune(
    model: Model,
    task: Task,
    stages: Sequence[Stage],
    *,
    seed: int = 0,
    device: str = "auto",
    precision: str = "auto",
    compile: bool = False,
    accumulate: int | Literal["auto"] = 1,
    keep: Literal["best", "last"] = "best",
    devices: int = 1,
    restarts: int = 0,
    shard: bool = False,
    resume: Path | None = None,
    log: Callable[[str], None] = print,
) -> History:
    """Train `model` on `task.train` through `stages`, in place; keep the weights that score best on `task.val`.

    A stage begins with the best weights so far, so what a stage makes worse it also loses: the result never scores
    lower on val than the stage before it. With `keep="last"` nothing is chosen: the weights are those of the last
    epoch, and val is scored at the end of a stage only; for pretraining, whose objective is not the goal, and for a
    handful of labels, of which none can be spared to choose by. The test split is not touched. While only the head
    learns, without augmentation, the backbone's features are computed once. All randomness comes from (seed, stage,
    epoch, step), so equal arguments give equal bits on one machine, whatever ran before.

    `accumulate` computes each batch in so many parts: less memory, the same gradient up to rounding (and BatchNorm's
    statistics; boxes and pixels count by their share). "auto" doubles them where memory runs out. `log` hears progress.

    `resume` is a folder of this training's own: where it stands is saved there every minute, and on SIGTERM or an
    interrupt. Called again with the same arguments it goes on from there, to the bits it would have had without.

    `devices` processes train together, GPUs or parts of a CPU: each computes its part of every batch, so the gradient
    is the same up to rounding, as for `accumulate`. torchrun starts them here, and anew, up to `restarts` times, where
    one of them dies; a process that torchrun itself has started trains with the others. `shard` is for a model whose
    training is more than one device holds: each process keeps its share of weights, gradients and moments on the
    device, and puts a block's weights together there while it computes. The model itself stays on the CPU.

    Raises FloatingPointError when the loss is no longer finite; the model then has the best weights before that (of
    shares, in the first process), if an epoch was scored. InputError where memory runs out, and where what lies in
    `resume` was begun with other stages, data, weights or code.
    """
    if not stages:
        raise InputError("there is no stage to run; give at least one, or epochs above 0")
    if keep not in ("best", "last"):
        raise InputError(f"keep is {keep!r}; it must be best or last")
    for name, value in (("accumulate", accumulate), ("devices", devices)):
        if value != 1 and task.kind == "contrastive":
            raise InputError(f"{name} is {value}; a contrastive loss needs its batch whole, so it must be 1")
    check_kind(model, task)
    if dense := dense_kind_of(task):
        dense.check(task, stages)
    where = choose_device(device, devices)
    together.join(where, both=shard)
    how: dict[str, Any] = {"seed": seed, "device": device, "precision": precision, "compile": compile,
                           "accumulate": accumulate, "keep": keep, "shard": shard}  # fmt: skip
    if shard:
        alone = devices == together.size() == 1 and not (resume and ended(resume, len(stages)))
        rules = {"devices=1": alone, "compile=True": compile, "accumulate='auto'": accumulate == "auto"}
        if wrong := [what for what, so in rules.items() if so]:
            raise InputError(
                f"shard=True can't be had with {wrong[0]}; it takes devices=2 or more, compile=False and a number for "
                "accumulate"
            )
    if devices > together.size():
        with tempfile.TemporaryDirectory(prefix="ptlib-") as folder:
            how["resume"] = resume or Path(folder) / "training"
            if not ended(how["resume"], len(stages)):
                sent = {"model": model.cpu(), "task": task, "stages": stages, "devices": devices, **how}
                launch(devices, finetune, sent, log, restarts)
            return finetune(model, task, stages, **how, log=lambda line: None)  # they are at its end: it is taken up
    how = {"precision": choose_precision(precision, where, model), "accumulate": accumulate,
           "compile": compile, "keep": keep, "shard": shard}  # fmt: skip
    asked = {"stages": [asdict(s) for s in stages], "seed": seed, **how, "device": where.type,
             "augment": task.augment, "preprocessing": asdict(model.preprocessing)}  # fmt: skip
    if resume:  # what takes a moment to hash
        asked |= {"data": task.fingerprint, "weights": digest(model.state_dict()), "code": code()}
    run = Loop(model, task, where, Place(None if together.rank() else resume, asked, log), log, **how)
    place(model, torch.device("cpu") if shard else where)
    run.n_stages, run.epochs_left = len(stages), sum(s.epochs for s in stages if s.optimizer != "lbfgs")
    run.restore()
    complete = run.at[0] == len(stages)  # before, or by other processes: its rows have been told
    with tracked(None if together.rank() or complete else resume) as run.track, deterministic(where):
        for index, stage in list(enumerate(stages))[run.at[0] :]:
            try:
                run.stage(stage, (seed, index))
            finally:
                if run.best_state:
                    model.load_state_dict(run.best_state)
        if shard:  # the first has put it together
            together.agree(list(model.state_dict().values()))
    run.end()
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    model.eval()
    return History(run.rows, run.best, run.clock.seconds, str(where), run.precision, tuple(stages), keep)
