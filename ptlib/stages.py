"""Recipes: lists of stages by name. They are data: print them, change them by `dataclasses.replace`, write your own."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from ptlib.core import Stage
from ptlib.errors import InputError, did_you_mean

RECIPES = ("probe", "lp-ft", "gradual", "full", "naive", "scratch")


def recipe(
    name: str,
    epochs: int = 4,
    head_epochs: int | None = None,
    lr: float | None = None,
    batch_size: int | None = None,
    augment: tuple[str, ...] | list[str] | None = None,
    overrides: dict[str, Any] | None = None,
) -> list[Stage]:
    """The stages of a recipe.

    - `probe`: the head alone, on features computed once.
    - `lp-ft`: the probe, then everything (Kumar et al. 2022, arXiv 2202.10054): layers learn the slower the deeper they
      lie, BatchNorm keeps the checkpoint's statistics. The default.
    - `gradual`: the probe, then the last block, the last two, and everything (Howard and Ruder 2018).
    - `full`: everything at once from a random head.
    - `naive`: what many tutorials do: a random head, everything at one constant rate, SGD at 0.01, BatchNorm learning
      new statistics (which are measured anew before each scoring, more than tutorials do).
    - `scratch`: everything, from random weights: the control.

    `epochs` counts epochs in which the backbone learns; `head_epochs` None fits the head to convergence, a number
    trains it for so many epochs. `lr`, `batch_size`, `augment` and `overrides` (any field of `Stage`) change the
    stages in which the backbone learns. With `epochs=0` only the head's stage is left, with `head_epochs=0` it goes.
    """
    if name not in RECIPES:
        raise InputError(f"unknown recipe {name!r}{did_you_mean(name, RECIPES) or ';'} there are {', '.join(RECIPES)}")
    if head_epochs is None:
        probe = Stage("head", ("head",), optimizer="lbfgs", augment=())
    else:
        probe = Stage("head", ("head",), epochs=head_epochs, lr=3e-3, batch_size=256, augment=())
    tuned = Stage("all", ("all",), epochs=epochs, lr=1e-3, batch_size=32, layer_decay=0.8)
    bodies = {
        "probe": [],
        "lp-ft": [tuned],
        "gradual": [
            replace(tuned, name=part, trainable=(part,), epochs=n)
            for part, n in zip(("last 1 block", "last 2 blocks", "all"), _thirds(epochs), strict=True)
        ],
        "full": [tuned],
        "naive": [replace(tuned, optimizer="sgd", lr=0.01, batch_size=64, layer_decay=1.0, schedule="constant",
                          warmup=0.0, weight_decay=0.0, batchnorm="train")],
        "scratch": [replace(tuned, layer_decay=1.0, lr=2e-3, batchnorm="train")],
    }  # fmt: skip
    changes = dict(overrides or {})
    changes |= {k: v for k, v in (("lr", lr), ("batch_size", batch_size), ("augment", augment)) if v is not None}
    known = [f.name for f in fields(Stage)]
    for key in changes:
        if key not in known:
            raise InputError(f"overrides has {key!r}{did_you_mean(key, known) or ';'} a stage has {', '.join(known)}")
    try:
        body = [replace(stage, **changes) for stage in bodies[name] if stage.epochs > 0]
    except (ValueError, TypeError) as e:
        raise InputError(str(e)) from None
    with_head = name in ("probe", "lp-ft", "gradual")
    if changes and not body:
        raise InputError(
            f"{', '.join(changes)} would change nothing: with epochs={epochs} recipe {name!r} trains the head alone"
        )
    if head_epochs is not None and not with_head:
        raise InputError(
            f"head_epochs={head_epochs} would change nothing: recipe {name!r} has no stage for the head alone"
        )
    stages = [probe, *body] if with_head and head_epochs != 0 else body
    if not stages:
        raise InputError(f"recipe {name!r} with epochs={epochs} and head_epochs={head_epochs} trains nothing")
    return stages


def _thirds(epochs: int) -> tuple[int, int, int]:
    """As even as whole numbers allow, the later stages the longer."""
    return epochs // 3, (epochs + 1) // 3, (epochs + 2) // 3
