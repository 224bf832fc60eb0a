"""Texts under shift: corruptions by hand and their order, copies against brute force, other and unknown sets, a run."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ptlib as pt
from ptlib import shift
from ptlib.attribution import attribution
from ptlib.core import Checkpoint, Split, Task
from ptlib.corruptions import COMMON, TEXT_COMMON, TEXT_VIEWS, VIEWS, corrupt, corrupted, words
from ptlib.data import second as elsewhere
from ptlib.data.duplicates import digests
from ptlib.data.tables import python_help
from ptlib.errors import InputError
from ptlib.pretext import pretext
from ptlib.texts import Texts
from tests.conftest import make_task

SLIPS = ("swapped_letters", "dropped_letters", "doubled_letters", "neighbouring_keys")
PROSE = "Quarterly profits, at one media giant, jumped 76% (to $1.13bn) for the three months until December! " * 3
PLAIN: dict[str, Any] = {"device": "cpu", "precision": "fp32"}
QUIET: dict[str, Any] = {**PLAIN, "log": lambda line: None}


def one(text: str, name: str, severity: int = 5, seed: int = 0) -> str:
    return str(corrupt(Texts([text]), name, severity, seed)[0])


def refused(says: str, call: Callable[..., Any], *args: Any, **how: Any) -> None:
    with pytest.raises(InputError, match=says):
        call(*args, **how)


@pytest.mark.parametrize(("name", "text", "becomes"), [
    ("swapped_letters", "A word, a WORD: the cat.", {"A wrod, a WROD: the cat."}),
    ("dropped_letters", "noon at noon", {"non at non"}),
    ("doubled_letters", "noon at noon", {"nooon at nooon"}),
    ("neighbouring_keys", "éQQé the", {f"é{keys}é the" for keys in ("WQ", "AQ", "QW", "QA")}),
    ("neighbouring_keys", "слово 漢字漢字 4444", {"слово 漢字漢字 4444"}),
    ("random_case", "a1", {"A1"}),
    ("dropped_punctuation", "«Well», isn't it?! $5+5", {"Well isnt it $5+5"}),
    ("dropped_words", "one two\nthree", {"one ", "two\n", "three"}),
    ("shuffled_words", "a\tb", {"a\tb", "b\ta"}),
    ("without_punctuation", "...", {"."}),
    ("upper_case", "straße", {"STRASSE"}),
    ("lower_case", "ΟΔΟΣ", {"οδος"}),
    ("opening", " ".join(map(str, range(20))), {"0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15"}),
])  # fmt: skip
def test_corruptions_by_hand(name: str, text: str, becomes: set[str]) -> None:
    assert {one(text, name, seed=seed) for seed in range(40)} == becomes


def test_a_key_lies_beside_its_neighbours() -> None:
    for beside in ("sawedxz", "gftyhbv", "qwa", "pol", "mnjk", "lkop"):
        assert set(words.KEYS[beside[0]]) == set(beside[1:])
    assert all(key in words.KEYS[other] for key, others in words.KEYS.items() for other in others)


@pytest.mark.parametrize("name", SLIPS)
def test_a_stronger_slip_holds_the_weaker(name: str) -> None:
    """The words hit are a share, rounded up; each is hit as before, inside, by one letter."""
    clean, before = PROSE.split(" "), dict[int, str]()
    for severity, share in enumerate(words.SLIPS, 1):
        found = one(PROSE, name, severity).split(" ")
        now = {i: w for i, (w, c) in enumerate(zip(found, clean, strict=True)) if w != c}
        assert len(now) == math.ceil(share * len(words.SLIPPERY.findall(PROSE)) - 1e-9)
        assert before.items() <= now.items()
        for i, word in now.items():
            old = clean[i]
            assert len(word) == len(old) + {"dropped_letters": -1, "doubled_letters": 1}.get(name, 0)
            assert word[0] + word.strip(",!")[-1] == old[0] + old.strip(",!")[-1]
            assert (sorted(word) == sorted(old)) == (name == "swapped_letters")
        before = now


def test_other_corruptions_grow_too() -> None:
    kept, numbered = PROSE.split(), " ".join(map(str, range(60)))
    flips, marks, crossed, size = set[int](), len(PROSE), set[tuple[str, str]](), len(kept)
    for k in range(5):
        flipped = {i for i, (a, b) in enumerate(zip(PROSE, one(PROSE, "random_case", k + 1), strict=True)) if a != b}
        assert len(flipped) == math.ceil(words.STRENGTHS["random_case"][k] * sum(map(str.isalpha, PROSE)) - 1e-9)
        assert flips < flipped
        bare = one(PROSE, "dropped_punctuation", k + 1)
        assert len(bare) < marks
        left, rest = one(PROSE, "dropped_words", k + 1).split(), iter(kept)
        assert len(left) == size - math.ceil(words.STRENGTHS["dropped_words"][k] * size - 1e-9)
        assert all(word in rest for word in left)  # in the same order, and none that was gone before
        order = one(numbered, "shuffled_words", k + 1).split()
        assert sorted(order, key=int) == numbered.split()
        assert max(abs(int(word) - i) for i, word in enumerate(order)) <= words.STRENGTHS["shuffled_words"][k]
        pairs = {(a, b) for i, a in enumerate(order) for b in order[i + 1 :] if int(a) > int(b)}
        assert crossed < pairs
        flips, marks, kept, crossed = flipped, len(bare), left, pairs
    assert not set(one(PROSE, "dropped_punctuation", 5)) & set(",.()!%")


@pytest.mark.parametrize("name", [*TEXT_COMMON, *TEXT_VIEWS])
def test_draws_are_by_seed_name_and_place(name: str) -> None:
    texts, strong = Texts([PROSE] * 3), name in TEXT_COMMON
    found = corrupt(texts, name, 4)
    assert found == corrupt(texts, name, 4, device="cpu")
    assert corrupt(texts[:2], name, 4) == found[:2]
    assert (len(set(found)) == 3) == strong
    assert (corrupt(texts, name, 4, seed=1) != found) == strong
    assert found[0] != PROSE
    start = time.perf_counter()
    for long in ("x" * 100_000, "some words, " * 8_400, "?" * 100_000, "👩‍👧 שלום, " * 10_000):
        assert one(long, name).strip()
    assert time.perf_counter() - start < 10


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=60), st.sampled_from([*TEXT_COMMON, *TEXT_VIEWS]), st.integers(1, 5), st.integers(0, 9))
def test_any_text_stays_a_text(text: str, name: str, severity: int, seed: int) -> None:
    found = one(text, name, severity, seed)
    assert bool(found.strip()) == bool(text.strip())
    found.encode()  # no half of a surrogate pair comes about
    assert name not in SLIPS or re.sub(r"[^\W\d_]", "", found) == re.sub(r"[^\W\d_]", "", text)
    if name not in ("dropped_words", "opening"):
        assert [c for c in found if c.isspace()] == [c for c in text if c.isspace()]


def test_what_there_is_is_said() -> None:
    texts, images = Texts(["a", "\0", "\ud83d lone"]), make_task().test.inputs
    assert {len(corrupt(texts, name)) for name in (*TEXT_COMMON, *TEXT_VIEWS)} == {3}
    refused(r"'fog' of texts; there are swapped_letters, .*, opening$", corrupt, texts, "fog")
    refused("of texts; did you mean 'dropped_words'", corrupt, texts, "dropped_word")
    refused(r"'dropped_words'; there are gaussian_noise, .*, rescaled$", corrupt, images, "dropped_words")
    refused("severity is 6", corrupt, texts, "dropped_words", 6)


def triples(text: str) -> set[tuple[str, ...]]:
    split = re.sub(r"[,!\ud83d]", "", text.lower()).split()
    return set(zip(split, split[1:], split[2:], strict=False))


def test_copies_are_those_of_brute_force() -> None:
    rng = np.random.default_rng(0)
    train = [" ".join(f"word{i}" for i in rng.choice(300, 40)) for _ in range(60)]
    train += ["too short", "\ud83d half a pair, alone", train[3]]
    test = ["  Too\n SHORT ", "short too", "", "\ud83d half a pair, alone!", train[5].upper()]
    for row in range(40):
        edited = train[row].split()
        for place in rng.choice(40, row % 8, replace=False):
            edited[place] = "other"
        test.append(", ".join(edited))
    shown, chosen, asked = (
        Split(name, Texts(rows), torch.arange(len(rows)) % 2, [f"{name}/{i}" for i in range(len(rows))])
        for name, rows in (("train", train), ("val", ["x", "y"]), ("test", test))
    )
    found = pt.find_duplicates(Task("t", "text_classification", ("a", "b"), shown, chosen, asked))
    assert found.exact == [("train/60", "test/0"), ("train/5", "test/4")]
    near, theirs = [], list(map(triples, train))
    for i, ours in enumerate(map(triples, test)):
        shared = [len(ours & t) / math.sqrt(max(1, len(ours) * len(t))) for t in theirs]
        if i not in (0, 4) and max(shared) >= 0.8:
            near.append((f"train/{next(k for k, s in enumerate(shared) if s >= 0.8)}", f"test/{i}"))
    assert found.near == near
    assert 12 < len(near) < len(test) - 5  # some edits are too many
    assert len(set(digests(shown))) == len(train) - 1


@pytest.fixture
def task(tmp_path: Path) -> Task:
    """Texts of the same words, some of which are rarer in one class than in the other; a file of them."""
    rng, share = np.random.default_rng(0), np.array([8, 6, 5, 3, 2, 1]) / 25
    said = ("Cats", "purr", "softly", "Seven", "plus", "Eight")
    texts = [" ".join(rng.choice(said, 3 + i // 20, p=share[:: 1 - 2 * (i % 2)])) for i in range(160)]
    rows = (f"{text}, {i}.\t{('pets', 'sums')[i % 2]}\n" for i, text in enumerate(texts))
    (tmp_path / "said.tsv").write_text("".join(rows))
    return pt.load_task(str(tmp_path / "said.tsv"), kind="text_classification")


@pytest.fixture
def start(tmp_path: Path) -> Checkpoint:
    """A small BERT of characters with random weights, in a folder as save_pretrained writes it."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({chr(c): c - 32 for c in range(32, 127)}, unk_token=" "))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    torch.manual_seed(0)
    config = BertConfig(vocab_size=95, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
                        intermediate_size=64, max_position_embeddings=64)  # fmt: skip
    BertModel(config).save_pretrained(tmp_path / "bert")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=" ").save_pretrained(tmp_path / "bert")
    return pt.load_checkpoint(str(tmp_path / "bert"), pooling="mean")


