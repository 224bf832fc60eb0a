"""Networks that say something of every place of an image: backbones that give maps, and heads that read them."""

from __future__ import annotations

from typing import Any

from torch import Generator, Tensor, nn

from ptlib.dense.decoder import make_decoder
from ptlib.dense.fcos import make_fcos
from ptlib.dense.pyramid import Pyramid
from ptlib.errors import InputError

HEADS = {"detection": make_fcos, "segmentation": make_decoder}


class Dense(nn.Module):
    """A backbone that gives maps, and a head that reads them; the head's `kind` is the kind of task it is for.

    `ready` says whether the head has learnt its trade, on images of the checkpoint's size.
    """

    def __init__(self, backbone: nn.Module, head: Any, ready: bool = True):
        super().__init__()
        self.backbone, self.head, self.ready = backbone, head, ready

    def forward(self, x: Tensor) -> Any:
        return self.head(self.backbone(x))


def dense(network: nn.Module, kind: str, n_classes: int, generator: Generator, keep_classes: bool = False) -> Dense:
    """A network for tasks of a kind: a detector or segmenter with a new class layer, or a classifier with a new head.

    `keep_classes` leaves the class layer of a detector or segmenter as it is. InputError if it is for another kind, or
    a classifier that gives no maps.
    """
    from ptlib.dense.torchvision_heads import split_torchvision

    if not isinstance(network, Dense):
        pair = split_torchvision(network)
        if pair is None:
            backbone = Pyramid(network)
            return Dense(backbone, HEADS[kind](backbone.channels, n_classes, generator), ready=False)
        network = Dense(*pair)
    if network.head.kind != kind:
        raise InputError(f"this is a network for {network.head.kind}, not for {kind}; give it a task of its own kind")
    if not keep_classes:
        network.head.renew(n_classes, generator)
    return network
