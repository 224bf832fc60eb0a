"""Where the errors are: by class, by a column of metadata, by confidence; and which labels are likely wrong."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.stats import fisher_exact

from ptlib import stats
from ptlib.core import Task
from ptlib.data.duplicates import Duplicates
from ptlib.errors import InputError
from ptlib.measures import prepare
from ptlib.metrics.breakdown import breakdown
from ptlib.report import Bootstrap
from ptlib.results import Boxes, Estimate, Predictions

CONFIDENCE_STEPS = (0.0, 0.5, 0.7, 0.9, 0.99, 1.0)


def by_slice(predictions: Predictions, by: str | Sequence[Any]) -> Any:
    """Accuracy of each slice with Wilson's interval, as a pandas DataFrame, the worst first.

    `by` is `class` (the target's), `predicted`, `confidence`, a column's name, or a value for each example. `p` says
    how surprising a slice's accuracy is beside that of all other examples (Fisher's exact test), after Holm's
    correction for the number of slices looked at: with twenty slices one in twenty is odd by chance.
    """
    import pandas as pd

    names, index = _slices(predictions, by)
    right = predictions.predicted == predictions.targets
    rows = []
    for k in np.unique(index):
        inside = index == k
        hits, n = int(right[inside].sum()), int(inside.sum())
        others, n_others = int(right[~inside].sum()), int((~inside).sum())
        p = fisher_exact([[hits, n - hits], [others, n_others - others]])[1] if n_others else np.nan
        low, high = stats.wilson(hits, n)
        rows.append({"slice": names[k], "n": n, "accuracy": hits / n, "low": low, "high": high, "p": p})
    frame = pd.DataFrame(rows).set_index("slice")
    frame["p"] = stats.holm(frame["p"].to_numpy())
    return frame.sort_values(["accuracy", "n"], ascending=[True, False], kind="stable")


def _slices(p: Predictions, by: str | Sequence[Any]) -> tuple[list[str], np.ndarray]:
    if not isinstance(p, Predictions) or p.multilabel:
        other = "several" if isinstance(p, Predictions) else f"{p.kind}, or compare such runs by ap50 or mean_iou"
        raise InputError(f"slices are of one label an example; look at report.per_class for {other}")
    if not isinstance(by, str):
        if len(by) != len(p):
            raise InputError(f"{len(by)} values for {len(p)} examples; one for each is needed")
        values = [str(v) for v in by]
    elif by in p.columns:
        values = list(p.columns[by])
    elif by in ("class", "predicted"):
        return list(p.class_names), p.targets if by == "class" else p.predicted
    elif by == "confidence":
        edges = CONFIDENCE_STEPS
        index = np.clip(np.searchsorted(edges, p.probabilities.max(1), "right") - 1, 0, len(edges) - 2)
        return [f"{a:g} to {b:g}" for a, b in pairwise(edges)], index
    else:
        options = ", ".join(["class", "predicted", "confidence", *p.columns])
        raise InputError(f"there is no column {by!r} to slice by; use one of {options}")
    names, index = np.unique(values, return_inverse=True)
    return names.tolist(), index.ravel()


def likely_label_errors(predictions: Predictions) -> Any:
    """Examples whose given label is likely wrong, worst first: a pandas DataFrame of row, id, given, likely, margin.

    Confident learning (Northcutt, Jiang and Chuang 2021): a class's threshold is the mean probability that examples
    labelled so are given of it. An example confident of a class, at or above its threshold, and of another one than
    its label, is suspect unless the model's own answer is the label; the list is ordered by the margin, the label's
    probability less the likeliest other's. The predictions must come from a model that did not learn from these
    labels, as a test split's do.
    """
    import pandas as pd

    if predictions.multilabel:
        raise InputError("label errors are looked for where an example has one label")
    p, y = predictions.probabilities, predictions.targets
    own = p[np.arange(len(y)), y]
    sizes = np.bincount(y, minlength=p.shape[1])
    with np.errstate(invalid="ignore", divide="ignore"):
        threshold = np.bincount(y, own, minlength=p.shape[1]) / sizes
    confident = np.where(p >= np.where(sizes > 0, threshold, np.inf) - 1e-6, p, -1.0)
    likely = confident.argmax(1)
    suspect = np.flatnonzero((confident.max(1) >= 0) & (likely != y) & (predictions.predicted != y))
    others = p.copy()
    others[np.arange(len(y)), y] = -1
    margin = own - others.max(1)
    suspect = suspect[np.argsort(margin[suspect], kind="stable")]
    names = np.array(predictions.class_names, dtype=object)
    return pd.DataFrame({
        "row": suspect, "id": [predictions.ids[i] for i in suspect], "given": names[y[suspect]],
        "likely": names[likely[suspect]], "margin": margin[suspect],
    })  # fmt: skip


def coverage(
    predictions: Predictions, metrics: Sequence[str], n: int, trials: int = 200, resamples: int = 1000, seed: int = 0,
    **how: Any,
) -> Any:  # fmt: skip
    """How often `evaluate`'s 95 % intervals hold the truth, by simulation, as a pandas DataFrame.

    These predictions are the population, so the truth is known; `trials` samples of `n` examples are drawn from it.
    `how` is `interval` and `stratified`, as for `evaluate`. A share of 200 trials is itself uncertain by some 3 points:
    `low` and `high` say how far. Samples on which a metric has no interval are not counted in `trials`.
    """
    import pandas as pd

    # Of a whole population the plain calibration error is the true one: there is no sampling to debias.
    population = [prepare(["ece" if name == "ece_debiased" else name], [predictions])[0] for name in metrics]
    truth = {
        name: float(s.values(np.bincount(s.rows)[None])[0, 0]) for name, s in zip(metrics, population, strict=True)
    }
    rng = np.random.default_rng(seed)
    held, width, defined = (dict.fromkeys(metrics, 0.0) for _ in range(3))
    for trial in range(trials):
        rows = rng.integers(0, len(predictions), n)
        drawn = Predictions(
            tuple(map(str, range(n))), predictions.targets[rows], predictions.scores[rows], "sample",
            predictions.class_names, {k: tuple(v[i] for i in rows) for k, v in predictions.columns.items()},
        )  # fmt: skip
        report = Bootstrap(drawn, resamples=resamples, seed=trial, **how).estimates(metrics)
        for name in metrics:
            e = report[name]
            if not np.isnan(e.low):
                defined[name] += 1
                held[name] += e.low <= truth[name] <= e.high
                width[name] += e.high - e.low
    rows_out = []
    for name in metrics:
        k = int(defined[name])
        low, high = stats.wilson(int(held[name]), k) if k else (np.nan, np.nan)
        share, mean = (held[name] / k, width[name] / k) if k else (np.nan, np.nan)
        method = re.sub(r", [\d,]+ resamples$", "", report[name].method)
        row = {"metric": name, "method": method, "truth": truth[name], "coverage": share, "low": low, "high": high}
        rows_out.append({**row, "width": mean, "trials": k})
    return pd.DataFrame(rows_out).set_index("metric")


def worst_slice(predictions: Predictions, by: str | Sequence[Any], level: float = 0.95) -> tuple[str, Estimate]:
    """The slice (see `by_slice`) of lowest accuracy, and an interval for the lowest accuracy of any, true as it is.

    The lowest of several measured accuracies is too low by chance. So each slice has Wilson's interval at the level
    that holds all of them at once (Bonferroni), and the interval reaches from their least lower to their least upper
    end: the lowest true accuracy lies in it whichever slice has it.
    """
    names, index = _slices(predictions, by)
    right = predictions.predicted == predictions.targets
    groups = np.unique(index)
    hits, sizes = np.bincount(index, right)[groups], np.bincount(index)[groups]
    each = 1 - (1 - level) / len(groups)
    ends = np.array([stats.wilson(int(h), int(n), each) for h, n in zip(hits, sizes, strict=True)])
    worst = int((hits / sizes).argmin())
    method = f"Wilson, Bonferroni over {len(groups)}"
    low, high = ends.min(0)
    return names[groups[worst]], Estimate(float(hits[worst] / sizes[worst]), float(low), float(high), method, level)


def by_duplicate(predictions: Predictions, duplicates: Duplicates) -> Any:
    """Accuracy on all test examples, on those that stand in train too, and on the others: a pandas DataFrame.

    The last is what to report where the first two differ. Intervals are Wilson's.
    """
    import pandas as pd

    exact, near = ({b for _, b in pairs} for pairs in (duplicates.exact, duplicates.near))
    kinds = {
        "all": np.ones(len(predictions), dtype=bool),
        "exact duplicates": np.array([i in exact for i in predictions.ids]),
        "near duplicates": np.array([i in near for i in predictions.ids]),
    }
    kinds["without them"] = ~(kinds["exact duplicates"] | kinds["near duplicates"])
    right, rows = predictions.predicted == predictions.targets, {}
    for name, inside in kinds.items():
        n, hits = int(inside.sum()), int(right[inside].sum())
        low, high = stats.wilson(hits, n) if n else (np.nan, np.nan)
        rows[name] = {"n": n, "accuracy": hits / n if n else np.nan, "low": low, "high": high}
    return pd.DataFrame.from_dict(rows, orient="index")


def mistaken_texts(task: Task, predictions: Predictions, n: int = 4, width: int = 110) -> str:
    """The wrong predictions a model was surest of, each with the whole text, found in `task` by their ids.

    What is not printable, as what steers a terminal, stands as U+FFFD.
    """
    wrong = np.flatnonzero(predictions.predicted != predictions.targets)
    confidence = predictions.probabilities.max(axis=1)
    texts = {example: split.inputs[i] for split in task.splits for i, example in enumerate(split.ids)}
    told = []
    for i in wrong[np.argsort(-confidence[wrong], kind="stable")][:n]:
        truth, said = (predictions.class_names[c[i]] for c in (predictions.targets, predictions.predicted))
        head = f"{predictions.ids[i]}: {truth}, taken for {said} ({confidence[i]:.2f})"
        lines = (textwrap.fill(line, width) for line in texts[predictions.ids[i]].splitlines() if line.strip())
        told.append("\n".join([head, "-" * len(head), *lines]))
    whole = "\n\n".join(told)
    return "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in whole)


def box_errors(predictions: Boxes) -> dict[str, Any]:
    """AP at an IoU of 0.5, and for each kind of error how many there are and how far it would rise without them.

    The kinds and what each means are told at `ptlib.metrics.breakdown.breakdown`.
    """
    return breakdown(predictions.targets, predictions.scores, len(predictions.class_names))