def test_second_sets_of_texts(task: Task, tmp_path: Path) -> None:
    assert (elsewhere.usual_second(task), elsewhere.usual_second(make_task())) == (TEXT_VIEWS, VIEWS)
    assert elsewhere.load_second("upper_case", task).inputs == Texts(text.upper() for text in task.test.inputs)
    assert len(elsewhere.load_second("opening", task, n=6)) == 6
    (tmp_path / "more.csv").write_text("label,text\nsums,a\nsums,b\nsums,c\npets,d\npets,e\npets,f\n")
    more = elsewhere.load_second("more.csv", task, tmp_path)
    assert dict(zip(more.inputs, more.targets.tolist(), strict=True)) == {
        **dict.fromkeys("abc", 1),
        **dict.fromkeys("def", 0),
    }
    other = elsewhere.load_second("bbc-news[:2]", replace(task, class_names=("entertainment", "business")))
    assert other.ids == pt.load_task("bbc-news[:2]", kind="text_classification").test.ids
    assert other.targets.bool().tolist() == [name.startswith("business") for name in other.ids]
    refused("2 classes that said lacks, such as 'business'", elsewhere.load_second, "bbc-news[:2]", task)
    refused("unknown dataset 'grey' of texts", elsewhere.load_second, "grey", task)


