"""The only training loop in the repo: epochs over batches, scored on val, the best weights kept."""

from __future__ import annotations

import contextlib
import gc
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ptlib import together
from ptlib.core import Task
from ptlib.data.batches import fetch, resident, shuffled
from ptlib.errors import InputError
from ptlib.folding import folded
from ptlib.head import fit_head
from ptlib.kinds import dense_kind_of, kind_of
from ptlib.lora import adapted, plain_state
from ptlib.models import Model, trainable_names
from ptlib.prediction import forward
from ptlib.resume import Place, State, part
from ptlib.runtime import Clock, autocast, derived_seed, generator, to_device
from ptlib.sharding import gathered, shared_out
from ptlib.stages import Stage
from ptlib.step import Step, augmentations_of, measure_statistics, schedule, set_mode
from ptlib.tracking import Track


class Loop:
    """What the stages of one `finetune` share."""

    def __init__(
        self, model: Model, task: Task, device: torch.device, place: Place, log: Callable[[str], None],
        precision: str, accumulate: int | str, compile: bool, keep: str, shard: bool,
    ):  # fmt: skip
        self.model, self.task, self.device, self.place, self.log = model, task, device, place, log
        self.precision, self.accumulate, self.compile, self.keep = precision, accumulate, compile, keep
        self.shard = place.shared = shard
        self.kind, dense = kind_of(task), dense_kind_of(task)
        self.kept = dense.kept if dense else None
        self.clock = Clock()
        self.rows: list[dict[str, Any]] = []
        self.best: dict[str, Any] = {}
        self.best_state: dict[str, Any] = {}
        self.features: dict[str, Tensor] = {}
        self.val_inputs = resident(model.read(task.val.inputs), device)
        self.targets = {split.name: resident(split.targets, device) for split in (task.train, task.val)}
        self.n_stages = self.epochs_left = 0
        self.at, self.done = (0, 1, 0), 0  # the stage, epoch and step that come next; what was done so far
        self.total = torch.zeros((), device=device)  # of the epoch's losses
        self.step: Step | None = None
        self.track: Track = lambda row, count: None
        self.saved: State | None = None  # what it is to go on from, until it does

    def state(self) -> State:
        """All that the rest of the training depends on."""
        if self.saved:
            return self.saved
        tensors = {f"best.{name}": value for name, value in self.best_state.items()} | {"total": self.total}
        if self.at[0] < self.n_stages:
            tensors |= {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"step.{name}": value for name, value in (self.step.state() if self.step else {}).items()}
        tensors = gathered(tensors)
        facts = {"step": self.done, "at": self.at, "rows": self.rows, "best": self.best, "left": self.epochs_left,
                 "seconds": self.clock.seconds}  # fmt: skip
        return tensors, facts

    def restore(self) -> None:
        """Take up what was saved, up to the weights, which wait for the stage to be set up."""
        self.saved = together.from_first(self.place.restore())
        if not self.saved:
            return
        tensors, facts = self.saved
        self.done, self.rows, self.best, self.epochs_left = (facts[k] for k in ("step", "rows", "best", "left"))
        self.at, self.clock.seconds = tuple(facts["at"]), facts["seconds"]
        self.best_state = part(tensors, "best")
        self.total = tensors["total"].to(self.device)
        if self.at[0] == self.n_stages:
            self.model.load_state_dict(self.best_state)

    def end(self) -> None:
        """Save what it ended with, once."""
        if self.at[0] < self.n_stages:
            self.at = (self.n_stages, 1, 0)
            self.done += 1
            self.place.save(self.state())
        self.place.leave()

    def stage(self, stage: Stage, key: tuple[int, ...]) -> None:
        names = trainable_names(self.model, stage.trainable)
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(name in names)
        self.at = self.at if self.saved else (key[-1], 1, 0)
        with adapted(self.model, names, stage.lora, derived_seed(*key, "lora")) as learning:
            if self.saved:
                self.model.load_state_dict(part(self.saved[0], "model"))
            together.agree(list(self.model.state_dict().values()))
            whole = self.model
            try:
                with self.place.watched(self.state):
                    self._epochs(stage, key, learning)
                    if not self.best:  # no epoch so far: the weights it came with are the best there are
                        self.score(stage, 0, math.nan, 0.0, False, 0.0)
                    self.place.passing(self.state)
            finally:
                self.model = whole
        self.step = None
        if self.shard:
            gc.collect()  # what is shared out refers to itself, and lies on the device until then

    def _epochs(self, stage: Stage, key: tuple[int, ...], names: Sequence[str]) -> None:
        head_only = all(name.startswith("head.") for name in names)
        augmentations = augmentations_of(stage, self.task, head_only)
        cached = head_only and not augmentations and not self.kind.DENSE
        if self.shard:
            self.model = shared_out(self.model, self.device, not head_only, self.precision)
        if cached:
            self._cache_features()
        elif not head_only:
            self.features.clear()
        if stage.optimizer == "lbfgs":
            self.saved = None
            if self.at[1] == 1:
                self._exact_head(stage)
            return
        module = self.model.head if cached else self.model
        inputs = self.features["train"] if cached else self.model.read(self.task.train.inputs)
        with self.place.whole():
            step = Step(self.model, module, stage, self.task, names, self.device, self.precision, self.accumulate,
                        self.compile, not cached, self.log)  # fmt: skip
            if self.saved:
                step.load(part(self.saved[0], "step"))
            self.step, self.saved = step, None
        n = len(inputs)
        steps_per_epoch = math.ceil(n / stage.batch_size)
        inputs = resident(inputs, self.device)
        for epoch in range(self.at[1], stage.epochs + 1):
            start = time.perf_counter()
            set_mode(self.model, stage, names)
            order = shuffled(inputs, steps_per_epoch, generator(*key, "order", epoch))
            first = self.at[2]
            self.total = self.total if first else torch.zeros((), device=self.device)
            may_fold = contextlib.nullcontext() if cached or self.compile else folded(self.model, inputs, self.device)
            with self.clock("train head" if cached else "train"), may_fold:
                for i, x in enumerate(fetch(inputs, order[first:], self.device), first):
                    self.place.passing(self.state)
                    done = (epoch - 1) * steps_per_epoch + i
                    rows = to_device(order[i], self.device)
                    draws = generator(*key, "step", epoch, i)
                    y = self.targets["train"]
                    y = y[rows] if y.device == rows.device else to_device(y[order[i]], self.device)
                    if not cached:
                        x, y = self.kind.prepare(self.model, x, y, augmentations, draws, self.task.n_classes)
                    progress = (done + 0.5) / (stage.epochs * steps_per_epoch)
                    with self.place.whole():
                        lr, dropout = stage.lr * schedule(stage, progress), derived_seed(*key, "dropout", epoch, i)
                        self.total += step(x, y, lr, dropout) * len(rows)
                        self.at, self.done = (key[-1], epoch, i + 1), self.done + 1
                    if not step.finite(self.total):
                        self._diverged(stage, epoch, f"by step {i + 1} of {steps_per_epoch}")
                loss = float(self.total) / n
            if not math.isfinite(loss):
                self._diverged(stage, epoch, f"by step {steps_per_epoch} of {steps_per_epoch}")
            seconds = time.perf_counter() - start
            rate = n * (1 - first / len(order)) / seconds
            if self.keep == "last" and epoch < stage.epochs:
                with self.place.whole():
                    self._note(stage, epoch, loss, {}, rate, seconds)
                continue
            with step.averaged(self.place.whole):
                if stage.batchnorm == "train" and not head_only:
                    with self.clock("batchnorm statistics"), autocast(self.device, self.precision):
                        measure_statistics(self.model, names, self.task.train.inputs, self.device)
                self.score(stage, epoch, loss, rate, cached, seconds)

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
        self.score(stage, 1, loss, len(self.task.train) / seconds, True, seconds)

    def score(self, stage: Stage, epoch: int, loss: float, rate: float, cached: bool, seconds: float) -> None:
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
        with self.place.whole():
            row = self._note(stage, epoch, loss, scores, rate, seconds)
            rank = row[metric], -row.get("val_loss", 0.0)
            better = self.keep == "last" or not self.best or rank > (self.best[metric], -self.best.get("val_loss", 0.0))
            if together.first_says(better) if self.shard else better:  # all put the weights together, or none
                self.best = row
                self.best_state = plain_state(self.model)

    def _note(
        self, stage: Stage, epoch: int, loss: float, scores: Mapping[str, float], rate: float, seconds: float
    ) -> dict[str, Any]:
        """A row of the history, and a line of the log."""
        row: dict[str, Any] = {"stage": stage.name, "epoch": epoch, "train_loss": loss if epoch else None}
        row |= {f"val_{name}": value for name, value in scores.items()}
        row |= {"examples_per_s": rate, "seconds": seconds}
        self.rows.append(row)
        self.track(row, len(self.rows))
        self.at, self.done = (self.at[0], epoch + 1, 0), self.done + 1
        if stage.optimizer != "lbfgs" and epoch:
            self.epochs_left -= 1
        left = f", about {self.epochs_left * seconds:.0f} s left" if self.epochs_left else ""
        count, metric = f" {epoch}/{stage.epochs}" if stage.optimizer != "lbfgs" else "", self.task.primary_metric
        said = f", val {metric} {scores[metric]:.3f}" if scores else ""
        done = f"{count}: loss {loss:.3f}{said}, {rate:,.0f} {self.task.reads}/s{left}"
        self.log(f"{stage.name}{done if epoch else f': as it begins{said}'}")
        return row

    def _diverged(self, stage: Stage, epoch: int, when: str) -> None:
        raise FloatingPointError(
            f"the loss is not finite in stage {stage.name!r}, epoch {epoch}, {when}, "
            f"at lr {stage.lr:g} and {self.precision}; lower lr, set clip_norm, or use precision fp32"
        )
