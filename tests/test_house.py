"""The house: imports point down, notebooks keep the rules, every file of params/ fits its notebook."""

from __future__ import annotations

import ast
import doctest
import importlib
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from papermill.cli import papermill
from PIL import Image

from ptlib.params import VOCABULARY, coerce
from ptlib.sweep import plan

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PARAMS = sorted((ROOT / "params").glob("*/*.yaml"))

# A module may import from floors below its own, and from its own floor what stands before it in the row.
FLOORS = [
    ["errors", "files", "answer", "sheets", "folders", "arrays", "preprocessing", "texts", "core", "results", "reading",
     "stages", "conflicts", "params", "runtime", "stats", "metrics", "measures", "resampling", "transferability",
     "outliers"],
    ["wheels", "corruptions", "data", "networks", "dense", "kinds", "pretext", "weights", "language", "architectures",
     "checkpoints", "models"],
    ["together", "sharding", "tracking", "convolutions", "folding", "mirrors", "prediction", "head", "lora", "step",
     "resume", "loop", "worker", "train", "rates", "runs", "comparable", "similarity", "pretraining", "transfers",
     "words", "attribution"],
    ["report", "comparison", "decisions", "diagnosis", "selection", "shift", "plots", "verification", "page", "card",
     "publishing", "listing", "sweep", "cli"],
]  # fmt: skip


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("ptlib"):
            parts = node.module.split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
    return found


def test_imports_point_down() -> None:
    place = {name: (floor, i) for floor, row in enumerate(FLOORS) for i, name in enumerate(row)}
    for path in sorted((ROOT / "ptlib").rglob("*.py")):
        name = path.relative_to(ROOT / "ptlib").parts[0].removesuffix(".py")
        if name == "__init__":
            continue
        assert name in place, f"{name} has no floor; give it one in tests/test_house.py"
        for other in imported(path) - {name}:
            assert place[other] < place[name], f"{path.name} imports {other}, which does not stand below it"


def test_files_stay_readable() -> None:
    lines = {p: len(p.read_text().splitlines()) for p in (ROOT / "ptlib").rglob("*.py")}
    assert max(lines.values()) <= 300, max(lines, key=lambda p: lines[p])
    assert sum(lines.values()) < 21_500


def test_import_is_quick_beside_torch() -> None:
    code = """
import time, torch
start = time.perf_counter()
import ptlib
bare = time.perf_counter() - start
from ptlib import *
print(bare, time.perf_counter() - start)
"""
    for _ in range(3):  # a busy machine may need another turn
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        bare, full = map(float, run.stdout.split())
        if bare < 0.5 and full < 2.0:  # `full`: every public name, and every module behind them
            return
    pytest.fail(f"import ptlib took {bare:.2f} s, all its names {full:.2f} s")


def test_every_public_name_is_there_and_documented() -> None:
    import ptlib

    for name in ptlib.__all__:
        assert getattr(ptlib, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = ptlib.nothing


def test_examples_in_docstrings_hold() -> None:
    files = (path for path in (ROOT / "ptlib").rglob("*.py") if ">>>" in path.read_text())
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files]
    found = {name: doctest.testmod(importlib.import_module(name)) for name in names}
    assert sum(result.attempted for result in found.values()) >= 9
    assert not {name for name, result in found.items() if result.failed}


def code_cells(path: Path) -> list[dict[str, Any]]:
    return [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebooks_keep_the_rules(path: Path) -> None:
    notebook = json.loads(path.read_text())
    cells = code_cells(path)
    assert "papermill" not in notebook["metadata"], "clean with nbstripout as README says"
    assert len({c["id"] for c in notebook["cells"]}) == len(notebook["cells"])
    assert sum("parameters" in c["metadata"].get("tags", []) for c in cells) == 1
    for i, cell in enumerate(cells):
        source, where = "".join(cell["source"]), f"{path.name}, code cell {i + 1}"
        assert cell["execution_count"] == i + 1, f"{where}: nbval compares nothing without its execution count"
        assert not re.search(r"^\s*[%!]", source, re.M), f"{where}: a magic's failure passes unseen"
        if "parameters" in cell["metadata"].get("tags", []):
            assert i == 1, "first the answer's place, then the parameters"
            check_parameters(source, where)
        else:
            assert len(source.splitlines()) <= 12, where
        tree = ast.parse(source)
        assert not any(isinstance(n, ast.ClassDef | ast.FunctionDef) for n in ast.walk(tree)), f"{where}: library code"
        for output in cell["outputs"]:
            assert output["output_type"] != "error", where
            assert output.get("name") != "stderr", f"{where}: a warning that a reader sees"
    ignored = sum("nbval-ignore-output" in c["metadata"].get("tags", []) for c in cells)
    assert ignored <= 0.5 * len(cells)
    assert "".join(cells[0]["source"]).endswith("answer = Answer()"), "the answer stands at the top"
    assert "Answer: " in "".join(cells[0]["outputs"][0]["data"]["text/plain"]), "it was given"
    assert "".join(cells[2]["source"]).endswith("check(globals())"), "the cell after the parameters checks them"


def check_parameters(source: str, where: str) -> None:
    lines = source.splitlines()
    for node in ast.parse(source).body:
        assert isinstance(node, ast.AnnAssign), f"{where}: literals with a type, nothing else"
        assert isinstance(node.target, ast.Name)
        assert node.value is not None
        value = ast.literal_eval(node.value)
        assert node.target.id in VOCABULARY
        assert coerce(node.target.id, value) == value
        assert " # " in lines[node.lineno - 1].replace("  # ", " # "), f"{where}: {node.target.id} has no help"


def parameters_of(notebook: str) -> set[str]:
    source = "".join(code_cells(ROOT / "notebooks" / f"{notebook}.ipynb")[1]["source"])
    return {
        n.target.id for n in ast.parse(source).body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)
    }


