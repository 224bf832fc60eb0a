"""Staged fine-tuning as other libraries do it: some epochs of the head over a frozen backbone, then some of everything.

Each way gets the same network, the fastest input there is (`Images`), AdamW at the same peak rate (fastai at its own),
fused where it is PyTorch's, and scores val after every epoch in batches of 128. Logs, bars and checkpoints are off.
What they do by default and ours does not is kept:

- fastai's `fine_tune` goes on training the BatchNorm layers of the frozen backbone (`train_bn`), so that gradients flow
  through all of it; its rates differ by layer; its AdamW is its own.
- Transformers' Trainer and the loops of torchvision's references and of timm's train.py have the whole network in train
  mode, so that BatchNorm goes by the batch and learns new statistics, under a frozen backbone too.
- Lightning trains what `requires_grad` says; its backbone is frozen in eval mode, as its page on transfer learning does
  (its `BaseFinetuning.freeze` would go on training BatchNorm).
- The references' loop fetches the loss and two accuracies after every step, timm's the loss.
"""

from __future__ import annotations

import importlib
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from ptlib import Model, Split

LR, WEIGHT_DECAY, EVAL_BATCH = 1e-3, 0.01, 128


@dataclass
class Watch:
    """Seconds since the training began at which each scoring of val began and ended, and the accuracy it gave."""

    start: float = field(default_factory=time.perf_counter)
    began: list[float] = field(default_factory=list)
    ended: list[float] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)

    def scoring(self) -> None:
        self.began.append(time.perf_counter() - self.start)

    def scored(self, accuracy: float) -> None:
        self.ended.append(time.perf_counter() - self.start)
        self.accuracies.append(accuracy)


@dataclass(frozen=True)
class Job:
    """What is to be done: epochs of the head, epochs of everything, in batches of so many."""

    model: Model
    train: Split
    val: Split
    head_epochs: int
    epochs: int
    batch_size: int


class Images(Dataset[tuple[Tensor, Tensor]]):
    """Images of uint8 in memory that come a whole batch at once, preprocessed as one by the model's own function."""

    def __init__(self, model: Model, split: Split):
        self.model, self.split = model, split

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        return self.__getitems__([row])

    def __getitems__(self, rows: list[int]) -> tuple[Tensor, Tensor]:
        return self.model.preprocess(self.split.inputs[rows]), self.split.targets[rows]


def as_it_is(batch: Any) -> Any:
    return batch


def loaders(job: Job) -> tuple[Any, Any]:
    """Of train, shuffled, and of val."""
    train = DataLoader(Images(job.model, job.train), job.batch_size, shuffle=True, collate_fn=as_it_is)
    return train, DataLoader(Images(job.model, job.val), EVAL_BATCH, collate_fn=as_it_is)


def legs(job: Job) -> Iterator[tuple[int, bool]]:
    """Epochs and whether the backbone is frozen, which is then done."""
    for epochs, frozen in ((job.head_epochs, True), (job.epochs, False)):
        for parameter in job.model.backbone.parameters():
            parameter.requires_grad_(not frozen)
        yield epochs, frozen


