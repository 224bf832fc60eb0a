"""Bad parameters of every notebook: each is refused by one sentence, before anything is loaded or written."""

from __future__ import annotations

import ast
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import nbformat
import pytest
import yaml
from pydantic import TypeAdapter

from ptlib.conflicts import METRIC, METRICS, OF_ALEXNET, OF_IMAGES, OF_TEXTS, SCORES
from ptlib.conflicts import PLACES as MOVED
from ptlib.errors import InputError
from ptlib.params import VOCABULARY, check, coerce
from ptlib.sweep import plan
from tests.conftest import LONG

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))

# What a validator of its own refuses, which the schema does not show.
MORE: dict[str, list[Any]] = {
    "checkpoint": ["resnet5O", "eficientnet_lite0", "x" * 300, "all-MiniLM-L6-v3"],
    "run_name": ["../x", ".hidden", "a/b", "", "a" * 101, "a b", "a\n", "é"],
    "device": ["gpu", "cuda:x", "cuda:-1", "CPU", "cpu cuda"],
    "labels": [[2, 1], [1, 1]],
    "severities": [[5, 4], [3, 3]],
    "overrides": [{"trainable": 5}, {"trainable": "head"}, {"augment": [1]}, {1: 2}],
}


@cache
def cell(notebook: str) -> str:
    cells = json.loads((ROOT / "notebooks" / f"{notebook}.ipynb").read_text())["cells"]
    (found,) = ("".join(c["source"]) for c in cells if "parameters" in c["metadata"].get("tags", []))
    return found


