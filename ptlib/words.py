"""The baseline that any network of text must beat: weighted counts of words, and logistic regression on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ptlib.core import Split, Task
from ptlib.errors import InputError
from ptlib.prediction import predict
from ptlib.results import Predictions
from ptlib.transfers import Transfers, few

STRENGTHS = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)  # scikit-learn's C: the larger, the weaker the L2 penalty
Words = Callable[[Sequence[str]], np.ndarray]


def count_words(task: Task, strength: float | None = None) -> Words:
    """A function of texts that gives probabilities (N, C), for `predict(..., outputs="probabilities")`.

    TF-IDF of words and pairs of words that train has (logarithmic counts, as scikit-learn's `TfidfVectorizer`), then
    multinomial logistic regression; `strength` is its C, None chooses the one with the least log loss on val. A class
    that train lacks gets probability 0. InputError if the task is not of texts.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss

    if task.reads != "texts":
        raise InputError(f"words are counted in texts, and {task.name} holds {task.reads}")
    counts = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b")
    try:
        x = counts.fit_transform(task.train.inputs)
    except ValueError:  # scikit-learn's word for texts of punctuation alone
        raise InputError(f"no train text of {task.name} has a word to count") from None
    y, classes = task.train.targets.numpy(), np.unique(task.train.targets.numpy())
    x_val, y_val = counts.transform(task.val.inputs), task.val.targets.numpy()

    def fitted(c: float) -> Words:
        regression = LogisticRegression(C=c, max_iter=1000).fit(x, y)

        def probabilities(features: object) -> np.ndarray:
            said = np.zeros((features.shape[0], task.n_classes))  # type: ignore[attr-defined]
            said[:, classes] = regression.predict_proba(features)
            return said

        return probabilities

    tried = [fitted(c) for c in ([strength] if strength else STRENGTHS)]
    labels = range(task.n_classes)
    best = min(tried, key=lambda said: log_loss(y_val, said(x_val), labels=labels)) if len(tried) > 1 else tried[0]
    return lambda texts: best(counts.transform(texts))


def words_by_labels(task: Task, labels: Sequence[int], *, seeds: int = 5, seed: int = 0) -> Transfers:
    """What counted words give from so many labels of each class, as `transfer` says it of networks: the same draws.

    C is 10 throughout: of a handful of labels none can be spared to choose by.
    """
    said: dict[int, list[Predictions]] = {}
    for k in labels:
        parts = (few(task, k, i) for i in range(seed, seed + seeds))
        said[k] = [_said(count_words(part, 10.0), task.test, task) for part in parts]
    return Transfers({("counted words", "probe"): said})


def _said(words: Words, split: Split, task: Task) -> Predictions:
    found: Predictions = predict(words, split, task, outputs="probabilities")
    return found
