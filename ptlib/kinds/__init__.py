"""What differs between kinds of task, one module a kind; the module's name is the kind's."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Protocol, cast

from torch import Generator, Tensor, nn

from ptlib.core import Task


class Kind(Protocol):
    """What a kind's module holds."""

    def make_head(self, in_features: int, task: Task, generator: Generator) -> nn.Module: ...

    def prepare(self, model: nn.Module, inputs: Tensor, targets: Tensor, names: Sequence[str], generator: Generator,
                n_classes: int) -> tuple[Tensor, Tensor]: ...  # fmt: skip

    def loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor: ...

    def score(self, outputs: Tensor, targets: Tensor) -> dict[str, float]: ...


def kind_of(task: Task) -> Kind:
    """The module `ptlib.kinds.<task.kind>`."""
    return cast(Kind, importlib.import_module(f"{__name__}.{task.kind}"))
