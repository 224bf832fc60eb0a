"""How often intervals of average precision hold the truth: percentile against pivotal bootstrap of simulated detectors.

`python -m tests.benchmarks.boxes`
"""

from __future__ import annotations

import argparse

import numpy as np

from ptlib import stats
from ptlib.metrics import boxes as m


def scenes(rng: np.random.Generator, n: int, k: int = 14) -> tuple[np.ndarray, np.ndarray]:
    """True boxes of three classes, and what a middling detector makes of them: jitter, misses, false alarms."""
    truths = 8
    low, size = rng.uniform(0, 300, (n, truths, 2)), rng.uniform(20, 90, (n, truths, 2))
    targets = np.zeros((n, truths, 7))
    targets[..., 0] = rng.integers(-1, 3, (n, truths))
    targets[..., 1:3], targets[..., 3:5], targets[..., 6] = low, low + size, size.prod(-1)
    scores = np.zeros((n, k, 6))
    hard = rng.normal(0, 1, (n, 1))
    jitter = rng.gamma(2, 0.05, (n, truths, 1)) * size
    scores[:, :truths, 1:3] = low + rng.normal(0, 1, size.shape) * jitter
    scores[:, :truths, 3:5] = low + size + rng.normal(0, 1, size.shape) * jitter
    scores[:, :truths, 0] = np.where(rng.random((n, truths)) < 0.85, targets[..., 0], -1)
    scores[:, :truths, 5] = rng.normal(1 - 0.3 * hard - jitter.mean(-1) / 50, 1)
    false = k - truths
    scores[:, truths:, 1:3], wrong = rng.uniform(0, 300, (n, false, 2)), rng.uniform(20, 90, (n, false, 2))
    scores[:, truths:, 3:5] = scores[:, truths:, 1:3] + wrong
    scores[:, truths:, 0] = np.where(rng.random((n, false)) < 0.6, rng.integers(0, 3, (n, false)), -1)
    scores[:, truths:, 5] = rng.normal(-1 - 0.3 * hard, 1, (n, false))
    scores[..., 3:5] = np.maximum(scores[..., 3:5], scores[..., 1:3] + 1)
    scores[..., 5] = 1 / (1 + np.exp(-scores[..., 5]))
    return targets, scores


def held(n: int, trials: int, resamples: int, population: int = 20_000, name: str = "ap") -> dict[str, float]:
    """Shares of `trials` samples of `n` images whose interval holds the population's value, by kind of interval."""
    every = m.match(*scenes(np.random.default_rng(7), population), 3)
    truth = m.coco(every, np.ones((1, population)), (name,))[name][0]
    rng, hits = np.random.default_rng(8), {"percentile": 0, "pivotal": 0}
    for _ in range(trials):
        matches = m.match(*scenes(rng, n), 3)
        value = float(m.coco(matches, np.ones((1, n)), (name,))[name][0])
        drawn = m.coco(matches, rng.multinomial(n, np.ones(n) / n, resamples), (name,))[name]
        for kind, (low, high) in (
            ("percentile", stats.percentile(drawn)),
            ("pivotal", stats.pivotal(value, drawn, value)),
        ):
            hits[kind] += int(low <= truth <= high)
    return {kind: count / trials for kind, count in hits.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=400)
    parser.add_argument("--resamples", type=int, default=300)
    asked = parser.parse_args()
    for n in (30, 60, 200):
        said = held(n, asked.trials, asked.resamples)
        print(f"{n} images: " + ", ".join(f"{kind} {share:.3f}" for kind, share in said.items()))


if __name__ == "__main__":
    main()
