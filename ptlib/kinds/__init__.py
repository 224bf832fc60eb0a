"""What differs between kinds of task, one module a kind; the module's name is the kind's."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any, Protocol, cast

from torch import Generator, Tensor, nn

from ptlib.core import Split, Task
from ptlib.errors import InputError
from ptlib.results import Examples
from ptlib.stages import Stage


class Kind(Protocol):
    """What a kind's module holds."""

    DENSE: bool  # whether something is said of every place of an image

    def prepare(self, model: nn.Module, inputs: Tensor, targets: Tensor, names: Sequence[str], generator: Generator,
                n_classes: int) -> tuple[Tensor, Tensor]: ...  # fmt: skip

    def loss(self, outputs: Any, targets: Tensor, label_smoothing: float = 0.0) -> Tensor: ...

    def score(self, outputs: Tensor, targets: Tensor) -> dict[str, float]: ...


class FlatKind(Kind, Protocol):
    """What a kind's module holds besides where an image is one row of features."""

    def make_head(self, in_features: int, task: Task, generator: Generator) -> nn.Module: ...


class DenseKind(Kind, Protocol):
    """What a kind's module holds besides where something is said of every place, by a head of `ptlib.dense`."""

    def check(self, task: Task, stages: Sequence[Stage]) -> None:
        """InputError for what this kind can't do, before anything is trained."""

    def kept(self, outputs: Any, seen: Sequence[int], resized: Sequence[int], canvas: Sequence[int]) -> Tensor: ...

    def predictions(self, kept: Tensor, split: Split, task: Task) -> Examples: ...


def kind_called(name: str) -> Kind:
    """The module `ptlib.kinds.<name>`."""
    return cast(Kind, importlib.import_module(f"{__name__}.{name}"))


def kind_of(task: Task) -> Kind:
    """The module of a task's kind."""
    return kind_called(task.kind)


def one_class_each(task: Task, what: str) -> None:
    """InputError if something is said of every place of the task's images, which `what` can't do with."""
    if kind_of(task).DENSE:
        raise InputError(f"{what} is for images or texts with one class each; {task.name} is a task of {task.kind}")


def make_head(in_features: int, task: Task, generator: Generator) -> nn.Module:
    """A new head on `in_features` features, for a task in which an image is one row of them."""
    return cast(FlatKind, kind_of(task)).make_head(in_features, task, generator)


def dense_kind_of(task: Task) -> DenseKind | None:
    """The same, if something is said of every place of an image; else None."""
    kind = kind_of(task)
    return cast(DenseKind, kind) if kind.DENSE else None
