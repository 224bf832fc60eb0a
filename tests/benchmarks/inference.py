"""Evaluation and features beside peers and beside the bare forward pass: the same network, data and precision, fp32.

Images are scored by a fresh head on EfficientNet-Lite0 at 64 pixels. The peer's loop has the shape of timm's
validate.py, fed by the fastest input there is: whole batches, taken from uint8 in memory and preprocessed at once, in
the process itself. The limit is the forward pass over tensors that are ready. Texts become sentence embeddings of
all-MiniLM-L6-v2, tokenised within the time; the peer is Sentence Transformers, on the same weights, not normalised.
What the ways give is asserted to be the same: accuracy, logits and features to 1e-4, embeddings to a cosine of 0.9999.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from ptlib import Model, Split, build_model, evaluate, load_checkpoint, load_task, predict
from ptlib.language import find_source
from ptlib.prediction import EVAL_BATCH, affordable_batch, features
from ptlib.runtime import choose_device, place
from ptlib.texts import Texts
from tests.benchmarks import Line, in_turns
from tests.benchmarks.peers import Images, as_it_is

HOW = ("cpu", "fp32")
SENTENCES = "all-MiniLM-L6-v2"


def lines(asked: argparse.Namespace) -> list[Line]:
    return [*of_images(asked), *of_texts(asked)]


def medians(jobs: Mapping[str, Callable[[], Any]], repeats: int) -> tuple[dict[str, float], dict[str, Any]]:
    """Median seconds of each job, after a turn that is not counted, and what it gave last."""

    def timed(job: Callable[[], Any]) -> Callable[[], tuple[float, Any]]:
        def run() -> tuple[float, Any]:
            start = time.perf_counter()
            given = job()
            return time.perf_counter() - start, given

        return run

    found = in_turns({name: timed(job) for name, job in jobs.items()}, repeats + 1)
    seconds = {name: statistics.median(s for s, _ in turns[1:]) for name, turns in found.items()}
    return seconds, {name: turns[-1][1] for name, turns in found.items()}


def _validate(model: Model, split: Split) -> float:
    """Top-1 accuracy by a loop like that of timm's validate.py: meters hear of each batch's loss and accuracies."""
    from timm import utils

    timm: Any = utils
    loader: Any = DataLoader(Images(model, split), EVAL_BATCH, collate_fn=as_it_is)
    losses, top1, top5 = (timm.AverageMeter() for _ in range(3))
    model.eval()
    with torch.inference_mode():
        for x, y in loader:
            outputs = model(x)
            loss = F.cross_entropy(outputs, y)
            first, fifth = timm.accuracy(outputs, y, topk=(1, 5))
            losses.update(loss.item(), len(x))
            top1.update(first.item(), len(x))
            top5.update(fifth.item(), len(x))
    return float(top1.avg) / 100


def _bare(part: Callable[[Tensor], Tensor], x: Tensor, at_once: int) -> np.ndarray:
    """A forward pass over ready tensors."""
    with torch.inference_mode():
        return torch.cat([part(batch) for batch in x.split(at_once)]).numpy()


def of_images(asked: argparse.Namespace) -> list[Line]:
    n = 400 if asked.quick else 2000
    task = load_task(asked.images, n_train=100, n_val=100, n_test=n) if asked.images else load_task("photos")
    model = build_model(load_checkpoint("efficientnet_lite0"), task, image_size=64)
    place(model, choose_device("cpu"))
    split = task.test.take(range(min(n, len(task.test))))
    x, n, at_once = (
        model.preprocess(split.inputs),
        len(split),
        affordable_batch(model, split.inputs, choose_device("cpu")),
    )
    seconds, given = medians({
        "predict, evaluate": lambda: evaluate(predict(model, split, task, *HOW), metrics=["accuracy"]),
        "predict": lambda: predict(model, split, task, *HOW).scores,
        "timm": lambda: _validate(model, split),
        "forward": lambda: _bare(model, x, at_once),
        "features": lambda: features(model, split, *HOW).numpy(),
        "backbone": lambda: _bare(model.backbone, x, at_once),
    }, asked.repeats)  # fmt: skip
    for ours, bare in (("predict", "forward"), ("features", "backbone")):
        np.testing.assert_allclose(given[ours], given[bare], rtol=0, atol=1e-4)
    np.testing.assert_allclose(given["predict, evaluate"]["accuracy"].value, given["timm"], rtol=0, atol=1e-6)

    def line(what: str, ours: str, other: str, theirs: str, goal: float | None = None) -> Line:
        group = "inference, efficientnet_lite0 at 64 px"
        return Line(group, f"{what} {n:,} images", other, n / seconds[ours], n / seconds[theirs], "images/s", goal)

    return [
        line("predict, accuracy and its interval of", "predict, evaluate", "timm's validate loop", "timm"),
        line("predict", "predict", "timm's validate loop", "timm"),
        line("predict", "predict", "bare forward pass", "forward", 0.95),
        line("features of", "features", "bare forward pass of the backbone", "backbone"),
    ]


def of_texts(asked: argparse.Namespace) -> list[Line]:
    if importlib.util.find_spec("sentence_transformers") is None:
        print("sentence embeddings are left out; pip install sentence-transformers")
        return []
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    name, n = (asked.texts, 2000) if asked.texts else ("bbc-news", 200)  # articles are ten times as long
    n = n // 10 if asked.quick else n
    task = load_task(name, n_train=n, kind="text_classification")
    model = build_model(load_checkpoint(SENTENCES), task)
    transformer: Any = Transformer(str(find_source(SENTENCES).folder))
    transformer.max_seq_length = model.preprocessing.size
    peer: Any = SentenceTransformer(modules=[transformer, Pooling(model.width, "mean")], device="cpu")
    texts = list(task.train.inputs)

    def encode(batch_size: int) -> Any:
        return peer.encode(texts, batch_size=batch_size, show_progress_bar=False)

    seconds, given = medians({
        "ours": lambda: features(model, replace(task.train, inputs=Texts(texts)), *HOW).numpy(),  # not yet tokenised
        "32": lambda: encode(32),
        "128": lambda: encode(128),
    }, asked.repeats)  # fmt: skip
    for size in ("32", "128"):
        a, b = given["ours"], given[size]
        cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        assert cosine.min() > 0.9999, f"an embedding differs from the peer's, cosine {cosine.min()}"
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-4)
    group, what = f"sentence embeddings, {SENTENCES}", f"embeddings of {len(texts):,} texts"
    return [
        Line(group, what, f"Sentence Transformers' encode, {how}", n / seconds["ours"], n / seconds[size], "texts/s")
        for size, how in (("32", "batches of 32 as by default"), ("128", "batches of 128"))
    ]
