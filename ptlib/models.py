"""Checkpoints by name, and models built from them: a backbone, a head, and the checkpoint's own preprocessing."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ptlib.checkpoints import list_checkpoints, load_checkpoint, network_of
from ptlib.core import Checkpoint, Task
from ptlib.errors import InputError
from ptlib.kinds import kind_of, make_head
from ptlib.language import encoder_in, tokens_of
from ptlib.networks import NUMBERED, numbered, split_head
from ptlib.preprocessing import Tokenization
from ptlib.runtime import derived_seed, generator
from ptlib.texts import Texts, Tokens

__all__ = ["Model", "build_model", "layers", "list_checkpoints", "load_checkpoint", "trainable_names"]


COARSEST = 32  # pixels, the stride of the last map


class Model(nn.Module):
    """A plain module in two parts: `backbone` gives features (B, D), `head` makes logits (B, C) of them.

    Where something is said of every place, `backbone` gives maps at several strides, and `head` what its kind takes.
    """

    layout = torch.channels_last  # of the images that the backbone sees, and of its weights
    foldable: list[tuple[str, str]] | None = None  # what `ptlib.folding` has found of the backbone
    _scale: Tensor
    _shift: Tensor

    def __init__(self, backbone: nn.Module, head: nn.Module, preprocessing: Any, checkpoint: Checkpoint):
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.preprocessing = preprocessing
        self.checkpoint = checkpoint
        self._set_up()

    def _set_up(self) -> None:
        preprocessing = self.preprocessing
        if preprocessing.flips and not getattr(self.head, "mirrors", getattr(self.head, "kind", "") != "detection"):
            raise InputError(f"boxes of {self.checkpoint.name} can't be averaged over mirror images; leave flips out")
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (preprocessing.mean, preprocessing.std))
        self.register_buffer("_scale", 1 / (255 * std), persistent=False)
        self.register_buffer("_shift", -mean / std, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x))  # type: ignore[no-any-return]

    @property
    def width(self) -> int:
        """How many features the backbone gives, D."""
        return next(layer.in_features for layer in self.head.modules() if isinstance(layer, nn.Linear))

    def fed(self, **changes: Any) -> Self:
        """The same network, weights shared, fed otherwise (fields of `Preprocessing`); InputError where it can't be."""
        return type(self)(self.backbone, self.head, replace(self.preprocessing, **changes), self.checkpoint)

    def read(self, inputs: Any) -> Any:
        """A split's inputs as batches are taken from them: images are what they are."""
        if isinstance(inputs, Texts):
            raise InputError(f"{self.checkpoint.name} reads images, and these are texts; choose a checkpoint of text")
        return inputs

    def resized(self, shape: Sequence[int]) -> tuple[int, int]:
        """Height and width to which `preprocess` resizes images of `shape`, which end in these two, before any crop."""
        p = self.preprocessing
        side = round(p.size / p.crop)
        if not p.keep_aspect:
            return side, side
        height, width = (max(1, round(n * side / max(shape[-2:]))) for n in shape[-2:])
        return height, width

    def preprocess(self, x: Tensor) -> Tensor:
        """Images in 0..255, (B, H, W, 3) of uint8 or float, as the backbone wants them: float32 (B, 3, S, S).

        Images that keep their shape are filled up at the right and below to multiples of 32 pixels: at other sizes the
        maps of a network that halves them five times would not lie at the same place on one another.
        """
        p = self.preprocessing
        x = x.permute(0, 3, 1, 2)  # a channels-last view: nothing moves
        if x.device.type != "cpu":  # only CPUs resize uint8, five times as fast and rounded as Pillow rounds
            x = x.float()
        shape = self.resized(x.shape)
        if x.shape[-2:] != shape:
            # Antialiased, as Pillow resizes, is what checkpoints were trained with.
            x = F.interpolate(
                x if p.antialias else x.float(), shape, mode=p.interpolation, antialias=p.antialias
            ).clamp_(0, 255)
        if not p.keep_aspect and shape[0] != p.size:
            edge = (shape[0] - p.size) // 2
            x = x[..., edge : edge + p.size, edge : edge + p.size]
        x = torch.addcmul(self._shift, x.float(), self._scale)
        if p.keep_aspect:
            x = F.pad(x, (0, -shape[1] % COARSEST, 0, -shape[0] % COARSEST))
        return x.contiguous(memory_format=self.layout)


