"""What a network is pretrained on when not on the labels of its images; and labels that say nothing, as a control."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from ptlib.core import Split, Task
from ptlib.data.augment import augment
from ptlib.errors import InputError, did_you_mean
from ptlib.kinds.rotation import turn
from ptlib.runtime import generator

VIEWS = ("resized-crop", "flip", "trivial")


def pretext(task: Task, method: str, seed: int = 0) -> Task:
    """The task that `method` makes of a task's images.

    - `supervised`: the task itself.
    - `simclr`: which two of many views are of one image (`ptlib.kinds.contrastive`).
    - `rotation`: by how much an image was turned (`ptlib.kinds.rotation`).
    - `shuffled`: the task with labels of train and val exchanged at random: what training alone does, the control.
    """
    if method not in METHODS:
        raise InputError(
            f"unknown method {method!r}{did_you_mean(method, METHODS) or ';'} there are {', '.join(METHODS)}"
        )
    return METHODS[method](task, seed)


def _views(task: Task, seed: int) -> Task:
    images = task.val.inputs.repeat_interleave(2, 0).permute(0, 3, 1, 2)
    views = augment(images, VIEWS, generator(seed, "views")).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    ids = [f"{name}, view {k}" for name in task.val.ids for k in (1, 2)]
    val = Split("val", views, task.val.targets.repeat_interleave(2), ids)
    return replace(task, kind="contrastive", val=val, augment=VIEWS)


def _turned(task: Task, seed: int) -> Task:
    turns = torch.randint(4, (len(task.val),), generator=generator(seed, "turns"))
    val = Split("val", turn(task.val.inputs, turns), turns, task.val.ids)
    train, test = (Split(s.name, s.inputs, torch.zeros_like(s.targets), s.ids) for s in (task.train, task.test))
    names = ("0 degrees", "90 degrees", "180 degrees", "270 degrees")
    allowed = tuple(name for name in task.augment if name != "flip")
    return replace(task, kind="rotation", class_names=names, train=train, val=val, test=test, augment=allowed)


def _shuffled(task: Task, seed: int) -> Task:
    train, val = (
        Split(s.name, s.inputs, s.targets[torch.randperm(len(s), generator=generator(seed, "shuffle", s.name))], s.ids)
        for s in (task.train, task.val)
    )
    return replace(task, train=train, val=val, notes=(*task.notes, "labels of train and val are shuffled"))


METHODS: dict[str, Callable[[Task, int], Task]] = {
    "supervised": lambda task, seed: task, "simclr": _views, "rotation": _turned, "shuffled": _shuffled,
}  # fmt: skip
