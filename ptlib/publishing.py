"""What is handed on of a finished run: its notebook as a page, and a model card."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ptlib import folders
from ptlib.card import card
from ptlib.errors import InputError
from ptlib.files import sha256, write_whole
from ptlib.page import page
from ptlib.results import Report
from ptlib.runs import read_record, run_folder
from ptlib.runs.writing import REPO
from ptlib.verification import run_of


def publish(path: str | os.PathLike[str], to: str | os.PathLike[str] | None = None) -> list[Path]:
    """Write `report.html`, the executed notebook without code, and `README.md`, a model card, where the run holds a
    model with a report on test.

    `path` is an executed notebook, or the run it made, whose notebook is then looked for beside it and here. The files
    go to the folder `to`, by default `<run>.report` beside the run, and replace those of the same name alone.

    InputError if the run is not complete or not as it was saved, or there is nothing to write.
    """
    given = Path(path)
    notebook = given if given.suffix == ".ipynb" else None
    folder = run_of(notebook) if notebook else run_folder(path)
    record, digest = read_record(folder), sha256(folder / folders.SUMS)
    notebook = notebook or _notebook_of(folder)
    has_model = (folder / "model.safetensors").is_file() and record.get("reports", {}).get("report.json") == "test"
    if notebook is None and not has_model:
        raise InputError(
            f"no executed notebook of {folder.name} lies in {folder.parent} or here, and the run holds no model "
            "with a report on test: name the notebook"
        )
    target = Path(to) if to is not None else folder.with_name(f"{folder.name}.report")
    if (target / folders.SUMS).exists() or target.resolve() == REPO:
        raise InputError(f"{target} is the folder of a run, or of this project; name another one, which may be new")
    made: dict[str, str] = {}
    try:
        if notebook:
            facts = _facts(folder, record, digest)
            made["report.html"] = page(json.loads(notebook.read_bytes()), facts, f"ptlib verify {folder.name}")
        if has_model:
            reports = {name: Report.load(folder / file) for file, name in record["reports"].items()}
            made["README.md"] = card(folder.name, record, reports.pop("test"), reports, digest)
    except (AttributeError, KeyError, TypeError, ValueError) as e:
        if isinstance(e, InputError):
            raise
        raise InputError(f"what {folder.name} records can't be published ({type(e).__name__}: {e})") from None
    return [write_whole(target / name, content.encode("utf-8", "backslashreplace")) for name, content in made.items()]


def _notebook_of(folder: Path) -> Path | None:
    """The newest executed notebook beside a run, or here, that says it made this run."""
    found = {p.resolve() for place in (folder.parent, Path.cwd()) for p in place.glob("*.ipynb") if p.is_file()}
    return next((p for p in sorted(found, key=lambda p: -p.stat().st_mtime) if _made(p, folder)), None)


def _made(notebook: Path, folder: Path) -> bool:
    try:
        return run_of(notebook).resolve() == folder.resolve()
    except (InputError, OSError):
        return False


def _facts(folder: Path, record: dict[str, Any], digest: str) -> Iterator[tuple[str, str]]:
    made = record["made_by"]
    yield "run", folder.name
    yield "SHA-256 of its SHA256SUMS", digest
    yield "notebook", f"{record['notebook']}.ipynb"
    for name, value in record["parameters"].items():
        yield f"parameter {name}", json.dumps(value, ensure_ascii=False)
    for what in ("data", "weights", "environment"):
        yield f"{what}, SHA-256", str(made[what] or "none")
    code = made["code"]
    yield "code, SHA-256", code["sha256"]
    if "commit" in code:
        yield "commit", code["commit"] + (", edited since" if code["dirty"] else "")
    yield "device", f"{made['device'] or 'not recorded'}, {made['threads']} threads"
    for name, version in record["environment"].get("packages", {}).items():
        yield name, str(version)
