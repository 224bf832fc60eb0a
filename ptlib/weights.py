"""Weight files into networks: read without running anything, every tensor accounted for."""

from __future__ import annotations

import json
import mmap
import re
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ptlib.errors import InputError, first_line

WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
PREFIXES = ("module.", "_orig_mod.", "model.")
SPARE = 125_000_000  # parameters that a network may have whatever its file holds: 500 MB


def load_weights(network: nn.Module, path: Path, in_order: bool = False) -> None:
    """Put the weights of a file into `network`, every tensor accounted for.

    `in_order` takes the file's tensors for the network's in the order of both, whatever their names.

    Raises `InputError` naming the first tensors that are missing, unexpected, of another shape or type, or not finite;
    a last linear layer of another width is no error: the network's is made anew.
    """
    state = read_weights(path)
    if in_order:
        if len(state) != len(network.state_dict()):
            raise InputError(
                f"{path.name} has {len(state)} tensors, {type(network).__name__} {len(network.state_dict())}"
            )
        state = dict(zip(network.state_dict(), state.values(), strict=True))
    classes = _class_names(path)
    if classes and hasattr(getattr(network, "head", None), "renew"):  # a detector or segmenter, made for one class
        network.head.renew(len(classes), torch.default_generator)  # type: ignore[union-attr, operator]
    stated = getattr(state, "_metadata", None)
    state = _rename(state, network)
    for where, module in [(n, m) for n, m in network.named_modules() if isinstance(m, nn.Linear)][-1:]:
        rows = state.get(f"{where}.weight")
        if rows is not None and rows.shape[1:] == module.weight.shape[1:] and len(rows) not in (0, module.out_features):
            parent, _, last = where.rpartition(".")
            setattr(network.get_submodule(parent), last, nn.Linear(module.in_features, len(rows)))
    want = network.state_dict()
    misshapen = [k for k in want if k in state and state[k].shape != want[k].shape]
    counters = {k for k in want if k.endswith("num_batches_tracked")}  # absent from old files, and used by nothing here
    mistyped = [k for k in want if k in state.keys() - counters and _number(state[k]) != _number(want[k])]
    unfit = {*misshapen, *mistyped}
    fitting = OrderedDict((k, v) for k, v in state.items() if k not in unfit)
    # Modules rename tensors of older versions of themselves while loading, by the versions the file states.
    fitting._metadata = stated or getattr(want, "_metadata", None)  # type: ignore[attr-defined]
    found = network.load_state_dict(fitting, strict=False)
    values = network.state_dict()
    problems = {
        "lacks": [k for k in found.missing_keys if k not in unfit | counters],
        "has the unexpected": sorted(found.unexpected_keys),
        "has in another shape": misshapen,
        "has in another type of number": mistyped,
        "has NaN or infinity in": [k for k, v in values.items() if v.is_floating_point() and not v.isfinite().all()],
    }
    said = [f"{what} {_some(keys)}" for what, keys in problems.items() if keys]
    if said:
        raise InputError(f"{path.name} does not fit {type(network).__name__}: it {'; it '.join(said)}")


def header_of(path: Path) -> dict[str, str]:
    """What a safetensors file says of itself; nothing for a file of another kind.

    InputError if it is cut short, or has a name twice, of which the library would take either.
    """
    if path.suffix != ".safetensors":
        return {}
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as f:
            found = f.metadata() or {}
        with open(path, "rb") as plain:
            json.loads(plain.read(int.from_bytes(plain.read(8), "little")), object_pairs_hook=_once)
    except (SafetensorError, OSError, ValueError) as e:
        raise InputError(f"{path} is no whole safetensors file: {e}") from None
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)} is there twice")
    return found


def _class_names(path: Path) -> list[str]:
    try:
        found = json.loads(header_of(path).get("class_names", "[]"))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise InputError(f"the header of {path} holds no list of class_names")
    return found


def check_folder(said: str, folder: Path, files: Sequence[Path]) -> None:
    """InputError if one of a folder's weight files is not whole, or its index names files that are none of them."""
    for path in files:
        try:
            header_of(path)
        except InputError as e:
            raise InputError(f"the weights of {said} can't be loaded: {e}") from None
    for index in sorted(folder.glob(f"*{files[0].suffix}.index.json")):
        try:
            named = set(json.loads(index.read_bytes())["weight_map"].values())
        except (ValueError, RecursionError, OSError, LookupError, TypeError, AttributeError) as e:
            raise InputError(f"{index} is no index of weight files: {e!r:.100}") from None
        astray = sorted(map(str, named - {path.name for path in files}))
        if astray:
            raise InputError(f"{index} names {_some(astray)}, which is no weight file of its folder")


def check_room(what: str, parameters: int, files: Sequence[Path]) -> None:
    """InputError if files, where there are any, can't hold so many parameters, before room is made for them."""
    size = sum(path.stat().st_size for path in files)
    if files and parameters > size + SPARE:
        raise InputError(f"{what} has {parameters:,} parameters, but {size:,} bytes of weights: they are another's")