class TextModel(Model):
    """A model that reads texts: `backbone` gives features (B, D) of token ids (B, T), -1 behind the end of a text."""

    def _set_up(self) -> None:
        own, asked = encoder_in(self.backbone).pooling, self.preprocessing.pooling
        if own != asked:  # the network is shared by all that are fed otherwise
            raise InputError(f"this network pools by {own}; for {asked!r} load its checkpoint with pooling={asked!r}")

    def read(self, inputs: Any) -> Any:
        """The token ids of a split's texts, kept with them."""
        if isinstance(inputs, Tokens):
            return inputs
        if not isinstance(inputs, Texts):
            raise InputError(f"{self.checkpoint.name} reads texts, and these are images; choose a checkpoint of images")
        return tokens_of(self.backbone, inputs, self.preprocessing.size)

    def preprocess(self, x: Tensor) -> Tensor:
        """Nothing is left to be done to token ids."""
        return x


def build_model(
    checkpoint: Checkpoint, task: Task | None = None, image_size: int | None = None, seed: int = 0, *,
    own_head: bool = False,
) -> Model:  # fmt: skip
    """The checkpoint's network: with a new head for `task`, or with its own head if there is no task.

    `own_head` keeps it, which says what the checkpoint takes the task's images for, prepared as for the task.

    `image_size` None stands for twice the side of the task's images, 64 at least and the checkpoint's own at most;
    a network that takes only its own size gets that. Where something is said of every place, it is the longer side,
    and None stands for that of the task's images, or a ready-made detector's or segmenter's own. Of texts it is how
    many tokens are read, None as many as the checkpoint takes. `seed` draws the new head, and all weights of a random
    control.

    InputError for a network that can't serve the task's kind, or takes no images or texts of this size.
    """
    reads = "texts" if isinstance(checkpoint.preprocessing, Tokenization) else "images"
    if task and task.reads != reads:
        raise InputError(f"{checkpoint.name} reads {reads}, and {task.name} holds {task.reads}; choose another of them")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derived_seed(seed, "init"))  # the CPU's alone
        network = network_of(checkpoint)
        if task and kind_of(task).DENSE:
            return _dense_model(checkpoint, network, task, image_size, seed, own_head)
        head: nn.Module
        backbone, head = split_head(network)
        if task and not own_head:
            head = make_head(head.in_features, task, generator(seed, "head"))
    preprocessing = checkpoint.preprocessing
    if isinstance(preprocessing, Tokenization):
        if image_size is not None and not 2 <= image_size <= preprocessing.size:
            raise InputError(f"{checkpoint.name} takes texts of 2 to {preprocessing.size} tokens, not {image_size}")
        encoder_in(backbone).pooling = preprocessing.pooling
        return TextModel(backbone, head, replace(preprocessing, size=image_size or preprocessing.size), checkpoint)
    if task is None:
        return Model(backbone, head, replace(preprocessing, size=image_size or preprocessing.size), checkpoint)
    wanted = image_size or min(preprocessing.size, max(64, 2 * task.train.inputs.shape[1]))
    if not _accepts(backbone, (wanted, wanted)):
        if image_size is not None or wanted == preprocessing.size:
            raise InputError(
                f"{checkpoint.name} takes no images of {wanted} pixels; leave image_size out, "
                f"or give its own, {preprocessing.size}"
            )
        wanted = preprocessing.size
    # The whole image is shown: cropping the border away suits ImageNet's framing, not every task's.
    return Model(backbone, head, replace(preprocessing, size=wanted, crop=1.0), checkpoint)


def _dense_model(
    checkpoint: Checkpoint, network: nn.Module, task: Task, image_size: int | None, seed: int, own_head: bool
) -> Model:
    """A network whose head reads maps: a detector or segmenter with a new class layer, or a classifier's backbone."""
    from ptlib.dense import dense  # torchvision's operators take a while to import

    whole = dense(network, task.kind, task.n_classes, generator(seed, "head"), own_head)
    published: Any = checkpoint.preprocessing
    own = published.size if whole.ready else max(task.train.inputs.shape[1:3])
    square = getattr(whole.head, "square", False)
    preprocessing = replace(published, size=image_size or own, crop=1.0, keep_aspect=not square)
    model = Model(whole.backbone, whole.head, preprocessing, checkpoint)
    shape = model.preprocess(task.train.inputs[:1]).shape[2:]
    if not _accepts(model.backbone, shape):
        raise InputError(f"{checkpoint.name} takes no images of {shape[1]} x {shape[0]} pixels; try another image_size")
    return model


def check_kind(model: Model, task: Task) -> None:
    """InputError if a model's head is for another kind of task."""
    own = getattr(model.head, "kind", "text_classification" if isinstance(model, TextModel) else "image_classification")
    if own != task.kind and (own != "image_classification" or kind_of(task).DENSE or task.reads == "texts"):
        raise InputError(f"a model for {own} can't serve {task.name}, a task of {task.kind}; build one for it")


