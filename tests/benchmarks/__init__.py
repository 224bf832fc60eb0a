"""Ours beside its peers and beside the limit: what each module here measures; `python -m tests.benchmarks` for all.

Ways take turns on one machine in one run; what counts is the ratio of their medians. Run it alone: a second busy
process makes times meaningless.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Line:
    """One line of the table: one job, done by ours and by another; medians over the turns."""

    group: str  # what is timed together, such as "staged fine-tuning, efficientnet_lite0"
    what: str  # the job, such as "10 epochs of the head"
    other: str  # a peer, or a limit such as "bare forward pass"
    ours: float
    theirs: float
    unit: str  # "s", "MB", or something per second, such as "images/s"
    goal: float | None = None  # for `times`

    @property
    def times(self) -> float:
        """How many times better ours is: faster, or smaller."""
        return self.ours / self.theirs if self.unit.endswith("/s") else self.theirs / self.ours


def in_turns(ways: Mapping[str, Callable[[], T]], repeats: int) -> dict[str, list[T]]:
    """What each way gives, `repeats` times; each turn begins with another of them."""
    found: dict[str, list[T]] = {name: [] for name in ways}
    names = list(ways)
    for turn in range(repeats):
        for i in range(len(names)):
            name = names[(turn + i) % len(names)]
            found[name].append(ways[name]())
    return found


def seconds(job: Callable[[], object]) -> float:
    """How long a job takes."""
    start = time.perf_counter()
    job()
    return time.perf_counter() - start


def median_seconds(jobs: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each job, in turns; what is done at a first call only is to be done before."""
    found = in_turns({name: lambda job=job: seconds(job) for name, job in jobs.items()}, repeats)  # type: ignore[misc]
    return {name: statistics.median(turns) for name, turns in found.items()}
