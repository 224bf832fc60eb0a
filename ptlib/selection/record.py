"""A run directory for a study: each target's ranking, how far to trust it, and what made them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ptlib.core import Task
from ptlib.files import write_whole
from ptlib.runs import commit, slug, start_run
from ptlib.runtime import choose_device, environment
from ptlib.selection.judging import Trust
from ptlib.selection.ranking import Ranking, plain_number
from ptlib.sheets import csv_of


def save_study(
    notebook: str, parameters: Mapping[str, Any], tasks: Sequence[Task], rankings: Sequence[Ranking],
    judged: Trust | None = None, *, run: Path | None = None, run_name: str | None = None, device: str = "auto",
) -> Path:  # fmt: skip
    """Write rankings to `outputs/<run_name>/` and return that path.

    `run` is what `start_run` gave; without, it is begun here. It holds `ranking-<number>-<task>.json`, which
    `Ranking.load` reads, for each task, `trust.csv` if judged, the predictions on val, and `run.json`: parameters,
    fingerprints of data, hashes of weights, environment.
    """
    of = {c.name: c.checkpoint for r in rankings for c in r.candidates.values()}

    files = [f"{i}-{slug(r.task)}" for i, r in enumerate(rankings)]

    def fill(folder: Path) -> None:
        for r, file in zip(rankings, files, strict=True):
            r.save(folder / f"ranking-{file}.json")
            for stage, by_candidate in r.val.items():
                for i, (candidate, said) in enumerate(by_candidate.items()):
                    said.save(folder / f"{stage}-{file}-{i}-{slug(candidate)}.safetensors")
        if judged is not None:
            write_whole(folder / "trust.csv", csv_of(judged.frame()))

    record = {
        "notebook": notebook,
        "parameters": dict(parameters),
        "tasks": [{"name": t.name, "fingerprint": t.fingerprint, "sizes": {s.name: len(s) for s in t.splits},
                   "skipped": t.skipped} for t in tasks],
        "candidates": {n: {"sha256": c.sha256, "source": c.source, "trained_on": c.trained_on}
                       for n, c in of.items() if c},
        "picks": [{"task": r.task, "pick": r.pick if r.names else None, "chosen_on": r.chosen_on, "seconds": r.seconds}
                  for r in rankings],
        "trust": judged and {k: plain_number(getattr(judged, k))
                             for k in ("chance", "chance_of_best", "ceiling", "seconds")},
        "environment": environment(choose_device(device)),
    }  # fmt: skip
    return commit(run or start_run(notebook, parameters, *tasks, run_name=run_name), fill, record)
