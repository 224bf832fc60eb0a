"""Predictions from files of any tool: CSV, Parquet, NPZ, or what ptlib itself wrote."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from ptlib.errors import InputError
from ptlib.results import Predictions

SCORE = re.compile(r"(logit|score|prob|probability)s?[_:. ](.+)", re.I)
TARGET, ID = ("target", "label", "y_true", "class"), ("id", "ids", "file", "path", "name")


def read_predictions(path: str | os.PathLike[str], split: str = "test") -> Predictions:
    """Predictions from a file.

    `.csv` and `.parquet`: a row for each example; `target` (or `label`) holds class names or numbers, `logit_<class>`
    or `prob_<class>` the scores, `id` names the example; all other columns are kept as metadata. `.npz`: arrays
    `targets`, and `logits` or `probabilities`; `class_names`, `ids` and others of one value an example if they are
    there. `.safetensors`: what `Predictions.save` wrote. Nothing in a file is ever run.

    InputError if the file is not there, of no known kind, or lacks what is needed.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    kind = path.suffix.lower()
    if kind == ".safetensors":
        return Predictions.load(path)
    if kind == ".npz":
        return _from_npz(path, split)
    if kind not in (".csv", ".parquet"):
        raise InputError(f"{path} ends in {kind!r}; predictions are read from .csv, .parquet, .npz or .safetensors")
    return _from_table(path, _frame(path), split)


def _frame(path: Path) -> Any:
    import pandas as pd

    if path.suffix.lower() == ".csv":
        # As text: a class called NA, no or 01 is a name like any other.
        return pd.read_csv(path, dtype=str, keep_default_na=False)
    try:
        return pd.read_parquet(path)
    except ImportError:
        raise InputError(f"{path} is Parquet, which needs another package: pip install pyarrow") from None


def _from_table(path: Path, frame: Any, split: str) -> Predictions:
    found = {column: m for column in frame.columns if (m := SCORE.fullmatch(str(column)))}
    kinds = {m[1].lower()[:4] in ("prob",) for m in found.values()}
    target = next((c for c in frame.columns if str(c).lower() in TARGET), None)
    if not found or target is None:
        raise InputError(
            f"{path} has columns {', '.join(map(str, frame.columns[:12]))}; it needs a column target, and "
            "logit_<class> or prob_<class> for each class"
        )
    if len(kinds) > 1:
        raise InputError(f"{path} mixes logits and probabilities; keep one of the two")
    example = next((c for c in frame.columns if str(c).lower() in ID), None)
    names = [m[2] for m in found.values()]
    try:
        scores = frame[list(found)].to_numpy().astype(np.float64)
    except ValueError as e:
        raise InputError(f"{path}: a score is no number: {e}") from None
    targets = [str(t) for t in frame[target]]
    if not set(targets) <= set(names):  # then numbers: 0 is the first score column's class
        unknown = next((t for t in targets if not re.fullmatch(r"\d+(\.0)?", t)), None)
        if unknown is not None:
            raise InputError(f"{path}: target {unknown!r} is none of the classes {', '.join(names[:12])}")
        y: Any = np.array([int(float(t)) for t in targets])
    else:
        y = targets
    others = {str(c): frame[c].tolist() for c in frame.columns if c not in (*found, target, example)}
    named = {"probabilities" if kinds == {True} else "logits": scores}
    ids = None if example is None else frame[example].tolist()
    return Predictions.of(y, class_names=names, ids=ids, split=split, columns=others, **named)


def _from_npz(path: Path, split: str) -> Predictions:
    try:
        with np.load(path, allow_pickle=False) as f:
            arrays = {name: f[name] for name in f.files}
    except (ValueError, OSError, EOFError) as e:
        raise InputError(f"{path} can't be read as plain arrays: {e}") from None
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
