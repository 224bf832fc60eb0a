"""No labels: two views of each image are to find each other among all views of a batch (SimCLR; Chen et al. 2020).

The head projects features to a sphere; what is learned is kept in the backbone, and the head goes. A task of this kind
holds two views of each image in val, one after the other; its labels are not looked at.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ptlib.core import Task
from ptlib.data.augment import augment
from ptlib.errors import InputError

DENSE = False


class Projection(nn.Module):
    """Two linear layers to the unit sphere, divided by the root of the temperature: products are then logits."""

    def __init__(self, in_features: int, width: int, temperature: float):
        super().__init__()
        self.hidden, self.out = nn.Linear(in_features, in_features), nn.Linear(in_features, width)
        self.temperature = temperature

    def forward(self, x: Tensor) -> Tensor:
        """(B, D) to (B, width)."""
        z = self.out(F.relu(self.hidden(x))).float()
        return F.normalize(z, dim=1) / math.sqrt(self.temperature)


def make_head(in_features: int, task: Task, generator: Generator, temperature: float = 0.5) -> Projection:
    """A projection to 128 dimensions, or to as many as there are features if those are fewer."""
    head = Projection(in_features, min(in_features, 128), temperature)
    for layer in (head.hidden, head.out):
        nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu", generator=generator)
        nn.init.zeros_(layer.bias)
    return head


def prepare(
    model: Any, inputs: Tensor, targets: Tensor, names: Sequence[str], generator: Generator, n_classes: int
) -> tuple[Tensor, Tensor]:
    """Two augmented views of each image of a batch (B, H, W, 3), one after the other: (2B, 3, S, S)."""
    images = inputs.repeat_interleave(2, 0).permute(0, 3, 1, 2)
    return model.preprocess(augment(images, names, generator).permute(0, 2, 3, 1)), targets.repeat_interleave(2)


def loss(outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """NT-Xent: the mean cross-entropy, in nats, of finding a view's partner among the 2B - 1 others (equation 1 there).

    `outputs` (2B, width) are projections scaled by the temperature; rows 2i and 2i + 1 are partners.
    """
    if label_smoothing:
        raise InputError(f"label_smoothing is {label_smoothing}; a view has one partner, so it must be 0 here")
    return F.cross_entropy(*_similarities(outputs))


def score(outputs: Tensor, targets: Tensor, block: int = 256) -> dict[str, float]:
    """How often a view's partner is the nearest, and the loss, in batches of `block` images: both depend on that."""
    hits = total = 0.0
    for pairs in outputs.cpu().double().unflatten(0, (-1, 2)).split(block):
        logits, partner = _similarities(pairs.flatten(0, 1))
        hits += float((logits.argmax(1) == partner).double().sum())
        total += float(F.cross_entropy(logits, partner, reduction="sum"))
    return {"accuracy": hits / len(outputs), "loss": total / len(outputs)}


def _similarities(z: Tensor) -> tuple[Tensor, Tensor]:
    """Products of all pairs, a view with itself excluded, (2B, 2B), and the column of each one's partner, (2B,)."""
    rows = torch.arange(len(z), device=z.device)
    return (z @ z.T).masked_fill(rows[:, None] == rows, -torch.inf), rows ^ 1
