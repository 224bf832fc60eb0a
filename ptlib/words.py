"""The baseline that any network of text must beat: weighted counts of words, and logistic regression on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ptlib.core import Split, Task
from ptlib.errors import InputError
from ptlib.prediction import predict
from ptlib.results import Predictions
from ptlib.transfers import Transfers, few

STRENGTHS = (1.0, 10.0, 100.0, 1e3, 1e4)  # scikit-learn's C: the larger, the weaker the L2 penalty
LEAST = 1e-12
Words = Callable[[Sequence[str]], np.ndarray]


def count_words(task: Task, strength: float | None = None) -> Words:
    """A function of texts that gives logits (N, C), the logarithms of probabilities, for `predict`.

    TF-IDF of words and pairs of words that train has (logarithmic counts, as scikit-learn's `TfidfVectorizer`), then
    multinomial logistic regression; `strength` is its C, None chooses the one with the least log loss on val. A class
    that train lacks gets a probability of 1e-12. InputError if the task is not of texts.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

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

        def logits(features: object) -> np.ndarray:
            said = np.full((features.shape[0], task.n_classes), LEAST)  # type: ignore[attr-defined]
            said[:, classes] = np.maximum(regression.predict_proba(features), LEAST)
            return np.asarray(np.log(said))

        return logits

    tried = [fitted(c) for c in ([strength] if strength else STRENGTHS)]
    rows = np.arange(len(y_val))
    best = max(tried, key=lambda said: said(x_val)[rows, y_val].mean()) if len(tried) > 1 else tried[0]
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
    found: Predictions = predict(words, split, task)
    return found
