"""May the numbers of several runs be compared, and what besides the recipe may have set them apart?"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

import numpy as np

from ptlib.runs import Run

# What a field of the environment is called, its key, and the kind of device that alone depends on it.
FIELDS = {"device name": "device_name", "threads": "threads cpu", "CPU capability": "cpu_capability cpu",
          "products on a CPU": "cpu_matmul cpu", "TF32": "tf32 cuda", "TF32 in cuDNN": "cudnn_tf32 cuda",
          "cuDNN benchmark": "cudnn_benchmark cuda", "cuDNN": "cudnn cuda",
          "cuBLAS workspace": "cublas_workspace cuda", "Python": "python"}  # fmt: skip


def differences(runs: Sequence[Run]) -> list[str]:
    """What the runs differ in besides what they were asked: a sentence for each field.

    First what makes their numbers "Not comparable": another split, other test examples or targets, a choice made on
    the split that is reported. Then what bits and small differences may come from: train and val data, device,
    precision, threads, versions and the like. A field that a run does not record is passed over; a run that records
    nothing of how it was made is named.
    """
    names, found = _names(runs), list[str]()
    made = [run.record.get("environment") or {} for run in runs]
    devices = [str(r.record.get("device") or e.get("device") or "") for r, e in zip(runs, made, strict=True)]
    devices = [device.partition(":")[0] for device in devices]  # which of several alike is no difference

    def compare(field: str, values: Sequence[Any], start: str = "Small differences may come from ") -> None:
        groups: dict[str, list[str]] = {}
        for name, value in zip(names, values, strict=True):
            said = ("off", "on")[value] if isinstance(value, bool) else str(value or "")
            groups.setdefault(said, []).append(name)
        groups.pop("", None)
        if len(groups) > 1:
            hidden = ["one set", *["another"] * (len(groups) - 1)]  # a digest says nothing
            of = groups if field not in ("data", "test examples") else hidden
            parts = [f"{said} in {_listed(group)}" for said, group in zip(of, groups.values(), strict=True)]
            found.append(f"{start}{field}: {', '.join(parts)}.")

    compare("split", [run.test.split for run in runs], "Not comparable, ")
    compare("test examples", [_examples(run) for run in runs], "Not comparable, ")
    chosen = [name for name, run in zip(names, runs, strict=True) if run.test.split in _chosen_on(run)]
    if chosen:
        found.append(f"Not comparable, selection: on the split that is reported, in {_listed(chosen)}.")
    compare("data", [run.record.get("task", {}).get("fingerprint") for run in runs])
    compare("device", devices)
    compare("precision", [run.record.get("precision") for run in runs])
    for field, (key, *only) in ((field, key.split()) for field, key in FIELDS.items()):
        compare(
            field, [e.get(key) if not (d and only) or d in only else None for e, d in zip(made, devices, strict=True)]
        )
    compare("system", [e.get("platform", "").partition("-")[0] for e in made])
    for package in sorted({name for e in made for name in e.get("packages", {})}):
        compare(package, [e.get("packages", {}).get(package) for e in made])
    silent = [name for name, e in zip(names, made, strict=True) if not e]
    return found + [f"Nothing is recorded of how it was made in {_listed(silent)}."] * bool(silent)


def _examples(run: Run) -> str:
    """A digest of the reported examples and what is true of them, whatever their order."""
    said = run.test
    digest = hashlib.sha256(json.dumps([said.kind, said.class_names, sorted(said.ids)]).encode())
    digest.update(np.ascontiguousarray(said.targets[np.argsort(said.ids)]).data)
    return digest.hexdigest()


def _chosen_on(run: Run) -> list[str]:
    return re.findall(r"\bon (\w[\w-]*)", str(run.record.get("selected_on", "")))


def _names(runs: Sequence[Run]) -> list[str]:
    """The runs' names, each another; of a lone file without its folder."""
    names = [run.name if run.record else PurePath(run.name).name for run in runs]
    times = [names[: i + 1].count(name) for i, name in enumerate(names)]
    return [name if k == 1 else f"{name} ({k})" for name, k in zip(names, times, strict=True)]


def _listed(names: Sequence[str]) -> str:
    """The first three of the names, and how many more."""
    few = [*names[:3], *([f"{len(names) - 3} more"] if len(names) > 3 else [])]
    return " and ".join([", ".join(few[:-1]), few[-1]] if len(few) > 1 else few)
