"""Ways to choose: rank all by their probes, spend a given time by halving, or fine-tune every candidate."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ptlib.core import Checkpoint, Task
from ptlib.errors import InputError
from ptlib.models import Model, build_model
from ptlib.prediction import predict
from ptlib.runs import slug
from ptlib.selection.candidates import Candidate
from ptlib.selection.ranking import Ranking, ranking_of, with_truth
from ptlib.selection.scoring import CHEAP, on_val, probe_all, score_all
from ptlib.stages import recipe
from ptlib.train import finetune

FINALISTS = ((4, 4), (4, 2), (3, 4), (3, 2), (2, 4), (2, 2))  # (candidates, epochs), the first that fits is run
TRAINING = 3.5  # a training step takes so many forward passes, more or less


def rank(
    checkpoints: Sequence[str | Checkpoint | Candidate], task: Task, scores: Sequence[str] = CHEAP,
    budget: float | None = None, *, image_size: int | None = None, seed: int = 0, device: str = "auto",
    precision: str = "auto", cache: bool = True, seen: Sequence[str] = (), architecture: str | None = None,
    log: Callable[[str], None] = print,
) -> Ranking:  # fmt: skip
    """Candidates for a task, best first: features once for each, scores of them, and a linear probe.

    Names, checkpoints, or candidates of one's own (features of any frozen encoder). What decides is the probe's
    accuracy on val, among equals the lower log loss; the scores stand beside it, to be judged by `trust`. `budget`,
    in seconds, hands on to `successive_halving`, which probes and fine-tunes only what it affords; what a budget buys
    depends on the machine, so without one equal arguments give equal bits. `scores` are names of `SCORES`; the other
    arguments are those of `encode`.
    """
    how: dict[str, Any] = {
        "image_size": image_size, "seed": seed, "device": device, "precision": precision, "cache": cache, "seen": seen,
        "architecture": architecture, "log": log,
    }  # fmt: skip
    if budget is not None:
        return successive_halving(checkpoints, task, budget, scores, **how)
    found = score_all(checkpoints, task, scores, **how)
    probe_all(found, task, list(found.candidates))
    return ranking_of(found, task)


def successive_halving(
    checkpoints: Sequence[str | Checkpoint | Candidate], task: Task, budget: float, scores: Sequence[str] = CHEAP,
    *, seed: int = 0, device: str = "auto", precision: str = "auto", log: Callable[[str], None] = print, **options: Any,
) -> Ranking:  # fmt: skip
    """A ranking that spends about `budget` seconds, most of them on the best candidates.

    All get features and scores. The better half by the mean rank over the scores gets a probe, the others too where
    that takes less than a third of what is left. Then two to four with the best probes are fine-tuned for two to four
    epochs, as many as fit by the speed measured; the pick is the best of these on val. What does not fit is left out,
    and `log` says so. The first round is never cut short, so a budget below its cost is exceeded.
    """
    if not budget > 0:
        raise InputError(f"budget is {budget}; it must be seconds above 0, or None to do without one")
    start = time.perf_counter()
    found = score_all(checkpoints, task, scores, seed=seed, device=device, precision=precision, log=log, **options)
    order = sorted((n for n, row in found.rows.items() if not row["seen"]), key=lambda n: -found.rows[n]["mean_rank"])
    half = order[: max(3, -(-len(order) // 2))]
    probe_all(found, task, half)
    left = budget - (time.perf_counter() - start)
    if half and found.seconds["probes"] / len(half) * (len(order) - len(half)) < left / 3:
        probe_all(found, task, order)
    ranking = ranking_of(found, task)
    left = budget - (time.perf_counter() - start)
    probed = len(found.val["probe"])
    log(f"scores of {len(order)} candidates, probes of {probed}, {max(left, 0):.1f} of {budget:g} s left")
    able = [n for n in ranking.names if n in found.val["probe"] and found.candidates[n].checkpoint]
    able = [n for n in able if found.rows[n]["examples_per_s"]]
    if len(able) < 2:
        log("there are not two candidates to fine-tune against each other")
        return ranking
    fitting = (
        (k, e) for k, e in FINALISTS if k <= len(able) and sum(_predicted(ranking, n, e) for n in able[:k]) <= left
    )
    k, epochs = next(fitting, (0, 0))
    if not k:
        log("too little time to fine-tune two candidates; the pick is the best probe")
        return ranking
    log(f"fine-tuning {k} candidates for {epochs} epochs")
    found.val["tuned"] = {}
    for name in able[:k]:
        begin = time.perf_counter()
        try:
            model = fine_tune(found.candidates[name], task, "lp-ft", epochs, seed, device, precision)
        except FloatingPointError as e:
            log(f"{name} could not be fine-tuned: {e}")
            continue
        found.val["tuned"][name] = said = predict(model, task.val, task, device, precision)
        found.rows[name] |= {**on_val("tuned", said), "seconds_tuned": time.perf_counter() - begin}
        found.seconds["fine-tuning"] = found.seconds.get("fine-tuning", 0.0) + found.rows[name]["seconds_tuned"]
        log(f"{name}: {found.rows[name]['tuned']:.3f} on val, {found.rows[name]['seconds_tuned']:.1f} s")
    return ranking_of(found, task)


def _predicted(ranking: Ranking, name: str, epochs: int) -> float:
    """Seconds that fine-tuning will take, by the speed of prediction."""
    row = ranking.rows[name]
    passes = (1 + epochs * TRAINING) * ranking.n_train + (1 + epochs) * ranking.n_val
    return float(passes / row["examples_per_s"] + row["seconds_probe"] + 0.5)


def fine_tune(
    c: Candidate, task: Task, how: str = "lp-ft", epochs: int = 4, seed: int = 0, device: str = "auto",
    precision: str = "auto", resume: Path | None = None,
) -> Model:  # fmt: skip
    """The candidate fine-tuned on the task by a recipe; random weights by `scratch`."""
    if c.checkpoint is None:
        raise InputError(f"candidate {c.name!r} is features alone; only a checkpoint can be fine-tuned")
    size = c.facts.get("max_length" if task.reads == "texts" else "image_size")
    model = build_model(c.checkpoint, task, size, seed)
    stages = recipe(how if c.checkpoint.pretrained else "scratch", epochs, kind=task.kind)
    where: dict[str, Any] = {"device": device, "precision": precision, "resume": resume}
    finetune(model, task, stages, seed=seed, **where, log=lambda line: None)
    return model


def fine_tune_all(
    ranking: Ranking, task: Task, how: str = "lp-ft", *, epochs: int = 4, seeds: int = 1, seed: int = 0,
    device: str = "auto", precision: str = "auto", resume: Path | None = None, log: Callable[[str], None] = print,
) -> Ranking:  # fmt: skip
    """The ranking with every candidate fine-tuned and measured on test: what the ranking tried to foresee.

    `finetuned` is the mean accuracy over `seeds` runs, its interval Wilson's for that share of the test examples, which
    leaves out that other train examples and other seeds would give another. Features alone can't be fine-tuned, and a
    candidate whose loss diverges is left without an accuracy; `log` says so. In the folder `resume` each training keeps
    what it goes on from, as `finetune` does, or ended with.
    """
    able = {name: c for name, c in ranking.candidates.items() if c.checkpoint}
    if not able:
        raise InputError(f"the ranking of {ranking.task} holds no checkpoints to fine-tune; make it anew by rank()")
    truth, rows = {}, dict(ranking.rows)
    for name, c in able.items():
        hits, start = [], time.perf_counter()
        spent = 0.0
        try:
            for s in range(seed, seed + seeds):
                kept = resume and resume / slug(f"{ranking.task}-{name}-{s}")
                model = fine_tune(c, task, how, epochs, s, device, precision, kept)
                spent += (time.perf_counter() - start) / seeds
                said = predict(model, task.test, task, device, precision)
                hits.append(float((said.predicted == said.targets).mean()))
                start = time.perf_counter()
        except FloatingPointError as e:
            log(f"{name} could not be fine-tuned: {e}")
            continue
        truth[name] = float(np.mean(hits))
        rows[name] = {**rows[name], "finetuned_runs": hits, "seconds_finetuned": spent}
        log(f"{name}: {truth[name]:.3f} on test after fine-tuning, {spent:.1f} s")
    return with_truth(replace(ranking, rows=rows), truth)
