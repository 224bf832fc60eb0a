"""A notebook's parameters: one vocabulary of names, types and ranges, and one clear error.

Papermill only warns of an unknown parameter and hands on any type; so the cell after the parameters calls `check`.
Nothing heavy is imported here: a typing error must not wait for torch.
"""

from __future__ import annotations

import ast
import difflib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from ptlib.errors import InputError, did_you_mean

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
        return json.loads(value)
    return value


def _text(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value  # a folder called 2024


def _checkpoint(value: str) -> str:
    """A name of the right form; whether timm or torchvision know it is for them to say, which takes seconds."""
    if (
        value.partition("@")[0] in (*CHECKPOINTS, *TEXT_CHECKPOINTS)
        or "/" in value
        or Path(value).suffix
        or Path(value).exists()
    ):
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
_Epochs = Annotated[int, BeforeValidator(_no_bool), Field(ge=0, le=10_000)]
_Text = Annotated[str, BeforeValidator(_text), Field(min_length=1)]


class _Target(BaseModel):
    """A further data set of select.ipynb."""

    model_config = ConfigDict(extra="forbid")
    dataset: _Text
    n_train: _Count | None = None
    n_val: _Count | None = None
    n_test: _Count | None = None


def _plain_targets(value: list[_Target]) -> list[dict[str, Any]]:
    return [target.model_dump() for target in value]


# One name means one thing in every notebook.
VOCABULARY: dict[str, Any] = {
    "dataset": _Text,
    "kind": Literal["image_classification", "text_classification", "detection", "segmentation"],
    "data_dir": _optional(_Text),
    "checkpoint": Annotated[_Text, AfterValidator(_checkpoint)],
    "architecture": _optional(_Text),
    "recipe": Literal["probe", "lp-ft", "gradual", "full", "lora", "naive", "scratch"],
    "epochs": _Epochs,
    "keep": Literal["best", "last"],
    "source": _Text,
    "target": _Text,
    "unrelated": _optional(_Text),
    "methods": Annotated[
        list[Literal["supervised", "simclr", "rotation", "shuffled"]], Field(min_length=1), BeforeValidator(_from_json)
    ],
    "n_source": _optional(_Count),
    "n_target": _optional(_Count),
    "labels": Annotated[list[_Count], Field(min_length=2), BeforeValidator(_from_json), AfterValidator(_ascending)],
    "pretrain_on": _optional(_Text),
    "class_names": _optional(Annotated[list[_Text], Field(min_length=2), BeforeValidator(_from_json)]),
    "columns": _optional(Annotated[list[_Text], Field(min_length=2, max_length=2), BeforeValidator(_from_json)]),
    "max_length": _optional(Annotated[int, BeforeValidator(_no_bool), Field(ge=4, le=2**20)]),
    "pooling": _optional(Literal["mean", "cls", "last"]),
    "pretrain_epochs": Annotated[_Epochs, Field(ge=1)],
    "pretrain_lr": Annotated[_Number, Field(gt=0, le=100)],
    "tune_lr": Annotated[_Number, Field(gt=0, le=100)],
    "scratch_lr": Annotated[_Number, Field(gt=0, le=100)],
    "temperature": Annotated[_Number, Field(gt=0, le=100)],
    "growth": bool,
    "head_epochs": _optional(_Epochs),
    "lr": _optional(Annotated[_Number, Field(gt=0, le=100)]),
    "batch_size": _optional(Annotated[_Count, Field(le=2**20)]),
    "accumulate": Annotated[_Count, Field(le=4096)],
    "image_size": _optional(Annotated[int, BeforeValidator(_no_bool), Field(ge=8, le=4096)]),
    "n_train": _optional(_Count),
    "n_val": _optional(_Count),
    "n_test": _optional(_Count),
    "augment": _optional(Annotated[list[str], BeforeValidator(_from_json)]),
    "run": _optional(_Text),
    "runs": _optional(Annotated[list[_Text], Field(min_length=2), BeforeValidator(_from_json)]),
    "checkpoints": _optional(
        Annotated[list[Annotated[_Text, AfterValidator(_checkpoint)]], Field(min_length=2), BeforeValidator(_from_json)]
    ),
    "more_targets": Annotated[list[_Target], BeforeValidator(_from_json), AfterValidator(_plain_targets)],
    "seen": Annotated[list[_Text], BeforeValidator(_from_json)],
    "scores": _optional(Annotated[list[_Text], Field(min_length=1), BeforeValidator(_from_json)]),
    "budget": _optional(Annotated[_Number, Field(gt=0, le=10**7)]),
    "validate": bool,
    "seeds": Annotated[_Count, Field(le=1000)],
    "ways": Annotated[
        list[Literal["probe", "full", "lp-ft", "wise-ft", "soup"]], Field(min_length=1), BeforeValidator(_from_json)
    ],
    "baseline": _optional(Literal["probe", "full", "lp-ft", "wise-ft", "soup", "run", "alexnet"]),
    "corruptions": _optional(Annotated[list[_Text], Field(min_length=1), BeforeValidator(_from_json)]),
    "severities": Annotated[
        list[Annotated[_Count, Field(le=5)]],
        Field(min_length=1),
        BeforeValidator(_from_json),
        AfterValidator(_ascending),
    ],
    "n_corrupted": _optional(_Count),
    "corrupted_dir": _optional(_Text),
    "second": _optional(Annotated[list[_Text], Field(min_length=1), BeforeValidator(_from_json)]),
    "unknown": _optional(Annotated[list[_Text], Field(min_length=1), BeforeValidator(_from_json)]),
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
    "overrides": Annotated[dict[str, Any], BeforeValidator(_from_json)],
    "control": bool,
    "seed": Annotated[int, BeforeValidator(_no_bool), Field(ge=0, lt=2**31)],
    "device": _Text,
    "precision": Literal["auto", "fp32", "bf16"],
    "compile": bool,
    "run_name": _optional(Annotated[str, BeforeValidator(_text), Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]),
}


def check(namespace: dict[str, Any]) -> dict[str, Any]:
    """Check a notebook's parameters, put the coerced values back into `namespace`, return them in their order.

    Call it as `check(globals())` in the cell after the one tagged `parameters`. Which names exist is read from that
    cell itself (annotated literals); which were asked for, from the cell papermill puts in.

    Raises `InputError` naming the parameter, its value and what is allowed.
    """
    declared, asked = _cells(namespace.get("In", []))
    if not declared:  # a runner that keeps no history of cells, such as nbval; the annotations are kept by Python
        declared = [name for name in namespace.get("__annotations__", {}) if name in VOCABULARY]
    for name in asked:
        if name not in declared and not name.startswith("PAPERMILL_"):
            hint = did_you_mean(name, declared) or f"; this notebook takes {', '.join(declared)}"
            raise InputError(f"unknown parameter {name!r}{hint}")
    if not declared:
        raise InputError("no parameters are set; run the cell tagged parameters first")
    values = {}
    for name in declared:
        if name not in VOCABULARY:
            raise InputError(f"parameter {name!r} is not in ptlib's vocabulary; add it to ptlib/params.py")
        values[name] = coerce(name, namespace[name])
    namespace.update(values)
    return values


def coerce(name: str, value: Any) -> Any:
    """`value` as the type that `name` has in the vocabulary, or an `InputError`."""
    try:
        return TypeAdapter(VOCABULARY[name]).validate_python(value)
    except ValidationError as e:
        first = e.errors()[0]
        problem = (
            first["msg"].removeprefix("Value error, ").replace("Input should", "it should").replace("Field", "field")
        )
        inside = [str(part) for part in first["loc"] if isinstance(part, int) or part in _Target.model_fields]
        problem = f"at {'.'.join(inside)}, {problem}" if inside else problem
        expected = first.get("ctx", {}).get("expected", "").replace(" or ", ", ").replace("'", "")
        hint = did_you_mean(value, expected.split(", ")) if isinstance(value, str) else ""
        raise InputError(f"parameter {name!r} is {value!r}: {problem}{hint}") from None


def _cells(sources: list[str]) -> tuple[list[str], list[str]]:
    """Names declared in the parameters cell, and names in the cells papermill put in.

    The parameters cell is the one of assignments alone, at least one of them annotated, that has the most names of
    the vocabulary: edited lines may have lost their annotation, and a reader may have cells of their own.
    """
    declared: list[str] = []
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
                declared = [ast.unparse(n.target if isinstance(n, ast.AnnAssign) else n.targets[0])
                            for n in body if isinstance(n, ast.AnnAssign | ast.Assign)]  # fmt: skip
        elif source.lstrip().startswith("# Parameters"):
            asked.update(dict.fromkeys(names))
    return declared, list(asked)
