"""How many points unreported choices cost: the draw of labels, their number, resolution or length, preprocessing."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor, nn

from ptlib import stats
from ptlib.comparison import compare
from ptlib.core import Checkpoint, Split, Task
from ptlib.corruptions import corrupted
from ptlib.data.draw import stratified
from ptlib.errors import InputError
from ptlib.head import fit_head
from ptlib.models import Model, build_model
from ptlib.networks import UpTo
from ptlib.prediction import features, of_logits
from ptlib.preprocessing import Pooling, Tokenization
from ptlib.results import Predictions
from ptlib.shift.robustness import present_classes

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def sensitivity(
    start: Checkpoint, task: Task, image_size: int | None = None, *, draws: int = 5, seed: int = 0,
    device: str = "auto", precision: str = "auto",
) -> Any:  # fmt: skip
    """What changes of data and preprocessing do to a linear probe's accuracy on test: a DataFrame, a row for each.

    `points` is the change of accuracy in percentage points, `low` to `high` its 95 % interval, paired by test example:
    of `draws` draws of half and of a quarter of the labels (over draws and examples), of the resolution (the probe is
    fitted anew), and of a wrong preprocessing at test time (the probe stays). `sd` is the spread between draws of so
    many labels, in points: by luck alone, one difference of two draws in twenty exceeds 2.8 of it. Draws from one
    finite pool are too alike, which is corrected for. The probe, because it is fitted in seconds on features that are
    computed once.

    `image_size` is of texts how many tokens are read, and resolution half and one and a half times as many, where the
    checkpoint takes them; instead of preprocessing the other poolings are tried, the probe fitted anew, and texts in
    lower case at test time.
    """
    import pandas as pd

    how: dict[str, Any] = {"device": device, "precision": precision}
    model = build_model(start, task, image_size, seed)
    found = _features(model, task, how)
    base = _probe(model, task, found, np.arange(len(task.train)))
    reference = of_logits(_said(base, found["test"]), task.test, task)
    rows: list[dict[str, Any]] = [_row("nothing", reference, reference)]
    for part in (2, 4):
        n = len(task.train) // part
        if n < task.n_classes:
            continue
        y = task.train.targets.numpy()
        tried = [_probe(model, task, found, stratified(y, n, seed + k)) for k in range(draws)]
        said = [of_logits(_said(head, found["test"]), task.test, task) for head in tried]
        hits = np.stack([(p.predicted == p.targets).astype(np.float64) for p in said])
        own = (reference.predicted == reference.targets).astype(np.float64)
        gap = stats.variance_of(hits - own)
        spread = float(hits.mean(1).std(ddof=1)) / math.sqrt(1 - 1 / part) if draws > 1 else math.nan
        rows.append({
            "change": f"1/{part} of the labels, {draws} draws", "accuracy": hits.mean(), "points": 100 * gap.mean,
            "low": 100 * gap.low, "high": 100 * gap.high, "sd": 100 * spread,
        })  # fmt: skip
    for name, (other, size) in _alternatives(start, model).items():
        try:
            changed = build_model(other, task, size, seed)
        except InputError:  # a network that takes only its own size, or no more
            continue
        anew = _features(changed, task, how)
        head = _probe(changed, task, anew, np.arange(len(task.train)))
        rows.append(_row(name, of_logits(_said(head, anew["test"]), task.test, task), reference))
    if task.reads == "texts":
        small = features(model, corrupted(task.test, "lower_case"), **how)
        wrong = {"at test: in lower case": small}
    else:
        wrong = {name: features(model.fed(**changes), task.test, **how) for name, changes in _mistakes(model).items()}
    rows += [_row(name, of_logits(_said(base, x), task.test, task), reference) for name, x in wrong.items()]
    return pd.DataFrame(rows).set_index("change")


def probes_on_fewer(
    model: Model, task: Task, sets: Mapping[str, Split], shares: Sequence[float] = (0.2, 0.4, 0.7, 1.0), *,
    draws: int = 2, seed: int = 0, device: str = "auto", precision: str = "auto",
) -> dict[str, dict[str, Predictions]]:  # fmt: skip
    """Linear probes on shares of the labels, `draws` of each, and what they say of each set: models of one kind, for a
    line. A set with some of the task's classes is told apart among those, and so is every other set.

    Of each class at least one example is taken, so that very small shares of a small set may come to the same.
    """
    how: dict[str, Any] = {"device": device, "precision": precision}
    found = {split.name: features(model, split, **how) for split in (task.train, task.val)}
    there = {name: features(model, split, **how) for name, split in sets.items()}
    y, probes = task.train.targets.numpy(), {}
    shared = [c for c in task.class_names if all(c in present_classes(split, task) for split in sets.values())]
    for share in shares:
        n = max(task.n_classes, round(share * len(y)))
        for k in range(draws if n < len(y) else 1):
            head = _probe(model, task, found, stratified(y, n, seed + k))
            name = f"probe on {n} labels" + f", draw {k + 1}" * (n < len(y))
            probes[name] = {s: of_logits(_said(head, there[s]), split, task).among(shared) for s, split in sets.items()}
    return probes


def _alternatives(start: Checkpoint, model: Model) -> dict[str, tuple[Checkpoint, int]]:
    """What might as well have been chosen before fitting: a checkpoint and the size of what it reads, by name."""
    p = model.preprocessing
    texts = isinstance(p, Tokenization)
    named = "{} tokens instead of {}" if texts else "images of {} pixels instead of {}"
    found = {named.format(other, p.size): (start, other) for other in (p.size // 2, p.size * 3 // 2)}
    if texts and not isinstance(model.backbone, UpTo):  # of a layer the mean over tokens is taken
        for pooling in (pooling for pooling in get_args(Pooling) if pooling != p.pooling):
            pooled = replace(start, preprocessing=Tokenization(start.preprocessing.size, pooling))
            found[f"pooled by {pooling} instead of {p.pooling}"] = pooled, p.size
    return found


def _mistakes(model: Model) -> dict[str, dict[str, Any]]:
    """Preprocessings that a model is often given by mistake, but for those it has already."""
    p = model.preprocessing
    other = "bilinear" if p.interpolation == "bicubic" else "bicubic"
    mistakes: dict[str, dict[str, Any]] = {
        f"at test: {other} instead of {p.interpolation}": {"interpolation": other},
        "at test: not antialiased": {"antialias": False},
        "at test: mean and std of ImageNet": dict(zip(("mean", "std"), IMAGENET, strict=True)),
        "at test: mean and std 0.5": {"mean": (0.5,) * 3, "std": (0.5,) * 3},
        "at test: not normalised": {"mean": (0.0,) * 3, "std": (1.0,) * 3},
    }
    return {name: changes for name, changes in mistakes.items() if replace(p, **changes) != p}


def _features(model: Model, task: Task, how: dict[str, Any]) -> dict[str, Tensor]:
    return {split.name: features(model, split, **how) for split in task.splits}


def _probe(model: Model, task: Task, found: dict[str, Tensor], rows: np.ndarray) -> nn.Linear:
    """A head fitted on these train examples' features."""
    head = copy.deepcopy(model.head)
    if not isinstance(head, nn.Linear):
        raise InputError(f"a probe needs a linear head; that of {task.name} is a {type(head).__name__}")
    where = found["train"].device
    index = torch.from_numpy(rows).to(where)
    targets = {"train": task.train.targets.to(where)[index], "val": task.val.targets.to(where)}
    fit_head(head, {"train": found["train"][index], "val": found["val"]}, targets)
    return head


@torch.no_grad()
def _said(head: nn.Linear, x: Tensor) -> Tensor:
    return head(x)  # type: ignore[no-any-return]


def _row(change: str, said: Predictions, reference: Predictions) -> dict[str, Any]:
    accuracy = float((said.predicted == said.targets).mean())
    if said is reference:
        return {"change": change, "accuracy": accuracy, "points": 0.0, "low": 0.0, "high": 0.0, "sd": math.nan}
    d = compare(said, reference, "accuracy", resamples=2000).difference
    return {"change": change, "accuracy": accuracy, "points": 100 * d.value, "low": 100 * d.low, "high": 100 * d.high,
            "sd": math.nan}  # fmt: skip