@pytest.mark.parametrize("path", PARAMS, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_params_files_fit_their_notebook_and_say_how_to_run(path: Path) -> None:
    text, file = path.read_text(), f"params/{path.parent.name}/{path.name}"
    command = [f"papermill notebooks/{path.parent.name}.ipynb", f"-f {file}"]
    if "sweep" in (asked := yaml.safe_load(text)):
        assert len(plan(path)[1]) > 1
        command = [f"ptlib sweep {file}"]
    else:
        for name, value in asked.items():
            assert name in parameters_of(path.parent.name), name
            coerce(name, value)
    head = [line for line in text.splitlines() if line.startswith("#")]
    assert any(all(part in line for part in command) for line in head)
    assert any("needs" in line.lower() for line in head)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_papermill_explains_every_parameter(path: Path) -> None:
    shown = CliRunner().invoke(papermill, ["--help-notebook", str(path)])
    for name in parameters_of(path.stem):
        assert re.search(rf"^  {name}: ", shown.output, re.M), name


@pytest.mark.usefixtures("with_nbval")
@pytest.mark.parametrize(
    ("argument", "says"),
    [
        (("-p", "epoch", "2"), "unknown parameter 'epoch'; did you mean 'epochs'?"),
        (
            ("-p", "checkpoint", "resnet5O"),
            "'resnet5O': there is no such checkpoint; did you mean 'torchvision/resnet50'?",
        ),
    ],
    ids=lambda v: "-".join(v[1:]) if isinstance(v, tuple) else "",
)
def test_a_slip_on_the_command_line_stops_with_one_sentence(
    tmp_path: Path, argument: tuple[str, ...], says: str
) -> None:
    start = time.perf_counter()
    command = [
        sys.executable,
        "-m",
        "papermill",
        "--no-progress-bar",
        str(ROOT / "notebooks" / "finetune.ipynb"),
        "out.ipynb",
        *argument,
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert says in done.stderr
    after = done.stderr[done.stderr.index("Exception encountered") :]
    assert "Traceback" not in after.split("InputError")[1]
    assert time.perf_counter() - start < 10


@pytest.mark.usefixtures("with_nbval")
def test_a_folder_of_ones_own_needs_nothing_else(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for k, name in enumerate(("cats & dogs", "naïve <b>")):
        (tmp_path / "mine" / name).mkdir(parents=True)
        for i in range(20):
            pixels = rng.integers(0, 128, (40, 30, 3), dtype=np.uint8)
            pixels[..., k] += 100
            Image.fromarray(pixels).save(tmp_path / "mine" / name / f"{i}.jpg")
    command = [sys.executable, "-m", "papermill", "--no-progress-bar", str(ROOT / "notebooks" / "finetune.ipynb")]
    outputs = {**os.environ, "PTLIB_OUTPUTS": str(tmp_path / "outputs")}
    done = subprocess.run(
        [*command, "out.ipynb", "-p", "dataset", "mine", "-p", "epochs", "1", "-p", "control", "false"],
        cwd=tmp_path,
        env=outputs,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (run,) = (p for p in (tmp_path / "outputs").iterdir() if p.name != ".locks")
    record = json.loads((run / "run.json").read_text())
    assert record["status"] == "complete"
    assert record["parameters"]["dataset"] == "mine"
    assert json.loads((run / "report.json").read_text())["metrics"]["accuracy"]["value"] > 0.6  # six test images
