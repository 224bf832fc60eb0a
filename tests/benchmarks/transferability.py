"""What do transferability scores cost? All cheap scores of 50,000 x 2,048 features; LogME beside a published code.

The features are random, rectified, float32, of 100 classes. LogME is paired with transformer-ranker's, which follows
the published code (a decomposition, then fixed-point steps class by class), in turns, on the same arrays.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from ptlib import transferability as tr
from ptlib.selection import CHEAP
from tests.benchmarks import Line, median_seconds
from tests.benchmarks.staged import peak_mb

SIZES = ((2000, 1280, 10), (10_000, 2048, 100), (2000, 4096, 100), (50_000, 2048, 100))  # examples, features, classes


def example(n: int, d: int, c: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, c, n)
    means = 0.2 * rng.standard_normal((c, d), dtype=np.float32)
    return np.maximum(rng.standard_normal((n, d), dtype=np.float32) + means[y], 0), y


def all_cheap(n: int, d: int, c: int) -> None:
    """Print the seconds of every cheap score."""
    x, y = example(n, d, c)
    theta = np.random.default_rng(1).dirichlet(np.full(1000, 0.1), n).astype(np.float32)
    before, start = peak_mb(), time.perf_counter()
    shared = tr.sample(x, y)
    for name in CHEAP:
        begin = time.perf_counter()
        if name in tr.SOURCE_SCORES:
            tr.SOURCE_SCORES[name](theta, y)
        elif name in tr.POOL_SCORES:
            tr.POOL_SCORES[name][0](shared)
        else:
            tr.FEATURE_SCORES[name](shared)
        print(f"  {name:16} {time.perf_counter() - begin:6.2f} s")
    together = time.perf_counter() - start
    print(f"{n:,} x {d:,}, {c} classes: {together:.1f} s together; the process took {before / 1024:.2f} GB with its "
          f"data, {peak_mb() / 1024:.2f} GB at most", flush=True)  # fmt: skip


def log_me(n: int, d: int, c: int, repeats: int) -> Line:
    from transformer_ranker.estimators.logme import LogME

    x, y = example(n, d, c)
    tensors = torch.from_numpy(x), torch.from_numpy(y)
    values: dict[str, float] = {}
    took = median_seconds({
        "ours": lambda: values.update(ours=tr.log_me(x, y)),
        "theirs": lambda: values.update(theirs=LogME().fit(*tensors)),
    }, repeats)  # fmt: skip
    what = f"{n:,} x {d:,} features, {c} classes"
    print(f"LogME of {what}: ours {values['ours']:.4f}, transformer-ranker {values['theirs']:.4f}", flush=True)
    return Line("LogME", what, "transformer-ranker", took["ours"], took["theirs"], "s")


def lines(asked: argparse.Namespace) -> list[Line]:
    """LogME of several sizes; the largest, which takes as long as the others together, has one turn."""
    log_me(200, 64, 5, 1)  # imports and first calls are not counted
    all_cheap(*(2000, 256, 10) if asked.quick else SIZES[-1])
    return [log_me(*each, 1 if each[0] > 10_000 else asked.repeats) for each in SIZES[: 1 if asked.quick else None]]
