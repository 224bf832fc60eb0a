"""How often intervals of average precision hold the truth: percentile against pivotal bootstrap of simulated detectors.

`python -m tests.benchmarks.boxes`
"""

from __future__ import annotations

import argparse

import numpy as np

from ptlib import stats
from ptlib.metrics import boxes as m
from tests.test_places import scenes

POPULATION = 20_000


def held(n: int, trials: int, resamples: int, name: str = "ap") -> dict[str, float]:
    """Shares of `trials` samples of `n` images whose interval holds the population's value, by kind of interval."""
    every = m.match(*scenes(np.random.default_rng(7), POPULATION), 3)
    truth = m.coco(every, np.ones((1, POPULATION)), (name,))[name][0]
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