def beyond(network: nn.Module, keys: Iterable[str]) -> list[str]:
    """Those of the weights' names that are of a layer behind the last one of a network of Hugging Face's library."""
    prefix = re.escape(str(getattr(network, "base_model_prefix", "")))
    ends = {name: len(part) for name, part in network.named_modules() if isinstance(part, nn.ModuleList)}
    numbers = {name: re.compile(rf"(?:{prefix}\.)?{re.escape(name)}\.(\d+)\.") for name in ends}
    found = ((key, ends[name], each.match(key)) for key in keys for name, each in numbers.items())
    return sorted({key for key, n, layer in found if layer and int(layer[1]) >= n})


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")


def _number(v: Tensor) -> str:
    return "complex" if v.is_complex() else "float" if v.is_floating_point() else "whole"


def read_weights(path: Path) -> dict[str, Tensor]:
    """Named tensors of a weight file, each a block of numbers of its own. Nothing in the file is ever run.

    InputError naming what is none, before any number is touched: a few bytes may declare terabytes.
    """
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        header_of(path)
        try:
            return load_file(path)
        except Exception as e:  # types of numbers that either library lacks
            raise InputError(f"{path} can't be read as plain weights: {e}") from None
    _check_size(path)
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:  # unpickling fails in as many ways as there are files
        why = first_line(e)
        raise InputError(f"{path} can't be read as plain weights, and is not read otherwise: {why}") from None
    # By dict's own methods: a file may give a dictionary attributes of any name.
    for key in WRAPPERS:
        if isinstance(found, dict) and isinstance(dict.get(found, key), dict):
            found = dict.get(found, key)
    state = OrderedDict(dict.items(found)) if isinstance(found, dict) else OrderedDict()
    if not state or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise InputError(f"{path} holds no dictionary of tensors; save model.state_dict()")
    odd = [k for k, v in state.items() if not _is_plain(v)]
    if odd:
        raise InputError(f"{path.name} holds no plain numbers in {_some(odd)}; save it dense, on the CPU")
    hollow = [k for k, v in state.items() if _held(v) < v.numel() * v.element_size()]
    if hollow:
        raise InputError(f"{path.name} holds fewer bytes than it claims in {_some(hollow)}")
    state._metadata = _versions(getattr(found, "_metadata", None))  # type: ignore[attr-defined]
    return state


def _check_size(path: Path) -> None:
    """InputError if reading a file of torch's may take more memory than it has bytes."""
    unpacked = 0
    if path.stat().st_size and zipfile.is_zipfile(path):
        try:
            with zipfile.ZipFile(path) as z:
                unpacked = sum(part.file_size for part in z.infolist())
        except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError) as e:
            raise InputError(f"{path} can't be read as plain weights, and is not read otherwise: {e}") from None
    with open(path, "rb") as f:
        # The one thing a pickle may ask for by size alone; torch.save never does.
        asks = path.stat().st_size and mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ).find(b"\nbytearray\n") >= 0
    if asks or unpacked > path.stat().st_size:
        raise InputError(f"{path} would unpack to more bytes than it has; save it again by torch.save")


def _is_plain(v: Tensor) -> bool:
    usual = type(v) in (Tensor, nn.Parameter) and v.layout == torch.strided and v.device.type == "cpu"
    return usual and not v.is_quantized and not v.is_nested


def _held(v: Tensor) -> int:
    """Bytes of its storage that a tensor covers; none if it repeats an element along an axis."""
    steps = [(n, step) for n, step in zip(v.shape, v.stride(), strict=True) if n > 1]
    span = 1 + sum((n - 1) * step for n, step in steps)
    return 0 if any(step == 0 for _, step in steps) else min(v.untyped_storage().nbytes(), span * v.element_size())


def _versions(stated: Any) -> dict[str, dict[str, int | None]]:
    """Versions of modules, as `state_dict` states them beside the tensors; what else is stated there is left out."""
    if not isinstance(stated, Mapping):
        return {}
    every = {str(k): v.get("version") for k, v in dict(stated).items() if isinstance(v, dict)}
    return {k: {"version": v} for k, v in every.items() if v is None or type(v) is int}


def _rename(state: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Prefixes that wrappers put before every name are taken off; ptlib's own two parts become one network again."""
    want = set(network.state_dict())
    if type(network).__name__ == "DenseNet":  # published before its layers were named without a dot
        state = {re.sub(r"(denselayer\d+\.(?:norm|relu|conv))\.([12])\.", r"\1\2.", k): v for k, v in state.items()}
    for prefix in PREFIXES:
        if all(k.startswith(prefix) for k in state) and not any(k.startswith(prefix) for k in want):
            state = {k.removeprefix(prefix): v for k, v in state.items()}
    own = all(k.startswith(("backbone.", "head.")) for k in state) and not any(k.startswith("backbone.") for k in want)
    if own and any(k.startswith("backbone.") for k in state):
        head = [n for n, m in network.named_modules() if isinstance(m, nn.Linear)][-1]
        state = {
            k.removeprefix("backbone.") if k.startswith("backbone.") else k.replace("head", head, 1): v
            for k, v in state.items()
        }
    return state
