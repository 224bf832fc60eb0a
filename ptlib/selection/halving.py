"""What a given time buys: cheap scores on all, probes on the survivors, short fine-tuning of the last few."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ptlib.core import Checkpoint, Task
from ptlib.errors import InputError
from ptlib.models import Model, build_model
from ptlib.prediction import predict
from ptlib.selection.candidates import Candidate
from ptlib.selection.ranking import Ranking, ranking_of
from ptlib.selection.scoring import CHEAP, encoded, on_val, probe_all
from ptlib.stages import recipe
from ptlib.stats import wilson
from ptlib.train import finetune

FINALISTS = ((4, 4), (4, 2), (3, 4), (3, 2), (2, 4), (2, 2))  # (candidates, epochs), the first that fits is run
TRAINING = 3.5  # a training step takes so many forward passes, more or less


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
    found = encoded(checkpoints, task, scores, seed=seed, device=device, precision=precision, log=log, **options)
    order = sorted((n for n, row in found.rows.items() if not row["seen"]), key=lambda n: -found.rows[n]["mean_rank"])
    half = order[: max(3, -(-len(order) // 2))]
    probe_all(found, task, half)
    left = budget - (time.perf_counter() - start)
    if found.seconds["probes"] / len(half) * (len(order) - len(half)) < left / 3:
        probe_all(found, task, order)
    ranking = ranking_of(found, task)
    log(f"scores of {len(order)} candidates and probes of {len(ranking.val['probe'])}: "
        f"{time.perf_counter() - start:.1f} of {budget:g} s")  # fmt: skip
    able = [n for n in ranking.names if n in ranking.val["probe"] and found.candidates[n].checkpoint]
    left = budget - (time.perf_counter() - start)
    fitting = (
        (k, e) for k, e in FINALISTS if len(able) >= k and sum(_predicted(ranking, n, e) for n in able[:k]) <= left
    )
    k, epochs = next(fitting, (0, 0))
    if not k:
        log(f"{max(left, 0):.1f} s left: too few to fine-tune two candidates; the pick is the best probe")
        return ranking
    log(f"{left:.1f} s left: fine-tuning {k} candidates for {epochs} epochs")
    found.val["tuned"] = {}
    begin = time.perf_counter()
    for name in able[:k]:
        model, seconds = fine_tune(found.candidates[name], task, "lp-ft", epochs, seed, device, precision)
        found.val["tuned"][name] = said = predict(model, task.val, task, device, precision)
        found.rows[name] |= {**on_val("tuned", said), "seconds_tuned": seconds}
        log(f"{name}: {found.rows[name]['tuned']:.3f} on val, {seconds:.1f} s")
    found.seconds["fine-tuning"] = time.perf_counter() - begin
    return ranking_of(found, task)


def _predicted(ranking: Ranking, name: str, epochs: int) -> float:
    row = ranking.rows[name]
    passes = 1 + epochs * TRAINING, 1 + epochs  # over train and over val
    images = passes[0] * ranking.n_train + passes[1] * ranking.n_val
    return float(images / row["images_per_s"] + row.get("seconds_probe", 0.0) + 0.5)


def fine_tune(
    c: Candidate, task: Task, how: str = "lp-ft", epochs: int = 4, seed: int = 0, device: str = "auto",
    precision: str = "auto",
) -> tuple[Model, float]:  # fmt: skip
    """The candidate fine-tuned on the task by a recipe (random weights by `scratch`), and the seconds it took."""
    if c.checkpoint is None:
        raise InputError(f"candidate {c.name!r} is features alone; only a checkpoint can be fine-tuned")
    start = time.perf_counter()
    model = build_model(c.checkpoint, task, c.facts.get("image_size"), seed)
    stages = recipe(how if c.checkpoint.pretrained else "scratch", epochs)
    finetune(model, task, stages, seed=seed, device=device, precision=precision, log=lambda line: None)
    return model, time.perf_counter() - start


def fine_tune_all(
    ranking: Ranking, task: Task, how: str = "lp-ft", *, epochs: int = 4, seeds: int = 1, seed: int = 0,
    device: str = "auto", precision: str = "auto", log: Callable[[str], None] = print,
) -> Ranking:  # fmt: skip
    """The ranking with every candidate fine-tuned and measured on test: what the ranking tried to foresee.

    `finetuned` is the mean accuracy over `seeds` runs, its interval Wilson's for that share of the test images, which
    leaves out that other train images and other seeds would give another. Features alone can't be fine-tuned.
    """
    rows, total = dict(ranking.rows), 0.0
    for name, c in ranking.candidates.items():
        if c.checkpoint is None:
            continue
        hits, spent = [], 0.0
        for s in range(seed, seed + seeds):
            model, seconds = fine_tune(c, task, how, epochs=epochs, seed=s, device=device, precision=precision)
            said = predict(model, task.test, task, device, precision)
            hits.append(float((said.predicted == said.targets).mean()))
            spent += seconds / seeds
        value = float(np.mean(hits))
        low, high = wilson(round(value * len(task.test)), len(task.test))
        rows[name] = {**rows[name], "finetuned": value, "finetuned_low": low, "finetuned_high": high,
                      "finetuned_runs": hits, "seconds_finetuned": spent}  # fmt: skip
        total += spent
        log(f"{name}: {value:.3f} on test after fine-tuning, {spent:.1f} s")
    return replace(ranking, rows=rows, seconds={**ranking.seconds, "fine-tuning all": total})
