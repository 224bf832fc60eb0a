"""What few labels of a target give, from each start: learning curves, what a start is worth, layer by layer."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ptlib.core import Split, Task
from ptlib.errors import InputError, did_you_mean
from ptlib.head import fit_head
from ptlib.kinds import one_class_each
from ptlib.models import Model, layers, under_new_head
from ptlib.prediction import features, of_logits, predict
from ptlib.results import Predictions
from ptlib.runtime import choose_device, place
from ptlib.stages import Stage
from ptlib.stats import Variance, bias_variance, reaches, variance_of
from ptlib.train import finetune

PENALTY = 0.03  # of the probe's L2 term: with a handful of labels there are none to choose it by
WAYS = ("probe", "neighbours", "fine-tuned", "scratch")
Key = tuple[str, str]  # a start and a way


@dataclass(frozen=True)
class Worth:
    """So many labels of each class give from a start what `equal` give from the reference, of which `least` to `most`
    were tried; infinity: more than that."""

    labels: int
    equal: float
    low: float
    high: float
    least: int
    most: int

    def __str__(self) -> str:
        def say(x: float) -> str:
            return f"more than {self.most}" if math.isinf(x) else f"{'at most ' * (x <= self.least)}{x:.3g}"

        return f"{self.labels} a class: worth {say(self.equal)} ({say(self.low)} to {say(self.high)})"


@dataclass(frozen=True)
class Transfers:
    """Predictions on the target's test split, by (start, way) and number of labels of each class, one of each seed.

    Seeds draw the labels, the head and the batches, the same labels for every start and way. `a | b` joins two.
    """

    said: dict[Key, dict[int, list[Predictions]]]

    def __or__(self, other: Transfers) -> Transfers:
        keys = {**self.said, **other.said}
        return Transfers({k: {**self.said.get(k, {}), **other.said.get(k, {})} for k in keys})

    def hits(self, start: str, way: str, labels: int) -> np.ndarray:
        """Which test examples each run has right, as 0.0 and 1.0, (S, N)."""
        return np.stack([p.predicted == p.targets for p in self._runs((start, way), labels)]).astype(np.float64)

    def accuracy(self, start: str, way: str, labels: int) -> Variance:
        """Mean accuracy over seeds, with its interval for other seeds and other test examples."""
        return variance_of(self.hits(start, way, labels))

    def margin(self, a: Key, b: Key, labels: int) -> Variance:
        """By how much the accuracy of `a` exceeds that of `b`, paired by seed and test example, with its interval."""
        one, other = self.hits(*a, labels), self.hits(*b, labels)
        if one.shape != other.shape:
            raise InputError(f"{a} has runs and examples {one.shape}, {b} {other.shape}; pairs need the same of both")
        return variance_of(one - other)

    def parts(self, start: str, way: str, labels: int) -> tuple[float, float]:
        """Squared bias and variance of the Brier score over seeds."""
        runs = self._runs((start, way), labels)
        return bias_variance(np.stack([p.probabilities for p in runs]), runs[0].targets)

    def worth(self, a: Key, reference: Key, labels: int, resamples: int = 2000, seed: int = 0) -> Worth:
        """How many labels `reference` needs for what `a` gets from so many: the horizontal distance of two curves.

        "Effective data transferred" of Hernandez et al. (2021, arXiv 2102.01293), interpolated on the measured curve
        instead of on a fitted law. The interval resamples seeds and test examples, the same for both curves; of few
        seeds it is too narrow, and it can't reach below the smallest number tried.
        """
        tried = sorted(self._of(reference))
        curve = np.stack([self.hits(*reference, k) for k in tried])  # (K, S, N)
        top = self.hits(*a, labels)  # (S, N)
        if curve.shape[1:] != top.shape:
            raise InputError(f"{a} has {len(top)} seeds and {reference} {curve.shape[1]}; they must be the same")
        s, n = top.shape
        rng = np.random.default_rng(seed)
        runs = rng.multinomial(s, np.full(s, 1 / s), resamples) / s  # (R, S)
        rows = rng.multinomial(n, np.full(n, 1 / n), resamples) / n  # (R, N)
        drawn = np.einsum("krs,rs->rk", np.einsum("ksn,rn->krs", curve, rows), runs)
        values = np.einsum("sn,rn,rs->r", top, rows, runs)
        # An order statistic, not a value between two: some may be infinite.
        low, high = np.quantile(reaches(np.array(tried), drawn, values), [0.025, 0.975], method="inverted_cdf")
        equal = float(reaches(np.array(tried), curve.mean((1, 2)), np.array(top.mean())))
        return Worth(labels, equal, float(low), float(high), tried[0], tried[-1])

    def frame(self) -> Any:
        """Each run's accuracy, as a pandas DataFrame: start, way, labels, run, accuracy."""
        import pandas as pd

        rows = [
            {"start": start, "way": way, "labels": k, "run": i, "accuracy": float((p.predicted == p.targets).mean())}
            for (start, way), by_labels in self.said.items() for k, runs in by_labels.items()
            for i, p in enumerate(runs)
        ]  # fmt: skip
        return pd.DataFrame(rows)

    def table(self) -> Any:
        """Mean accuracies with 95 % intervals, a row for each start and way, as a pandas DataFrame."""
        import pandas as pd

        columns = sorted({k for by_labels in self.said.values() for k in by_labels})
        rows = {}
        for key, by_labels in self.said.items():
            rows[", ".join(key)] = {f"{k} a class": str(self.accuracy(*key, k)) if k in by_labels else ""
                                    for k in columns}  # fmt: skip
        return pd.DataFrame.from_dict(rows, orient="index")

    def _runs(self, key: Key, labels: int) -> list[Predictions]:
        runs = self._of(key).get(labels)
        if runs is None:
            raise InputError(f"{', '.join(key)}: {labels} labels were not tried; {sorted(self.said[key])} were")
        return runs

    def _of(self, key: Key) -> dict[int, list[Predictions]]:
        if key not in self.said:
            raise InputError(f"there is no {key}; there are {', '.join(map(str, self.said))}")
        return self.said[key]


