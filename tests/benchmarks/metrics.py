"""What do honest intervals cost? 10,000 bootstrap resamples of 10,000 examples of 100 classes.

Ours by weights, all metrics at once; scikit-learn by copies, `resample` and then its functions; torchmetrics'
BootStrapper over the same metrics. The peers are run for a few resamples and their time is scaled to as many as ours
draws: at full length they would take hours. They use one thread where ours uses all.
"""

from __future__ import annotations

import argparse
import functools
import warnings
from typing import Any

import numpy as np
import torch
from sklearn import metrics as sk
from sklearn.utils import resample

from ptlib import Predictions, compare, evaluate
from tests.benchmarks import Line, median_seconds, seconds

PEER_RESAMPLES = 5


def example(n: int, c: int, seed: int = 0) -> Predictions:
    rng = np.random.default_rng(seed)
    y, z = rng.integers(0, c, n), rng.normal(size=(n, c))
    z[np.arange(n), y] += 2.8
    return Predictions.of(y, z)


def scikit_learn(p: Predictions, n: int, ranking: bool) -> None:
    y, q, names = p.targets, p.probabilities, np.arange(len(p.class_names))
    for i in range(n):
        a, b = resample(y, q, random_state=i)
        said = b.argmax(1)
        sk.accuracy_score(a, said)
        sk.precision_recall_fscore_support(a, said, labels=names, average="macro", zero_division=0)
        if ranking:
            sk.matthews_corrcoef(a, said)
            sk.cohen_kappa_score(a, said)
            sk.roc_auc_score(a, b, multi_class="ovr", labels=names)
            sk.average_precision_score(a[:, None] == names, b)
            sk.log_loss(a, b, labels=names)


def torchmetrics(p: Predictions, n: int, ranking: bool) -> None:
    from torchmetrics import classification as tm
    from torchmetrics.wrappers import BootStrapper

    c = len(p.class_names)
    wanted: list[Any] = [tm.MulticlassAccuracy(c, average="micro"), tm.MulticlassPrecision(c), tm.MulticlassRecall(c),
              tm.MulticlassF1Score(c)]  # fmt: skip
    if ranking:
        wanted += [tm.MulticlassMatthewsCorrCoef(c), tm.MulticlassCohenKappa(c), tm.MulticlassAUROC(c),
                   tm.MulticlassAveragePrecision(c)]  # fmt: skip
    for metric in wanted:  # it takes one metric at a time
        bootstrap = BootStrapper(metric, num_bootstraps=n, raw=True)
        bootstrap.update(torch.from_numpy(p.probabilities), torch.from_numpy(p.targets))
        bootstrap.compute()


def lines(asked: argparse.Namespace) -> list[Line]:
    """Metrics of the confusion matrix alone, and all of them; then what a comparison takes, printed."""
    n, c, resamples = (2000, 20, 1000) if asked.quick else (10_000, 100, 10_000)
    p, other = example(n, c), example(n, c, 1)
    other = Predictions.of(p.targets, other.scores * 0.3 + p.scores)
    few = 2 if asked.quick else PEER_RESAMPLES
    peers = {"scikit-learn": scikit_learn, "torchmetrics": torchmetrics}
    evaluate(p, resamples=100)  # imports and first calls are not counted
    found, group = [], f"{resamples:,} resamples of {n:,} examples of {c} classes"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for what, ranking in (
            ("accuracy, macro precision, recall, F1", False),
            ("all metrics, those of rankings included", True),
        ):
            for peer in peers.values():
                peer(p, 1, ranking)
            names: Any = "all" if ranking else "main"
            jobs: dict[str, Any] = {"ours": functools.partial(evaluate, p, metrics=names, resamples=resamples)}
            jobs |= {name: functools.partial(peer, p, few, ranking) for name, peer in peers.items()}
            took = median_seconds(jobs, asked.repeats)
            scaled = {name: took[name] * resamples / few for name in peers}
            found += [Line(group, what, name, took["ours"], scaled[name], "s") for name in peers]
    for metric in ("accuracy", "macro_f1"):
        took_ = seconds(functools.partial(compare, p, other, metric))
        print(f"compare by {metric}, interval and shuffles: {took_:.2f} s", flush=True)
    return found
