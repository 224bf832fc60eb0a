"""Candidates: checkpoints as a ranking sees them, by the features they give a task's images. One pass for each."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ptlib.checkpoints import load_checkpoint, whole_of
from ptlib.core import Checkpoint, Split, Task
from ptlib.data.images import cache_dir
from ptlib.errors import InputError
from ptlib.files import write_whole
from ptlib.models import Model, build_model
from ptlib.networks import pooled
from ptlib.prediction import cost, forward
from ptlib.runtime import choose_device, choose_precision, place


@dataclass(frozen=True, eq=False)
class Candidate:
    """What a frozen encoder makes of a task: features of train and val, float32 (N, D), in the splits' order.

    `source` (N, Z) are the probabilities that train images are of the encoder's own classes, None if it has none.
    `facts` holds what is known of it and what it cost: parameters, flops, images_per_s, memory_mb, accuracy (published,
    on ImageNet), seconds. `seen` says that it was trained on the task's own data. Any encoder, of images or text, makes
    one: `Candidate("name", train_features, val_features)`.
    """

    name: str
    train: np.ndarray
    val: np.ndarray
    source: np.ndarray | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    seen: bool = False
    checkpoint: Checkpoint | None = None


def encode(
    checkpoints: Sequence[str | Checkpoint | Candidate], task: Task, *, image_size: int | None = None, seed: int = 0,
    device: str = "auto", precision: str = "auto", cache: bool = True, seen: Sequence[str] = (),
    architecture: str | None = None, log: Callable[[str], None] = print,
) -> Iterator[Candidate]:  # fmt: skip
    """Each checkpoint's features of the task, in the order given; layers of one network are had in a single pass.

    `image_size` is at most the checkpoint's own. Features are kept in the cache folder (`cache=False` does without),
    under a key of the weights, the data, the preprocessing, and what their bits depend on; a file that is not whole
    is made anew. `seen` names candidates that were trained on the task's data where the checkpoint itself does not say
    so. `architecture` is for weight files that don't say what they are for. InputError for a candidate named twice.
    """
    found = [c if isinstance(c, Candidate | Checkpoint) else load_checkpoint(c, architecture) for c in checkpoints]
    found = _short_names(found)
    names = [c.name for c in found]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"candidate {name!r} is given twice; each counts once")
    unknown = [name for name in seen if name not in names]
    if unknown:
        raise InputError(f"seen names {unknown[0]!r}, which is no candidate; they are {', '.join(names)}")
    made: dict[str, Candidate] = {}
    for i, c in enumerate(found):
        if isinstance(c, Candidate):
            _check(c, task)
            made[c.name] = c
        elif c.name not in made:
            family = [o for o in found if isinstance(o, Checkpoint) and whole_of(o).name == whole_of(c).name]
            for one in _encode_family(family, task, image_size, seed, device, precision, cache):
                marked = one.seen or one.name in seen
                made[one.name] = replace(one, seen=marked)
                f = one.facts
                log(f"{one.name}: {one.train.shape[1]} features, {f['images_per_s']:,.0f} images/s, "
                    f"{f['seconds']:.1f} s{', from the cache' if f['cached'] else ''}"
                    f"{', trained on this data: ranked apart' if marked else ''}")  # fmt: skip
        yield made[names[i]]


def _short_names(found: Sequence[Checkpoint | Candidate]) -> list[Checkpoint | Candidate]:
    """Weight files under their file's name, as far as that tells them apart."""
    short = []
    for c in found:
        if isinstance(c, Checkpoint) and c.source.startswith("file "):
            short.append(Path(whole_of(c).name).stem + f"@{c.layer}" * bool(c.layer))
        else:
            short.append(c.name)
    return [replace(c, name=n) if short.count(n) == 1 else c for c, n in zip(found, short, strict=True)]


def _check(c: Candidate, task: Task) -> None:
    for split, x in ((task.train, c.train), (task.val, c.val)):
        if x.ndim != 2 or len(x) != len(split) or x.shape[1] != c.train.shape[1]:
            raise InputError(f"candidate {c.name!r}: features of {split.name} are of shape {x.shape}; "
                             f"({len(split)}, {c.train.shape[-1]}) are needed")  # fmt: skip


