"""Predictions from files of any tool: CSV, Parquet, NPZ, or what ptlib itself wrote."""

from __future__ import annotations

import os
import re
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ptlib.errors import InputError
from ptlib.results import Predictions

SCORE = re.compile(r"(logit|prob)_(.+)", re.I | re.S)
TARGET, ID = ("target", "label"), ("id", "file", "path")


def read_predictions(path: str | os.PathLike[str], split: str = "test") -> Predictions:
    """Predictions from a file.

    `.csv` and `.parquet`: a row for each example; `target` (or `label`) holds class names, or numbers from 0 in the
    order of the score columns; `logit_<class>` or `prob_<class>` the scores; `id` (or `file`) names the example; all
    other columns are kept as metadata. `.npz`: arrays `targets`, and `logits` or `probabilities`; `class_names`, `ids`
    and others of one value an example if they are there. `.safetensors`: what `Predictions.save` wrote. Nothing in a
    file is ever run.

    InputError if the file is not there, of no known kind, or lacks what is needed.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    kind = path.suffix.lower()
    if kind not in (".csv", ".parquet", ".npz", ".safetensors"):
        raise InputError(f"{path} ends in {kind!r}; predictions are read from .csv, .parquet, .npz or .safetensors")
    try:
        if kind == ".safetensors":
            return Predictions.load(path)
        if kind == ".npz":
            return _from_npz(path, split)
        return _from_table(path, _frame(path), split)
    except InputError:
        raise
    except ImportError:
        raise InputError(f"{path} is Parquet, which needs another package: pip install pyarrow") from None
    except Exception as e:  # a broken file: pandas, zipfile, Arrow and safetensors each have errors of their own
        raise InputError(f"{path} can't be read: {str(e).splitlines()[0] if str(e) else type(e).__name__}") from None


def with_columns(predictions: Predictions, path: str | os.PathLike[str]) -> Predictions:
    """The predictions with further columns from a CSV or Parquet file: a row for each example, named in column `id`.

    Rows of other examples are left out. InputError if an example has no row, or two.
    """
    path = Path(path)
    if not path.is_file() or path.suffix.lower() not in (".csv", ".parquet"):
        raise InputError(f"{path} is no .csv or .parquet file of metadata")
    try:
        frame = _frame(path)
    except Exception as e:  # pandas, Arrow and codecs each have errors of their own
        raise InputError(f"{path} can't be read: {str(e).splitlines()[0] if str(e) else type(e).__name__}") from None
    columns = [str(c) for c in frame.columns]
    key = next((c for name in ID for c in columns if c.lower() == name), None)
    twice = next((c for c in columns if columns.count(c) > 1), None)
    if key is None or twice is not None:
        what = f"two columns {twice!r}" if twice is not None else f"columns {', '.join(columns[:12])}"
        raise InputError(f"{path} has {what}; one must be called id, and none be there twice")
    frame = frame.set_index(frame[key].astype(str)).drop(columns=key)
    lacking = [example for example in predictions.ids if example not in frame.index]
    if lacking:
        raise InputError(f"{path} has no row for {len(lacking)} examples, such as {lacking[0]!r}")
    frame = frame.loc[list(predictions.ids)]
    if len(frame) > len(predictions):
        raise InputError(f"{path} has two rows for {frame.index[frame.index.duplicated()][0]!r}")
    added = {str(c): tuple(map(str, frame[c])) for c in frame.columns}
    return replace(predictions, columns={**predictions.columns, **added})


def _frame(path: Path) -> Any:
    import pandas as pd

    if path.suffix.lower() == ".parquet":
        return pd.read_parquet(path)
    # As text: a class called NA, no or 01 is a name like any other.
    how: dict[str, Any] = {"dtype": str, "keep_default_na": False, "index_col": False}
    # The header apart, as it stands: pandas would rename a column that is there twice.
    header = pd.read_csv(path, header=None, nrows=1, **how).iloc[0].tolist()
    return pd.read_csv(path, **how).set_axis(header, axis=1)


def _from_table(path: Path, frame: Any, split: str) -> Predictions:
    columns = [str(c) for c in frame.columns]
    twice = next((c for c in columns if columns.count(c) > 1), None)
    if twice is not None:
        raise InputError(f"{path} has two columns {twice!r}")
    found = {column: m for column in columns if (m := SCORE.fullmatch(column))}
    target, example = (next((c for n in names for c in columns if c.lower() == n), None) for names in (TARGET, ID))
    if not found or target is None:
        raise InputError(
            f"{path} has columns {', '.join(columns[:12])}; it needs a column target, and logit_<class> or "
            "prob_<class> for each class"
        )
    kinds = {m[1].lower() for m in found.values()}
    if len(kinds) > 1:
        raise InputError(f"{path} mixes logits and probabilities; keep one of the two")
    names = [m[2] for m in found.values()]
    if len(names) < 2:
        raise InputError(f"{path} has scores of one class, {names[0]!r}; give a column for each, at least two")
    frame = frame.set_axis(columns, axis=1)
    try:
        scores = frame[list(found)].to_numpy().astype(np.float64)
    except (ValueError, TypeError) as e:
        raise InputError(f"{path}: a score is no number: {e}") from None
    targets: Any = [t if t in names else t.removesuffix(".0") for t in map(str, frame[target])]
    unknown = next((t for t in targets if t not in names), None)
    if unknown is not None:  # then all are numbers, and 0 is the first score column's class
        wrong = next((t for t in targets if not t.isdigit()), None)
        if wrong is not None:
            shown = unknown if wrong in names else wrong
            raise InputError(f"{path}: target {shown!r} is none of the classes {', '.join(names[:12])}")
        targets = np.array([int(t) for t in targets])
    others = {c: frame[c].tolist() for c in columns if c not in (*found, target, example)}
    return Predictions.of(
        targets, class_names=names, ids=None if example is None else frame[example].tolist(), split=split,
        columns=others, **{"probabilities" if kinds == {"prob"} else "logits": scores},
    )  # fmt: skip


def _from_npz(path: Path, split: str) -> Predictions:
    with zipfile.ZipFile(path) as z:
        unpacked, packed = sum(part.file_size for part in z.infolist()), path.stat().st_size
    if unpacked > 100 * packed + 100_000_000:
        raise InputError(f"{path} would unpack to {unpacked:,} bytes, more than a hundred times its {packed:,}")
    with np.load(path, allow_pickle=False) as f:
        arrays = {name: f[name] for name in f.files}
    given = [name for name in ("logits", "probabilities") if name in arrays]
    if "targets" not in arrays or len(given) != 1:
        raise InputError(
            f"{path} has arrays {', '.join(arrays) or 'none'}; it needs targets, and either logits or probabilities"
        )
    names = arrays.pop("class_names", None)
    ids, targets, scores = arrays.pop("ids", None), arrays.pop("targets"), arrays.pop(given[0])
    columns = {name: values.tolist() for name, values in arrays.items() if values.shape == (len(targets),)}
    return Predictions.of(
        targets, class_names=None if names is None else names.tolist(), ids=None if ids is None else ids.tolist(),
        split=split, columns=columns, **{given[0]: scores},
    )  # fmt: skip
