"""Reading a run directory: what was said, checked against its hashes; its model and data, loaded anew; its status."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from ptlib import folders
from ptlib.core import Task
from ptlib.data import load_task
from ptlib.errors import InputError
from ptlib.models import Model, build_model, load_checkpoint
from ptlib.reading import read_predictions
from ptlib.results import Examples, Predictions
from ptlib.runs.writing import output_root

PATIENCE = 10.0  # seconds for a run that is replaced while it is read, again and again

T = TypeVar("T")


@dataclass(frozen=True)
class Run:
    """A saved run: what it was asked, and its predictions by split. A lone predictions file makes one too."""

    name: str
    record: dict[str, Any] = field(repr=False)
    predictions: dict[str, Any]

    @property
    def test(self) -> Any:
        """Those of the test split; of the only split, if there is one."""
        return self.predictions.get("test") or next(iter(self.predictions.values()))

    def val_and_test(self, seed: int = 0, groups: str | None = None) -> tuple[Predictions, Predictions]:
        """Predictions to choose on and predictions to report on: of the two splits, or halves of one, drawn by seed.

        Examples with one value in the column `groups` stay together.
        """
        if "val" in self.predictions and self.test.split != "val":
            return self.predictions["val"], self.test
        labels = self.test.columns.get(groups or "", self.test.ids)
        members = np.unique(labels, return_inverse=True)[1].ravel()
        order = np.random.default_rng(seed).permutation(int(members.max()) + 1)
        if len(order) < 2:
            raise InputError(f"{self.name} can't be halved, to choose on one half and to report on the other")
        chosen = np.isin(members, order[: len(order) // 2])
        return replace(self.test.take(chosen), split="half to choose on"), self.test.take(~chosen)

    @property
    def recipe(self) -> str:
        """What the run was asked, all but the seed: runs that agree in it are repetitions of one another."""
        asked = {k: v for k, v in self.record.get("parameters", {}).items() if k not in ("seed", "run_name")}
        return json.dumps([self.record.get("notebook"), asked, "" if asked else self.name], sort_keys=True, default=str)


def status(path: str | os.PathLike[str]) -> Literal["complete", "running", "interrupted"]:
    """`complete`; else `running` while the process that began the run lives, `interrupted` once it does not.

    InputError if there is no such run.
    """
    folder = run_folder(path)
    if not folder.name.endswith(folders.UNFINISHED):
        return "complete"
    final = folder.with_name(folder.name.removesuffix(folders.UNFINISHED))
    return "running" if folders.locked(final) else "interrupted"


def read_run(path: str | os.PathLike[str]) -> Run:
    """A run directory (a path, or a name under outputs/), or a file that `read_predictions` takes.

    InputError if it is neither, is not complete, or one of its files is not the one that was saved.
    """
    folder = run_folder(path)
    if folder.is_file():
        said = read_predictions(folder)
        return Run(Path(path).with_suffix("").as_posix(), {}, {said.split: said})
    return _whole(path, _read)


def read_record(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What `run.json` says of a complete run, all of whose files are as they were saved; else InputError."""
    return _whole(path, lambda folder: json.loads((folder / "run.json").read_bytes()))


def _whole(path: str | os.PathLike[str], read: Callable[[Path], T]) -> T:
    """What `read` makes of a run's folder, which did not change while it was read."""
    end = time.monotonic() + PATIENCE
    while True:
        folder = run_folder(path)
        before = _inode(folder)
        if folder.name.endswith(folders.UNFINISHED):
            now = status(folder)
            what = "wait for it" if now == "running" else "run the same command again"
            raise InputError(f"the run in {folder} is {now!r}, not complete; {what}")
        try:  # it may be replaced while it is read: then once more
            if not (problem := folders.difference(folder)):
                found = read(folder)
        except OSError as e:
            problem = f"a file can't be read ({type(e).__name__})"
        same = before and _inode(folder) == before and run_folder(path) == folder
        if same or time.monotonic() > end:
            break
    if problem and not (folder / "run.json").is_file():
        raise InputError(f"{folder} is no run: it holds no run.json")
    if problem:
        raise InputError(f"the run in {folder} is not as it was saved: {problem}")
    return found


def _read(folder: Path) -> Run:
    record = json.loads((folder / "run.json").read_bytes())
    found = {}
    for name, split in record.get("predictions", {}).items():
        said = Examples.load(folder / name)
        if said.split == split:  # others are another model's
            found[split] = said
    if not found:
        raise InputError(f"the run in {folder} holds no predictions")
    return Run(folder.name, record, found)


def run_folder(path: str | os.PathLike[str]) -> Path:
    """Where a run lies: a path, or a name under outputs/; what is unfinished, where nothing else is."""
    path = path if Path(path).name not in ("", "..") else Path(path).resolve()
    places = [Path(path), output_root() / path, output_root().parent / path]
    for _ in range(5):  # it may be replaced between two looks
        tried = [*map(folders.standing, places), *(p.with_name(p.name + folders.UNFINISHED) for p in places if p.name)]
        if folder := next((p for p in tried if p.exists()), None):
            return folder
    raise InputError(f"there is no run {str(path)!r}, neither here nor in {output_root()}")


def _inode(folder: Path) -> int | None:
    """Which folder it is that has this name now."""
    try:
        return folder.stat().st_ino
    except OSError:
        return None


def by_recipe(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs that differ in nothing but their seed, together, under the name of the first of them."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.recipe, []).append(run)
    named: dict[str, list[Run]] = {}
    for group in groups.values():
        name, k = group[0].name, 2
        while name in named:  # one name under two roots
            name, k = f"{group[0].name} ({k})", k + 1
        named[name] = group
    return named


def reopen(path: str | os.PathLike[str]) -> tuple[Model, Task, dict[str, Any]]:
    """A saved run's model and data, loaded anew, and its record.

    InputError if it was no fine-tuning run, its weights are not those that were saved, or the data are not those it was
    made with.
    """
    record, folder = read_record(path), run_folder(path)
    asked, weights = record.get("parameters", {}), folder / "model.safetensors"
    if not weights.is_file() or "dataset" not in asked or "fingerprint" not in record.get("task", {}):
        raise InputError(f"the run in {folder} holds no fine-tuned model; give one of finetune.ipynb")
    dense, side = "keep" in asked, asked.get("image_size") or 0
    task = load_task(
        asked["dataset"], asked.get("data_dir"), asked.get("n_train"), asked.get("seed", 0),
        n_val=asked.get("n_val"), n_test=asked.get("n_test"), kind=record["task"]["kind"],
        class_names=asked.get("class_names"), columns=asked.get("columns"),
        side=side if dense and side > 512 else None,
    )  # fmt: skip
    if task.fingerprint != record["task"]["fingerprint"]:
        raise InputError(
            f"the data {asked['dataset']!r} are not those the run in {folder} was made with: their fingerprint is "
            f"{task.fingerprint[:12]}, it was {record['task']['fingerprint'][:12]}"
        )
    checkpoint = load_checkpoint(str(weights), asked.get("architecture"))
    return build_model(checkpoint, task, record["preprocessing"]["size"], own_head=True).eval(), task, record
