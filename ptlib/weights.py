"""Weight files into networks: read without running anything, every tensor accounted for."""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from pathlib import Path

import torch
from torch import Tensor, nn

from ptlib.errors import InputError

WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
PREFIXES = ("module.", "_orig_mod.", "model.")


def load_weights(network: nn.Module, path: Path, in_order: bool = False) -> None:
    """Put the weights of a file into `network`, every tensor accounted for.

    `in_order` takes the file's tensors for the network's in the order of both, whatever their names.

    Raises `InputError` naming the first tensors that are missing, unexpected, of another shape, or not finite; a
    last linear layer of another width is no error: the network's is made anew.
    """
    state = read_weights(path)
    # A few bytes may declare terabytes; no tensor is touched before it is known to hold what it claims.
    hollow = [k for k, v in state.items() if v.untyped_storage().nbytes() < v.numel() * v.element_size()]
    if hollow:
        raise InputError(f"{path.name} holds fewer bytes than it claims in {_some(hollow)}")
    if in_order:
        if len(state) != len(network.state_dict()):
            raise InputError(
                f"{path.name} has {len(state)} tensors, {type(network).__name__} {len(network.state_dict())}"
            )
        state = dict(zip(network.state_dict(), state.values(), strict=True))
    classes = json.loads(header_of(path).get("class_names", "[]"))
    if classes and hasattr(getattr(network, "head", None), "renew"):  # a detector or segmenter, made for one class
        network.head.renew(len(classes), torch.default_generator)  # type: ignore[union-attr, operator]
    stated = getattr(state, "_metadata", None)
    state = _rename(state, network)
    for where, module in [(n, m) for n, m in network.named_modules() if isinstance(m, nn.Linear)][-1:]:
        rows = state.get(f"{where}.weight")
        if rows is not None and rows.shape[1:] == module.weight.shape[1:] and len(rows) != module.out_features:
            parent, _, last = where.rpartition(".")
            setattr(network.get_submodule(parent), last, nn.Linear(module.in_features, len(rows)))
    want = network.state_dict()
    misshapen = [k for k in want if k in state and state[k].shape != want[k].shape]
    fitting = OrderedDict((k, v) for k, v in state.items() if k not in misshapen)
    # Modules rename tensors of older versions of themselves while loading, by the versions the file states.
    fitting._metadata = stated or getattr(want, "_metadata", None)  # type: ignore[attr-defined]
    found = network.load_state_dict(fitting, strict=False)
    values = network.state_dict()
    problems = {
        # Counters are absent from old files, and used by nothing here.
        "lacks": [k for k in found.missing_keys if k not in misshapen and not k.endswith("num_batches_tracked")],
        "has the unexpected": sorted(found.unexpected_keys),
        "has in another shape": misshapen,
        "has NaN or infinity in": [k for k, v in values.items() if v.is_floating_point() and not v.isfinite().all()],
    }
    said = [f"{what} {_some(keys)}" for what, keys in problems.items() if keys]
    if said:
        raise InputError(f"{path.name} does not fit {type(network).__name__}: it {'; it '.join(said)}")


def header_of(path: Path) -> dict[str, str]:
    """What a safetensors file says of itself; nothing for a file of another kind. InputError if it is cut short."""
    if path.suffix != ".safetensors":
        return {}
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as f:
            return f.metadata() or {}
    except (SafetensorError, OSError) as e:
        raise InputError(f"{path} is no whole safetensors file: {e}") from None


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")


def read_weights(path: Path) -> dict[str, Tensor]:
    """Named tensors of a weight file. Nothing in the file is ever run."""
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (SafetensorError, OSError, ValueError) as e:
            raise InputError(f"{path} is no whole safetensors file: {e}") from None
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:  # unpickling fails in as many ways as there are files
        first = str(e).strip().split("\n")[0]
        raise InputError(f"{path} can't be read as plain weights, and is not read otherwise: {first}") from None
    for key in WRAPPERS:
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if not isinstance(found, dict) or not found or not all(isinstance(v, Tensor) for v in found.values()):
        raise InputError(f"{path} holds no dictionary of tensors; save model.state_dict()")
    return found


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