def test_unknown_texts(task: Task, tmp_path: Path) -> None:
    for name, near in (("said", []), ("bbc-news[0:3]", ["bbc-news[3:]"]), ("bbc-news[0:4]", [])):
        assert elsewhere.usual_unknown(replace(task, name=name)) == [*near, "python-help"]
    found, every = elsewhere.load_unknown("python-help", task, n=40), python_help()
    assert [every[i] for i in found.ids] == list(found.inputs)
    assert len(set(found.ids)) == 40
    assert min(len(" ".join(text.split())) for text in every.values()) >= 100
    assert len(set(Texts(every.values()).bare())) == len(every)
    assert len(elsewhere.load_unknown("bbc-news[3:]", task, n=10)) == 10
    refused("24 of 160 texts of .*said.tsv are test texts of said", elsewhere.load_unknown, "said.tsv", task, tmp_path)


def test_corrupted_texts(task: Task, tmp_path: Path) -> None:
    assert (elsewhere.usual_corruptions(task), elsewhere.usual_corruptions(make_task())) == (TEXT_COMMON, COMMON)
    clean, examples = elsewhere.corrupted_examples(task, severities=(2, 5), n=8)
    made = {(name, severity): split for name, severity, split in examples}
    assert list(made) == [(name, severity) for name in TEXT_COMMON for severity in (2, 5)]
    assert made["dropped_words", 5].inputs == corrupted(clean, "dropped_words", 5).inputs
    assert {tuple(split.ids) for split in made.values()} == {tuple(clean.ids)}
    refused(r"unknown corruption 'fog'; there are swapped_letters", elsewhere.corrupted_examples, task, ("fog",))
    refused("are of images; leave it out", elsewhere.corrupted_examples, task, folder=tmp_path)


