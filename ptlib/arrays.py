"""What other frameworks and files hand over, as the arrays that predictions are made of."""

from __future__ import annotations

from typing import Any

import numpy as np

from ptlib.errors import InputError

VOID = 255  # the label of pixels that are not scored


def as_array(values: Any) -> np.ndarray:
    """An array of NumPy, from any framework's; half precision that NumPy has not becomes float32."""
    if hasattr(values, "detach"):  # torch
        values = values.detach().cpu()
        values = values.float() if values.dtype.is_floating_point and values.element_size() < 4 else values
    try:
        return np.asarray(values)
    except ValueError as e:
        raise InputError(f"values make no rectangular array: {e}") from None


def class_indices(targets: np.ndarray, names: tuple[str, ...] | None) -> np.ndarray:
    """Targets as int64: names become their index, whole numbers stay."""
    if targets.dtype.kind in "USO":
        place = {name: i for i, name in enumerate(names or ())}
        unknown = [str(t) for t in targets.ravel() if str(t) not in place]
        if unknown:
            raise InputError(f"target {unknown[0]!r} is no class; class_names are {', '.join(place) or 'not given'}")
        return np.array([place[str(t)] for t in targets.ravel()], dtype=np.int64).reshape(targets.shape)
    whole: np.ndarray = targets.astype(np.int64) if np.isfinite(targets).all() else targets
    if not np.array_equal(whole, targets):
        raise InputError(f"targets must be whole numbers, got for example {targets[whole != targets].ravel()[0]}")
    numbers = [int(name) if name.isdecimal() else -1 for name in names or ()]
    if whole.ndim == 1 and len(whole) and numbers != list(range(len(numbers))) and set(whole.tolist()) <= set(numbers):
        raise InputError(
            f"targets such as {whole[0]} may be names or places of the classes {', '.join((names or ())[:9])}; give "
            "them as text, as the names stand"
        )
    return whole


def logits_of(p: np.ndarray, several: bool) -> np.ndarray:
    """Scores that give these probabilities back; 0 and 1 stay within 1e-300 of themselves."""
    if not ((p >= 0) & (p <= 1 + 1e-6)).all():
        raise InputError("probabilities must lie in 0..1 and not be NaN; if these are logits, give them as logits")
    if p.ndim == 2 and not several:
        off = np.flatnonzero(np.abs(p.sum(1) - 1) > 1e-3)
        if len(off):
            raise InputError(f"the probabilities of row {off[0]} sum to {p[off[0]].sum():.4g}, not 1; are they logits?")
        return np.asarray(np.log(np.maximum(p, 1e-300)))
    return np.asarray(np.log(np.maximum(p, 1e-300)) - np.log(np.maximum(1 - p, 1e-300)))
