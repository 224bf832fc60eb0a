"""What do honest intervals cost? 10,000 bootstrap resamples of 10,000 examples of 100 classes.

    python -m tests.benchmarks.metrics

Ours by weights, all metrics at once; scikit-learn by copies, `resample` and then its functions; torchmetrics'
BootStrapper over the same metrics, where it is installed. The peers are run for a few resamples (`--peer-resamples`),
and their time is scaled to 10,000: at full length they would take hours. Run it alone.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
import warnings
from typing import Any

import numpy as np
import torch
from sklearn import metrics as sk
from sklearn.utils import resample

from ptlib import Predictions, compare, evaluate

RESAMPLES = 10_000


def example(n: int, c: int, seed: int = 0) -> Predictions:
    rng = np.random.default_rng(seed)
    y, z = rng.integers(0, c, n), rng.normal(size=(n, c))
    z[np.arange(n), y] += 2.8
    return Predictions.of(y, z)


def timed(function: object, *args: object, **kwargs: object) -> float:
    start = time.perf_counter()
    function(*args, **kwargs)  # type: ignore[operator]
    return time.perf_counter() - start


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


def main(n: int, c: int, peer_resamples: int) -> None:
    p, other = example(n, c), example(n, c, 1)
    other = Predictions.of(p.targets, other.scores * 0.3 + p.scores)
    evaluate(p, resamples=100)  # imports and first calls are not counted
    warnings.simplefilter("ignore")
    peers = {"scikit-learn": scikit_learn}
    if importlib.util.find_spec("torchmetrics"):
        peers["torchmetrics"] = torchmetrics
    for name, ranking, how in (("confusion matrix", False, {}), ("all metrics", True, {"metrics": "all"})):
        ours = timed(evaluate, p, resamples=RESAMPLES, **how)
        print(f"{name}: {RESAMPLES:,} resamples of {n:,} x {c} in {ours:.2f} s")
        for peer, function in peers.items():
            function(p, 2, ranking)
            each = timed(function, p, peer_resamples, ranking) / peer_resamples
            print(f"  {peer}: {1000 * each:.0f} ms a resample, {RESAMPLES * each / ours:,.0f} times as long")
    for metric in ("accuracy", "macro_f1"):
        print(f"compare by {metric}, interval and shuffles: {timed(compare, p, other, metric):.2f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--peer-resamples", type=int, default=10)
    args = parser.parse_args()
    main(args.n, args.classes, args.peer_resamples)