def test_length_falls_into_thirds(task: Task) -> None:
    p = pt.Predictions.of(task.test.targets.numpy(), np.eye(2)[task.test.targets], ids=list(task.test.ids))
    length, sizes = np.array(shift.with_length(p, task.test).columns["length"]), task.test.inputs.lengths
    assert sizes[length == "short"].max() < sizes[length == "medium"].min()
    assert sizes[length == "medium"].max() < sizes[length == "long"].min()
    assert abs((length == "short").mean() - 1 / 3) < 0.1
    refused("light is of images", shift.with_light, p, task.test)


def test_what_a_choice_costs_on_texts(start: Checkpoint, task: Task) -> None:
    frame = shift.sensitivity(start, task, 20, draws=2, **PLAIN)
    last, small = "pooled by last instead of mean", "at test: in lower case"
    assert [name for name in frame.index if "labels" not in name] == [
        "nothing", "10 tokens instead of 20", "30 tokens instead of 20", "pooled by cls instead of mean", last, small,
    ]  # fmt: skip
    assert "96 tokens instead of 64" not in shift.sensitivity(start, task, draws=1, **PLAIN).index
    changed, other = (
        replace(task, test=corrupted(task.test, "lower_case")),
        pt.load_checkpoint(start.name, None, "last"),
    )
    for begun, shown, name in ((start, task, "nothing"), (other, task, last), (start, changed, small)):
        model = pt.build_model(begun, task, 20)
        pt.finetune(model, task, pt.recipe("probe", kind=task.kind), **QUIET)
        said = pt.predict(model, shown.test, shown, **PLAIN)
        assert frame.loc[name, "accuracy"] == pytest.approx((said.predicted == said.targets).mean())
    assert len(set(frame["accuracy"])) > 4


def test_a_run_on_texts_is_looked_at(
    start: Checkpoint, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PTLIB_OUTPUTS", str(tmp_path / "outputs"))
    model, asked = pt.build_model(start, task, 16), {"dataset": str(tmp_path / "said.tsv"), "checkpoint": start.name}
    history = pt.finetune(model, task, pt.recipe("lp-ft", 1, kind=task.kind), **QUIET)
    test = pt.predict(model, task.test, task, **PLAIN)
    pt.save_run("finetune", asked, task=task, model=model, history=history, predictions=test, reports={}, run_name="it")
    opened, ways = shift.of_run("it", **QUIET)
    assert opened.fingerprint == task.fingerprint
    assert list(ways.models) == ["probe", "run", "wise-ft"]
    assert ways.models["probe"].preprocessing == model.preprocessing  # pooled as the run was, not as the folder would
    assert pt.predict(ways.models["run"], opened.test, opened, **PLAIN).scores == pytest.approx(test.scores, abs=1e-5)
    clean, examples = elsewhere.corrupted_examples(opened, ("dropped_words", "random_case"), (1, 5), 10)
    found = shift.predict_corrupted(ways.models, opened, clean, examples, **PLAIN)["run"]
    assert found.accuracy().method.startswith("percentile bootstrap of examples")
    assert found.pooled().columns["example"] == 4 * tuple(clean.ids)


def test_ways_and_transfer_take_texts(start: Checkpoint, task: Task) -> None:
    assert list(shift.adapt_in_ways(start, task, ["full"], epochs=1, image_size=16, **QUIET).models) == ["full"]
    drawn, model = pt.few(task, 2, shown=7), pt.build_model(start, task, 16)
    assert list(drawn.train.inputs) == 2 * list(pt.few(task, 2).train.inputs)
    assert drawn.train.ids[4:] == [f"{name}, 2" for name in drawn.train.ids[:4]]
    found = pt.transfer({"bert": model}, task, [2], seeds=1, epochs=1, shown=8, **PLAIN)
    assert found.hits("bert", "fine-tuned", 2).shape == (1, 24)
    refused("maps are of images", attribution, model, task.test.inputs, task.test.targets)
    refused("rotation is learned from images, and said holds texts", pretext, task, "rotation")
    assert pretext(task, "shuffled").train.inputs == task.train.inputs