def few(task: Task, labels: int, seed: int = 0, shown: int = 0, classes: int | None = None) -> Task:
    """The task with `labels` train examples of each class, or of its first `classes`, drawn by `seed`.

    Fewer labels are a part of more. They are repeated until an epoch shows at least `shown`, so that training is about
    as long whatever their number, up to that. Val is one example of each class: who has five labels has none to choose
    by. InputError if a class has too few.
    """
    one_class_each(task, "transfer from few labels")
    if classes is not None:
        if not 2 <= classes <= task.n_classes:
            raise InputError(f"classes is {classes}; {task.name} has {task.n_classes}, take 2 to that many")
        train, val, test = (s.take(np.flatnonzero(s.targets.numpy() < classes)) for s in task.splits)
        names = task.class_names[:classes]
        task = replace(task, name=f"{task.name}, {classes} classes", class_names=names, train=train, val=val, test=test)
    y, counts = task.train.targets.numpy(), task.train.counts(task.n_classes)
    if not 1 <= labels <= counts.min():
        rarest = task.class_names[int(counts.argmin())]
        raise InputError(f"labels is {labels}; class {rarest!r} of {task.name} has {counts.min()}, take 1 to that many")
    members = (np.flatnonzero(y == c) for c in range(task.n_classes))
    rows = np.concatenate([np.random.default_rng([seed, c]).permutation(m)[:labels] for c, m in enumerate(members)])
    times = max(1, math.ceil(shown / len(rows)))
    drawn = task.train.take(np.tile(rows, times))
    ids = [f"{name}, {i // len(rows) + 1}" if i >= len(rows) else name for i, name in enumerate(drawn.ids)]
    train = Split("train", drawn.inputs, drawn.targets, ids)
    return replace(task, train=train, val=task.val.first_of_each(task.n_classes))


def transfer(
    starts: Mapping[str, Model], target: Task, labels: Sequence[int] = (1, 2, 5, 10, 50), way: str = "fine-tuned", *,
    seeds: int = 5, seed: int = 0, **how: Any,
) -> Transfers:  # fmt: skip
    """Learn the target from `labels` examples of each class, from each start, `seeds` times; `how` goes to `adapt`.

    InputError for a way that is none, or more labels than a class has.
    """
    device, precision = how.get("device", "auto"), how.get("precision", "auto")
    said: dict[Key, dict[int, list[Predictions]]] = {}
    for name, start in starts.items():
        runs = said.setdefault((name, way), {k: [] for k in labels})  # a number named twice is tried once
        frozen = None
        if way != "scratch":
            frozen = {s.name: features(start, s, device, precision) for s in (target.train, target.test)}
        for k in runs:
            for i in range(seed, seed + seeds):
                if way == "neighbours" and frozen:
                    task = few(target, k, i)
                    logits = _neighbours(frozen["train"][_rows(target, task)], task, frozen["test"])
                elif way == "probe" and frozen:
                    with torch.no_grad():
                        logits = adapt(start, target, k, way, seed=i, frozen=frozen, **how).head(frozen["test"])
                else:
                    model = adapt(start, target, k, way, seed=i, frozen=frozen, **how)
                    runs[k].append(predict(model, target.test, target, device, precision))
                    continue
                runs[k].append(of_logits(logits, target.test, target))
    return Transfers(said)