def under_new_head(model: Model, task: Task, seed: int = 0) -> Model:
    """A copy of the model's backbone under a new head for `task`, whose random weights `seed` draws.

    Of a head that reads maps only the class layer is new: the rest of it has learnt to find things of any class.
    """
    head: nn.Module
    check_kind(model, task)
    if kind_of(task).DENSE:
        head = copy.deepcopy(model.head)
        with torch.random.fork_rng(devices=[]):
            head.renew(task.n_classes, generator(seed, "head"))  # type: ignore[operator]
    else:
        head = make_head(model.width, task, generator(seed, "head"))
    return type(model)(copy.deepcopy(model.backbone), head, model.preprocessing, model.checkpoint).to(
        next(model.parameters()).device
    )


def _accepts(backbone: nn.Module, shape: Sequence[int]) -> bool:
    mode = backbone.training
    try:
        with torch.inference_mode():
            backbone.eval()(torch.zeros(1, 3, *shape))
    except (RuntimeError, AssertionError, ValueError):
        return False
    finally:
        backbone.train(mode)
    return True


def layers(model: Model) -> list[tuple[str, list[str]]]:
    """The model's parameters by depth: (layer, names of its parameters), the stem first and the head last.

    A layer is the first numbered part of a name (`blocks.3`, `layer2`, `encoder.layer.7`); parts without a number
    (stem, last convolution) are layers of their own, a bare norm belongs to what stands before it.
    """
    found: list[tuple[str, list[str]]] = []
    for name in (n for n, _ in model.backbone.named_parameters()):
        parts = name.split(".")[:-1]
        block = "body.fpn" if name.startswith("body.fpn.") else numbered(name)  # torchvision's pyramid is one layer
        bare = [part for part in parts if part != "network"]  # what wraps a network says nothing of its depth
        key = block or (bare[0] if bare else name)
        # A norm has no weight matrix: every parameter of it is a vector.
        owner = model.backbone.get_submodule(block or ".".join(parts))
        is_norm = bool(parts) and all(p.ndim <= 1 for p in owner.parameters())
        if found and (key == found[-1][0] or is_norm or not parts):
            found[-1][1].append(f"backbone.{name}")
        else:
            found.append((key, [f"backbone.{name}"]))
    return [*found, ("head", [n for n, _ in model.named_parameters() if n.startswith("head.")])]


def trainable_names(model: Model, patterns: tuple[str, ...]) -> list[str]:
    """Names of the parameters that `patterns` (see `Stage.trainable`) make trainable, in the model's order.

    InputError for a pattern that matches nothing.
    """
    depth = layers(model)
    norms = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)
    names = [n for n, _ in model.named_parameters()]

    def members(of: type[nn.Module] | tuple[type[nn.Module], ...]) -> Iterator[str]:
        for path, module in model.named_modules():
            if isinstance(module, of):
                yield from (f"{path}.{n}" for n, _ in module.named_parameters(recurse=False))

    chosen: set[str] = set()
    for pattern in patterns:
        last = re.fullmatch(r"last (\d+) blocks?", pattern)
        if last:
            numbered = [i for i, (key, _) in enumerate(depth) if NUMBERED.search(key)]
            k = int(last[1])
            if not 1 <= k <= len(numbered):
                raise InputError(f"{pattern!r}: this model has {len(numbered)} blocks; ask for 1 to {len(numbered)}")
            matched = {n for _, group in depth[numbered[-k] :] for n in group}
        elif pattern == "all":
            matched = set(names)
        elif pattern in ("head", "backbone"):
            matched = {n for n in names if n.startswith(f"{pattern}.")}
        elif pattern == "norm":
            matched = set(members(norms))
        elif pattern == "batchnorm":
            matched = set(members(nn.modules.batchnorm._BatchNorm))
        elif pattern == "bias":
            matched = {n for n in names if n.endswith(".bias")}
        else:
            try:
                matched = {n for n in names if re.match(pattern, n)}
            except re.error as e:
                raise InputError(f"{pattern!r} is no regular expression: {e}") from None
        if not matched:
            raise InputError(
                f"no parameter matches {pattern!r}; their layers are {', '.join(key for key, _ in depth)} and they "
                f"start with {names[0]!r}; groups: head, backbone, all, last N blocks, norm, batchnorm, bias"
            )
        chosen |= matched
    return [n for n in names if n in chosen]
