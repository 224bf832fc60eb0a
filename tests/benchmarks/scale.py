"""Does cost stay flat as work grows? Seconds and memory of each size beside those of one a hundredth as large.

A thousand to a million images of 32 x 32 random pixels in a memory-mapped file, under a network that costs next to
nothing, so that what is measured is the loop: one epoch of everything, and one of the head over features computed once,
in batches of 64, with 1,000 images to validate on. Ten to ten thousand classes: the default report of 20,000
predictions, with 1,000 resamples, and an epoch of a head on 64 features. Each size has a process of its own, with one
thread, and is measured once, a small one several times in its process, whatever `repeats` says.

Memory is anonymous memory (RssAnon, which only Linux tells) at its highest, above what was held when everything had
been imported and used once. The peak resident size counts pages of the file too, which the system can take back.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ptlib import Predictions, Split, Stage, Task, build_model, evaluate, finetune, load_checkpoint
from tests.benchmarks import Line

SIDE, WIDTH, VAL = 32, 64, 1000
EVERYTHING, HEAD = Stage("all"), Stage("head", ("head",), augment=())
LIMIT = 1.5  # MB for 1,000 images: 1.5 GB for a million
PREDICTED = 20_000
FLAT = 0.8

Found = dict[str, float]


def lines(asked: argparse.Namespace) -> list[Line]:
    images = (1000, 100_000) if asked.quick else (1000, 10_000, 100_000, 1_000_000)
    classes = (10, 1000) if asked.quick else (10, 100, 1000, 10_000)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write(folder, max(images) + 2 * VAL)
        by_images = _each_alone(of_images, folder, images)
        by_classes = _each_alone(of_classes, folder, classes)
    most, report = by_images[images[-1]], by_classes[classes[-1]]["a report, MB"]
    return [
        *_flat("growing images", "1,000 images", {n: n / 1000 for n in images}, by_images),
        *(
            Line("growing images", f"memory for {job}, {images[-1]:,} images", f"{LIMIT} kB an image",
                 most[f"{job}, MB"], LIMIT * images[-1] / 1000, "MB", 1.0)
            for job in ("an epoch of everything", "an epoch of the head")
        ),
        *_flat("growing classes", "10^6 examples x classes", {c: c * PREDICTED / 1e6 for c in classes}, by_classes),
        Line("growing classes", f"memory for a report, {PREDICTED:,} examples x {classes[-1]:,}", "the logits", report,
             4 * PREDICTED * classes[-1] / 1e6, "MB", 1.0),
    ]  # fmt: skip


def _flat(group: str, each: str, parts: dict[int, float], found: dict[int, Found]) -> list[Line]:
    """Seconds for a part of the work, beside those where there is a hundredth of it."""
    return [
        Line(group, f"{what.removesuffix(', s')} for {each}, {100 * n:,} against {n:,}",
             "the same at 1/100 of the size", found[100 * n][what] / parts[100 * n], found[n][what] / parts[n], "s",
             FLAT)
        for n in found if 100 * n in found for what in found[n] if what.endswith(", s")
    ]  # fmt: skip


def _each_alone(job: Callable[[Path, int], Found], folder: Path, sizes: Sequence[int]) -> dict[int, Found]:
    """The job at each size, in a process of its own."""
    found = {}
    for n in sizes:
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            found[n] = pool.submit(job, folder, n).result()
        print(f"{job.__name__}, {n:,}: " + "; ".join(f"{k} {v:,.4g}" for k, v in found[n].items()), flush=True)
    return found


def _write(folder: Path, n: int) -> None:
    """Random pixels of n images, and the weights of the network that looks at them."""
    rng = np.random.default_rng(0)
    with (folder / "pixels").open("wb") as file:
        for start in range(0, n, 10_000):
            file.write(rng.bytes(min(10_000, n - start) * SIDE * SIDE * 3))
    torch.save(Slight().state_dict(), folder / "slight.pt")


class Slight(nn.Module):
    """A network that costs next to nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTH, 8, 8)
        self.fc = nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.conv1(x)).mean((2, 3)))  # type: ignore[no-any-return]


