"""From a sweep file to the parameters of each run, all of it refused that the notebook would refuse."""

from __future__ import annotations

import ast
import json
import os
import re
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import yaml

from ptlib.errors import InputError, did_you_mean
from ptlib.params import check

NOTEBOOKS = Path(__file__).parent.parent.parent / "notebooks"
MOST = 10_000  # runs of one sweep
QUIET: dict[str, Any] = {"progress_bar": False, "extra_arguments": ["--log-level=ERROR"]}  # of papermill, and a kernel

Parameters = dict[str, Any]


def plan(path: str | os.PathLike[str]) -> tuple[str, list[Parameters]]:
    """The notebook of a sweep file, which is the name of its folder, and the parameters of each run.

    The file is YAML: parameters of every run, and under `sweep` a `grid` of names with lists of values (their product),
    a `list` of mappings, or both (each of the list with each of the grid). `run_name` is added: the sweep's title, what
    it varies, and eight digits of a hash of all parameters; the order of the file changes no name.

    InputError for what the notebook would refuse, and for two runs that are equal.
    """
    path, title = Path(path), title_of(path)
    notebook = path.resolve().parent.name
    known = _declared(notebook)[1]
    if "run_name" not in known:
        raise InputError(f"{notebook}.ipynb has no parameter run_name, so its runs can't be told apart: sweep another")
    try:
        fixed, varied = _read(path)
        swept = dict.fromkeys(name for each in varied for name in each)
        for name in (*fixed, *swept):
            if name not in known:
                hint = did_you_mean(str(name), known) or f"; {notebook}.ipynb takes {', '.join(known)}"
                raise InputError(f"unknown parameter {name!r}{hint}")
            if name == "run_name":
                raise InputError("run_name is made for each run; leave it out")
        settled = [whole(notebook, {**fixed, **each}) for each in varied]
    except InputError as e:
        raise InputError(f"{path.name}: {e}") from None
    from ptlib.runs import hashed_name  # which loads torch: a slip in the file must not wait for it

    runs: dict[str, Parameters] = {}
    for each, values in zip(varied, settled, strict=True):
        run_name = hashed_name(title, "-".join(f"{name}-{values[name]}" for name in known if name in swept), values)
        if run_name in runs:
            raise InputError(
                f"{path.name}: two runs are equal, one of them {json.dumps(each, default=str)}; leave it out"
            )
        runs[run_name] = {n: v for n, v in values.items() if n in fixed or n in each} | {"run_name": run_name}
    return notebook, list(runs.values())


def title_of(path: str | os.PathLike[str]) -> str:
    """A sweep's own name, `<notebook>-<file>`: the folder of its notebooks under outputs/, and the start of its runs'.

    InputError if a file's name can't be part of one.
    """
    path = Path(path).resolve()
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}", path.stem):
        raise InputError(
            f"the name of the sweep file {path.name!r} should be up to 40 letters, digits, '.', '_' and '-'"
        )
    return f"{path.parent.name}-{path.stem}"


def whole(notebook: str, asked: Mapping[str, Any]) -> Parameters:
    """All parameters of a notebook once these are asked for, checked as the notebook does it; else its InputError."""
    source, defaults = _declared(notebook)
    put_in = "# Parameters\n" + "".join(f"{name} = {value!r}\n" for name, value in asked.items())
    return check({"In": [source, put_in], **defaults, **asked})


@cache
def _declared(notebook: str) -> tuple[str, Parameters]:
    """The parameters cell of a notebook, and its defaults."""
    file, there = NOTEBOOKS / f"{notebook}.ipynb", [p.stem for p in sorted(NOTEBOOKS.glob("*.ipynb"))]
    if notebook not in there:
        hint = did_you_mean(notebook, there) or f"; there are {', '.join(there) or 'none'}"
        raise InputError(f"a sweep file lies in a folder named as its notebook, and this one's is {notebook!r}{hint}")
    cells = json.loads(file.read_bytes())["cells"]
    source = next(("".join(c["source"]) for c in cells if "parameters" in c["metadata"].get("tags", [])), "")
    declared = [node for node in ast.parse(source).body if isinstance(node, ast.AnnAssign) and node.value]
    return source, {ast.unparse(node.target): ast.literal_eval(node.value) for node in declared if node.value}


def _read(path: Path) -> tuple[Parameters, list[Parameters]]:
    """What is the same in all runs, and what each has besides."""
    try:
        text = path.read_text("utf-8")
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
            raise InputError("it has an alias (*), which is not taken; write the value out")
        twice = next(_twice(yaml.compose(text, yaml.SafeLoader)), None)
        content = yaml.safe_load(text)
    except InputError:
        raise
    except OSError as e:
        raise InputError(f"it can't be read ({e.strerror}); give the path of a sweep file") from None
    except (yaml.YAMLError, ValueError, RecursionError) as e:
        raise InputError(f"it is no YAML: {' '.join(str(e).split())[:200]}") from None
    if twice:
        raise InputError(f"{twice!r} is given twice; leave one out")
    sweep = content.pop("sweep", None) if isinstance(content, dict) else None
    if not isinstance(sweep, dict) or not sweep or sweep.keys() - {"grid", "list"}:
        raise InputError("it needs `sweep` with a grid, a list or both, such as sweep: {grid: {seed: [0, 1, 2]}}")
    grid, items = sweep.get("grid", {}), sweep.get("list", [{}])
    named = isinstance(grid, dict) and (grid or "grid" not in sweep)
    if not named or not all(isinstance(v, list) and v for v in grid.values()):
        raise InputError(f"grid is {grid!r}; it should have names with lists of values, such as {{seed: [0, 1, 2]}}")
    if not isinstance(items, list) or not items or not all(isinstance(item, dict) for item in items):
        raise InputError(f"list is {items!r}; it should have mappings, such as [{{seed: 0}}, {{seed: 1, lr: 0.01}}]")
    for one, other in ((content, grid), *((part, item) for item in items for part in (content, grid))):
        if both := next(iter(one.keys() & other.keys()), None):
            raise InputError(f"{both!r} is given twice, for one run; leave one out")
    if (n := prod(map(len, grid.values())) * len(items)) > MOST:
        raise InputError(f"these are {n:,} runs, and a sweep has {MOST:,} at most; take fewer values")
    return content, [{**item, **dict(zip(grid, v, strict=True))} for item in items for v in product(*grid.values())]


def _twice(node: Any) -> Iterator[str]:
    """Names that a mapping anywhere in a YAML document has twice, of which YAML keeps the last."""
    if isinstance(node, yaml.MappingNode):
        names = [str(key.value) for key, _ in node.value]
        yield from (name for i, name in enumerate(names) if name in names[:i])
    if isinstance(node, yaml.CollectionNode):
        for part in node.value:
            for one in part if isinstance(part, tuple) else (part,):
                yield from _twice(one)
