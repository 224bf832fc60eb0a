"""Writing a run directory: begun under a lock, complete at once and whole or not at all, with what made it."""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from ptlib import folders, language, tracking
from ptlib.core import Checkpoint, Task
from ptlib.errors import InputError
from ptlib.files import ordered, sha256, write_whole
from ptlib.kinds import kind_of
from ptlib.models import Model, TextModel
from ptlib.networks import UpTo
from ptlib.results import Examples, Report
from ptlib.resume import code
from ptlib.runtime import environment
from ptlib.sheets import csv_of
from ptlib.stages import History

REPO = Path(__file__).parent.parent.parent


def output_root() -> Path:
    """$PTLIB_OUTPUTS; else outputs/ of the repo this package stands in; else outputs/ here.

    Of processes that torchrun started only the first writes there, the others to a folder that goes with them.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and os.environ.get("RANK", "0") != "0":
        return _aside()
    if os.environ.get("PTLIB_OUTPUTS"):
        return Path(os.environ["PTLIB_OUTPUTS"])
    return REPO / "outputs" if (REPO / "notebooks").is_dir() else Path.cwd() / "outputs"


@cache
def _aside() -> Path:
    folder = tempfile.mkdtemp(prefix="ptlib-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def start_run(
    notebook: str, parameters: Mapping[str, Any], *tasks: Task, checkpoint: Checkpoint | None = None,
    run_name: str | None = None,
) -> Path:  # fmt: skip
    """Begin a run: the folder `outputs/<run_name>.unfinished/`, which only this process may write to until the run is
    saved. `finetune(..., resume=run / "a name")` keeps there what a killed process goes on from.

    Without `run_name` the name is made of notebook, tasks, checkpoint and a hash of the parameters and the data.
    InputError if another process writes that run, or the name is taken by what is no run or another notebook's.
    """
    tracking.chosen()
    of = [task.name for task in tasks] + [Path(c.name).stem if c.path else c.name for c in [checkpoint] if c]
    name = run_name or hashed_name(notebook, "-".join(of), parameters, *[task.fingerprint for task in tasks])
    final = output_root() / name
    if (there := folders.standing(final)).exists():
        earlier = _read(there / "run.json")
        if earlier is None:
            raise InputError(f"{final} exists and is no run; move it, or choose another run_name")
        if earlier.get("notebook", notebook) != notebook:
            of = earlier["notebook"]
            raise InputError(f"{final} is a run of {of}.ipynb, which would be lost; choose another run_name")
    folders.lock(final, f"the run {name!r}")
    unfinished = final.with_name(name + folders.UNFINISHED)
    unfinished.mkdir(exist_ok=True)
    _write_json(unfinished / "run.json", {"status": "unfinished", "notebook": notebook, "parameters": dict(parameters)})
    return unfinished


def commit(run: Path, fill: Callable[[Path], None], record: Mapping[str, Any]) -> Path:
    """End a run that `start_run` began: `outputs/<name>/` appears at once, whole, in place of an earlier one.

    It holds what `fill` puts into a folder; `run.json`: the status `complete`, the record, and what else made the run;
    and `SHA256SUMS`, the hash of each file.
    """
    final = run.with_name(run.name.removesuffix(folders.UNFINISHED))
    if failed := _failed_shell_line():
        raise InputError(f"a shell line of this notebook ended with exit code {failed}; mend it, and run again")

    def fill_all(folder: Path) -> None:
        fill(folder)
        _write_json(folder / "run.json", {"status": "complete", **record, "made_by": made_by(record)})

    folders.lock(final, f"the run {final.name!r}")
    folders.commit(final, fill_all)
    shutil.rmtree(run, ignore_errors=True)
    folders.unlock(final)
    return final


def completed(path: Path) -> str:
    """The line that says that a run is complete, and by which hash to know it; `ptlib verify` looks for it."""
    return f"The run is complete: {show(path)} [sha256 {sha256(path / folders.SUMS)[:16]}]"


def save_run(
    notebook: str, parameters: Mapping[str, Any], *, task: Task, model: Model, history: History,
    predictions: Examples | Iterable[Examples] | Mapping[str, Examples], reports: Mapping[str, Report],
    run: Path | None = None, run_name: str | None = None, cost: Mapping[str, float] | None = None,
) -> Path:  # fmt: skip
    """Write a finished run to `outputs/<run_name>/` and return that path.

    `run` is what `start_run` gave; without, it is begun here. The directory appears at once, complete, in place of an
    earlier one of the same name. Beside what `commit` puts there it holds `history.json`, `model.safetensors` (which
    `load_checkpoint` takes), `predictions.safetensors` of the test split, those of another split or, where they are
    given by name, of another model, and a `report.json` for each report, of the predictions of that name. `cost` is
    what `ptlib.prediction.cost` measured.
    """
    record = {**describe(task, model, history), "cost": dict(cost or {})}
    run = run or start_run(notebook, parameters, task, checkpoint=model.checkpoint, run_name=run_name)

    def fill(folder: Path) -> None:
        save_model(model, task, folder / "model.safetensors")
        _write_json(folder / "history.json", {"rows": history.rows, "best": history.best, "seconds": history.seconds})

    return save_results(run, record, predictions=predictions, reports=reports, fill=fill)


def save_results(
    run: Path, record: Mapping[str, Any], *,
    predictions: Examples | Iterable[Examples] | Mapping[str, Examples] = (),
    reports: Mapping[str, Report] | None = None, tables: Mapping[str, Any] | None = None,
    fill: Callable[[Path], None] = lambda folder: None,
) -> Path:  # fmt: skip
    """End a run that `start_run` began with what it found: a record of it, predictions, reports of those of the same
    name, pandas DataFrames as CSV, and what `fill` writes.

    Each report is saved with what made it: the hashes of data, weights, parameters and code, seed, device, threads.
    """
    if isinstance(predictions, Examples):
        predictions = [predictions]
    said = predictions if isinstance(predictions, Mapping) else {p.split: p for p in predictions}
    for names in (said, reports or {}, tables or {}):
        if len({slug(name) for name in names}) < len(names):
            raise InputError(f"two of {', '.join(map(repr, names))} would be one file; name them otherwise")
    named = {"report" if name == "test" else f"report-{slug(name)}": (name, r) for name, r in (reports or {}).items()}
    asked = _read(run / "run.json") or {}
    record = {"environment": environment(), **record, **{k: asked[k] for k in ("notebook", "parameters")}}
    record["predictions"] = {_predictions_file(name): name for name in said}
    record["reports"] = {f"{file}.json": name for file, (name, _) in named.items()}
    made = made_by(record)

    def fill_all(folder: Path) -> None:
        fill(folder)
        for name, p in said.items():
            p.save(folder / _predictions_file(name))
        for file, (_, report) in named.items():
            replace(report, provenance={**report.provenance, **made}).save(folder / f"{file}.json")
        for name, frame in (tables or {}).items():
            write_whole(folder / f"{slug(name)}.csv", csv_of(frame))

    return commit(run, fill_all, record)


def made_by(record: Mapping[str, Any]) -> dict[str, Any]:
    """What made a run's numbers, in hashes: data, weights, parameters, code, environment; seed, device, threads."""
    parameters, around = record.get("parameters", {}), record.get("environment", {})
    tasks = [record["task"]] if "task" in record else record.get("tasks", [])
    return {
        "data": ", ".join(task["fingerprint"] for task in tasks if "fingerprint" in task) or None,
        "weights": record.get("checkpoint", {}).get("sha256"),
        "parameters": _hash(parameters),
        "code": {"sha256": code(), **_git()},
        "environment": _hash(around),
        "seed": parameters.get("seed"),
        "device": record.get("device") or around.get("device"),
        "threads": around.get("threads"),
    }