def _task(folder: Path, n: int, n_classes: int = 10) -> Task:
    """n train images, 1,000 of val and of test, none of them in memory."""
    size = (n + 2 * VAL) * SIDE * SIDE * 3
    pixels = torch.from_file(str(folder / "pixels"), shared=False, size=size, dtype=torch.uint8).view(-1, SIDE, SIDE, 3)
    labels = torch.from_numpy(np.random.default_rng(1).integers(0, n_classes, len(pixels)))
    parts = {"train": slice(2 * VAL, None), "val": slice(VAL), "test": slice(VAL, 2 * VAL)}
    train, val, test = (
        Split(name, pixels[rows], labels[rows], [f"{name}/{i}" for i in range(len(labels[rows]))])
        for name, rows in parts.items()
    )
    return Task("noise", "image_classification", tuple(map(str, range(n_classes))), train, val, test)


def of_images(folder: Path, n: int) -> Found:
    """Seconds and MB of making a task of n images, and of an epoch over them."""
    torch.set_num_threads(1)
    for stage in (HEAD, EVERYTHING):  # what is imported and allocated once
        _trained(folder, _task(folder, VAL), stage)
    found, before = {}, _status("RssAnon")
    with _highest(before) as most:
        start = time.perf_counter()
        task = _task(folder, n)
        found["seconds to make the task"] = time.perf_counter() - start
    found["MB to make the task"] = most[0]
    for what, stage in (("an epoch of everything", EVERYTHING), ("an epoch of the head", HEAD)):
        with _highest(before) as most:
            turns = [_trained(folder, task, stage) for _ in range(max(1, 10_000 // n))]
        found[f"{what}, s"] = statistics.median(turns)
        found[f"{what}, MB"] = most[0]
    return {**found, "peak resident MB": _status("VmHWM")}


def _trained(folder: Path, task: Task, stage: Stage) -> float:
    """Seconds of an epoch, all of it but what val costs."""
    model = build_model(load_checkpoint(str(folder / "slight.pt"), Slight), task, image_size=SIDE)
    start = time.perf_counter()
    quiet: Any = {"log": lambda line: None}
    spent = finetune(model, task, [stage], device="cpu", precision="fp32", **quiet).seconds
    n, val = len(task.train), len(task.val)
    on_val = spent["score on val"] + spent.get("features", 0.0) * val / (n + val)
    return time.perf_counter() - start - on_val


def of_classes(folder: Path, n_classes: int) -> Found:
    """Seconds and MB of reporting on predictions of so many classes, and of training a head for them."""
    torch.set_num_threads(1)
    few = Predictions.of(np.arange(100) % 2, np.random.default_rng(0).normal(size=(100, 2)))
    evaluate(few, resamples=100)
    _trained(folder, _task(folder, VAL), HEAD)
    rng = np.random.default_rng(2)
    y, z = rng.integers(0, n_classes, PREDICTED), rng.standard_normal((PREDICTED, n_classes), dtype=np.float32)
    z[np.arange(PREDICTED), y] += 3
    found, before = {}, _status("RssAnon")
    with _highest(before) as most:
        start = time.perf_counter()
        evaluate(Predictions.of(y, z), resamples=1000)
        found["a report, s"] = time.perf_counter() - start
    found["a report, MB"] = most[0]
    task = _task(folder, PREDICTED, n_classes)
    with _highest(_status("RssAnon")) as most:
        found["an epoch of the head, s"] = _trained(folder, task, HEAD)
    found["an epoch of the head, MB"] = most[0]
    return {**found, "peak resident MB": _status("VmHWM")}


def _status(name: str) -> float:
    """A line of /proc/self/status, in MB. `ru_maxrss` would count what the process that started this one held."""
    text = Path("/proc/self/status").read_text()
    return int(text.split(f"{name}:")[1].split()[0]) * 1024 / 1e6


@contextlib.contextmanager
def _highest(before: float) -> Iterator[list[float]]:
    """The most anonymous memory there is inside, in MB above `before`, looked at every 10 ms."""
    most, done = [0.0], threading.Event()

    def look() -> None:
        while not done.wait(0.01):
            most[0] = max(most[0], _status("RssAnon") - before)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield most
    finally:
        done.set()
        thread.join()
