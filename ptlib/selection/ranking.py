"""A ranking: every candidate's scores, cost and probe on one task, best first."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np

from ptlib.comparison import Leaderboard, leaderboard
from ptlib.core import Task
from ptlib.errors import InputError
from ptlib.files import html_table, text_table, write_whole
from ptlib.results import Predictions
from ptlib.selection.candidates import Candidate
from ptlib.selection.scoring import Found
from ptlib.stats import wilson


@dataclass(frozen=True)
class Ranking:
    """Candidates on one task, a row each, best first; `seen` ones, trained on the task's data, come last and apart.

    `rows` holds by candidate: its scores, `probe` (accuracy on val of a linear probe fitted on train) with interval,
    `tuned` (accuracy on val after the short fine-tuning of `successive_halving`), its cost, and `finetuned` (accuracy
    on test after fine-tuning) where it is known. `reasons` says why a score is NaN, `seconds` where the time went.
    `val` holds predictions on val by stage, "probe" and "tuned"; a ranking that was loaded has none, and no candidates.
    `reads` is what the task's examples are, images or texts.
    """

    task: str
    n_train: int
    n_val: int
    n_test: int
    scores: tuple[str, ...]
    rows: dict[str, dict[str, Any]]
    seconds: dict[str, float]
    reasons: dict[str, dict[str, str]] = field(default_factory=dict)
    val: dict[str, dict[str, Predictions]] = field(default_factory=dict, repr=False)
    candidates: dict[str, Candidate] = field(default_factory=dict, repr=False)
    reads: str = "images"

    @property
    def names(self) -> list[str]:
        """Those that are ranked, best first."""
        return [name for name, row in self.rows.items() if not row["seen"]]

    @property
    def apart(self) -> list[str]:
        """Those that were trained on the task's own data."""
        return [name for name, row in self.rows.items() if row["seen"]]

    @property
    def pick(self) -> str:
        """The one to take: first by the last thing that was measured on val."""
        if not self.names:
            raise InputError(f"every candidate has seen {self.task} in training; there is none to pick")
        return self.names[0]

    @property
    def stage(self) -> str:
        """What the pick was chosen by: "tuned" or "probe"."""
        return "tuned" if any("tuned" in self.rows[n] for n in self.names) else "probe"

    @property
    def chosen_on(self) -> str:
        """What the pick was chosen on, for a report."""
        how = "a short fine-tuning" if self.stage == "tuned" else "a linear probe"
        return f"{how}'s accuracy on val, the best of {sum(self.stage in self.rows[n] for n in self.names)}"

    def board(self, seed: int = 0, resamples: int = 2000) -> Leaderboard | None:
        """The candidates of the last stage on val, compared in pairs; None if there are not two with predictions."""
        said = {name: p for name, p in self.val.get(self.stage, {}).items() if name in self.names}
        return leaderboard(said, seed=seed, resamples=resamples) if len(said) > 1 else None

    def column(self, name: str, candidates: Sequence[str] | None = None) -> np.ndarray:
        """A column over `candidates` (the ranked ones), float64; NaN where there is no value."""
        values = [self.rows[c].get(name) for c in (self.names if candidates is None else candidates)]
        return np.array([math.nan if v is None else float(v) for v in values])

    def frame(self) -> Any:
        """The rows as a pandas DataFrame."""
        import pandas as pd

        return pd.DataFrame.from_dict(self.rows, orient="index")

    def table(self) -> list[tuple[str, ...]]:
        """A row for each candidate, under one of headings; columns that would be empty throughout are left out."""
        costs = ("M parameters", "G FLOPs", f"{self.reads}/s", "train MB")
        shown = {"tuned": "fine-tuned, val", "finetuned": "fine-tuned, test"}
        shown = {k: v for k, v in shown.items() if any(row.get(k) is not None for row in self.rows.values())}
        rows = [("candidate", "probe on val", *self.scores, *costs, "ImageNet", *shown.values())]
        for name, r in self.rows.items():
            cells = [name + " (has seen this data)" * r["seen"], _with_interval(r, "probe")]
            cells += [_number(r.get(s)) for s in self.scores]
            cells += [_number(r.get("parameters"), 1e6), _number(r.get("flops"), 1e9), _number(r.get("examples_per_s")),
                      _number(r.get("memory_mb")), _number(r.get("imagenet_top1"))]  # fmt: skip
            rows.append((*cells, *(_with_interval(r, k) for k in shown)))
        filled = [any(column) for column in zip(*rows[1:], strict=True)]
        return [tuple(compress(row, filled)) for row in rows]

    def __str__(self) -> str:
        head = f"{self.task}: {len(self.names)} candidates on {self.n_train:,} train and {self.n_val:,} val examples"
        return "\n".join([head, *text_table(self.table())])

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        head, *rows = self.table()
        unbroken = [tuple(cell.replace(" ", "\u00a0") for cell in row) for row in rows]  # the table is wide enough
        return html_table([head, *unbroken], str(self).splitlines()[0])

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write JSON, whole or not at all; predictions and candidates are not part of it."""
        known = ("task", "n_train", "n_val", "n_test", "scores", "seconds", "reasons", "reads")
        plain = {k: getattr(self, k) for k in known}
        rows = {name: {k: plain_number(v) for k, v in row.items()} for name, row in self.rows.items()}
        content = json.dumps({**plain, "rows": rows}, indent=1, allow_nan=False, default=float)
        return write_whole(path, content.encode())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Ranking:
        """Read what `save` wrote; InputError if it is not that."""
        try:
            plain = json.loads(Path(path).read_bytes())
            return cls(**{**plain, "scores": tuple(plain["scores"])})
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise InputError(f"{path} holds no ranking: {type(e).__name__}: {e}") from None


def ranking_of(found: Found, task: Task) -> Ranking:
    """What was found, in order: not seen, fine-tuned, probed; by accuracy on val, log loss, mean rank of the scores."""

    def place(name: str) -> tuple[Any, ...]:
        row = found.rows[name]
        stage = next((s for s in ("tuned", "probe") if s in row), None)
        at = (row[stage], -row[f"{stage}_loss"]) if stage else (0.0, 0.0)
        return (not row["seen"], stage == "tuned", stage is not None, *at, row.get("mean_rank", 0.0))

    order = sorted(found.rows, key=place, reverse=True)
    return Ranking(
        task.name, len(task.train), len(task.val), len(task.test), found.scores, {n: found.rows[n] for n in order},
        dict(found.seconds), found.reasons, {stage: dict(said) for stage, said in found.val.items()}, found.candidates,
        task.reads,
    )  # fmt: skip


def with_truth(ranking: Ranking, truth: Mapping[str, float], n_test: int | None = None) -> Ranking:
    """The ranking with accuracies after fine-tuning, by candidate, in 0..1, from `fine_tune_all` or from elsewhere.

    `n_test` is how many test examples they were measured on, the task's by default; Wilson's interval goes by it.
    """
    n, rows = n_test or ranking.n_test, dict(ranking.rows)
    for name, value in truth.items():
        if name not in rows:
            raise InputError(f"there is no candidate {name!r}; there are {', '.join(rows)}")
        if not 0 <= value <= 1:
            raise InputError(f"the accuracy of {name!r} is {value}; it must lie in 0..1")
        low, high = wilson(round(value * n), n)
        rows[name] = {**rows[name], "finetuned": float(value), "finetuned_low": low, "finetuned_high": high}
    return replace(ranking, rows=rows, n_test=n)


def _number(value: Any, unit: float = 1.0) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    v = float(value) / unit
    return f"{v:,.0f}" if abs(v) >= 1000 else f"{v:.3g}"


def _with_interval(row: Mapping[str, Any], name: str) -> str:
    if row.get(name) is None:
        return ""
    return f"{row[name]:.3f} ({row[f'{name}_low']:.3f} to {row[f'{name}_high']:.3f})"


def plain_number(value: Any) -> Any:
    if isinstance(value, float | np.floating) and not np.isfinite(value):
        return None
    return value
