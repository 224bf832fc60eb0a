"""A notebook's parameters: one vocabulary of names, types and ranges, and one clear error.

Papermill only warns of an unknown parameter and hands on any type; so the cell after the parameters calls `check`.
Nothing heavy is imported here: a typing error must not wait for torch.
"""

from __future__ import annotations

import ast
import difflib
import json
import re
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from ptlib.conflicts import OF_IMAGES, OF_TEXTS, SCORES, refuse_conflicts
from ptlib.errors import InputError, did_you_mean
from ptlib.stages import AUGMENTATIONS

CHECKPOINTS = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")
TEXT_CHECKPOINTS = ("all-MiniLM-L6-v2",)
KNOWN = {  # what people ask for by its bare name
    name: f"torchvision/{name}"
    for name in ("resnet18", "resnet34", "resnet50", "resnet101", "vit_b_16", "convnext_tiny", "efficientnet_b0",
                 "mobilenet_v3_small", "mobilenet_v3_large", "densenet121", "swin_t", "vgg16")
}  # fmt: skip
KNOWN |= {name: f"hf/{name}" for name in ("bert-base-uncased", "distilbert-base-uncased", "roberta-base", "gpt2")}


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError(f"it should be a number, not {value}")
    return value


def _none_from_text(value: Any) -> Any:
    return None if value in ("None", "none", "null") else value


def _optional(kind: Any) -> Any:
    return Annotated[kind | None, BeforeValidator(_none_from_text)]


def _from_json(value: Any) -> Any:
    if isinstance(value, str) and value.lstrip().startswith(("[", "{")):
        try:
            return json.loads(value)
        except ValueError:
            raise ValueError('it should be JSON, such as ["a", "b"] or {"a": 1}') from None
    return value


def _list_of(kind: Any, least: int = 0, most: int | None = None) -> Any:
    once = AfterValidator(_once)
    return Annotated[list[kind], Field(min_length=least, max_length=most), BeforeValidator(_from_json), once]


def _once(value: list[Any]) -> list[Any]:
    twice = next((one for i, one in enumerate(value) if one in value[:i]), None)
    if twice is not None:
        raise ValueError(f"it should name {twice!r} once")
    return value


def _overrides(value: dict[str, Any]) -> dict[str, Any]:
    for name in (name for name in ("trainable", "augment") if name in value):
        if not isinstance(value[name], list | tuple) or not all(isinstance(one, str) for one in value[name]):
            raise ValueError(f"{name} should be a list of names, not {value[name]!r}")
    return value


def _like(pattern: str, says: str) -> AfterValidator:
    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(f"it should be {says}")
        return value

    return AfterValidator(check)


