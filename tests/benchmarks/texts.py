"""Fine-tuning on texts beside Hugging Face's Trainer: the same network, data, batch size, rates and precision.

    python -m tests.benchmarks.texts --data <folder or file of texts, as load_task takes it>

Ours and the peer take turns in one process, the peer as it comes (each batch padded to its longest text) and with its
own `train_sampling_strategy="group_by_length"`; what counts is the ratio of their medians of tokens per second, padding
not counted. Each trains a network of its own from the same checkpoint and is scored on the whole test split. Run it
alone: a second busy process makes the times meaningless.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from ptlib import Stage, Task, build_model, evaluate, finetune, load_checkpoint, load_task, predict
from ptlib.models import Model
from ptlib.texts import PAD


class _Labelled(nn.Module):
    """The same network, as the Trainer wants it: the loss beside the logits."""

    def __init__(self, model: Model):
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.model(input_ids)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


def theirs(model: Model, task: Task, stage: Stage, grouped: bool) -> None:
    """Train by Hugging Face's Trainer."""
    from transformers import Trainer, TrainingArguments
    from transformers.utils import logging

    logging.set_verbosity_error()
    tokens = model.read(task.train.inputs)
    each = [tokens.values[a:b].long() for a, b in zip(tokens.starts[:-1], tokens.starts[1:], strict=True)]
    rows = [{"input_ids": t, "labels": y} for t, y in zip(each, task.train.targets, strict=True)]

    def collate(batch: list[dict[str, Any]]) -> dict[str, Tensor]:
        padded = pad_sequence([row["input_ids"] for row in batch], batch_first=True, padding_value=PAD)
        return {"input_ids": padded, "labels": torch.stack([row["labels"] for row in batch])}

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, use_cpu=True, per_device_train_batch_size=stage.batch_size, num_train_epochs=stage.epochs,
            learning_rate=stage.lr, lr_scheduler_type="linear", warmup_steps=stage.warmup, max_grad_norm=1.0,
            weight_decay=stage.weight_decay, save_strategy="no", logging_strategy="no", report_to=[],
            disable_tqdm=True, remove_unused_columns=False, seed=0,
            train_sampling_strategy="group_by_length" if grouped else "random",
        )  # fmt: skip
        Trainer(_Labelled(model), arguments, data_collator=collate, train_dataset=rows).train()


def main(data: str, n_train: int | None, epochs: int, repeats: int, max_length: int) -> None:
    checkpoint = load_checkpoint("all-MiniLM-L6-v2")
    task = load_task(data, n_train=n_train, kind="text_classification")
    stage = Stage("all", epochs=epochs, lr=1e-4, batch_size=32, schedule="linear", warmup=0.1, clip_norm=1.0)
    ways = ("ours", "Trainer", "Trainer, grouped by length")
    speeds: dict[str, list[float]] = {way: [] for way in ways}
    scores = {}
    for turn in range(repeats):
        for way in ways[turn % 3 :] + ways[: turn % 3]:
            model = build_model(checkpoint, task, max_length)
            n = epochs * len(model.read(task.train.inputs).values)
            start = time.perf_counter()
            if way == "ours":
                quiet: Any = {"log": lambda line: None}
                history = finetune(model, task, [stage], device="cpu", precision="fp32", keep="last", **quiet)
                seconds = history.seconds["train"]
            else:
                theirs(model, task, stage, way != "Trainer")
                seconds = time.perf_counter() - start
            speeds[way].append(n / seconds)
            scores[way] = evaluate(predict(model, task.test, task, "cpu", "fp32"), metrics=["accuracy"])["accuracy"]
            print(f"{way}: {n / seconds:,.0f} tokens/s, test accuracy {scores[way]}", flush=True)
    print(f"{len(task.train):,} texts, {epochs} epochs, fp32, {torch.get_num_threads()} threads, {repeats} turns")
    medians = {way: statistics.median(found) for way, found in speeds.items()}
    for way in ways:
        ratio = medians["ours"] / medians[way]
        print(f"{way:28s} {medians[way]:7,.0f} tokens/s; ours is {ratio:.2f} times as fast; accuracy {scores[way]}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--n-train", type=int, default=None, help="train texts, all by default")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--max-length", type=int, default=128)
    args = parser.parse_args()
    main(args.data, args.n_train, args.epochs, args.repeats, args.max_length)
