"""One label for each image: a linear head on pooled features, cross-entropy, accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ptlib.core import Task
from ptlib.data.augment import augment, mix

DENSE = False


def make_head(in_features: int, task: Task, generator: Generator) -> nn.Linear:
    """A linear layer with small random weights and no preference for any class."""
    head = nn.Linear(in_features, task.n_classes)
    with torch.no_grad():
        head.weight.normal_(0, 0.01, generator=generator)
        head.bias.zero_()
    return head


def prepare(
    model: Any, inputs: Tensor, targets: Tensor, names: Sequence[str], generator: Generator, n_classes: int
) -> tuple[Tensor, Tensor]:
    """A batch as the network wants it: uint8 (B, H, W, 3) augmented, resized, normalised, mixed."""
    x = augment(inputs.permute(0, 3, 1, 2), names, generator)
    return mix(model.preprocess(x.permute(0, 2, 3, 1)), targets, n_classes, names, generator)


def loss(outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy in nats of logits (B, C) against labels (B,) or shares of classes (B, C)."""
    return F.cross_entropy(outputs.float(), targets, label_smoothing=label_smoothing)


def score(outputs: Tensor, targets: Tensor) -> dict[str, float]:
    """Accuracy and loss of logits (N, C) against labels (N,)."""
    outputs, targets = outputs.cpu(), targets.cpu()  # float64 is not to be had on every device
    return {
        "accuracy": float((outputs.argmax(1) == targets).double().mean()),
        "loss": float(F.cross_entropy(outputs.double(), targets)),
    }