def _text(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value  # a folder called 2024


def _checkpoint(value: str) -> str:
    """A name of the right form; whether timm or torchvision know it is for them to say, which takes seconds."""
    if value.partition("@")[0] in (*CHECKPOINTS, *TEXT_CHECKPOINTS) or "/" in value or Path(value).suffix:
        return value
    if len(value.encode()) < 256 and Path(value).exists():
        return value
    near = difflib.get_close_matches(value, [*CHECKPOINTS, *TEXT_CHECKPOINTS, *KNOWN], n=1)
    hint = f"; did you mean {KNOWN.get(near[0], near[0])!r}?" if near else ""
    raise ValueError(
        f"there is no such checkpoint{hint or ';'} it should be one of {', '.join(CHECKPOINTS)}, timm/<model>, "
        f"torchvision/<model>, of text {', '.join(TEXT_CHECKPOINTS)} and hf/<model>, random/<architecture>, or a "
        "weight file"
    )


def _ascending(value: list[int]) -> list[int]:
    if sorted(set(value)) != value:
        raise ValueError("it should rise from one to the next")
    return value


_Number = Annotated[float, BeforeValidator(_no_bool), Field(allow_inf_nan=False)]
_Count = Annotated[int, BeforeValidator(_no_bool), Field(ge=1, le=10**9)]
_Size = Annotated[_Count, Field(ge=2)]
_Rate = Annotated[_Number, Field(gt=0, le=100)]
_Epochs = Annotated[int, BeforeValidator(_no_bool), Field(ge=0, le=10_000)]
_Text = Annotated[str, BeforeValidator(_text), Field(min_length=1)]


PLAIN = {  # for pydantic's words
    "a valid string": "a text", "a valid integer": "a whole number", "a valid number": "a number", "Field": "field",
    "a valid boolean": "True or False", "a valid list": 'a list, such as ["a", "b"]',
    "a valid dictionary": 'a dict, such as {"a": 1}', ", unable to parse string as an integer": "",
    ", unable to parse string as a number": "", ", unable to interpret input": "",
}  # fmt: skip


class _Target(BaseModel):
    """A further data set of select.ipynb."""

    model_config = ConfigDict(extra="forbid")
    dataset: _Text
    n_train: _Size | None = None
    n_val: _Size | None = None
    n_test: _Size | None = None


def _plain_targets(value: list[_Target]) -> list[dict[str, Any]]:
    return [target.model_dump() for target in value]


# One name means one thing in every notebook.
VOCABULARY: dict[str, Any] = {
    "dataset": _Text,
    "kind": Literal["image_classification", "text_classification"],
    "data_dir": _optional(_Text),
    "checkpoint": Annotated[_Text, AfterValidator(_checkpoint)],
    "architecture": _optional(_Text),
    "recipe": Literal["probe", "lp-ft", "gradual", "full", "lora", "naive", "scratch"],
    "epochs": _Epochs,
    "keep": Literal["best", "last"],
    "source": _Text,
    "target": _Text,
    "unrelated": _optional(_Text),
    "methods": _list_of(Literal["supervised", "simclr", "rotation", "shuffled"], 1),
    "n_source": _optional(_Size),
    "n_target": _optional(_Size),
    "labels": Annotated[_list_of(_Count, 2), AfterValidator(_ascending)],
    "pretrain_on": _optional(_Text),
    "class_names": _optional(_list_of(_Text, 2)),
    "columns": _optional(_list_of(_Text, 2, 2)),
    "max_length": _optional(Annotated[int, BeforeValidator(_no_bool), Field(ge=4, le=2**20)]),
    "pooling": _optional(Literal["mean", "cls", "last"]),
    "pretrain_epochs": Annotated[_Epochs, Field(ge=1)],
    "pretrain_lr": _Rate,
    "tune_lr": _Rate,
    "scratch_lr": _Rate,
    "temperature": _Rate,
    "growth": bool,
    "head_epochs": _optional(_Epochs),
    "lr": _optional(_Rate),
    "batch_size": _optional(Annotated[_Count, Field(le=2**20)]),
    "accumulate": Annotated[_Count, Field(le=4096)] | Literal["auto"],
    "devices": Annotated[_Count, Field(le=1024)],
    "shard": bool,
    "restarts": Annotated[int, BeforeValidator(_no_bool), Field(ge=0, le=100)],
    "image_size": _optional(Annotated[int, BeforeValidator(_no_bool), Field(ge=8, le=4096)]),
    "n_train": _optional(_Size),
    "n_val": _optional(_Size),
    "n_test": _optional(_Size),
    "augment": _optional(_list_of(Literal[AUGMENTATIONS])),
    "flips": _list_of(Literal["flip", "upside-down"]),
    "run": _optional(_Text),
    "runs": _optional(_list_of(_Text, 2)),
    "checkpoints": _optional(_list_of(Annotated[_Text, AfterValidator(_checkpoint)], 2)),
    "more_targets": Annotated[_list_of(_Target), AfterValidator(_plain_targets)],
    "seen": _list_of(_Text),
    "scores": _optional(_list_of(Literal[SCORES], 1)),
    "budget": _optional(Annotated[_Number, Field(gt=0, le=10**7)]),
    "validate": bool,
    "seeds": Annotated[_Count, Field(le=1000)],
    "ways": _list_of(Literal["probe", "full", "lp-ft", "wise-ft", "soup"], 1),
    "baseline": _optional(Literal["probe", "full", "lp-ft", "wise-ft", "soup", "run", "alexnet"]),
    "corruptions": _optional(_list_of(Literal[(*OF_IMAGES, *OF_TEXTS)], 1)),
    "severities": Annotated[_list_of(Annotated[_Count, Field(le=5)], 1), AfterValidator(_ascending)],
    "n_corrupted": _optional(_Count),
    "corrupted_dir": _optional(_Text),
    "second": _optional(_list_of(_Text, 1)),
    "unknown": _optional(_list_of(_Text, 1)),
    "outlier_score": Literal["maximum softmax", "maximum logit", "energy", "Mahalanobis", "k nearest", "ViM", "ReAct"],
    "miscoverage": Annotated[_Number, Field(gt=0, lt=1)],
    "metadata": _optional(_Text),
    "maps": Annotated[_Count, Field(le=24)],
    "metric": _Text,
    "positive": _optional(_Text),
    "miss_cost": Annotated[_Number, Field(gt=0)],
    "alarm_cost": Annotated[_Number, Field(gt=0)],
    "slice_by": _Text,
    "groups": _optional(_Text),
    "resamples": Annotated[_Count, Field(ge=100, le=10**6)],
    "overrides": Annotated[dict[str, Any], BeforeValidator(_from_json), AfterValidator(_overrides)],
    "control": bool,
    "seed": Annotated[int, BeforeValidator(_no_bool), Field(ge=0, lt=2**31)],
    "device": Annotated[_Text, _like(r"auto|(cpu|cuda|mps)(:\d{1,3})?", "auto, cpu, cuda, cuda:0 or mps")],
    "precision": Literal["auto", "fp32", "bf16"],
    "compile": bool,
    "run_name": _optional(Annotated[str, BeforeValidator(_text), _like(
        "[A-Za-z0-9][A-Za-z0-9._-]{0,99}",
        "a name of up to 100 letters, digits, '.', '_' and '-', the first a letter or a digit")]),
}  # fmt: skip


def check(namespace: dict[str, Any]) -> dict[str, Any]:
    """Check a notebook's parameters, put the coerced values back into `namespace`, return them in their order.

    Call it as `check(globals())` in the cell after the one tagged `parameters`. Which names exist is read from that
    cell itself (annotated literals); which were asked for, from the cell papermill puts in.

    Raises `InputError` naming the parameter, its value and what is allowed, or two parameters that don't go together.
    """
    if code := namespace.pop("_exit_code", 0):  # IPython's, of the last line with !
        raise InputError(f"a shell line before this cell failed with exit code {code}; mend it, or run this cell again")
    declared, asked = _cells(namespace.get("In", []))
    if not declared:  # a runner that keeps no history of cells, such as nbval; the annotations are kept by Python
        declared = {name: None for name in namespace.get("__annotations__", {}) if name in VOCABULARY}
    for name in asked:
        if name not in declared and not name.startswith("PAPERMILL_"):
            near = next((other for other in declared if sorted(other) == sorted(name)), None)
            hint = f"; did you mean {near!r}?" if near else did_you_mean(name, declared)
            raise InputError(f"unknown parameter {name!r}{hint or '; this notebook takes ' + ', '.join(declared)}")
    if not declared:
        raise InputError("no parameters are set; run the cell tagged parameters first")
    values = {}
    for name in declared:
        if name not in VOCABULARY:
            raise InputError(f"parameter {name!r} is not in ptlib's vocabulary; add it to ptlib/params.py")
        values[name] = coerce(name, namespace[name])
    refuse_conflicts(values, [name for name in asked if name in values and repr(values[name]) != declared[name]])
    namespace.update(values)
    return values


def coerce(name: str, value: Any) -> Any:
    """`value` as the type that `name` has in the vocabulary, or an `InputError`."""
    try:
        return _adapter(name).validate_python(value)
    except ValidationError as e:
        first, *others = e.errors()
        problem = first["msg"].removeprefix("Value error, ").replace("Input should", "it should")
        for odd, plain in PLAIN.items():
            problem = problem.replace(odd, plain)
        problem += "".join(f", or {other['ctx']['expected']}" for other in others if other["type"] == "literal_error")
        inside = [str(part) for part in first["loc"] if isinstance(part, int) or part in _Target.model_fields]
        problem = f"at {'.'.join(inside)}, {problem}" if inside else problem
        given, known = first["input"], first.get("ctx", {}).get("expected", "").replace(" or ", ", ").replace("'", "")
        hint = did_you_mean(given, known.split(", ")) if known and isinstance(given, str) else ""
        raise InputError(f"parameter {name!r} is {value!r}: {problem}{hint}") from None


def _cells(sources: list[str]) -> tuple[dict[str, str | None], list[str]]:
    """Names declared in the parameters cell with the source of their defaults, and names in the cells papermill put in.

    The parameters cell is the one of assignments alone, at least one of them annotated, that has the most names of
    the vocabulary: edited lines may have lost their annotation, and a reader may have cells of their own.
    """
    declared: dict[str, str | None] = {}
    asked: dict[str, None] = {}
    for source in sources:
        try:
            body = ast.parse(source).body
        except SyntaxError:  # a cell with a magic is no parameters cell
            continue
        names = [ast.unparse(t) for n in body if isinstance(n, ast.Assign) for t in n.targets]
        names += [ast.unparse(n.target) for n in body if isinstance(n, ast.AnnAssign)]
        if not body or len(names) < len(body):
            continue
        if any(isinstance(n, ast.AnnAssign) for n in body):
            if sum(n in VOCABULARY for n in names) >= max(1, sum(n in VOCABULARY for n in declared)):
                declared = {ast.unparse(n.target if isinstance(n, ast.AnnAssign) else n.targets[0]):
                            ast.unparse(n.value) if n.value else None
                            for n in body if isinstance(n, ast.AnnAssign | ast.Assign)}  # fmt: skip
        elif source.lstrip().startswith("# Parameters"):
            if not declared:
                raise InputError(
                    "parameters were put in before the cell that declares them; tag that cell `parameters`"
                )
            asked.update(dict.fromkeys(names))
    return declared, list(asked)


@cache
def _adapter(name: str) -> TypeAdapter[Any]:
    return TypeAdapter(VOCABULARY[name])
