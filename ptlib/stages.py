"""The noun Stage, one leg of fine-tuning as data; recipes, lists of stages by name; and the history of a training."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from ptlib.errors import InputError, did_you_mean
from ptlib.files import html_table, text_table

AUGMENTATIONS = ("crop", "resized-crop", "flip", "upside-down", "zoom", "trivial", "rand", "colour", "erase", "mixup",
                 "cutmix")  # fmt: skip
GROUPS = ("head", "backbone", "all", "norm", "batchnorm", "bias")
RECIPES = ("probe", "lp-ft", "gradual", "full", "lora", "naive", "scratch")
KINDS = ("image_classification", "text_classification", "detection", "segmentation")


@dataclass(frozen=True)
class Stage:
    """One leg of fine-tuning, as data.

    `trainable` holds names of groups ("head", "backbone", "all", "last 2 blocks", "norm", "batchnorm", "bias") or
    regular expressions matched against parameter names from their start; what nothing names is frozen.
    `lr` is the peak learning rate of the head; a layer k layers below the head learns at `lr * layer_decay**k`.
    `warmup` is the share of steps spent rising to `lr`; then it follows `schedule` ("one-cycle" as in
    PyTorch's OneCycleLR: cosines up from lr / 25 and down to nearly nothing). Weight decay spares norms and biases.
    `batchnorm` says where running statistics come from: "eval" keeps the checkpoint's, "train" learns the new data's.
    `augment` None stands for the task's own. `l2_sp` pulls weights towards where the stage began (Li et al. 2018,
    arXiv 1802.01483). `ema` is the decay of a moving average of the weights, which is then what is scored and kept.
    `lora` is the rank of the updates by which the linear layers among `trainable` learn in place of their weights,
    while the head learns as it is and all else stays (see `ptlib.lora`).
    With `optimizer="lbfgs"` the head is fitted to convergence on cached features, its L2 penalty chosen on val;
    `epochs`, `lr` and `schedule` say nothing there.
    """

    name: str
    trainable: tuple[str, ...] = ("all",)
    epochs: int = 1
    lr: float = 1e-3
    batch_size: int = 64
    optimizer: Literal["adamw", "sgd", "lbfgs"] = "adamw"
    schedule: Literal["cosine", "linear", "constant", "one-cycle"] = "cosine"
    warmup: float = 0.15
    layer_decay: float = 1.0
    weight_decay: float = 0.01
    label_smoothing: float = 0.0
    clip_norm: float | None = None
    augment: tuple[str, ...] | None = None
    batchnorm: Literal["eval", "train"] = "eval"
    ema: float | None = None
    l2_sp: float = 0.0
    lora: int | None = None

    def __post_init__(self) -> None:
        for name in ("trainable", "augment"):
            value = getattr(self, name)
            if isinstance(value, str):
                raise ValueError(f"stage {self.name!r}: {name} must be a list of names, got the string {value!r}")
            if value is not None:
                object.__setattr__(self, name, tuple(value))
        one_of = {
            "optimizer": ("adamw", "sgd", "lbfgs"),
            "schedule": ("cosine", "linear", "constant", "one-cycle"),
            "batchnorm": ("eval", "train"),
        }
        for name, allowed in one_of.items():
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"stage {self.name!r}: {name} is {getattr(self, name)!r}; it must be one of {', '.join(allowed)}"
                )
        for example in self.augment or ():
            if example not in AUGMENTATIONS:
                raise ValueError(
                    f"stage {self.name!r}: unknown augmentation {example!r}; there are {', '.join(AUGMENTATIONS)}"
                )
        bounds: dict[str, tuple[float, float]] = {
            "epochs": (0, 100_000), "lr": (0, 1e3), "batch_size": (1, 2**20), "warmup": (0, 1),
            "layer_decay": (1e-3, 1), "weight_decay": (0, 1e3), "label_smoothing": (0, 0.99), "l2_sp": (0, 1e3),
        }  # fmt: skip
        if self.clip_norm is not None:
            bounds["clip_norm"] = (1e-12, math.inf)
        if self.ema is not None:
            bounds["ema"] = (0, 0.999999)
        if self.lora is not None:
            bounds["lora"] = (1, 4096)
        for name, (low, high) in bounds.items():
            value = getattr(self, name)
            whole = name in ("epochs", "batch_size", "lora")
            number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
            if not (number and low <= value <= high):
                what = "a whole number" if whole else "a number"
                raise ValueError(
                    f"stage {self.name!r}: {name} is {value!r}; it must be {what} from {low:g} to {high:g}"
                )
        if not self.trainable:
            raise ValueError(f"stage {self.name!r} trains nothing; name groups ({', '.join(GROUPS)}) or patterns")
        if self.optimizer == "lbfgs" and (self.trainable != ("head",) or self.augment):
            raise ValueError(
                f"stage {self.name!r}: lbfgs fits the head alone, on features without augmentation; "
                f"got trainable={list(self.trainable)}, augment={list(self.augment or ())}"
            )

    def __str__(self) -> str:
        if self.optimizer == "lbfgs":
            return f"{self.name}: head to convergence on cached features (L-BFGS, L2 penalty chosen on val)"
        decay = f", layer decay {self.layer_decay:g}" if self.layer_decay < 1 else ""
        by = f" by updates of rank {self.lora}" if self.lora else ""
        return (
            f"{self.name}: {', '.join(self.trainable)}{by}; {self.epochs} epochs of {self.optimizer}, lr {self.lr:g}"
            f"{decay}, {self.schedule}, batch {self.batch_size}"
        )


@dataclass(frozen=True, repr=False)
class History:
    """What happened, a row for each epoch; `best` is the row whose weights the model ended with."""

    rows: list[dict[str, Any]]
    best: dict[str, Any]
    seconds: dict[str, float]
    device: str
    precision: str
    stages: tuple[Stage, ...]
    keep: str = "best"

    def frame(self) -> Any:
        """The rows as a pandas DataFrame."""
        import pandas as pd

        return pd.DataFrame(self.rows)

    def table(self) -> list[tuple[str, ...]]:
        """Rows for display: stage, epoch, loss, and what was measured on val; the one that was kept is marked."""
        scores = list(dict.fromkeys(name for row in self.rows for name in row if name.startswith("val_")))
        rows: list[tuple[str, ...]] = [("stage", "epoch", "train loss", *(s.replace("_", " ") for s in scores), "kept")]
        for row in self.rows:
            said = ("" if row.get(name) is None else f"{row[name]:.3f}" for name in ("train_loss", *scores))
            rows.append((row["stage"], str(row["epoch"]), *said, "kept" if row == self.best else ""))
        return rows

    def __repr__(self) -> str:
        return "\n".join(text_table(self.table()))

    def _repr_html_(self) -> str:
        return html_table(self.table())

    @property
    def selected_on(self) -> str:
        """What was chosen on what, for a report."""
        if self.keep == "last":
            return "nothing was selected: the last epoch"
        return f"epoch {self.best['epoch']} of stage {self.best['stage']!r}, the best of {len(self.rows)} on val"


def recipe(
    name: str,
    epochs: int = 4,
    head_epochs: int | None = None,
    lr: float | None = None,
    batch_size: int | None = None,
    augment: tuple[str, ...] | list[str] | None = None,
    overrides: dict[str, Any] | None = None,
    kind: str = "image_classification",
) -> list[Stage]:
    """The stages of a recipe.

    - `probe`: the head alone, on features computed once.
    - `lp-ft`: the probe, then everything (Kumar et al. 2022, arXiv 2202.10054): layers learn the slower the deeper they
      lie, BatchNorm keeps the checkpoint's statistics. The default.
    - `gradual`: the probe, then the last block, the last two, and everything (Howard and Ruder 2018).
    - `full`: everything at once from a random head.
    - `lora`: the probe, then updates of rank 8 to every linear layer (Hu et al. 2021).
    - `naive`: what many tutorials do: a random head, everything at one constant rate, SGD at 0.01, BatchNorm learning
      new statistics (which are measured anew before each scoring, more than tutorials do).
    - `scratch`: everything, from random weights: the control.

    `epochs` counts epochs in which the backbone learns; `head_epochs` None fits the head to convergence, a number
    trains it for so many epochs. `lr`, `batch_size`, `augment` and `overrides` (any field of `Stage`) change the
    stages in which the backbone learns. With `epochs=0` only the head's stage is left, with `head_epochs=0` it goes.

    For a `kind` of task in which something is said of every place, steps are of few images, weights are averaged, and
    the head, which has far more to learn, is trained for 2 epochs where `head_epochs` is None. Networks of text are
    trained at a tenth of the rate, as transformers are.
    """
    if kind not in KINDS:
        raise InputError(f"unknown kind {kind!r}{did_you_mean(kind, KINDS) or ';'} there are {', '.join(KINDS)}")
    dense, text = kind in ("detection", "segmentation"), kind == "text_classification"
    if name not in RECIPES:
        raise InputError(f"unknown recipe {name!r}{did_you_mean(name, RECIPES) or ';'} there are {', '.join(RECIPES)}")
    if dense:
        probe = Stage("head", ("head",), 2 if head_epochs is None else head_epochs, 2e-3, 4, clip_norm=10.0, ema=0.99)
    elif head_epochs is None:
        probe = Stage("head", ("head",), optimizer="lbfgs", augment=())
    else:
        probe = Stage("head", ("head",), epochs=head_epochs, lr=3e-3, batch_size=256, augment=())
    tuned = Stage("all", ("all",), epochs=epochs, lr=1e-3, batch_size=32, layer_decay=0.8)
    if text:
        tuned = replace(tuned, lr=1e-4, layer_decay=0.95, schedule="linear", clip_norm=1.0)
    if dense:
        tuned = replace(tuned, batch_size=4, weight_decay=0.05, clip_norm=10.0, ema=0.99)
    bodies = {
        "probe": [],
        "lp-ft": [tuned],
        "gradual": [
            replace(tuned, name=part, trainable=(part,), epochs=n)
            for part, n in zip(("last 1 block", "last 2 blocks", "all"), _thirds(epochs), strict=True)
        ],
        "full": [tuned],
        "lora": [replace(tuned, name="lora", lora=8, lr=5e-4, layer_decay=1.0)],
        "naive": [replace(tuned, optimizer="sgd", lr=0.01, batch_size=tuned.batch_size if dense else 64, ema=None,
                          clip_norm=None, layer_decay=1.0, schedule="constant",
                          warmup=0.0, weight_decay=0.0, batchnorm="train")],
        "scratch": [replace(tuned, layer_decay=1.0, lr=3e-4 if text else 2e-3, batchnorm="train")],
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
    with_head = name in ("probe", "lp-ft", "gradual", "lora")
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
