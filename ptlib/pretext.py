"""What a network is pretrained on when not on the labels of its images; and labels that say nothing, as a control."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from ptlib.core import Split, Task
from ptlib.data.augment import augment
from ptlib.errors import InputError, did_you_mean
from ptlib.kinds.rotation import turn
from ptlib.runtime import generator

VIEWS = ("resized-crop", "flip", "trivial")
OF_IMAGES = ("simclr", "rotation")


def pretext(task: Task, method: str, seed: int = 0) -> Task:
    """The task that `method` makes of a task's images.

    - `supervised`: the task itself.
    - `simclr`: which two of many views are of one image (`ptlib.kinds.contrastive`), on 2,000 images of val at most.
    - `rotation`: by how much an image was turned (`ptlib.kinds.rotation`).
    - `shuffled`: the task with labels of train and val exchanged at random: what training alone does, the control.

    InputError for a method that is none, and for one of images where the task holds texts.
    """
    if method not in METHODS:
        raise InputError(
            f"unknown method {method!r}{did_you_mean(method, METHODS) or ';'} there are {', '.join(METHODS)}"
        )
    if task.reads == "texts" and method in OF_IMAGES:
        raise InputError(f"{method} is learned from images, and {task.name} holds texts; take supervised or shuffled")
    return METHODS[method](task, seed)


def _views(task: Task, seed: int) -> Task:
    names = tuple(name for name in VIEWS if name != "flip" or "flip" in task.augment)
    draws, few = generator(seed, "views"), task.val.take(np.arange(min(len(task.val), 2000)))
    parts = [
        augment(part.repeat_interleave(2, 0).permute(0, 3, 1, 2), names, draws).round().to(torch.uint8)
        for part in few.inputs.split(256)
    ]
    ids = [f"{name}, view {k}" for name in few.ids for k in (1, 2)]
    views = torch.cat(parts).permute(0, 2, 3, 1).contiguous()
    val = Split("val", views, few.targets.repeat_interleave(2), ids)
    return replace(task, kind="contrastive", val=val, augment=names)


def _turned(task: Task, seed: int) -> Task:
    turns = torch.randint(4, (len(task.val),), generator=generator(seed, "turns"))
    val = Split("val", turn(task.val.inputs, turns), turns, task.val.ids)
    train, test = (Split(s.name, s.inputs, torch.zeros_like(s.targets), s.ids) for s in (task.train, task.test))
    names = ("0 degrees", "90 degrees", "180 degrees", "270 degrees")
    return replace(task, kind="rotation", class_names=names, train=train, val=val, test=test)


def _shuffled(task: Task, seed: int) -> Task:
    train, val = (
        Split(s.name, s.inputs, s.targets[torch.randperm(len(s), generator=generator(seed, "shuffle", s.name))], s.ids)
        for s in (task.train, task.val)
    )
    return replace(task, train=train, val=val, notes=(*task.notes, "labels of train and val are shuffled"))


METHODS: dict[str, Callable[[Task, int], Task]] = {
    "supervised": lambda task, seed: task, "simclr": _views, "rotation": _turned, "shuffled": _shuffled,
}  # fmt: skip
