"""Features on disk: a file for each network and task, read back whole to the last bit or made anew."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ptlib.core import Checkpoint, Task
from ptlib.files import write_whole
from ptlib.language import header
from ptlib.models import Model, TextModel
from ptlib.resume import digest
from ptlib.runtime import switches


def reproducible(c: Checkpoint) -> bool:
    """Whether the weights say what is computed: of a network made by the user's own function they don't."""
    return c.factory is None or c.source.startswith(("hub ", "https://", "wheel ", "folder "))


def key_of(model: Model, task: Task, layers: Sequence[str], precision: str, where: torch.device) -> str:
    """A name that changes with the weights, the data, the preprocessing, the layers ("" is the whole network), and
    what the bits of features depend on besides."""
    on_cpu = where.type == "cpu"
    machine = torch.backends.cpu.get_cpu_capability() if on_cpu else str(where.type)
    if where.type == "cuda":
        machine = torch.cuda.get_device_name(where)
    packages, config = ("torch", "torchvision", "timm"), []
    if isinstance(model, TextModel):  # how many heads attend, and the like, is in no tensor and no module's name
        packages, config = ("torch", "transformers", "tokenizers"), [header(model.backbone)["config"]]
    versions = [importlib.metadata.version(p) for p in packages]
    threads = torch.get_num_threads() if on_cpu else 0
    facts = [3, digest(model.state_dict()), repr(model.backbone), task.fingerprint, asdict(model.preprocessing),
             sorted(layers), precision, where.type, machine, threads, versions, switches(), *config]  # fmt: skip
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:40]


def write(file: Path, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
    """Arrays and facts into one safetensors file, with their SHA-256; nothing where it can't be written."""
    from safetensors.numpy import save

    told = json.dumps(facts)
    header = {"facts": told, "sha256": _digest(arrays, told)}
    try:
        write_whole(file, save({k: np.ascontiguousarray(v) for k, v in arrays.items()}, metadata=header))
    except OSError:  # a full or read-only cache costs time, not the ranking
        return


def read(file: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
    """What `write` wrote; None if there is no such file, or it is not whole to the last bit."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as f:
            header = f.metadata() or {}
            arrays = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError):
        return None
    told = header.get("facts", "")
    return (arrays, json.loads(told)) if _digest(arrays, told) == header.get("sha256") else None


def _digest(arrays: Mapping[str, np.ndarray], facts: str) -> str:
    digest = hashlib.sha256(facts.encode())
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        digest.update(np.ascontiguousarray(arrays[name]).data)
    return digest.hexdigest()
