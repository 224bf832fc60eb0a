"""Fine-tuning in stages: the only training loop in the repo."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ptlib.core import Task
from ptlib.data.batches import fetch, resident, shuffled
from ptlib.errors import InputError
from ptlib.head import fit_head
from ptlib.kinds import dense_kind_of, kind_of
from ptlib.lora import adapted, plain_state
from ptlib.models import Model, check_kind, trainable_names
from ptlib.prediction import forward
from ptlib.runtime import (
    Clock,
    autocast,
    choose_device,
    choose_precision,
    derived_seed,
    deterministic,
    generator,
    place,
    to_device,
)
from ptlib.stages import Stage
from ptlib.step import Step, augmentations_of, measure_statistics, schedule, set_mode

CHECK_EVERY = 50  # steps between two looks at the loss on a device that would have to be waited for


@dataclass(frozen=True)
class History:
    """What happened, a row for each epoch; `best` is the row whose weights the model ended with."""

    rows: list[dict[str, Any]]
    best: dict[str, Any]
    seconds: dict[str, float]
    device: str
    precision: str
    stages: tuple[Stage, ...] = field(repr=False)
    keep: str = "best"

    def frame(self) -> Any:
        """The rows as a pandas DataFrame."""
        import pandas as pd

        return pd.DataFrame(self.rows)

    @property
    def selected_on(self) -> str:
        """What was chosen on what, for a report."""
        if self.keep == "last":
            return "nothing was selected: the last epoch"
        return f"epoch {self.best['epoch']} of stage {self.best['stage']!r}, the best of {len(self.rows)} on val"


def finetune(
    model: Model,
    task: Task,
    stages: Sequence[Stage],
    *,
    seed: int = 0,
    device: str = "auto",
    precision: str = "auto",
    compile: bool = False,
    accumulate: int = 1,
    keep: Literal["best", "last"] = "best",
    log: Callable[[str], None] = print,
) -> History:
    """Train `model` on `task.train` through `stages`, in place; keep the weights that score best on `task.val`.

    A stage begins with the best weights so far, so what a stage makes worse it also loses: the result never scores
    lower on val than the stage before it. With `keep="last"` nothing is chosen: the weights are those of the last
    epoch, and val is scored at the end of a stage only; for pretraining, whose objective is not the goal, and for a
    handful of labels, of which none can be spared to choose by. The test split is not touched. While only the head
    learns, without augmentation, the backbone's features are computed once. All randomness comes from (seed, stage,
    epoch, step), so equal arguments give equal bits on one machine, whatever ran before.

    `accumulate` splits each batch into so many parts, computed one after the other: less memory, the same gradient up
    to rounding (and BatchNorm's statistics; boxes and pixels count by their share of a part). Progress goes to `log`.

    Raises FloatingPointError when the loss is no longer finite; the model then has the best weights before that, if an
    epoch was scored.
    """
    if not stages:
        raise InputError("there is no stage to run; give at least one, or epochs above 0")
    if keep not in ("best", "last"):
        raise InputError(f"keep is {keep!r}; it must be best or last")
    if accumulate > 1 and task.kind == "contrastive":
        raise InputError(f"accumulate is {accumulate}; a contrastive loss needs its batch whole, so it must be 1")
    check_kind(model, task)
    if dense := dense_kind_of(task):
        dense.check(task, stages)
    where = choose_device(device)
    run = _Run(model, task, where, choose_precision(precision, where, model), accumulate, compile, keep, log)
    place(model, where)
    run.epochs_left = sum(s.epochs for s in stages if s.optimizer != "lbfgs")
    with deterministic(where):
        for index, stage in enumerate(stages):
            try:
                run.stage(stage, (seed, index))
                if not run.best:  # no epoch so far: the weights it came with are the best there are
                    run.score_start(stage)
            finally:
                if run.best_state:
                    model.load_state_dict(run.best_state)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    model.eval()
    return History(run.rows, run.best, run.clock.seconds, str(where), run.precision, tuple(stages), keep)


class _Run:
    """What the stages of one `finetune` share."""

    def __init__(
        self, model: Model, task: Task, device: torch.device, precision: str, accumulate: int, compile: bool,
        keep: str, log: Callable[[str], None],
    ):  # fmt: skip
        self.model, self.task, self.device, self.precision = model, task, device, precision
        self.accumulate, self.compile, self.keep, self.log = accumulate, compile, keep, log
        self.kind, dense = kind_of(task), dense_kind_of(task)
        self.kept = dense.kept if dense else None
        self.clock = Clock()
        self.rows: list[dict[str, Any]] = []
        self.best: dict[str, Any] = {}
        self.best_state: dict[str, Any] = {}
        self.features: dict[str, Tensor] = {}
        self.val_inputs = resident(model.read(task.val.inputs), device)
        self.targets = {split.name: resident(split.targets, device) for split in (task.train, task.val)}
        self.epochs_left = 0

    def stage(self, stage: Stage, key: tuple[int, ...]) -> None:
        names = trainable_names(self.model, stage.trainable)
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(name in names)
        with adapted(self.model, names, stage.lora, derived_seed(*key, "lora")) as learning:
            self._epochs(stage, key, learning)

    def _epochs(self, stage: Stage, key: tuple[int, ...], names: Sequence[str]) -> None:
        head_only = all(name.startswith("head.") for name in names)
        augmentations = augmentations_of(stage, self.task, head_only)
        cached = head_only and not augmentations and not self.kind.DENSE
        if cached:
            self._cache_features()
        elif not head_only:
            self.features.clear()
        if stage.optimizer == "lbfgs":
            self._exact_head(stage)
            return
        module = self.model.head if cached else self.model
        inputs = self.features["train"] if cached else self.model.read(self.task.train.inputs)
        step = Step(self.model, module, stage, self.task, names, self.device, self.precision, self.accumulate,
                    self.compile)  # fmt: skip
        n = len(inputs)
        steps_per_epoch = math.ceil(n / stage.batch_size)
        inputs = resident(inputs, self.device)
        for epoch in range(1, stage.epochs + 1):
            start = time.perf_counter()
            set_mode(self.model, stage, names)
            order = shuffled(inputs, steps_per_epoch, generator(*key, "order", epoch))
            total = torch.zeros((), device=self.device)
            with self.clock("train head" if cached else "train"):
                for i, x in enumerate(fetch(inputs, order, self.device)):
                    done = (epoch - 1) * steps_per_epoch + i
                    rows = to_device(order[i], self.device)
                    draws = generator(*key, "step", epoch, i)
                    y = self.targets["train"]
                    y = y[rows] if y.device == rows.device else y[order[i]].to(self.device)
                    if not cached:
                        x, y = self.kind.prepare(self.model, x, y, augmentations, draws, self.task.n_classes)
                    torch.manual_seed(derived_seed(*key, "dropout", epoch, i))
                    progress = (done + 0.5) / (stage.epochs * steps_per_epoch)
                    total += step(x, y, stage.lr * schedule(stage, progress)) * len(rows)
                    if (self.device.type == "cpu" or i % CHECK_EVERY == CHECK_EVERY - 1) and not total.isfinite():
                        self._diverged(stage, epoch, f"by step {i + 1} of {steps_per_epoch}")
                loss = float(total) / n
            if not math.isfinite(loss):
                self._diverged(stage, epoch, f"by step {steps_per_epoch} of {steps_per_epoch}")
            seconds = time.perf_counter() - start
            if self.keep == "last" and epoch < stage.epochs:
                self._note(stage, epoch, loss, {}, n / seconds, seconds)
                continue
            with step.averaged():
                if stage.batchnorm == "train" and not head_only:
                    with self.clock("batchnorm statistics"), autocast(self.device, self.precision):
                        measure_statistics(self.model, names, self.task.train.inputs, self.device)
                self._score(stage, epoch, loss, n / seconds, cached, seconds)

    def _cache_features(self) -> None:
        with self.clock("features"):
            for split in (self.task.train, self.task.val):
                if split.name not in self.features:
                    self.features[split.name] = forward(
                        self.model, self.model.backbone, split.inputs, self.device, self.precision
                    )

    def _exact_head(self, stage: Stage) -> None:
        start = time.perf_counter()
        head = self.model.head
        if not isinstance(head, nn.Linear):
            raise InputError(f"stage {stage.name!r}: lbfgs fits linear heads only, this one is a {type(head).__name__}")
        with self.clock("train head"):
            penalty, loss = fit_head(head, self.features, self.targets)
        seconds = time.perf_counter() - start
        self.log(f"{stage.name}: features cached, head fitted with L2 penalty {penalty:g}")
        self._score(stage, 1, loss, len(self.task.train) / seconds, True, seconds)

    def score_start(self, stage: Stage) -> None:
        """Score the weights a stage began with."""
        self._score(stage, 0, math.nan, 0.0, False, 0.0)

    def _score(self, stage: Stage, epoch: int, loss: float, rate: float, cached: bool, seconds: float) -> None:
        """Score on val, remember the row, keep the weights if they are the best so far."""
        with self.clock("score on val"):
            if cached:
                with torch.no_grad():
                    outputs = self.model.head(self.features["val"])
            else:
                how = (self.device, self.precision)
                outputs = forward(self.model, self.model, self.val_inputs, *how, kept=self.kept)
            scores = self.kind.score(outputs, self.targets["val"])
        if not all(map(math.isfinite, scores.values())):
            self._diverged(stage, epoch, "on val")
        metric = f"val_{self.task.primary_metric}"
        row = self._note(stage, epoch, loss, scores, rate, seconds)
        rank = row[metric], -row.get("val_loss", 0.0)
        if self.keep == "last" or not self.best or rank > (self.best[metric], -self.best.get("val_loss", 0.0)):
            self.best = row
            self.best_state = plain_state(self.model)

    def _note(
        self, stage: Stage, epoch: int, loss: float, scores: Mapping[str, float], rate: float, seconds: float
    ) -> dict[str, Any]:
        """A row of the history, and a line of the log."""
        row: dict[str, Any] = {"stage": stage.name, "epoch": epoch, "train_loss": loss}
        row |= {f"val_{name}": value for name, value in scores.items()}
        row |= {"examples_per_s": rate, "seconds": seconds}
        self.rows.append(row)
        if stage.optimizer != "lbfgs" and epoch:
            self.epochs_left -= 1
        left = f", about {self.epochs_left * seconds:.0f} s left" if self.epochs_left else ""
        count = f" {epoch}/{stage.epochs}" if stage.optimizer != "lbfgs" else ""
        metric = self.task.primary_metric
        said = f", val {metric} {scores[metric]:.3f}" if scores else ""
        done = (
            f"{count}: loss {loss:.3f}{said}, {rate:,.0f} {self.task.reads}/s{left}"
            if epoch
            else f": as it begins{said}"
        )
        self.log(f"{stage.name}{done}")
        return row

    def _diverged(self, stage: Stage, epoch: int, when: str) -> None:
        raise FloatingPointError(
            f"the loss is not finite in stage {stage.name!r}, epoch {epoch}, {when}, "
            f"at lr {stage.lr:g} and {self.precision}; lower lr, set clip_norm, or use precision fp32"
        )
