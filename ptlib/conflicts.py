"""Parameters that contradict one another, or would change nothing beside one another: said before anything is loaded.

What only the data or the checkpoint can tell is refused where those are read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from ptlib.errors import InputError, did_you_mean
from ptlib.stages import AUGMENTATIONS, Stage, recipe

NO_FILES = ("timm/", "torchvision/", "random/", "hf/", "efficientnet_lite", "all-MiniLM")
# Names that live beside what computes them, behind torch or NumPy; a test holds them to those.
OF_ALEXNET = ("gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur",
              "snow", "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate",
              "jpeg_compression")  # fmt: skip
OF_IMAGES = (*OF_ALEXNET, "speckle_noise", "gaussian_blur", "spatter", "saturate")
OF_TEXTS = ("swapped_letters", "dropped_letters", "doubled_letters", "neighbouring_keys", "random_case",
            "dropped_punctuation", "dropped_words", "shuffled_words")  # fmt: skip
SCORES = ("log_me", "h_score", "h_score_shrunk", "gbc", "trans_rate", "sfda", "parc", "nearest_neighbours", "nleep",
          "linear_probe", "leep", "nce", "etran", "ncti")  # fmt: skip
METRICS = ("accuracy", "macro_precision", "macro_recall", "macro_f1", "balanced_accuracy", "weighted_precision",
           "weighted_recall", "weighted_f1", "macro_f0.5", "macro_f2", "matthews", "cohen_kappa", "macro_auroc",
           "weighted_auroc", "macro_average_precision", "weighted_average_precision", "top_5_accuracy", "log_loss",
           "brier", "ece", "ece_equal_mass", "ece_debiased")  # fmt: skip
METRIC = re.compile(r"((macro|micro|weighted|binary)_)?(precision|recall|f\d+(\.\d+)?|auroc|average_precision)(:.*)?"
                    r"|top_\d+_accuracy", re.S)  # fmt: skip
PLACES = ("flip", "upside-down", "zoom", "colour")


def refuse_conflicts(values: dict[str, Any], asked: Collection[str]) -> None:
    """InputError for the first contradiction among a notebook's parameters, checked one by one before.

    What merely changes nothing is refused for the names in `asked` alone: those that were set, and not to the default.
    """
    kind = values.get("kind", "image_classification")
    kind = "segmentation" if "class_names" in values else "detection" if "keep" in values else kind
    kind = "text_classification" if "pooling" in values else kind
    for sentence in (*_contradictions(values, asked, kind), *_idle(values, asked, kind)):
        raise InputError(sentence)
    _refuse_augmentations(_stages(values, kind), kind)


def _stages(v: dict[str, Any], kind: str) -> list[Stage]:
    """Those of every recipe that the notebook will ask for; InputError as `recipe` has it."""
    if v.get("ways") and "full" in v["ways"] and not v["run"]:
        return recipe("full", v["epochs"], kind=kind)
    if "recipe" not in v or not v.get("validate", True):
        return []
    if "validate" in v:  # candidates with random weights are trained so
        recipe("scratch", v["epochs"], kind=kind)
    names = ("head_epochs", "lr", "batch_size", "augment", "overrides")
    return recipe(v["recipe"], v["epochs"], **{name: v.get(name) for name in names}, kind=kind)


def _refuse_augmentations(stages: list[Stage], kind: str) -> None:
    images = tuple(name for name in AUGMENTATIONS if name not in PLACES[1:3])
    known = {"image_classification": images, "text_classification": ()}.get(kind, PLACES)
    for name in (name for stage in stages for name in stage.augment or () if name not in known):
        raise InputError(f"augment has {name!r}, and {kind.replace('_', ' ')} takes {', '.join(known) or 'none'}")


def _contradictions(v: dict[str, Any], asked: Collection[str], kind: str) -> Iterator[str]:
    run, overrides = v.get("run") or v.get("runs"), v.get("overrides", {})
    texts = kind == "text_classification"
    for name in ("lr", "batch_size", "augment", "epochs"):
        if name in overrides and (name in asked if name == "epochs" else v.get(name) is not None):
            yield f"{name} is {v[name]!r}, and overrides has {name} {overrides[name]!r}; give one of them"
    if v.get("batch_size") and v.get("accumulate") not in (None, "auto") and v["accumulate"] > v["batch_size"]:
        yield f"accumulate is {v['accumulate']}, and batch_size {v['batch_size']}; a batch has as many parts at most"
    if v.get("batch_size") == 1 and "simclr" in v.get("methods", []):
        yield "batch_size is 1, and simclr looks for a view among other images'; take 2 or more, or leave it out"
    if "metric" in v and not run:
        if not v["checkpoints"]:
            yield "checkpoints is None, and runs too, so there is nothing to compare; name two or more of either"
        if v["metric"] not in METRICS and not METRIC.fullmatch(v["metric"]):
            hint = did_you_mean(v["metric"], METRICS) or f"; use {', '.join(METRICS)}, or recall:<class name>"
            yield f"metric is {v['metric']!r}, and there is no such metric{hint}"
    if v.get("groups") and not run:
        yield f"groups is {v['groups']!r}, a column, and only files have columns; give run or runs, or leave groups out"
    own = ("class", "predicted", "confidence", *(("light", "length") if texts else ("light",) if "ways" in v else ()))
    if not run and not v.get("metadata") and v.get("slice_by", "class") not in own:
        yield f"slice_by is {v['slice_by']!r}; without a file that has this column it is one of {', '.join(own)}"
    if v.get("metadata") and not Path(v["metadata"]).expanduser().is_file():
        yield f"metadata is {v['metadata']!r}, and there is no such file, seen from {Path.cwd()}; correct its path"
    if v.get("validate") and v["checkpoints"] and len(v["checkpoints"]) < 3:
        yield (f"checkpoints has {len(v['checkpoints'])} names, and a ranking is judged from three on; name more, "
               "or set validate to False")  # fmt: skip
    known = (*OF_IMAGES, *OF_TEXTS) if run else OF_TEXTS if texts else OF_IMAGES
    for name in (name for name in v.get("corruptions") or () if name not in known):
        yield f"corruptions has {name!r}{did_you_mean(name, known) or ';'} there are {', '.join(known)}"
    baseline, ways = v.get("baseline"), ["run", "probe", "wise-ft"] if run else v.get("ways", [])
    published = not texts and {*(v.get("corruptions") or ())} <= {*OF_ALEXNET}
    if baseline == "alexnet" and not (published and v["severities"] == [1, 2, 3, 4, 5]):
        yield f"baseline is 'alexnet', whose errors are of images, at severities 1 to 5, under {', '.join(OF_ALEXNET)}"
    elif baseline and baseline != "alexnet" and baseline not in ways:
        yield f"baseline is {baseline!r}; it must be one of {', '.join(ways)}, or alexnet at severities 1 to 5"


def _idle(v: dict[str, Any], asked: Collection[str], kind: str) -> Iterator[str]:
    run, select = v.get("run") or v.get("runs"), "seen" in v
    head = "control" in v and v.get("recipe") == "probe"
    files = v["checkpoints"] if select else [v.get("checkpoint")]
    without = all(n and n.startswith(NO_FILES) and not Path(n).is_file() for n in files or ["hf/"])
    rules = {
        f"data and models are those of {run}": (
            run, "dataset kind checkpoint checkpoints ways epochs image_size n_train n_test seeds"),
        "one process trains, and none is started": (v.get("devices") == 1, "restarts"),
        "one process trains": (v.get("devices") == 1 and os.environ.get("WORLD_SIZE", "1") == "1", "shard"),
        "pretrain_on is None": (not v.get("pretrain_on", 1), "pretrain_epochs n_source"),
        "simclr is not among methods": ("simclr" not in v.get("methods", ["simclr"]), "temperature"),
        "recipe 'probe' trains the head alone, for head_epochs": (head, "pretrain_epochs"),
        "recipe 'probe' trains the head alone, for head_epochs, and no control is trained": (
            head and ("keep" in v or not v["control"]), "epochs"),
        "ways is ['probe'], which trains the head alone": (v.get("ways") == ["probe"], "epochs"),
        "kind is 'image_classification'": (select and kind == "image_classification", "columns max_length"),
        "of texts max_length says how much is read": (select and kind == "text_classification", "image_size"),
        "texts have no maps": (kind == "text_classification", "maps"),
        "only a weight file needs it": ("methods" not in v and without, "architecture"),
        "this data set names its classes": (v.get("dataset") in ("mosaics", "scenes", "scenes-plain"), "class_names"),
    }  # fmt: skip
    for why, (holds, names) in rules.items():
        for name in (name for name in names.split() if holds and name in asked):
            yield f"{name}={v[name]!r} would change nothing: {why}; leave {name} out"
