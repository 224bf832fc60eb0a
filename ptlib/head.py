"""A linear head fitted to convergence: multinomial logistic regression on cached features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PENALTIES = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6, 1e-6)


def fit_head(
    head: nn.Linear, features: dict[str, Tensor], targets: dict[str, Tensor], penalties: Sequence[float] = PENALTIES
) -> tuple[float, float]:
    """Fit `head` in place; the penalty chosen and the mean train loss in nats without it.

    Minimises mean cross-entropy + penalty / 2 * ||W||^2 over standardised features by L-BFGS, from the strongest
    penalty to the weakest, each from the solution before it. The penalty with the least log loss on val is kept; the
    search ends once two in a row were worse. `features` and `targets` hold "train" and "val": (N, D), (N,).
    """
    x, y = features["train"], targets["train"]
    mean, std = x.mean(0), x.std(0, correction=0)
    std = torch.where(std > 1e-6 * std.max().clamp_min(1e-30), std, torch.inf)  # a constant feature gets no weight
    z, z_val = (x - mean) / std, (features["val"] - mean) / std
    weight = torch.zeros_like(head.weight, requires_grad=True)
    bias = torch.zeros_like(head.bias, requires_grad=True)
    best: tuple[float, float, Tensor, Tensor] | None = None
    worse = 0
    for penalty in penalties:
        loss = _minimise(weight, bias, z, y, penalty)
        with torch.no_grad():
            val = float(F.cross_entropy(F.linear(z_val, weight, bias), targets["val"]))
        if best is None or val < best[0]:
            best, worse, kept = (val, penalty, weight.detach().clone(), bias.detach().clone()), 0, loss
        else:
            worse += 1
            if worse == 2:
                break
    assert best is not None
    with torch.no_grad():
        head.weight.copy_(best[2] / std)
        head.bias.copy_(best[3] - (best[2] / std) @ mean)
    return best[1], kept


def _minimise(weight: Tensor, bias: Tensor, z: Tensor, y: Tensor, penalty: float) -> float:
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=300, tolerance_grad=1e-5, tolerance_change=1e-7, history_size=10,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure() -> Tensor:
        optimizer.zero_grad()
        objective = F.cross_entropy(F.linear(z, weight, bias), y) + penalty / 2 * weight.square().sum()
        objective.backward()
        return objective

    with torch.enable_grad():
        optimizer.step(closure)
    with torch.no_grad():
        return float(F.cross_entropy(F.linear(z, weight, bias), y))
