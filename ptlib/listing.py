"""What there is: checkpoints and data sets that can be named, notebooks, runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from ptlib import folders
from ptlib.checkpoints import list_checkpoints
from ptlib.data import list_tasks
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
    for path in sorted((REPO / "notebooks").glob("[!.]*.ipynb")):
        try:
            title = "".join(json.loads(path.read_bytes())["cells"][0]["source"]).partition("\n")[0].lstrip("# ")
        except (OSError, ValueError, KeyError, TypeError, IndexError) as e:
            title = f"can't be read ({type(e).__name__})"
        yield show(path), written(title)


def _runs() -> Iterator[tuple[str, str, str, str]]:
    root = output_root()
    for folder in sorted(root.glob("[!.]*")) if root.is_dir() else []:
        name = written(folder.name)
        try:
            if not (folder / "run.json").is_file():
                continue
            record = json.loads((folder / "run.json").read_bytes())
            yield name, written(str(record.get("notebook") or "")), status(folder), _headline(folder)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
            yield name, "", f"can't be read ({type(e).__name__})", ""


def _headline(folder: Path) -> str:
    """The first metric of a run's report on test; what a list says is not verified."""
    if folder.name.endswith(folders.UNFINISHED) or not (folder / "report.json").is_file():
        return ""
    first = next(iter(Report.load(folder / "report.json").items()), None)
    return f"{written(first[0]).replace('_', ' ')} {first[1]}" if first else ""


LISTS = {
    "checkpoints": _checkpoints,
    "data": lambda: iter(list_tasks().items()),
    "notebooks": _notebooks,
    "runs": _runs,
}
