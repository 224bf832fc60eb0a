"""A run directory: what was asked, what came out, and what made it, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ptlib import language
from ptlib.core import Task
from ptlib.data import load_task
from ptlib.errors import InputError
from ptlib.files import sha256, write_whole
from ptlib.kinds import kind_of
from ptlib.models import Model, TextModel, build_model, load_checkpoint
from ptlib.networks import UpTo
from ptlib.reading import read_predictions
from ptlib.results import Examples, Predictions, Report
from ptlib.runtime import environment
from ptlib.train import History


def output_root() -> Path:
    """$PTLIB_OUTPUTS; else outputs/ of the repo this package stands in; else outputs/ here."""
    if os.environ.get("PTLIB_OUTPUTS"):
        return Path(os.environ["PTLIB_OUTPUTS"])
    repo = Path(__file__).parent.parent
    return repo / "outputs" if (repo / "notebooks").is_dir() else Path.cwd() / "outputs"


def save_run(
    notebook: str, parameters: Mapping[str, Any], *, task: Task, model: Model, history: History,
    predictions: Examples | Sequence[Examples], reports: Mapping[str, Report], run_name: str | None = None,
    cost: Mapping[str, float] | None = None,
) -> Path:  # fmt: skip
    """Write a finished run to `outputs/<run_name>/` and return that path.

    The directory appears at once, complete, in place of an earlier one of the same name. It holds `run.json` (status,
    parameters, data, checkpoint, stages, environment, SHA-256 of each other file), `history.json`,
    `model.safetensors` (which `load_checkpoint` takes), `predictions.safetensors` of the test split (those of another
    split are named after it), and a `report.json` for each report. `cost` is what `ptlib.prediction.cost` measured.
    Without `run_name` the name is made of notebook, task, checkpoint and a hash of the parameters.
    """
    provenance = describe(task, model, history)
    checkpoint = Path(model.checkpoint.name).stem if model.checkpoint.path else model.checkpoint.name
    name = run_name or hashed_name(notebook, f"{task.name}-{checkpoint}", parameters, provenance["task"]["fingerprint"])

    def fill(folder: Path) -> None:
        save_model(model, task, folder / "model.safetensors")
        for said in [predictions] if isinstance(predictions, Examples) else predictions:
            said.save(folder / _predictions_file(said.split))
        _write_json(folder / "history.json", {"rows": history.rows, "best": history.best, "seconds": history.seconds})
        for report_name, report in reports.items():
            report.save(folder / ("report.json" if report_name == "test" else f"report-{slug(report_name)}.json"))

    record = {"notebook": notebook, "parameters": dict(parameters), **provenance, "cost": dict(cost or {})}
    return commit(name, fill, record)


def commit(name: str, fill: Callable[[Path], None], record: Mapping[str, Any]) -> Path:
    """Write `outputs/<name>/`, whole or not at all: what `fill` puts into a folder, and `run.json`.

    The directory appears at once, in place of an earlier run of the same name. `run.json` holds the status, the
    record, and the SHA-256 of each other file. InputError if there is something of that name which is no run, or a run
    of another notebook.
    """
    root = output_root()
    root.mkdir(parents=True, exist_ok=True)
    if (root / name).exists() and not (root / name / "run.json").is_file():
        raise InputError(f"{root / name} exists and is no run; choose another run_name")
    if (root / name).exists() and "notebook" in record:
        try:
            earlier = json.loads((root / name / "run.json").read_bytes()).get("notebook", record["notebook"])
        except (ValueError, AttributeError):  # it can't be read: nothing is lost
            earlier = record["notebook"]
        if earlier != record["notebook"]:
            raise InputError(f"{root / name} is a run of {earlier}.ipynb, which would be lost; choose another run_name")
    building, final = root / f".tmp-{name}-{os.getpid()}", root / name
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir()
    try:
        fill(building)
        files = {p.name: sha256(p) for p in sorted(building.iterdir())}
        _write_json(building / "run.json", {"status": "complete", **record, "files": files})
        if final.exists():
            old = root / f".old-{name}-{os.getpid()}"
            final.rename(old)
            building.rename(final)
            shutil.rmtree(old)
        else:
            building.rename(final)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return final


def hashed_name(notebook: str, what: str, parameters: Mapping[str, Any], *data: Any) -> str:
    """A run's name: what it is of, and eight digits of a hash of its parameters and data."""
    key = json.dumps([dict(parameters), *data], sort_keys=True, default=str)
    return f"{slug(f'{notebook}-{what}')[:91]}-{hashlib.sha256(key.encode()).hexdigest()[:8]}"


@dataclass(frozen=True)
class Run:
    """A saved run: what it was asked, and its predictions by split. A lone predictions file makes one too."""

    name: str
    record: dict[str, Any]
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


def read_run(path: str | os.PathLike[str]) -> Run:
    """A run directory (a path, or a name under outputs/), or a file that `read_predictions` takes.

    InputError if it is neither, is not complete, or one of its predictions is not the file that was saved.
    """
    folder = _run_folder(path)
    if folder.is_file():
        said = read_predictions(folder)
        return Run(Path(path).with_suffix("").as_posix(), {}, {said.split: said})
    try:
        record = json.loads((folder / "run.json").read_bytes())
        status, files = record["status"], dict(record["files"])
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise InputError(f"{folder} is no run: its run.json can't be read ({type(e).__name__}: {e})") from None
    if status != "complete":
        raise InputError(f"the run in {folder} is {status!r}, not complete; run it again")
    found = {}
    for name in sorted(f for f in files if re.fullmatch(r"predictions(-[\w.-]*)?\.safetensors", f)):
        if not (folder / name).is_file() or sha256(folder / name) != files[name]:
            raise InputError(f"{folder / name} is not the file that the run saved: its SHA-256 differs")
        of_split = Examples.load(folder / name)
        found[of_split.split] = of_split
    if not found:
        raise InputError(f"the run in {folder} holds no predictions")
    return Run(folder.name, record, found)


