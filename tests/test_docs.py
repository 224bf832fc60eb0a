"""What README, docs/ and the headers of params/ say is real: commands, parameters, links, names, the other language."""

from __future__ import annotations

import ast
import base64
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import ptlib as pt
from ptlib import cli
from ptlib.params import coerce
from tests.test_house import NOTEBOOKS, PARAMS, ROOT, parameters_of

PAGES = [ROOT / "README.md", ROOT / "README.zh.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
TOOLS = {"ruff", "mypy", "bash", "jupyter"}


def blocks(text: str, language: str) -> list[str]:
    return [body for name, body in FENCE.findall(text) if name == language]


def commands(path: Path) -> Iterator[str]:
    """Commands that a page shows: in blocks, set in, in tables; of a file of parameters those of its header."""
    text = path.read_text()
    if path.suffix == ".yaml":
        yield from (line.strip("# ") for line in text.splitlines() if re.match(r"#\s{2,}", line))
        return
    rest = FENCE.sub("", text)
    shown = [
        line for body in blocks(text, "sh") if "#SBATCH" not in body for line in body.replace("\\\n", " ").split("\n")
    ]
    shown += [line[4:] for line in rest.splitlines() if line.startswith("    ")]
    shown += re.findall(r"`((?:papermill|ptlib \w+|pytest|python -m|python docs\S+) [^`]+)`", rest)
    yield from (part.strip() for line in shown for part in re.split(r"\s&&\s", line) if part.strip())


def refuse(command: str) -> str | None:
    """Why a command can't be real; None if nothing speaks against it."""
    words = shlex.split(re.sub(r"<[^<>]*>", "PLACE", command))
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words.pop(0)
    if words[0] == "papermill":
        return _papermill(words[1:])
    if words[0] == "ptlib":
        try:
            cli.parser().parse_args(words[1:])
        except SystemExit:
            return "ptlib does not take that"
        return _missing([w for w in words[1:] if w.startswith("params/")])
    if words[:2] == ["python", "-m"]:
        return None if importlib.util.find_spec(words[2]) else f"there is no module {words[2]}"
    if words[0] in ("python", "pytest"):
        return _missing([w for w in words[1:] if "/" in w and not w.startswith("outputs/")])
    if words[:2] == ["pip", "install"]:
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        odd = [e for w in words for e in re.findall(r"\[(\w+)\]", w) if e not in extras]
        return f"there is no extra {odd[0]}" if odd else _missing([w for w in words if w.endswith(".txt")])
    return None if words[0] in TOOLS else f"{words[0]} is not known here"


def _missing(paths: list[str]) -> str | None:
    return next((f"there is no {p}" for p in paths if not list(ROOT.glob(p))), None)


def _papermill(words: list[str]) -> str | None:
    notebook = next(w for w in words if w.endswith(".ipynb"))
    if missing := _missing([notebook]):
        return missing
    known = parameters_of(Path(notebook).stem)
    for i, word in enumerate(words):
        if word == "-p":
            name, value = words[i + 1], yaml.safe_load(words[i + 2])
            if name not in known:
                return f"{notebook} has no parameter {name}"
            if isinstance(value, str | list) and re.search(r"PLACE|path/to|timm/", str(value)):
                continue
            coerce(name, None if value == "None" else value)
        if word == "-f" and (missing := _missing([words[i + 1]])):
            return missing
    return None


@pytest.mark.parametrize("path", [*PAGES, *PARAMS], ids=lambda p: f"{p.parent.name}/{p.name}")
def test_every_command_is_real(path: Path) -> None:
    found = list(commands(path))
    assert found, "none is seen"
    for command in found:
        assert (why := refuse(command)) is None, f"{path.name}: {command}: {why}"


def test_a_command_that_is_not_real_is_seen() -> None:
    run = "papermill notebooks/finetune.ipynb o.ipynb"
    for wrong in (
        "papermill notebooks/finetun.ipynb o.ipynb", f"{run} -p epoch 2", f"{run} -f params/none.yaml", "ptlib verfy x",
        "conda install x", "python -m tests.none", "pip install -e '.[none]'", "pytest tests/none.py",
        "ptlib sweep params/x.yaml",
    ):  # fmt: skip
        assert refuse(wrong), wrong
    with pytest.raises(pt.InputError):
        refuse(f"{run} -p epochs many")


def test_readme_begins_with_what_ci_runs() -> None:
    readme = (ROOT / "README.md").read_text()
    for command in (r"^pip install .*papermill", r"^ptlib verify ", r"^pip install .*pytest --nbval"):
        assert len(re.findall(command, readme, re.M)) == 1


@pytest.mark.parametrize("path", PARAMS, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_a_file_of_parameters_says_what_it_is_what_it_needs_and_how_long_it_takes(path: Path) -> None:
    head = "".join(line for line in path.read_text().splitlines(keepends=True) if line.startswith("#"))
    assert re.search(r"\bNeeds\b", head)
    assert re.search(r"minutes?|seconds|half an hour|passes over|not run", head)
    assert re.match(r"# [A-Z0-9`].{30,}", head), "its first line says what it is"


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere_and_python_names_what_there_is(path: Path) -> None:
    text = path.read_text()
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (path.parent / link).exists(), link
    for source in blocks(text, "python"):
        ast.parse(source)
        for name in re.findall(r"\bpt\.(\w+)", source):
            assert hasattr(pt, name), f"pt.{name}"


def test_the_table_of_notebooks_is_complete() -> None:
    rows = re.findall(r"^\| `(\w+)` \|.*?\|(.*?)\|\s*(\d+) \|", (ROOT / "README.md").read_text(), re.M)
    assert sorted(name for name, _, _ in rows) == [p.stem for p in NOTEBOOKS]
    for name, parameters, _ in rows:
        assert set(re.findall(r"`(\w+)`", parameters)) <= parameters_of(name)


def test_the_figure_is_one_of_a_notebook() -> None:
    cells = json.loads((ROOT / "notebooks" / "pretrain.ipynb").read_text())["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    figures = [base64.b64decode("".join(o["data"]["image/png"])) for o in outputs if "image/png" in o.get("data", {})]
    assert (ROOT / "docs" / "figure.png").read_bytes() in figures


def test_the_chinese_readme_says_the_same() -> None:
    ours, theirs = ((ROOT / name).read_text() for name in ("README.md", "README.zh.md"))
    for of in (r"^(#+) ", r"^(```\w*)$", r"^([-*] )", r"\]\(([^)]+)\)", r"(?<!`)`([^`\n]+)`(?!`)"):
        assert Counter(re.findall(of, ours, re.M)) == Counter(re.findall(of, theirs, re.M)), of
    assert re.findall(r"^(#+) ", ours, re.M) == re.findall(r"^(#+) ", theirs, re.M)
    assert blocks(ours, "sh") == blocks(theirs, "sh")
    code = [[ast.dump(ast.parse(source)) for source in blocks(text, "python")] for text in (ours, theirs)]
    assert code[0] == code[1]
    rows = [[line.count("|") for line in text.splitlines() if line.startswith("|")] for text in (ours, theirs)]
    assert rows[0] == rows[1]
    numbers = [Counter(re.findall(r"\d+(?:[.,]\d+)*", FENCE.sub("", text))) for text in (ours, theirs)]
    assert numbers[0] == numbers[1]


@pytest.mark.usefixtures("with_nbval")
def test_readmes_python_runs(tmp_path: Path) -> None:
    source = "\n".join(blocks((ROOT / "README.md").read_text(), "python"))
    env = {**os.environ, "PTLIB_OUTPUTS": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", source], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "accuracy" in done.stdout


@pytest.mark.usefixtures("with_nbval")
def test_reference_pages_are_made_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error::UserWarning", str(ROOT / "docs" / "reference.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    page = (tmp_path / "ptlib.html").read_text()
    for name in pt.__all__:
        assert f'id="{name}"' in page, name