def _encode_family(
    family: Sequence[Checkpoint], task: Task, image_size: int | None, seed: int, device: str, precision: str,
    cache: bool,
) -> list[Candidate]:  # fmt: skip
    """Candidates that are one network, whole or up to several of its layers."""
    start = time.perf_counter()
    whole, layers = whole_of(family[0]), [c.layer for c in family if c.layer]
    side = None if image_size is None else min(image_size, whole.preprocessing.size)
    model = build_model(whole, task, side, seed, own_head=True)
    where = choose_device(device)
    place(model, where)
    chosen = choose_precision(precision, where, model)
    key = _key(model, task, layers, chosen, where)
    file = cache_dir() / "features" / f"{key}.safetensors" if cache and _reproducible(whole) else None
    held = _read(file) if file else None
    arrays, facts = held or ({}, {})
    if not held:
        for split in (task.train, task.val):
            arrays |= {f"{split.name} {k}": v for k, v in _pass(model, split, layers, where, chosen).items()}
        passed = time.perf_counter() - start
        for c in family:
            part = build_model(c, task, side, seed) if c.layer else model
            facts[c.layer or ""] = cost(part, task.train, device, precision, images=64)
        facts["seconds"] = {"features": passed, "cost": time.perf_counter() - start - passed}
        if file:
            _write(file, arrays, facts)
    elapsed = time.perf_counter() - start
    return [
        Candidate(
            c.name, arrays[f"train {c.layer or ''}"], arrays[f"val {c.layer or ''}"],
            None if c.layer else arrays["train source"],
            {**facts[c.layer or ""], "accuracy": c.accuracy, "image_size": model.preprocessing.size,
             "seconds": elapsed / len(family), "seconds_uncached": sum(facts["seconds"].values()) / len(family),
             "cached": held is not None},
            c.has_seen(task), c,
        )
        for c in family
    ]  # fmt: skip


def _pass(model: Model, split: Split, layers: Sequence[str], where: torch.device, precision: str) -> dict[str, Any]:
    """Features of the whole and of each layer, and source probabilities, in one pass over the images."""
    taps: dict[str, Tensor] = {}

    def part(x: Tensor) -> Tensor:
        features = model.backbone(x)
        outputs = {"": features, **{layer: taps[layer] for layer in layers}, "source": model.head(features)}
        widths.update({name: value.shape[1] for name, value in outputs.items()})
        return torch.cat([value.float() for value in outputs.values()], dim=1)

    def keep(layer: str) -> Callable[..., None]:
        return lambda module, inputs, output: taps.update({layer: pooled(output)})

    widths: dict[str, int] = {}
    handles = [model.backbone.get_submodule(layer).register_forward_hook(keep(layer)) for layer in layers]
    try:
        found = forward(model, part, split.inputs, where, precision)
    finally:
        for handle in handles:
            handle.remove()
    parts = dict(zip(widths, found.split(list(widths.values()), dim=1), strict=True))
    parts["source"] = parts["source"].softmax(1)
    return {name: value.cpu().numpy() for name, value in parts.items()}


def _reproducible(c: Checkpoint) -> bool:
    """Whether the weights say what is computed: of a network made by the user's own function they don't."""
    return c.factory is None or not c.source.startswith("file ")


def _key(model: Model, task: Task, layers: Sequence[str], precision: str, where: torch.device) -> str:
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    threads = torch.get_num_threads() if where.type == "cpu" else 0
    facts = [1, repr(model.backbone), task.fingerprint, asdict(model.preprocessing), sorted(layers), precision,
             where.type, threads, torch.__version__]  # fmt: skip
    digest.update(json.dumps(facts).encode())
    return digest.hexdigest()[:40]


def _write(file: Path, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
    from safetensors.numpy import save

    header = {"facts": json.dumps(facts), "sha256": _digest(arrays)}
    write_whole(file, save({k: np.ascontiguousarray(v) for k, v in arrays.items()}, metadata=header))


def _read(file: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
    """What `_write` wrote; None if there is no such file, or it is not whole to the last bit."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as f:
            header = f.metadata() or {}
            arrays = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118
            facts = json.loads(header["facts"])
    except (OSError, SafetensorError, KeyError, ValueError):
        return None
    return (arrays, facts) if _digest(arrays) == header.get("sha256") else None


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].shape}".encode())
        digest.update(np.ascontiguousarray(arrays[name]).data)
    return digest.hexdigest()
