"""Two networks of one architecture: how alike their features are, how far apart their weights, what lies between."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ptlib.arrays import as_array
from ptlib.core import Split, Task
from ptlib.errors import InputError
from ptlib.models import Model, layers
from ptlib.networks import tapped
from ptlib.prediction import forward, risk
from ptlib.runtime import choose_device, choose_precision, place
from ptlib.step import measure_statistics


def linear_cka(x: Any, y: Any) -> float:
    """Linear centred kernel alignment of features (N, D) and (N, E) of the same examples (Kornblith et al. 2019).

    ||Y'X||_F^2 / (||X'X||_F ||Y'Y||_F) of columns less their means: from 0 to 1, unchanged by rotation, shift and
    scaling of all features at once. With fewer examples than features it is near 1 for anything: use many examples.
    InputError for another number of rows, and for features that are all constant.
    """
    a, b = (np.asarray(as_array(v), dtype=np.float64) for v in (x, y))
    if a.ndim != 2 or b.ndim != 2 or len(a) != len(b) or len(a) < 2:
        raise InputError(
            f"linear_cka compares features (N, D) and (N, E) of the same examples, got {a.shape} and {b.shape}"
        )
    a, b = (v - v.mean(0) for v in (a, b))
    a, b = (v / (np.abs(v).max() or 1.0) for v in (a, b))  # so that squares of squares neither vanish nor overflow
    norms = np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b)
    if not norms > 0:
        raise InputError("linear_cka of features that are all constant, or not finite, is undefined")
    return float(np.linalg.norm(b.T @ a) ** 2 / norms)


def layer_features(model: Model, split: Split, device: str = "auto", precision: str = "auto") -> dict[str, Tensor]:
    """What each layer of the backbone (see `ptlib.models.layers`) makes of a split, pooled over positions, (N, D)."""
    names = [name for name, _ in layers(model)[:-1] if name in dict(model.backbone.named_modules())]
    where = choose_device(device)
    place(model, where)
    widths: list[int] = []
    with tapped(model.backbone, names) as taps:

        def part(x: Tensor) -> Tensor:
            taps.clear()
            model.backbone(x)
            widths[:] = [taps[name].shape[1] for name in names]
            return torch.cat([taps[name].float() for name in names], dim=1)

        found = forward(model, part, split.inputs, where, choose_precision(precision, where, model))
    return dict(zip(names, found.split(widths, dim=1), strict=True))


def layer_distances(a: Model, b: Model) -> dict[str, float]:
    """How far each layer's weights went from `a` to `b`, over their norm in `a` (NaN if 0); without the head."""
    before, after = dict(a.named_parameters()), dict(b.named_parameters())
    found = {}
    with torch.no_grad():
        for layer, names in layers(a)[:-1]:
            moved = sum(float((after[n].cpu() - before[n].cpu()).square().sum()) for n in names)
            length = sum(float(before[n].square().sum()) for n in names)
            found[layer] = (moved / length) ** 0.5 if length > 0 else math.nan
    return found


def averaged(models: Sequence[Model], shares: Sequence[float] | None = None) -> Model:
    """One network whose weights are a mean of several's: a soup (Wortsman et al. 2022a); of two, one the start of the
    other, WiSE-FT (2022b): `shares` (1 - alpha, alpha). None weighs all alike.

    BatchNorm's statistics are averaged too: right where training left them alone, as `recipe("lp-ft")` does; else
    `ptlib.step.measure_statistics` measures them anew. Preprocessing is that of the first.
    InputError for networks whose tensors differ in name or shape.
    """
    shares = [1 / max(len(models), 1)] * len(models) if shares is None else [float(s) for s in shares]
    if not models or len(shares) != len(models) or not math.isclose(sum(shares), 1, abs_tol=1e-6):
        raise InputError(f"{len(models)} models need as many shares, which add up to 1; got {shares}")
    states = [m.state_dict() for m in models]
    mixed = copy.deepcopy(models[0])
    shapes = [{name: value.shape for name, value in state.items()} for state in states]
    odd = next((s for s in shapes if s != shapes[0]), None)
    if odd is not None:
        name = next(n for n in {**shapes[0], **odd} if shapes[0].get(n) != odd.get(n))
        raise InputError(f"weights can be averaged of one architecture only; {name} differs")
    with torch.no_grad():
        for name, value in mixed.state_dict().items():
            if value.is_floating_point():
                parts = torch.stack([state[name].cpu().double() for state in states], dim=-1)
                value.copy_(parts @ torch.tensor(shares, dtype=torch.float64))
    return mixed


def mixed(a: Model, b: Model, share: float, inputs: Tensor | None = None, device: str = "auto", n: int = 2048) -> Model:
    """The network of weights (1 - share) a + share b; with images, BatchNorm's statistics measured on n of them."""
    model = averaged((a, b), (1 - share, share))
    if inputs is not None:
        where = choose_device(device)
        place(model, where)
        measure_statistics(model, [name for name, _ in model.named_parameters()], inputs, where, n)
    return model


def between(
    a: Model, b: Model, task: Task, points: Sequence[float] = tuple(np.linspace(0, 1, 5)), *, device: str = "auto",
    precision: str = "auto",
) -> Any:  # fmt: skip
    """The mean loss on test at (1 - p) a + p b, for weights of two models with heads for `task`: a DataFrame.

    No higher between than at the ends: the two are linearly mode connected (Frankle et al. 2020, Neyshabur et al.
    2020). BatchNorm's statistics are measured anew at each point, on 256 train images, without which a mean of
    weights is another network; so the ends may differ a little from what the models had.
    """
    import pandas as pd

    rows = []
    for p in points:
        model = mixed(a, b, p, task.train.inputs, device, 256)
        rows.append({"point": float(p), "loss": risk(model, task.test, task, device, precision)["mean"]})
    return pd.DataFrame(rows)


def barrier(path: Any) -> float:
    """The most by which the loss on a path (see `between`) exceeds the straight line between its ends, in nats."""
    loss, p = path["loss"].to_numpy(), path["point"].to_numpy()
    share = (p - p[0]) / (p[-1] - p[0])
    return float((loss - (loss[0] + share * (loss[-1] - loss[0]))).max())
