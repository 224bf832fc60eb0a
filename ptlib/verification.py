"""A saved run, checked: files against their hashes, metrics from predictions, predictions from weights."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ptlib import folders
from ptlib.errors import InputError
from ptlib.files import sha256
from ptlib.prediction import predict
from ptlib.report import evaluate
from ptlib.results import Boxes, Examples, Masks, Predictions, Report
from ptlib.resume import differing
from ptlib.runs import read_record, reopen, run_folder

RECORD = re.compile(r"^The run is complete: (.+) \[sha256 ([0-9a-f]{16})\]$", re.MULTILINE)
# What two machines may differ in: a probability, or the share of pixels or boxes. One machine gives the same bits.
TOLERANCE = {"fp32": 1e-3, "bf16": 0.03}
SAMPLE = 256


def verify(path: str | os.PathLike[str], *, sample: int | None = SAMPLE, device: str = "auto") -> Iterator[str]:
    """Check a run, given as its directory, its name under outputs/ or the notebook that made it; a sentence for each
    thing that holds.

    Every file must have the SHA-256 it was saved with. Every report is made again from its predictions, intervals
    included, and must be the same to the last digit. Where the run holds a model, its data and weights are loaded anew
    and `sample` test examples (None: all) are predicted again, which must agree within `TOLERANCE`.

    InputError, which names the first thing that differs, or says why something can't be checked.
    """
    folder = Path(path)
    if folder.suffix == ".ipynb":
        folder = run_of(folder)
        yield f"{Path(path).name} ends with the completion record of {folder.name}"
    folder = run_folder(folder)
    record = read_record(folder)
    yield f"all {len(list(folder.iterdir())) - 1} files of {folder.name} are as they were saved (SHA-256)"
    for file, name in record.get("reports", {}).items():
        of = next((f for f, key in record["predictions"].items() if key == name), None)
        if of is None:
            raise InputError(f"{folder / file} can't be checked: the run holds no predictions of {name!r}")
        yield from _check_report(folder / file, folder / of, record)
    if not (folder / "model.safetensors").is_file() or "predictions.safetensors" not in record.get("predictions", {}):
        return
    if "dataset" not in record["parameters"]:
        yield "predictions are not made again: no parameter `dataset` says of which data"
        return
    model, task, _ = reopen(folder)
    yield f"data and weights are those that were used ({task.name}, fingerprint {task.fingerprint[:12]})"
    said = Examples.load(folder / "predictions.safetensors")
    n = len(said)
    rows = np.arange(n) if sample is None or sample >= n else np.sort(np.random.default_rng(0).permutation(n)[:sample])
    again = predict(model, task.test.take(rows), task, device, record["precision"])
    if again.ids != said.take(rows).ids:
        raise InputError(f"the test split of {task.name} has other examples than predictions.safetensors")
    apart, allowed = disagreement(said.take(rows), again), TOLERANCE[record["precision"]]
    if not apart <= allowed:
        raise InputError(
            f"predictions.safetensors does not follow from model.safetensors: the difference is {apart:.3g}, at most "
            f"{allowed:g} is allowed"
        )
    yield f"predictions of {len(rows)} of {n} examples follow from the weights: difference {apart:.3g} <= {allowed:g}"


def disagreement(a: Any, b: Any) -> float:
    """How far two predictions of the same examples are apart: the largest difference of a probability; of label maps
    the share of pixels; of boxes the share without another of their class within 1 pixel and 0.01 of score."""
    if isinstance(a, Predictions):
        return float(np.abs(a.probabilities - b.probabilities).max())
    if isinstance(a, Masks):
        return float((a.scores != b.scores).mean())
    assert isinstance(a, Boxes)
    alone, total = 0, 0
    for one, other in zip(a.scores, b.scores, strict=True):
        x, y = one[one[:, 0] >= 0], other[other[:, 0] >= 0]
        off = np.abs(x[:, None] - y[None])
        near = (off[..., 0] == 0) & (off[..., 1:5] <= 1).all(-1) & (off[..., 5] <= 0.01)
        alone, total = alone + int((~near.any(1)).sum() + (~near.any(0)).sum()), total + len(x) + len(y)
    return alone / max(1, total)


def _check_report(file: Path, predictions: Path, record: dict[str, Any]) -> Iterator[str]:
    try:
        report = Report.load(file)
        how, made = dict(report.provenance["how"]), report.provenance
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise InputError(f"{file} can't be read as a report ({type(e).__name__}: {e})") from None
    for name, value in record["made_by"].items():
        if made.get(name) != value:
            raise InputError(f"{file} was made by another {name} than run.json says: {made.get(name)}, not {value}")
    if how["groups"] is not True:
        again = evaluate(Examples.load(predictions), report.selected_on, provenance=made, **how)
        plain = json.loads(json.dumps(again.to_dict()))
        if found := next(differing(report.to_dict(), plain), None):
            raise InputError(f"{file.name} does not follow from {predictions.name}: {found}")
        yield f"every number of {file.name} follows from {predictions.name}"
    else:
        yield f"{file.name} is not made again: its groups were given as values, which are not saved"


def run_of(notebook: Path) -> Path:
    """The run that an executed notebook says it completed, if its last cell does and the run is still that one."""
    try:
        cells = [c for c in json.loads(notebook.read_bytes())["cells"] if c["cell_type"] == "code" and c["source"]]
        outputs = cells[-1]["outputs"]
        text = "".join("".join(o["text"]) for o in outputs if o["output_type"] == "stream" and o["name"] == "stdout")
    except (OSError, ValueError, KeyError, TypeError, IndexError) as e:
        raise InputError(f"{notebook} can't be read as a notebook ({type(e).__name__}: {e})") from None
    found = RECORD.search(text)
    if found is None:
        raise InputError(f"{notebook} is not complete: its last cell holds no completion record; run it again")
    beside = notebook.parent / Path(found[1]).name
    folder = beside if beside.is_dir() else run_folder(found[1])
    try:
        same = sha256(folder / folders.SUMS)[:16] == found[2]
    except OSError as e:
        raise InputError(f"{folder}, which {notebook.name} completed, can't be read ({type(e).__name__})") from None
    if not same:
        raise InputError(f"{folder} is not the run that {notebook.name} completed: it was made again since")
    return folder