def hashed_name(notebook: str, what: str, parameters: Mapping[str, Any], *data: Any) -> str:
    """A run's name: what it is of, and eight digits of a hash of its parameters and data."""
    return f"{slug(f'{notebook}-{what}')[:91]}-{_hash([dict(parameters), *data])[:8]}"


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
    return write_whole(path, ordered(save(state, metadata=header)))


def show(path: Path) -> str:
    """A run's path as a reader wants it: from the repo's root if it lies inside."""
    return path.relative_to(REPO).as_posix() if path.is_relative_to(REPO) else str(path)


def slug(text: str) -> str:
    """Text as the name of a file."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.")[:100] or "run"


def _predictions_file(name: str) -> str:
    return "predictions.safetensors" if name == "test" else f"predictions-{slug(name)}.safetensors"


def _write_json(path: Path, value: Any) -> None:
    write_whole(path, json.dumps(value, indent=1, allow_nan=False, default=str).encode())


def _read(path: Path) -> dict[str, Any] | None:
    """A JSON object; empty where it can't be read, None where there is no file."""
    try:
        found = json.loads(path.read_bytes())
    except OSError:
        return None
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _failed_shell_line() -> int:
    """The exit code of the last shell line of the notebook this runs in, which stops no cell; 0 if there was none."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return int(shell.user_ns.get("_exit_code", 0)) if shell else 0


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def _git() -> dict[str, Any]:
    """The commit this package and its notebooks stand at, and whether they were changed since; nothing outside git."""
    if not (REPO / "notebooks").is_dir():  # installed beside others, perhaps in somebody else's repository
        return {}
    git = ["git", "-C", str(REPO)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=10)
        asked = [*git, "status", "--porcelain", "--untracked-files=no", "--", "ptlib", "notebooks"]
        status = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"commit": head.stdout.strip(), "dirty": bool(status.stdout.strip())}
