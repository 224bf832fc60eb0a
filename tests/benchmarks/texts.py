"""Fine-tuning on texts beside Hugging Face's Trainer: the same network, data, batch size, rates and precision.

Ours and the peer take turns in one process, the peer as it comes (each batch padded to its longest text) and with its
own `train_sampling_strategy="group_by_length"`. Each trains a network of its own from the same checkpoint and is scored
on the same test texts.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import tempfile
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ptlib import Stage, Task, build_model, evaluate, finetune, load_checkpoint, load_task, predict
from ptlib.models import Model
from ptlib.texts import PAD
from tests.benchmarks import Line, in_turns, seconds
from tests.benchmarks.peers import Labelled

WAYS = ("ours", "Trainer", "Trainer, grouped by length")


def theirs(model: Model, task: Task, stage: Stage, grouped: bool) -> None:
    """Train by Hugging Face's Trainer."""
    from transformers import PrinterCallback, Trainer, TrainingArguments
    from transformers.utils import logging

    logging.set_verbosity_error()
    tokens = model.read(task.train.inputs)
    each = [tokens.values[a:b].long() for a, b in zip(tokens.starts[:-1], tokens.starts[1:], strict=True)]
    rows = [{"input_ids": t, "labels": y} for t, y in zip(each, task.train.targets, strict=True)]

    def collate(batch: list[dict[str, Any]]) -> dict[str, Tensor]:
        padded = pad_sequence([row["input_ids"] for row in batch], batch_first=True, padding_value=PAD)
        return {"inputs": padded, "labels": torch.stack([row["labels"] for row in batch])}

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, use_cpu=True, per_device_train_batch_size=stage.batch_size, num_train_epochs=stage.epochs,
            learning_rate=stage.lr, lr_scheduler_type="linear", warmup_steps=stage.warmup, max_grad_norm=1.0,
            weight_decay=stage.weight_decay, save_strategy="no", logging_strategy="no", report_to=[],
            disable_tqdm=True, remove_unused_columns=False, seed=0,
            train_sampling_strategy="group_by_length" if grouped else "random",
        )  # fmt: skip
        trainer = Trainer(Labelled(model), arguments, data_collator=collate, train_dataset=rows)
        trainer.remove_callback(PrinterCallback)
        trainer.train()


def lines(asked: argparse.Namespace) -> list[Line]:
    """One epoch; tokens a second, padding not counted; accuracy on test, printed."""
    n_train, n_scored, longest = (64, 32, 64) if asked.quick else (1000, 500, 128)
    checkpoint = load_checkpoint("all-MiniLM-L6-v2")
    task = load_task(asked.texts, n_train=n_train, n_val=n_scored // 5, n_test=n_scored, kind="text_classification")
    stage = Stage("all", lr=1e-4, batch_size=32, schedule="linear", warmup=0.1, clip_norm=1.0)
    scores: dict[str, Any] = {}

    def speed(way: str) -> float:
        model = build_model(checkpoint, task, longest)
        n = len(model.read(task.train.inputs).values)
        if way == "ours":
            quiet: Any = {"log": lambda line: None}
            took = finetune(model, task, [stage], device="cpu", precision="fp32", keep="last", **quiet).seconds["train"]
        else:
            took = seconds(lambda: theirs(model, task, stage, way != WAYS[1]))
        said = predict(model, task.test, task, "cpu", "fp32")
        scores[way] = evaluate(said, metrics=["accuracy"])["accuracy"]
        return n / took

    turns = in_turns({way: functools.partial(speed, way) for way in WAYS}, asked.repeats)
    print("\n".join(f"{way}: test accuracy {score}" for way, score in scores.items()), flush=True)
    speeds = {way: statistics.median(each) for way, each in turns.items()}
    group, what = "texts, all-MiniLM-L6-v2", f"an epoch of everything, {n_train:,} texts"
    return [Line(group, what, way, speeds["ours"], speeds[way], "tokens/s") for way in WAYS[1:]]
