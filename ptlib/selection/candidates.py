"""Candidates: checkpoints as a ranking sees them, by the features they give a task's examples. One pass for each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ptlib.arrays import as_array
from ptlib.checkpoints import load_checkpoint, whole_of
from ptlib.core import Checkpoint, Split, Task
from ptlib.data.images import cache_dir
from ptlib.errors import InputError
from ptlib.models import Model, build_model
from ptlib.networks import tapped
from ptlib.prediction import cost, forward
from ptlib.preprocessing import Tokenization
from ptlib.runtime import choose_device, choose_precision, place
from ptlib.selection.cache import key_of, read, reproducible, write


@dataclass(frozen=True, eq=False)
class Candidate:
    """What a frozen encoder makes of a task: features of train and val, (N, D), in the splits' order.

    Any encoder, of images or text, makes one, from arrays of any framework: `Candidate("name", train, val)`; they are
    kept in float32. `source` (N, Z) are the probabilities that train examples are of the encoder's own classes, None if
    it has none. `facts` holds what is known of it and what it cost: parameters, flops, examples_per_s, memory_mb,
    accuracy (published, on ImageNet), image_size or max_length, seconds. `seen` says that it was trained on the task's
    own data.
    """

    name: str
    train: np.ndarray
    val: np.ndarray
    source: np.ndarray | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    seen: bool = False
    checkpoint: Checkpoint | None = None

    def __post_init__(self) -> None:
        for what in ("train", "val", "source"):
            if getattr(self, what) is None:
                continue
            x = as_array(getattr(self, what))
            right = x.ndim == 2 and 0 not in x.shape and x.dtype.kind in "fiub"
            if right:
                with np.errstate(over="ignore"):
                    x = np.ascontiguousarray(x, dtype=np.float32)
            if not right or not np.isfinite(x).all():
                bad = ", with NaN or infinity" if x.dtype.kind == "f" and not np.isfinite(x).all() else ""
                raise InputError(
                    f"candidate {self.name!r}: {what} must be finite numbers of shape (N, D), got {x.dtype} of shape "
                    f"{x.shape}{bad}"
                )
            object.__setattr__(self, what, x)


def task_of(train: Any, val: Any, class_names: Sequence[str] | None = None, name: str = "labels") -> Task:
    """A task that holds labels alone, integers (N,) of train and val, to rank candidates that are features alone.

    Its images are blank, so checkpoints are refused, and its test split is a copy of val.
    """
    labels = {"train": as_array(train), "val": as_array(val), "test": as_array(val)}
    for split, y in labels.items():
        if y.ndim == 1 and y.dtype.kind in "iu" and len(y) and y.min() < 0:
            raise InputError(f"{split} holds class {y.min()}; classes are counted from 0 on")
        if y.ndim != 1 or y.dtype.kind not in "iu" or not len(y):
            raise InputError(
                f"{split} must be class indices from 0 on, integers (N,), got {y.dtype} of shape {y.shape}"
            )
    names = tuple(class_names or map(str, range(int(max(y.max() for y in labels.values())) + 1)))
    parts = [
        Split(s, torch.zeros(len(y), 1, 1, 3, dtype=torch.uint8), torch.from_numpy(y.astype(np.int64)),
              [f"{s}/{i}" for i in range(len(y))])
        for s, y in labels.items()
    ]  # fmt: skip
    return Task(name, "image_classification", names, parts[0], parts[1], parts[2])


def encode(
    checkpoints: Sequence[str | Checkpoint | Candidate], task: Task, *, image_size: int | None = None, seed: int = 0,
    device: str = "auto", precision: str = "auto", cache: bool = True, seen: Sequence[str] = (),
    architecture: str | None = None, log: Callable[[str], None] = print,
) -> Iterator[Candidate]:  # fmt: skip
    """Each checkpoint's features of the task, in the order given; layers of one network come from a single pass.

    `image_size`, of texts the number of tokens that are read, is capped at the checkpoint's own; a network that takes
    only its own size gets that. Features are kept in the cache folder (`cache=False` does without) under a key of the
    weights, the data, the preprocessing, and what their bits depend on; a file that is not whole is made anew. `seen`
    names candidates that were trained on the task's data where the checkpoint itself does not say so. `architecture`
    is for weight files that don't say what they are for. InputError for a candidate named twice, and, before anything
    is computed, for a checkpoint that reads images where the task holds texts or labels alone, or the reverse.
    """
    found = [c if isinstance(c, Candidate | Checkpoint) else _load(c, architecture) for c in checkpoints]
    names = _short_names(found)
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"candidate {name!r} is given twice; each counts once")
    aliases = [_aliases(c, name) for c, name in zip(found, names, strict=True)]
    unknown = [name for name in seen if not any(name in known for known in aliases)]
    if unknown:
        raise InputError(f"seen names {unknown[0]!r}, which is no candidate; they are {', '.join(names)}")
    for c, name in zip(found, names, strict=True):
        _check(c, name, task)
    made: dict[int, Candidate] = {}
    for i, c in enumerate(found):
        if isinstance(c, Candidate):
            made[i] = c
        elif i not in made:
            family = {j: o for j, o in enumerate(found) if isinstance(o, Checkpoint) and _same_weights(c, o)}
            encoded = _encode_family(list(family.values()), task, image_size, seed, device, precision, cache)
            made.update(zip(family, encoded, strict=True))
            for j in family:
                f, of = made[j].facts, family[j].trained_on
                told = f"{names[j]} (trained on {of})" if of else names[j]
                log(f"{told}: {made[j].train.shape[1]} features, {f['examples_per_s']:,.0f} {task.reads}/s, "
                    f"{f['seconds']:.1f} s{', from the cache' * f['cached']}")  # fmt: skip
        marked = made[i].seen or any(name in seen for name in aliases[i])
        if marked:
            log(f"{names[i]} was trained on this data: it is ranked apart")
        yield replace(made[i], name=names[i], seen=marked)


def _load(name: str, architecture: str | None) -> Checkpoint:
    """The checkpoint; `architecture` counts only where a weight file does not say what it is for."""
    try:
        return load_checkpoint(name)
    except InputError:
        if architecture is None:
            raise
        return load_checkpoint(name, architecture)


def _short_names(found: Sequence[Checkpoint | Candidate]) -> list[str]:
    """Weight files under their file's name, as far as that tells them apart."""
    short = []
    for c in found:
        if isinstance(c, Checkpoint) and c.source.startswith("file "):
            short.append(Path(whole_of(c).name).stem + f"@{c.layer}" * bool(c.layer))
        else:
            short.append(c.name)
    return [c.name if short.count(n) > 1 else n for c, n in zip(found, short, strict=True)]


