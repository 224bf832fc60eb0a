"""What do transferability scores cost? All cheap scores of 50,000 x 2,048 features; LogME beside a published code.

    python -m tests.benchmarks.transferability

The features are random, rectified, float32, of 100 classes. LogME is paired with transformer-ranker's, which follows
the published code (a decomposition, then fixed-point steps class by class), in turns, on the same arrays; it is left
out where that package is not installed. Run it alone: other work on the machine changes the ratios.
"""

from __future__ import annotations

import argparse
import importlib.util
import resource
import statistics
import time

import numpy as np
import torch

from ptlib import transferability as tr
from ptlib.selection import CHEAP


def example(n: int, d: int, c: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, c, n)
    means = 0.2 * rng.standard_normal((c, d), dtype=np.float32)
    return np.maximum(rng.standard_normal((n, d), dtype=np.float32) + means[y], 0), y


def peak() -> float:
    """GB of memory that this process has taken at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def all_cheap(n: int, d: int, c: int) -> None:
    x, y = example(n, d, c)
    theta = np.random.default_rng(1).dirichlet(np.full(1000, 0.1), n).astype(np.float32)
    before, start = peak(), time.perf_counter()
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
    print(f"{n:,} x {d:,}, {c} classes: {time.perf_counter() - start:.1f} s together; the process took {before:.2f} GB "
          f"with its data, {peak():.2f} GB at most")  # fmt: skip


def log_me_in_pairs(n: int, d: int, c: int, repeats: int) -> None:
    from transformer_ranker.estimators.logme import LogME

    x, y = example(n, d, c)
    tensors = torch.from_numpy(x), torch.from_numpy(y)
    ours, theirs, values = [], [], [0.0, 0.0]
    for _ in range(repeats):
        start = time.perf_counter()
        values[0] = tr.log_me(x, y)
        middle = time.perf_counter()
        values[1] = LogME().fit(*tensors)
        ours.append(middle - start)
        theirs.append(time.perf_counter() - middle)
    ratio = statistics.median(b / a for a, b in zip(ours, theirs, strict=True))
    mine, peer = statistics.median(ours), statistics.median(theirs)
    print(f"LogME, {n:,} x {d:,}, {c} classes: ours {mine:.2f} s ({values[0]:.4f}), transformer-ranker {peer:.2f} s "
          f"({values[1]:.4f}), {ratio:.1f} times as long")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    all_cheap(50_000, 2048, 100)
    if importlib.util.find_spec("transformer_ranker") is None:
        print("transformer-ranker is not installed: pip install -e '.[benchmarks]'")
        return
    for n, d, c in ((2000, 1280, 10), (10_000, 2048, 100), (2000, 4096, 100), (50_000, 2048, 100)):
        log_me_in_pairs(n, d, c, 1 if n > 10_000 else repeats)


if __name__ == "__main__":
    main()