def learning(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def fastai(job: Job, watch: Watch) -> None:
    from fastai.callback.core import Callback
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner
    from fastai.metrics import accuracy

    class Seen(Callback):
        order = 60  # after the recorder

        def before_validate(self) -> None:
            watch.scoring()

        def after_epoch(self) -> None:
            watch.scored(float(self.learn.final_record[-1]))

    def layers(model: Model) -> list[list[nn.Parameter]]:
        return [list(model.backbone.parameters()), list(model.head.parameters())]

    data = DataLoaders(*loaders(job))
    learner = Learner(data, job.model, F.cross_entropy, splitter=layers, metrics=accuracy, cbs=[Seen()])
    with learner.no_bar(), learner.no_logging():
        learner.fine_tune(job.epochs, freeze_epochs=job.head_epochs)


def lightning(job: Job, watch: Watch) -> None:
    import lightning.pytorch as pl

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = job.model
            self.right: list[Tensor] = []

        def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
            return F.cross_entropy(self.model(batch[0]), batch[1])

        def on_validation_epoch_start(self) -> None:
            watch.scoring()

        def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
            self.right.append(self.model(batch[0]).argmax(1) == batch[1])

        def on_validation_epoch_end(self) -> None:
            watch.scored(float(torch.cat(self.right).float().mean()))
            self.right.clear()

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(learning(self), LR, weight_decay=WEIGHT_DECAY, fused=True)
            steps = int(self.trainer.estimated_stepping_batches)
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, steps, pct_start=0.15)
            return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    module = Module()
    for epochs, frozen in legs(job):
        module.train()
        job.model.backbone.train(not frozen)
        trainer = pl.Trainer(
            accelerator="cpu", devices=1, max_epochs=epochs, num_sanity_val_steps=0, logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(module, *loaders(job))


class Labelled(nn.Module):
    """A network as Transformers' Trainer wants it: the loss beside the logits."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.model(inputs)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


def transformers(job: Job, watch: Watch) -> None:
    from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

    class Seen(TrainerCallback):
        def on_epoch_end(self, *args: Any, **kwargs: Any) -> None:
            watch.scoring()

        def on_evaluate(self, *args: Any, metrics: Any = None, **kwargs: Any) -> None:
            watch.scored(metrics["eval_accuracy"])

    def right(said: Any) -> dict[str, float]:
        return {"accuracy": float((said.predictions.argmax(1) == said.label_ids).mean())}

    with tempfile.TemporaryDirectory() as folder:
        for epochs, _ in legs(job):
            arguments = TrainingArguments(
                folder, use_cpu=True, num_train_epochs=epochs, per_device_train_batch_size=job.batch_size,
                per_device_eval_batch_size=EVAL_BATCH, learning_rate=LR, weight_decay=WEIGHT_DECAY,
                lr_scheduler_type="cosine", warmup_steps=0.15, eval_strategy="epoch", save_strategy="no",
                logging_strategy="no", report_to=[], disable_tqdm=True, remove_unused_columns=False, seed=0,
            )  # fmt: skip
            trainer = Trainer(
                Labelled(job.model), arguments, data_collator=lambda batch: {"inputs": batch[0], "labels": batch[1]},
                train_dataset=Images(job.model, job.train), eval_dataset=Images(job.model, job.val), callbacks=[Seen()],
                compute_metrics=right,
            )  # fmt: skip
            trainer.remove_callback(PrinterCallback)
            trainer.train()


class Meters:
    """Loss and accuracies in percent, over the last steps and over all, told of each step as it comes."""

    def __init__(self) -> None:
        self.last = {name: deque[float](maxlen=20) for name in ("loss", "top 1", "top 5")}
        self.totals, self.count = dict.fromkeys(self.last, 0.0), 0

    def update(self, loss: Tensor, logits: Tensor, targets: Tensor) -> None:
        right = logits.topk(min(5, logits.shape[1]), 1).indices.t() == targets
        first, fifth = (100 * right[:k].any(0).float().mean() for k in (1, 5))
        self.count += len(targets)
        for name, value in (("loss", loss.item()), ("top 1", first.item()), ("top 5", fifth.item())):
            self.last[name].append(value)
            self.totals[name] += value * len(targets)


def references(job: Job, watch: Watch) -> None:
    """In the shape of torchvision's references/classification/train.py."""
    model, (train, val) = job.model, loaders(job)
    for epochs, _ in legs(job):
        optimizer = torch.optim.AdamW(learning(model), LR, weight_decay=WEIGHT_DECAY, fused=True)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
        for _ in range(epochs):
            model.train()
            meters = Meters()
            for x, y in train:
                logits = model(x)
                loss = F.cross_entropy(logits, y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                meters.update(loss, logits, y)
            schedule.step()
            model.eval()
            watch.scoring()
            meters = Meters()
            with torch.inference_mode():
                for x, y in val:
                    logits = model(x)
                    meters.update(F.cross_entropy(logits, y), logits, y)
            watch.scored(meters.totals["top 1"] / meters.count / 100)


def timm(job: Job, watch: Watch) -> None:
    """In the shape of timm's train.py."""
    optim, scheduler, utils = map(importlib.import_module, PEERS["timm"][1])
    model, (train, val) = job.model, loaders(job)
    for epochs, _ in legs(job):
        optimizer = optim.create_optimizer_v2(model, "adamw", LR, WEIGHT_DECAY, fused=True)
        schedule, _ = scheduler.create_scheduler_v2(optimizer, num_epochs=epochs, updates_per_epoch=len(train))
        done = 0
        for epoch in range(epochs):
            model.train()
            losses, first, fifth = (utils.AverageMeter() for _ in range(3))
            for x, y in train:
                loss = F.cross_entropy(model(x), y)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                losses.update(loss.item(), len(x))
                done += 1
                schedule.step_update(done, losses.avg)
            model.eval()
            watch.scoring()
            losses = utils.AverageMeter()
            with torch.inference_mode():
                for x, y in val:
                    logits = model(x)
                    losses.update(F.cross_entropy(logits, y).item(), len(x))
                    for meter, percent in zip((first, fifth), utils.accuracy(logits, y, topk=(1, 5)), strict=True):
                        meter.update(percent.item(), len(x))
            watch.scored(first.avg / 100)
            schedule.step(epoch + 1, first.avg)


# What each imports, so that this is done before the clock runs.
PEERS: dict[str, tuple[Callable[[Job, Watch], None], tuple[str, ...]]] = {
    "fastai": (fastai, ("fastai.callback.schedule", "fastai.callback.progress", "fastai.metrics")),
    "Lightning": (lightning, ("lightning.pytorch",)),
    "Trainer": (transformers, ("accelerate", "transformers.trainer")),
    "torchvision references": (references, ()),
    "timm": (timm, ("timm.optim", "timm.scheduler", "timm.utils")),
}


def ready(name: str) -> Callable[[Job, Watch], None]:
    """The peer's function, all that it needs imported."""
    function, modules = PEERS[name]
    for module in modules:
        importlib.import_module(module)
    return function
