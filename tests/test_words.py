"""Counted words, the baseline of texts, against scikit-learn's own; mistakes shown in full."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from ptlib import InputError, Predictions, load_task, mistaken_texts, predict
from ptlib.core import Split, Task
from ptlib.texts import Texts
from ptlib.words import STRENGTHS, count_words, words_by_labels
from tests.conftest import make_task


def small(train: list[str], labels: list[int]) -> Task:
    train_split, val, test = [
        Split(name, Texts(texts), torch.tensor(y), [f"{name}/{i}" for i in range(len(y))])
        for name, texts, y in (("train", train, labels), ("val", ["a goal", "a vote", "a ball"], [0, 1, 0]),
                               ("test", ["the goal", "the vote"], [0, 1]))
    ]  # fmt: skip
    return Task("small", "text_classification", ("sport", "politics", "tech"), train_split, val, test, augment=())


@pytest.fixture(scope="module")
def news() -> Task:
    return load_task("bbc-news", n_train=60, n_val=40, n_test=60, kind="text_classification")


def test_counted_words_are_scikit_learns_with_the_penalty_that_suits_val(news: Task) -> None:
    x, y = list(news.train.inputs), news.train.targets.numpy()
    counts = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b").fit(x)
    rows = np.arange(len(news.val))
    tried = {}
    for c in STRENGTHS:
        model = LogisticRegression(C=c, max_iter=1000).fit(counts.transform(x), y)
        on_val = model.predict_proba(counts.transform(list(news.val.inputs)))
        loss = -np.log(on_val[rows, news.val.targets.numpy()]).mean()
        tried[loss] = model.predict_proba(counts.transform(list(news.test.inputs)))
    said = predict(count_words(news), news.test, news)
    assert np.allclose(said.probabilities, tried[min(tried)], atol=1e-6)
    assert (said.predicted == said.targets).mean() > 0.7


def test_a_class_that_train_lacks_gets_nothing() -> None:
    task = small(["goal ball", "vote law", "ball match", "law bill"], [0, 1, 0, 1])
    said = predict(count_words(task), task.test, task)
    assert said.predicted.tolist() == [0, 1]
    assert (said.probabilities[:, 2] < 1e-11).all()


def test_words_by_labels_draws_what_transfer_draws(news: Task) -> None:
    found = words_by_labels(news, [1, 5], seeds=2)
    assert {k: len(runs) for k, runs in found.said["counted words", "probe"].items()} == {1: 2, 5: 2}
    mean = [found.accuracy("counted words", "probe", k).mean for k in (1, 5)]
    assert mean[1] > mean[0]
    first = found.said["counted words", "probe"][5][0]
    assert first.ids == tuple(news.test.ids)
    with pytest.raises(InputError, match="labels is 500"):
        words_by_labels(news, [500], seeds=1)


def test_what_has_no_words_is_refused() -> None:
    with pytest.raises(InputError, match=r"no train text of small has a word"):
        count_words(small(["!!", "..", "??", "--"], [0, 1, 0, 1]))
    with pytest.raises(InputError, match="holds images"):
        count_words(make_task())


def test_mistakes_are_shown_whole_and_steer_no_terminal() -> None:
    task = small(["goal", "vote"], [0, 1])
    nasty = "first line\n\x1b[31mred\x07 <b>bold</b>\u202e\nlast"
    test = Split("test", Texts([nasty, "right", "unsure"]), torch.tensor([0, 1, 2]), ["nasty", "right", "unsure"])
    task = replace(task, test=test)
    logits = np.array([[0.0, 9.0, 0.0], [0.0, 9.0, 0.0], [1.0, 0.0, 0.0]])
    said = Predictions(tuple(test.ids), test.targets.numpy(), logits, "test", task.class_names)
    told = mistaken_texts(task, said)
    assert told.splitlines()[0] == "nasty: sport, taken for politics (1.00)"
    assert "last" in told
    assert "<b>bold</b>" in told
    assert "right" not in told
    assert told.index("nasty") < told.index("unsure")
    assert not set(told) & {"\x1b", "\x07", "\u202e"}
    assert mistaken_texts(task, said.take([1])) == ""
