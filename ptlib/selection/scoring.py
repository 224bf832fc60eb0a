"""What is known of candidates while a ranking is made: features, scores, probes."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.stats import rankdata
from torch import nn

from ptlib import transferability as tr
from ptlib.core import Checkpoint, Task
from ptlib.data.duplicates import digests
from ptlib.errors import InputError, did_you_mean
from ptlib.head import fit_head
from ptlib.kinds import one_class_each
from ptlib.prediction import of_logits
from ptlib.results import Predictions
from ptlib.selection.candidates import Candidate, encode
from ptlib.stats import wilson

# Scores whose cost grows with N D^2 at the most: on 50,000 x 2,048 features they take under a minute together.
CHEAP = ("log_me", "h_score_shrunk", "gbc", "trans_rate", "sfda", "parc", "leep", "nce", "etran", "ncti")
SCORES = (*tr.FEATURE_SCORES, *tr.SOURCE_SCORES, *tr.POOL_SCORES)


@dataclass
class Found:
    """Candidates, what is known of each by name, and predictions on val by stage, as far as a ranking has come."""

    candidates: dict[str, Candidate]
    rows: dict[str, dict[str, Any]]
    scores: tuple[str, ...]
    reasons: dict[str, dict[str, str]]
    seconds: dict[str, float]
    val: dict[str, dict[str, Predictions]] = field(default_factory=dict)


def score_all(
    checkpoints: Sequence[str | Checkpoint | Candidate], task: Task, scores: Sequence[str], **how: Any
) -> Found:  # fmt: skip
    """Features and scores of all candidates."""
    one_class_each(task, "a ranking")
    for name in scores:
        if name not in SCORES:
            raise InputError(f"unknown score {name!r}{did_you_mean(name, SCORES) or ';'} there are {', '.join(SCORES)}")
    if not checkpoints:
        raise InputError("there are no candidates to rank; name at least one checkpoint")
    labels = task.train.targets.numpy()
    found = Found({}, {}, tuple(scores), {}, {"features": 0.0, "probes": 0.0})
    parts: dict[str, dict[str, tuple[float, ...]]] = {name: {} for name in tr.POOL_SCORES if name in scores}
    keys, size = digests(task.train), "max_length" if task.reads == "texts" else "image_size"
    for c in encode(checkpoints, task, **how):
        # Features of one's own may come with blank images; then their rows tell examples apart.
        scored = score(c, labels, scores, distinct(keys if c.checkpoint else [x.tobytes() for x in c.train], labels))
        found.candidates[c.name], found.reasons[c.name] = c, scored.reasons
        facts = {k: c.facts.get(k) for k in ("parameters", "flops", "examples_per_s", "memory_mb", size)}
        found.rows[c.name] = {**scored.values, **facts, "imagenet_top1": c.facts.get("accuracy"), "seen": c.seen,
                              "trained_on": c.checkpoint.trained_on if c.checkpoint else None,
                              "seconds_features": c.facts.get("seconds_uncached", 0.0),
                              "seconds_scores": sum(scored.seconds.values())}  # fmt: skip
        found.seconds["features"] += c.facts.get("seconds", 0.0)
        for name, s in scored.seconds.items():
            found.seconds[name] = found.seconds.get(name, 0.0) + s
        for name, p in scored.parts.items():
            parts[name][c.name] = p
    for name, of_each in parts.items():
        # What has seen the data would stretch the scale of a score that is relative to the pool.
        pool = [n for n in of_each if not found.rows[n]["seen"]] or list(of_each)
        combined = tr.POOL_SCORES[name][1](tr.scale(np.array([of_each[n] for n in pool])))
        values_of = dict(zip(pool, combined.tolist(), strict=True))
        for n, row in found.rows.items():
            row[name] = values_of.get(n, math.nan)
            if math.isnan(row[name]):
                found.reasons[n][name] = "it is relative to the pool of those that are ranked, or undefined there"
    _mean_ranks(found)
    return found


def distinct(keys: Sequence[bytes], labels: np.ndarray) -> np.ndarray:
    """Rows that repeat no earlier one, class included: in scores, repetition would pass for evidence."""
    first: dict[tuple[bytes, int], int] = {}
    for row, key in enumerate(zip(keys, labels.tolist(), strict=True)):
        first.setdefault(key, row)
    return np.array(sorted(first.values()))


class Scored(NamedTuple):
    """Scores of one candidate: values (NaN where undefined), reasons for those, seconds, parts of pool scores."""

    values: dict[str, float]
    reasons: dict[str, str]
    seconds: dict[str, float]
    parts: dict[str, tuple[float, ...]]


def score(c: Candidate, labels: np.ndarray, scores: Sequence[str], rows: np.ndarray) -> Scored:
    """Scores of one candidate on the train examples `rows`."""
    done = Scored({}, {}, {}, {})
    start = time.perf_counter()
    try:
        x = tr.sample(c.train[rows], labels[rows])
    except InputError as e:
        raise InputError(f"candidate {c.name!r} can't be scored: {e}") from None
    for name in scores:
        try:
            if name in tr.FEATURE_SCORES:
                done.values[name] = tr.FEATURE_SCORES[name](x)
            elif name in tr.POOL_SCORES:
                done.parts[name] = tr.POOL_SCORES[name][0](x)
            elif c.source is None:
                raise InputError("it was trained on no classes of its own")
            else:
                done.values[name] = tr.SOURCE_SCORES[name](c.source[rows], labels[rows])
        except InputError as e:
            done.values[name], done.reasons[name] = math.nan, str(e)
        done.seconds[name] = time.perf_counter() - start
        start = time.perf_counter()
    return done


def _mean_ranks(found: Found) -> None:
    """The mean, over the scores a ranked candidate has, of its place from the bottom among those that have it, 0..1."""
    names = [n for n, row in found.rows.items() if not row["seen"]]
    places: dict[str, list[float]] = {n: [] for n in names}
    for s in found.scores:
        having = [n for n in names if not math.isnan(found.rows[n][s])]
        for n, place in zip(having, rankdata([found.rows[n][s] for n in having]), strict=True):
            places[n].append((place - 0.5) / len(having))
    for n, own in places.items():
        found.rows[n]["mean_rank"] = float(np.mean(own)) if own else 0.5


def probe_all(found: Found, task: Task, names: Sequence[str]) -> None:
    """Linear probes of `names`, fitted on train, their penalty and accuracy on val; those made before are kept."""
    said = found.val.setdefault("probe", {})
    for name in [n for n in names if n not in said]:
        start = time.perf_counter()
        said[name] = probe(found.candidates[name], task)
        spent = time.perf_counter() - start
        found.rows[name] |= {**on_val("probe", said[name]), "seconds_probe": spent}
        found.seconds["probes"] += spent


def probe(c: Candidate, task: Task) -> Predictions:
    """What a linear head, fitted to convergence on the train features, says of val."""
    x = {"train": torch.from_numpy(c.train), "val": torch.from_numpy(c.val)}
    y = {"train": task.train.targets, "val": task.val.targets}
    head = nn.Linear(c.train.shape[1], task.n_classes)
    fit_head(head, x, y)
    with torch.no_grad():
        return of_logits(head(x["val"]), task.val, task)


def on_val(stage: str, said: Predictions) -> dict[str, float]:
    """What decides, as entries of a row: accuracy on val with Wilson's interval, and log loss."""
    hits, n = int((said.predicted == said.targets).sum()), len(said)
    low, high = wilson(hits, n)
    loss = -float(said.log_probabilities[np.arange(n), said.targets].mean())
    return {stage: hits / n, f"{stage}_low": low, f"{stage}_high": high, f"{stage}_loss": loss}