def _aliases(c: Checkpoint | Candidate, shown: str) -> set[str]:
    """What a candidate may be called: as shown, as given, and either without its layer."""
    names = {shown, c.name}
    return names | {n.removesuffix(f"@{c.layer}") for n in names} if isinstance(c, Checkpoint) else names


def _same_weights(a: Checkpoint, b: Checkpoint) -> bool:
    a, b = whole_of(a), whole_of(b)
    return (a.name, a.sha256, a.architecture, a.preprocessing) == (b.name, b.sha256, b.architecture, b.preprocessing)


def _check(c: Checkpoint | Candidate, name: str, task: Task) -> None:
    """InputError for a candidate that the task can't be shown to, or features of other examples."""
    if isinstance(c, Checkpoint):
        reads = "texts" if isinstance(c.preprocessing, Tokenization) else "images"
        if task.reads == "images" and task.train.inputs.shape[1] == 1:
            raise InputError(f"{name} takes {reads}, and this task holds labels alone; give it features of them")
        if reads != task.reads:
            raise InputError(f"{name} reads {reads}, and {task.name} holds {task.reads}; leave it out")
        return
    for split, x in ((task.train, c.train), (task.val, c.val)):
        if len(x) != len(split) or x.shape[1] != c.train.shape[1]:
            raise InputError(f"candidate {c.name!r}: features of {split.name} are of shape {x.shape}; "
                             f"({len(split)}, {c.train.shape[1]}) are needed")  # fmt: skip
    if c.source is not None and len(c.source) != len(task.train):
        raise InputError(f"candidate {c.name!r}: source has {len(c.source)} rows for {len(task.train)} train examples")


