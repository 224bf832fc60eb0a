"""What there is: checkpoints and data sets that can be named, notebooks, runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from ptlib import folders
from ptlib.checkpoints import list_checkpoints
from ptlib.data import list_tasks
from ptlib.errors import InputError
from ptlib.files import text_table
from ptlib.results import Report
from ptlib.runs import output_root, show, status
from ptlib.runs.writing import REPO
from ptlib.texts import written


def listing(what: str | None = None) -> Iterator[str]:
    """Lines for a terminal: of one of `LISTS`, or of all."""
    for name, rows in LISTS.items():
        if what in (None, name):
            yield from ([] if what else [f"{name}:"])
            yield from (" ".join(line.split("\n")) for line in text_table(list(rows()) or [("none", "")], header=False))
            yield from ([] if what else [""])


def _checkpoints() -> Iterator[tuple[str, str]]:
    yield from list_checkpoints().items()
    yield "timm/<model>, torchvision/<model>, hf/<model>", "downloaded once"
    yield "<file>", "a .safetensors or .pth file, or a run's model.safetensors"


def _notebooks() -> Iterator[tuple[str, str]]:
    for path in sorted((REPO / "notebooks").glob("*.ipynb")):
        first = "".join(json.loads(path.read_bytes())["cells"][0]["source"])
        yield show(path), first.splitlines()[0].lstrip("# ")


def _runs() -> Iterator[tuple[str, ...]]:
    root = output_root()
    for folder in sorted(p for p in root.glob("*") if (p / "run.json").is_file()) if root.is_dir() else []:
        try:
            record = json.loads((folder / "run.json").read_bytes())
            yield written(folder.name), record.get("notebook", ""), status(folder), _headline(folder)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, InputError) as e:
            yield written(folder.name), "", f"can't be read ({type(e).__name__})", ""


def _headline(folder: Path) -> str:
    """The first metric of a run's report on test; what a list says is not verified."""
    if folder.name.endswith(folders.UNFINISHED) or not (folder / "report.json").is_file():
        return ""
    name, estimate = next(iter(Report.load(folder / "report.json").items()))
    return f"{name.replace('_', ' ')} {estimate}"


LISTS = {
    "checkpoints": _checkpoints,
    "data": lambda: iter(list_tasks().items()),
    "notebooks": _notebooks,
    "runs": _runs,
}