def adapt(
    start: Model, target: Task, labels: int, way: str = "fine-tuned", *, seed: int = 0, epochs: int = 4,
    shown: int = 450, lr: float | None = None, trainable: Sequence[str] = ("all",), device: str = "auto",
    precision: str = "auto", frozen: Mapping[str, Tensor] | None = None,
) -> Model:  # fmt: skip
    """A copy of `start` that has learned the target from `labels` examples of each class, drawn by `seed`.

    - `probe`: logistic regression on frozen features, with a fixed penalty.
    - `neighbours`, in `transfer` alone: the 5 nearest training examples by cosine, weighted by
      exp(similarity / 0.07) (Wu et al. 2018, arXiv 1805.01978).
    - `fine-tuned`: the probe, then what is `trainable`; layers learn the slower the deeper they lie, BatchNorm keeps
      its statistics. `lr` 0.002 by default.
    - `scratch`: everything at once from a random head, one rate, BatchNorm learning. `lr` 0.005 by default.

    Networks of text are trained at a tenth of these rates, with gradients clipped at norm 1, as by `recipe`.
    Training shows `epochs` times at least `shown` examples, and keeps the last weights: nothing is chosen on val.
    `frozen` holds the start's features of the target's train split, if they are known.
    """
    if way not in WAYS or way == "neighbours":
        why = "neighbours make no network" if way in WAYS else f"unknown way {way!r}{did_you_mean(way, WAYS)}"
        raise InputError(f"{why}; there are {', '.join(w for w in WAYS if w != 'neighbours')}")
    place(start, choose_device(device))
    task, model = few(target, labels, seed), under_new_head(start, target, seed)
    if way != "scratch":
        held = frozen or {"train": features(start, target.train, device, precision)}
        x = held["train"][_rows(target, task)]
        y = task.train.targets.to(x.device)
        if not isinstance(model.head, nn.Linear):
            raise InputError(f"a probe needs a linear head; that of {target.name} is a {type(model.head).__name__}")
        fit_head(model.head, {"train": x, "val": x}, {"train": y, "val": y}, (PENALTY,))
    if way == "probe":
        return model.eval()
    text = target.reads == "texts"
    slower = 0.1 if text else 1.0
    common: dict[str, Any] = {"epochs": epochs, "batch_size": 32, "clip_norm": 1.0 if text else None}
    if way == "scratch":
        stage = Stage("all", lr=lr or slower * 5e-3, schedule="one-cycle", batchnorm="train", **common)
    else:
        decay = 0.95 if text else 0.8
        stage = Stage("all", tuple(trainable), lr=lr or slower * 2e-3, layer_decay=decay, **common)
    finetune(model, few(target, labels, seed, shown), [stage], seed=seed, device=device, precision=precision,
             keep="last", log=lambda line: None)  # fmt: skip
    return model


def layer_by_layer(
    start: Model, random: Model, target: Task, labels: int, *, seeds: int = 2, seed: int = 0, **how: Any
) -> dict[str, Transfers]:
    """What each layer brings, fine-tuned: `frozen` up to and with a layer, or `random` again from a layer on.

    Yosinski et al. (2014). Random layers are those of `random`, a network of the same architecture. The starts of the
    two are layers, and `how` goes to `adapt`.
    """
    depth = layers(start)[:-1]
    found = {"frozen": Transfers({}), "random": Transfers({})}
    fresh = random.state_dict()
    for k, (name, _) in enumerate(depth):
        above = {n for _, members in depth[k + 1 :] for n in members}
        if above:
            free = [n.replace(".", r"\.") + "$" for n in above]
            found["frozen"] |= transfer({name: start}, target, [labels], seeds=seeds, seed=seed,
                                        trainable=["head", *free], **how)  # fmt: skip
        if k:
            owners = {n.rpartition(".")[0] for _, members in depth[k:] for n in members}
            mixed = copy.deepcopy(start)
            mixed.load_state_dict(
                {n: fresh[n] if n.rpartition(".")[0] in owners else v for n, v in mixed.state_dict().items()
                 if not n.startswith("head.")}, strict=False)  # fmt: skip
            found["random"] |= transfer({name: mixed}, target, [labels], seeds=seeds, seed=seed, **how)
    return found


def _rows(target: Task, task: Task) -> Tensor:
    """Which train examples of `target` those of `task` are."""
    place = {example: row for row, example in enumerate(target.train.ids)}
    return torch.tensor([place[example] for example in task.train.ids])


def _neighbours(train: Tensor, task: Task, test: Tensor, k: int = 5) -> Tensor:
    """Log shares of the votes of the k nearest, (N, C), on the CPU: float64 is not to be had on every device."""
    train, test = train.cpu(), test.cpu()
    near = (F.normalize(test, dim=1) @ F.normalize(train, dim=1).T).topk(min(k, len(train)), dim=1)
    votes = torch.zeros(len(test), task.n_classes, dtype=torch.float64)
    votes.scatter_add_(1, task.train.targets[near.indices], ((near.values.double() - 1) / 0.07).exp())
    return (votes / votes.sum(1, keepdim=True)).clamp_min(1e-12).log()