def _encode_family(
    family: Sequence[Checkpoint], task: Task, image_size: int | None, seed: int, device: str, precision: str,
    cache: bool,
) -> list[Candidate]:  # fmt: skip
    """Candidates that are one network, whole or up to several of its layers."""
    start = time.perf_counter()
    whole, layers = whole_of(family[0]), [c.layer for c in family if c.layer]
    model = _build(whole, task, image_size, seed, own_head=True)
    size, where = model.preprocessing.size, choose_device(device)
    place(model, where)
    chosen = choose_precision(precision, where, model)
    key = key_of(model, task, [c.layer or "" for c in family], chosen, where)
    file = cache_dir() / "features" / f"{key}.safetensors" if cache and reproducible(whole) else None
    held = read(file) if file else None
    arrays, facts = held or ({}, {})
    if not held:
        for split in (task.train, task.val):
            arrays |= {f"{split.name} {k}": v for k, v in _pass(model, split, layers, where, chosen).items()}
        passed = time.perf_counter() - start
        for c in family:
            facts[c.layer or ""] = cost(build_model(c, task, size, seed), task.train, device, precision, images=64)
        facts["seconds"] = {"features": passed, "cost": time.perf_counter() - start - passed}
        if file:
            write(file, arrays, facts)
    elapsed = time.perf_counter() - start
    source = arrays.get("train own classes") if whole.pretrained else None
    known = {"image_size" if task.reads == "images" else "max_length": size, "cached": held is not None}
    return [
        Candidate(
            c.name, arrays[f"train {c.layer or ''}"], arrays[f"val {c.layer or ''}"], None if c.layer else source,
            {**facts[c.layer or ""], **known, "accuracy": c.accuracy,
             "seconds": elapsed / len(family), "seconds_uncached": sum(facts["seconds"].values()) / len(family)},
            c.has_seen(task), c,
        )
        for c in family
    ]  # fmt: skip


def _build(c: Checkpoint, task: Task, image_size: int | None, seed: int, own_head: bool = False) -> Model:
    if image_size is not None:
        try:
            return build_model(c, task, min(image_size, c.preprocessing.size), seed, own_head=own_head)
        except InputError:  # it takes its own size alone
            pass
    return build_model(c, task, None, seed, own_head=own_head)


def _pass(model: Model, split: Split, layers: Sequence[str], where: torch.device, precision: str) -> dict[str, Any]:
    """Features of the whole and of each layer, and source probabilities, in one pass over the examples."""
    at = {layer: _place(model.backbone, layer) for layer in layers}
    widths: dict[str, int] = {}
    with tapped(model.backbone, list(at.values())) as taps:

        def part(x: Tensor) -> Tensor:
            taps.clear()
            features = model.backbone(x)
            outputs = {"": features, **{layer: taps[p] for layer, p in at.items()}, "own classes": model.head(features)}
            widths.update({name: value.shape[1] for name, value in outputs.items()})
            return torch.cat([value.float() for value in outputs.values()], dim=1)

        found = forward(model, part, split.inputs, where, precision)
    parts = dict(zip(widths, found.split(list(widths.values()), dim=1), strict=True))
    own = parts.pop("own classes")
    if split.name == "train" and own.shape[1] > 1:
        parts["own classes"] = own.softmax(1)
    return {name: value.cpu().numpy() for name, value in parts.items()}


def _place(network: nn.Module, layer: str) -> str:
    """Where a layer is: in what wraps a network of text it has another path than in the network."""
    return layer if layer in dict(network.named_modules()) else f"network.{layer}"