def _run_folder(path: str | os.PathLike[str]) -> Path:
    folder = next((p for p in (Path(path), output_root() / path, output_root().parent / path) if p.exists()), None)
    if folder is None:
        raise InputError(f"there is no run {str(path)!r}, neither here nor in {output_root()}")
    return folder


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


def _predictions_file(split: str) -> str:
    return "predictions.safetensors" if split == "test" else f"predictions-{slug(split)}.safetensors"


def describe(task: Task, model: Model, history: History) -> dict[str, Any]:
    """What made a result: data, checkpoint, stages, where it ran and with what."""
    c = model.checkpoint
    return {
        "task": {"name": task.name, "kind": task.kind, "fingerprint": task.fingerprint, "notes": task.notes,
                 "sizes": {s.name: len(s) for s in task.splits}, "skipped": task.skipped},
        "checkpoint": {"name": c.name, "architecture": c.architecture, "sha256": c.sha256, "source": c.source,
                       "licence": c.licence},
        "preprocessing": asdict(model.preprocessing),
        "stages": [asdict(stage) for stage in history.stages],
        "selected_on": history.selected_on,
        "device": history.device,
        "precision": history.precision,
        "environment": environment(torch.device(history.device)),
    }  # fmt: skip


def save_model(model: Model, task: Task, path: Path) -> Path:
    """Weights as safetensors, with what `load_checkpoint` and `build_model` need to use them again in the header."""
    from safetensors.torch import save

    header = {"preprocessing": json.dumps(asdict(model.preprocessing)), "class_names": json.dumps(task.class_names),
              "trained_on": f"{model.checkpoint.trained_on or 'random weights'}, then {task.name}"}  # fmt: skip
    if isinstance(model, TextModel):
        parts = [f"@{module.layer}" for module in model.backbone.modules() if isinstance(module, UpTo)]
        header |= {"architecture": f"text{''.join(reversed(parts))}", **language.header(model.backbone)}
    elif model.checkpoint.factory is None or "/" in model.checkpoint.architecture:  # not a user's own function
        bare = model.checkpoint.architecture.removeprefix(f"{task.kind}/")
        header["architecture"] = f"{task.kind}/{bare}" if kind_of(task).DENSE else bare
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    return write_whole(path, save(state, metadata=header))


def show(path: Path) -> str:
    """A run's path as a reader wants it: from the repo's root if it lies inside."""
    repo = Path(__file__).parent.parent
    return path.relative_to(repo).as_posix() if path.is_relative_to(repo) else str(path)


def slug(text: str) -> str:
    """Text as the name of a file."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.")[:100] or "run"


def _write_json(path: Path, value: Any) -> None:
    write_whole(path, json.dumps(value, indent=1, allow_nan=False, default=str).encode())


def reopen(path: str | os.PathLike[str]) -> tuple[Model, Task, dict[str, Any]]:
    """A saved run's model and data, loaded anew, and its record.

    InputError if it was no fine-tuning run, its weights are not those that were saved, or the data are not those it was
    made with.
    """
    folder = _run_folder(path)
    record = read_run(path).record
    asked, weights = record.get("parameters", {}), folder / "model.safetensors"
    if not weights.is_file() or "dataset" not in asked or "fingerprint" not in record.get("task", {}):
        raise InputError(f"the run in {folder} holds no fine-tuned model; give one of finetune.ipynb")
    if sha256(weights) != record["files"].get(weights.name):
        raise InputError(f"{weights} is not the file that the run saved: its SHA-256 differs")
    task = load_task(
        asked["dataset"], asked.get("data_dir"), asked.get("n_train"), asked.get("seed", 0),
        n_val=asked.get("n_val"), n_test=asked.get("n_test"), kind=record["task"]["kind"],
        class_names=asked.get("class_names"), columns=asked.get("columns"),
    )  # fmt: skip
    if task.fingerprint != record["task"]["fingerprint"]:
        raise InputError(
            f"the data {asked['dataset']!r} are not those the run in {folder} was made with: their fingerprint is "
            f"{task.fingerprint[:12]}, it was {record['task']['fingerprint'][:12]}"
        )
    checkpoint = load_checkpoint(str(weights), asked.get("architecture"))
    return build_model(checkpoint, task, record["preprocessing"]["size"], own_head=True).eval(), task, record


def save_tables(name: str, tables: Mapping[str, Any], record: Mapping[str, Any], predictions: Predictions) -> Path:
    """Write pandas DataFrames as CSV files and predictions as a run `name` (see `commit`), and return its path."""

    def fill(folder: Path) -> None:
        for table, frame in tables.items():
            write_whole(folder / f"{slug(table)}.csv", frame.to_csv().encode())
        predictions.save(folder / _predictions_file(predictions.split))

    return commit(name, fill, {**record, "environment": environment()})