def defaults(notebook: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for node in ast.parse(cell(notebook)).body:
        assert isinstance(node, ast.AnnAssign)
        assert node.value is not None
        found[ast.unparse(node.target)] = ast.literal_eval(node.value)
    return found


def run(notebook: str, **asked: Any) -> dict[str, Any]:
    """What the notebook's second cell does, after papermill has put in a cell for what was asked."""
    injected = "# Parameters\n" + "".join(f"{name} = {value!r}\n" for name, value in asked.items())
    sources = [
        "",
        cell(notebook),
        *([injected] if asked else []),
        "from ptlib import check\n\nparams = check(globals())",
    ]
    return check({"In": sources, **defaults(notebook), **asked})


def schema(name: str) -> tuple[dict[str, Any], bool]:
    """The JSON schema of a parameter's type, references resolved, and whether it may be None."""
    whole = TypeAdapter(VOCABULARY[name]).json_schema()
    return _resolved(whole, whole.get("$defs", {}))


def _resolved(part: dict[str, Any], known: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    kinds = part.get("anyOf", [part])
    (core,) = (p for p in kinds if p.get("type") != "null" and not (len(kinds) > 1 and "const" in p))
    if "$ref" in core:
        core = known[core["$ref"].split("/")[-1]]
        core = {**core, "properties": {k: _resolved(p, known)[0] for k, p in core["properties"].items()}}
    if "items" in core:
        core = {**core, "items": _resolved(core["items"], known)[0]}
    return core, {"type": "null"} in kinds


def bound(part: dict[str, Any], *names: str) -> Any:
    return next((part[name] for name in names if name in part), None)


def edges(part: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    """Numbers at the ends of a range that are taken, and those just beyond."""
    step = 1 if part["type"] == "integer" else None
    taken, beyond = [], []
    for inclusive, exclusive, sign in (("ge", "gt", -1), ("le", "lt", 1)):
        end = bound(part, inclusive, {"ge": "minimum", "le": "maximum"}[inclusive])
        open_end = bound(part, exclusive, {"gt": "exclusiveMinimum", "lt": "exclusiveMaximum"}[exclusive])
        if end is not None:
            taken.append(end)
            beyond.append(end + sign * step if step else math.nextafter(end, sign * math.inf))
        if open_end is not None:
            taken.append(open_end - sign * step if step else math.nextafter(open_end, -sign * math.inf))
            beyond += [open_end, open_end + sign]
    return taken, beyond


def misspelt(word: str) -> str:
    return word[:-1] + ("x" if word[-1] != "x" else "y")


def good(part: dict[str, Any]) -> list[Any]:
    """Values that are taken, the ends of the range among them."""
    if "enum" in part:
        return list(part["enum"])
    match part["type"]:
        case "integer" | "number":
            return edges(part)[0]
        case "boolean":
            return [True, False, "true", "no", 0, 1]
        case "string":
            return ["a/b", "c/d"]
        case "array":
            least, most = part.get("minItems", 0), part.get("maxItems", 10**9)
            member = part["items"]
            several = good(member) if member["type"] != "integer" else [1, 2, 3]
            return [several[:n] for n in {least, min(most, len(several))}]
        case "object" if "properties" in part:
            return [dict.fromkeys(part["required"], "x")]
    return [{}, {"ema": 0.5}]


def bad(part: dict[str, Any]) -> Iterator[Any]:
    """Values that the schema forbids."""
    kind = part["type"]
    yield from (math.nan, math.inf, -math.inf, {"a": [1]} if kind != "object" else ["a"], [[1]])
    if kind in ("integer", "number"):
        yield from (*edges(part)[1], True, False, "abc", "", "1,5", [], "nan", 10**400)
        if kind == "integer":
            yield from (edges(part)[0][0] + 0.5, "1.5", 1e300)
    elif kind == "boolean":
        yield from (2, -1, 0.5, "perhaps", "", [], [True])
    elif "enum" in part:
        yield from (*map(misspelt, part["enum"]), part["enum"][0] + " ", "", 3, 0.5, True, [part["enum"][0]])
    elif kind == "string":
        yield from (*([""] if part.get("minLength") else []), 1.5, True, [], ["a"], {})
    elif kind == "array":
        least, most, member = part.get("minItems", 0), part.get("maxItems"), part["items"]
        several = max(good(part), key=len)
        yield from (3, 0.5, True, "abc", "[", '["a"', several[: least - 1] if least else {}, [*several, several[0]])
        if most:
            yield [str(i) for i in range(most + 1)]
        for one in bad(member):
            yield [*several[: max(least, 1) - 1], one]
    elif "properties" in part:
        yield from ({}, {**good(part)[0], "nmae": 1}, *({**good(part)[0], k: v} for k, p in part["properties"].items()
                                                       for v in bad(p)))  # fmt: skip
    else:
        yield from ([], [1], "abc", "", 3, 0.5, True, "{", '{"a"')


def bad_values(name: str) -> list[Any]:
    part, optional = schema(name)
    values = [*bad(part), *([] if optional else [None]), *MORE.get(name, [])]
    return list({repr(value): value for value in values}.values())


@pytest.mark.parametrize("name", VOCABULARY)
def test_every_bad_value_is_refused_and_the_ends_of_ranges_are_taken(name: str) -> None:
    values = bad_values(name)
    assert len(values) >= 7, values
    for value in values:
        with pytest.raises(InputError) as e:
            coerce(name, value)
        assert str(e.value).startswith(f"parameter {name!r} is {value!r}: ")
        assert "\n" not in str(e.value).removeprefix(f"parameter {name!r} is {value!r}: ")
    if name not in ("device", "run_name"):  # of which the schema knows nothing
        for value in good(schema(name)[0]):
            coerce(name, value)
    if schema(name)[1]:
        assert coerce(name, None) is coerce(name, "None") is None


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_every_notebook_refuses_every_bad_value(notebook: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(notebook) == defaults(notebook)
    for name in defaults(notebook):
        for value in bad_values(name):
            with pytest.raises(InputError) as e:
                run(notebook, **{name: value})
            assert str(e.value).startswith(f"parameter {name!r} is {value!r}: ")
    assert not list(tmp_path.iterdir())


def test_so_many_bad_values_are_tried() -> None:
    count = {notebook: sum(len(bad_values(n)) for n in defaults(notebook)) for notebook in NOTEBOOKS}
    assert {name for notebook in NOTEBOOKS for name in defaults(notebook)} == set(VOCABULARY)
    assert sum(count.values()) > 3000, count


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_two_letters_swapped_name_the_parameter_that_was_meant(notebook: str) -> None:
    names = defaults(notebook)
    for name in names:
        for i in range(len(name) - 1):
            slip = name[:i] + name[i + 1] + name[i] + name[i + 2 :]
            if slip not in names:
                with pytest.raises(InputError) as e:
                    run(notebook, **{slip: 1})
                assert str(e.value) == f"unknown parameter {slip!r}; did you mean {name!r}?"


def test_ends_of_ranges_come_from_the_schema() -> None:
    assert edges(schema("epochs")[0]) == ([0, 10_000], [-1, 10_001])
    assert edges(schema("seed")[0]) == ([0, 2**31 - 1], [-1, 2**31, 2**31 + 1])
    assert edges(schema("miscoverage")[0])[1] == [0, -1, 1, 2]
    assert bad_values("image_size")[5:7] == [7, 4097]


DENSE = ("detect", "segment")
CONFLICTS: list[tuple[str, dict[str, Any], str]] = [
    # what contradicts itself
    ("finetune", {"recipe": "full", "epochs": 0}, "trains nothing"),
    ("finetune", {"recipe": "probe", "head_epochs": 0}, "trains nothing"),
    ("finetune", {"recipe": "full", "head_epochs": 2}, "head_epochs=2 would change nothing: recipe 'full'"),
    ("finetune", {"recipe": "probe", "lr": 0.1}, "lr would change nothing"),
    ("text", {"epochs": 0, "batch_size": 8}, "batch_size would change nothing"),
    ("finetune", {"overrides": {"emma": 0.9}}, "overrides has 'emma'; did you mean 'ema'"),
    ("finetune", {"overrides": {"ema": 2}}, "ema is 2; it must be a number from 0 to"),
    ("finetune", {"overrides": {"ema": math.nan}}, "ema is nan; it must be a number"),
    ("finetune", {"overrides": {"epochs": 1.5}}, "epochs is 1.5; it must be a whole number"),
    ("finetune", {"overrides": {"lora": 0}}, "lora is 0; it must be a whole number"),
    ("finetune", {"overrides": {"trainable": []}}, "trains nothing"),
    ("finetune", {"overrides": {"optimizer": "lbfgs"}}, "lbfgs fits the head alone"),
    ("finetune", {"overrides": {"schedule": "cosin"}}, "schedule is 'cosin'; it must be one of"),
    ("finetune", {"overrides": {"lr": 0.1}, "lr": 0.2}, "lr is 0.2, and overrides has lr 0.1; give one"),
    ("text", {"overrides": {"batch_size": 4}, "batch_size": 8}, "batch_size is 8, and overrides has batch_size 4"),
    ("segment", {"overrides": {"augment": ["flip"]}, "augment": ["zoom"]}, "augment is ['zoom'], and overrides"),
    ("finetune", {"overrides": {"epochs": 2}, "epochs": 3}, "epochs is 3, and overrides has epochs 2"),
    ("finetune", {"accumulate": 9, "batch_size": 8}, "accumulate is 9, and batch_size 8"),
    ("finetune", {"augment": ["zoom"]}, "augment has 'zoom', and image classification takes crop, resized-crop, flip"),
    ("detect", {"augment": ["crop"]}, "augment has 'crop', and detection takes flip, upside-down, zoom, colour"),
    ("segment", {"overrides": {"augment": ["mixup"]}}, "augment has 'mixup', and segmentation takes"),
    ("text", {"overrides": {"augment": ["flip"]}}, "augment has 'flip', and text classification takes none"),
    ("pretrain", {"batch_size": 1}, "batch_size is 1, and simclr looks for"),
    ("compare", {"checkpoints": None}, "nothing to compare"),
    ("compare", {"metric": "acuracy"}, "metric is 'acuracy', and there is no such metric; did you mean 'accuracy'?"),
    ("compare", {"metric": "loss"}, "there is no such metric"),
    ("compare", {"groups": "patient"}, "groups is 'patient', a column, and only files have columns"),
    ("metrics", {"groups": "patient"}, "groups is 'patient'"),
    ("metrics", {"slice_by": "patient"}, "slice_by is 'patient'; without a file that has this column it is one of"),
    ("generalize", {"slice_by": "camera"}, "slice_by is 'camera'; without a file"),
    ("generalize", {"slice_by": "length"}, "slice_by is 'length'; without a file"),
    ("generalize", {"metadata": "nowhere.csv"}, "metadata is 'nowhere.csv', and there is no such file"),
    ("generalize", {"baseline": "full", "ways": ["probe", "lp-ft"]}, "baseline is 'full'; it must be one of probe, lp"),
    ("generalize", {"baseline": "run"}, "baseline is 'run'; it must be one of"),
    ("generalize", {"baseline": "soup", "run": "mine"}, "baseline is 'soup'; it must be one of run, probe, wise-ft"),
    ("generalize", {"baseline": "alexnet"}, "baseline is 'alexnet', whose errors are of images, at severities 1 to 5"),
    ("generalize", {"baseline": "alexnet", "severities": [1, 2, 3, 4, 5], "corruptions": ["spatter"]}, "'alexnet'"),
    ("generalize", {"corruptions": ["random_case"]}, "corruptions has 'random_case'; there are gaussian_noise"),
    ("generalize", {"kind": "text_classification", "corruptions": ["fog"]}, "corruptions has 'fog'; there are swapped"),
    ("text", {"corruptions": ["fog"]}, "corruptions has 'fog'; there are swapped_letters"),
    ("generalize", {"epochs": 0}, "recipe 'full' with epochs=0 and head_epochs=None trains nothing"),
    ("select", {"epochs": 0}, "recipe 'scratch' with epochs=0"),
    ("select", {"checkpoints": ["efficientnet_lite0", "efficientnet_lite1"]}, "checkpoints has 2 names, and a ranking"),
    # what would change nothing
    *[("generalize", {"run": "mine", name: value}, f"{name}={value!r} would change nothing: data and models are those")
      for name, value in {"dataset": "digits", "kind": "text_classification", "checkpoint": "efficientnet_lite1",
                          "ways": ["full"], "epochs": 2, "image_size": 64, "n_train": 90, "n_test": 90}.items()],
    ("metrics", {"run": "mine", "dataset": "digits"}, "dataset='digits' would change nothing"),
    ("metrics", {"run": "mine", "checkpoint": "efficientnet_lite1"}, "checkpoint='efficientnet_lite1' would change"),
    ("metrics", {"run": "mine", "n_train": 90}, "n_train=90 would change nothing"),
    *[("compare", {"runs": ["a", "b"], name: value}, f"{name}={value!r} would change nothing")
      for name, value in {"dataset": "digits", "checkpoints": ["efficientnet_lite0", "efficientnet_lite1"],
                          "n_train": 90, "image_size": 64, "seeds": 2}.items()],
    *[(notebook, {"pretrain_on": None, name: 2}, f"{name}=2 would change nothing: pretrain_on is None")
      for notebook in DENSE for name in ("pretrain_epochs", "n_source")],
    *[(notebook, {"recipe": "probe", "epochs": 2}, "epochs=2 would change nothing") for notebook in DENSE],
    ("detect", {"recipe": "probe", "pretrain_epochs": 2}, "pretrain_epochs=2 would change nothing"),
    ("finetune", {"recipe": "probe", "epochs": 9, "control": False}, "epochs=9 would change nothing: recipe 'probe'"),
    ("text", {"recipe": "probe", "epochs": 9, "control": False}, "epochs=9 would change nothing: recipe 'probe'"),
    ("pretrain", {"methods": ["supervised"], "temperature": 0.1}, "temperature=0.1 would change nothing: simclr"),
    ("generalize", {"ways": ["probe"], "epochs": 2}, "epochs=2 would change nothing: ways is ['probe']"),
    ("generalize", {"kind": "text_classification", "maps": 3}, "maps=3 would change nothing: texts have no maps"),
    ("select", {"max_length": 32}, "max_length=32 would change nothing: kind is 'image_classification'"),
    ("select", {"columns": ["a", "b"]}, "columns=['a', 'b'] would change nothing"),
    ("select", {"kind": "text_classification", "image_size": 64}, "image_size=64 would change nothing: of texts"),
    ("select", {"architecture": "timm/resnet50"}, "architecture='timm/resnet50' would change nothing: only a weight"),
    ("finetune", {"architecture": "timm/resnet50", "checkpoint": "random/cifar_resnet8"}, "only a weight file"),
    ("segment", {"class_names": ["a", "b"]}, "class_names=['a', 'b'] would change nothing"),
]  # fmt: skip


@pytest.mark.parametrize(("notebook", "asked", "says"), CONFLICTS, ids=lambda v: v if isinstance(v, str) else "")
def test_parameters_that_do_not_go_together_are_refused(notebook: str, asked: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError) as e:
        run(notebook, **asked)
    assert says in str(e.value)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("notebook", "asked"),
    [
        ("finetune", {"recipe": "probe", "epochs": 9}),  # the control is trained for so long
        ("finetune", {"recipe": "probe", "epochs": 4, "control": False}),  # the default
        ("finetune", {"checkpoint": "random/resnet18", "recipe": "probe"}),
        ("finetune", {"epochs": 0}), ("finetune", {"overrides": {"lora": 4}, "recipe": "full"}),
        ("finetune", {"overrides": {"lr": 0.1}}), ("finetune", {"overrides": {"epochs": 2}}),
        ("finetune", {"architecture": "timm/resnet50", "checkpoint": "mine.pth"}),
        ("finetune", {"accumulate": 8, "batch_size": 8}), ("finetune", {"augment": []}),
        ("text", {"overrides": {"augment": []}}), ("text", {"recipe": "lora", "overrides": {"lora": 4096}}),
        ("detect", {"pretrain_on": None, "n_train": None}), ("detect", {"augment": ["flip", "zoom", "colour"]}),
        ("segment", {"dataset": "mine", "class_names": ["a", "b"]}),
        ("segment", {"pretrain_on": "scenes-plain", "pretrain_epochs": 2, "n_source": 9}),
        ("pretrain", {"batch_size": 1, "methods": ["supervised"]}), ("pretrain", {"epochs": 0}),
        ("pretrain", {"temperature": 0.1}), ("pretrain", {"architecture": "timm/resnet50"}),
        *[("compare", {"metric": metric}) for metric in (*METRICS, "recall:sky", "micro_f1", "top_3_accuracy")],
        ("compare", {"metric": "ap50", "groups": "patient", "runs": ["a", "b"]}),
        ("metrics", {"run": "mine", "slice_by": "age", "groups": "patient", "data_dir": "data"}),
        ("metrics", {"slice_by": "confidence"}), ("generalize", {"slice_by": "predicted"}),
        ("generalize", {"kind": "text_classification", "slice_by": "length"}),
        ("generalize", {"run": "mine", "slice_by": "length", "data_dir": "data"}),
        ("generalize", {"run": "mine", "baseline": "wise-ft", "corruptions": ["fog"], "severities": [1, 2]}),
        ("generalize", {"baseline": "alexnet", "severities": [1, 2, 3, 4, 5]}),
        ("generalize", {"epochs": 0, "ways": ["probe", "lp-ft"]}), ("generalize", {"corruptions": ["spatter", "fog"]}),
        ("select", {"validate": False, "epochs": 9, "recipe": "full", "seeds": 3}),
        ("select", {"validate": False, "checkpoints": ["a.pth", "timm/vit_tiny"], "architecture": "timm/resnet50"}),
        ("select", {"kind": "text_classification", "columns": ["a", "b"], "max_length": 32}),
    ],
)  # fmt: skip
def test_what_means_something_is_taken(notebook: str, asked: dict[str, Any]) -> None:
    assert run(notebook, **asked) == {**defaults(notebook), **asked}


@pytest.mark.parametrize("path", sorted((ROOT / "params").glob("*/*.yaml")), ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_files_of_parameters_hold_no_conflict(path: Path) -> None:
    asked = yaml.safe_load(path.read_text())
    for each in plan(path)[1] if "sweep" in asked else [asked]:
        assert run(path.parent.name, **each)


def test_without_a_cell_put_in_nothing_counts_as_asked() -> None:
    edited = {**defaults("finetune"), "recipe": "probe", "epochs": 9, "control": False}
    assert check({"In": ["", cell("finetune")], **edited}) == edited
    assert check({"In": [""], "__annotations__": dict.fromkeys(edited), **edited}) == edited


def test_names_kept_here_are_those_of_what_computes_them() -> None:
    from ptlib import corruptions, shift
    from ptlib.data import augment, places
    from ptlib.measures import classes
    from ptlib.selection import scoring
    from ptlib.stages import AUGMENTATIONS

    assert classes.ALL == METRICS
    assert SCORES == scoring.SCORES
    assert {*OF_ALEXNET} == {*shift.ALEXNET}
    assert (*corruptions.COMMON, *corruptions.EXTRA) == OF_IMAGES
    assert set(OF_IMAGES) == set(corruptions.STRENGTHS)
    assert corruptions.TEXT_COMMON == OF_TEXTS
    assert {*places.PLACES, "colour"} == {*MOVED}
    assert {*AUGMENTATIONS} - {*augment.IMAGE_WISE, "mixup", "cutmix"} == {*MOVED[1:3]}
    for name in ("recall:a b", "f2:x", "micro_f0.5", "binary_auroc", "average_precision:c", "macro_precision", "f1"):
        assert METRIC.fullmatch(name)
        assert classes.FORM.fullmatch(name)


def test_a_failed_shell_line_and_a_lost_tag_are_noticed() -> None:
    namespace = {"In": ["", cell("metrics")], **defaults("metrics"), "_exit_code": 1}
    with pytest.raises(InputError, match="a shell line before this cell failed with exit code 1"):
        check(namespace)
    assert check(namespace) == defaults("metrics")  # run again, it is meant
    assert check({**namespace, "_exit_code": 0})
    sources = ["", "# Parameters\nseed = 1\n", cell("metrics")]
    with pytest.raises(InputError, match="put in before the cell that declares them; tag that cell `parameters`"):
        check({"In": sources, **defaults("metrics")})


BAD = {
    "compare": (
        ("-p", "metric", "acuracy"),
        "metric is 'acuracy', and there is no such metric; did you mean 'accuracy'?",
    ),
    "detect": (("-p", "pretrain_epochs", "0"), "parameter 'pretrain_epochs' is 0: it should be greater than or equal"),
    "finetune": (
        ("-p", "recipe", "full", "-p", "epochs", "0"),
        "recipe 'full' with epochs=0 and head_epochs=None trains",
    ),
    "generalize": (("-p", "miscoverage", "nan"), "parameter 'miscoverage' is nan: it should be a finite number"),
    "metrics": (("-p", "smaples", "100"), "unknown parameter 'smaples'"),
    "pretrain": (("-p", "methods", '["simclrr"]'), "did you mean 'simclr'?"),
    "segment": (
        ("-p", "image_size", "4097"),
        "parameter 'image_size' is 4097: it should be less than or equal to 4096",
    ),
    "select": (("-p", "validate", "perhaps"), "parameter 'validate' is 'perhaps': it should be True or False"),
    "text": (("-p", "corruptions", '["fog"]'), "corruptions has 'fog'; there are swapped_letters"),
}


def papermill(notebook: Path, folder: Path, *arguments: str) -> tuple[subprocess.CompletedProcess[str], float]:
    """Run in an empty folder, with nothing kept anywhere else."""
    places = {"PTLIB_OUTPUTS": str(folder / "outputs"), "PTLIB_CACHE": str(folder / "cache")}
    command = [sys.executable, "-m", "papermill", "--no-progress-bar", str(notebook), "out.ipynb", *arguments]
    start = time.perf_counter()
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **places}, capture_output=True, text=True, check=False
    )
    return done, time.perf_counter() - start


def written(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.usefixtures("with_nbval")
@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_a_bad_parameter_stops_a_notebook_before_anything_is_written(notebook: str, tmp_path: Path) -> None:
    arguments, says = BAD[notebook]
    done, seconds = papermill(ROOT / "notebooks" / f"{notebook}.ipynb", tmp_path, *arguments)
    print(f"{notebook}: {seconds:.1f} s")
    assert done.returncode != 0
    (sentence,) = {
        line for line in done.stderr.splitlines() if line.startswith(("InputError: ", "ptlib.errors.InputError"))
    }
    assert says in sentence
    assert "Traceback" not in done.stderr[done.stderr.index("Exception encountered") :].split("InputError")[1]
    assert written(tmp_path) == ["out.ipynb"]
    assert seconds < 30  # of which an idle machine needs a third at most


TAMPERED = ("exit", "shell", "tag")  # each of three notebooks; in its long form each of all


@pytest.mark.usefixtures("with_nbval")
@pytest.mark.parametrize(
    "notebook, what",
    [(name, what) for i, name in enumerate(NOTEBOOKS) for k, what in enumerate(TAMPERED) if LONG or i % 3 == k],
)
def test_a_notebook_that_was_tampered_with_does_not_say_that_it_is_complete(
    notebook: str, what: str, tmp_path: Path
) -> None:
    found = nbformat.read(ROOT / "notebooks" / f"{notebook}.ipynb", as_version=4)  # type: ignore[no-untyped-call]
    (place,) = (i for i, c in enumerate(found.cells) if "parameters" in c.metadata.get("tags", []))
    if what == "tag":
        found.cells[place].metadata.tags = []
    else:
        line = "import sys; sys.exit(0)" if what == "exit" else "!false"
        found.cells.insert(place + 1, nbformat.v4.new_code_cell(line))  # type: ignore[no-untyped-call]
    nbformat.write(found, tmp_path / "changed.ipynb")  # type: ignore[no-untyped-call]
    done, _ = papermill(tmp_path / "changed.ipynb", tmp_path, *(("-p", "seed", "1") if what == "tag" else ()))
    out = json.loads((tmp_path / "out.ipynb").read_text())
    said = [str(output) for c in out["cells"] for output in c.get("outputs", []) if c["cell_type"] == "code"]
    assert not any("The run is complete" in text or "saved in" in text for text in said)
    assert written(tmp_path) == ["changed.ipynb", "out.ipynb"]
    assert what == "exit" or done.returncode != 0
