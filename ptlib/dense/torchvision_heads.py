"""torchvision's detectors and segmenters in the two parts that every model here has: a backbone, a head on its maps.

Their own code assigns, samples and computes the losses; what is done here is to call its pieces on batches of tensors,
and to give them class layers of another width.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torchvision.models import detection as tv
from torchvision.models import segmentation as tvs
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou

Found = list[dict[str, Tensor]]


class Maps(nn.Module):
    """A torchvision backbone: images (B, 3, H, W) to [the images, its maps in their order]."""

    def __init__(self, body: nn.Module):
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> list[Tensor]:
        found = self.body(x)
        return [x, *(found.values() if isinstance(found, dict) else [found])]


class Detector(nn.Module):
    """A torchvision detector without its backbone: the head."""

    kind = "detection"

    def __init__(self, network: Any):
        super().__init__()
        self.two_stage = isinstance(network, tv.FasterRCNN)
        self.background = int(self.two_stage or isinstance(network, tv.ssd.SSD))  # class 0 is then nothing
        self.square = isinstance(network, tv.ssd.SSD)  # these are shown images squeezed into a square
        del network.backbone, network.transform
        self.network = network

    def forward(self, maps: Sequence[Tensor]) -> Output:
        return Output(self, maps)

    def renew(self, n_classes: int, generator: Generator) -> None:
        """A new class layer; of a two-stage detector, whose boxes are by class, also that of the boxes."""
        n = n_classes + self.background
        if self.two_stage:
            old = self.network.roi_heads.box_predictor
            self.network.roi_heads.box_predictor = tv.faster_rcnn.FastRCNNPredictor(old.cls_score.in_features, n)
            for layer in self.network.roi_heads.box_predictor.children():
                nn.init.normal_(layer.weight, 0, 0.01, generator=generator)
                nn.init.zeros_(layer.bias)
            return
        head = self.network.head.classification_head
        if not self.background:
            head.cls_logits = _like(head.cls_logits, head.num_anchors * n, generator, -4.6)
            head.num_classes = n
            return
        anchors = self.network.anchor_generator.num_anchors_per_location()
        for i, count in enumerate(anchors):
            level = head.module_list[i]
            if isinstance(level, nn.Conv2d):
                head.module_list[i] = _like(level, count * n, generator)
            else:
                level[-1] = _like(level[-1], count * n, generator)
        head.num_columns = n


@dataclass(init=False, eq=False, repr=False)  # FSDP looks through its fields for tensors
class Output:
    """What a torchvision detector makes of a batch: it knows its loss and its boxes. Boxes are found at once where no
    gradient is asked for."""

    maps: dict[str, Tensor]

    def __init__(self, head: Detector, maps: Sequence[Tensor]):
        self.head, self.net = head, head.network
        self.images = ImageList(maps[0], [tuple(maps[0].shape[-2:])] * len(maps[0]))
        names = [str(i) for i in range(len(maps) - 1)]
        if head.two_stage:
            names[-1] = "pool"  # so called, what a pyramid has on top is for proposals alone
        # Boxes are lost in bf16's steps of four pixels.
        self.maps = {name: x.float() for name, x in zip(names, maps[1:], strict=True)}
        self.found = None if torch.is_grad_enabled() else self._detected()

    def loss(self, targets: Tensor) -> Tensor:
        """The sum of torchvision's own losses; targets (B, M, 7) as `Split` has them, flagged boxes left out."""
        with self._exactly():
            losses: Tensor = torch.stack(list(self._losses(self._plain(targets)).values())).sum()
            return losses

    def decode(self) -> Tensor:
        """(B, 100, 6): rows of class (-1 where there is none), x1, y1, x2, y2, score."""
        found = self.found if self.found is not None else self._detected()
        rows: Tensor = self.images.tensors.new_zeros(len(found), 100, 6, dtype=torch.float32)
        rows[..., 0] = -1
        for i, one in enumerate(found):
            best = one["scores"].topk(min(100, len(one["scores"]))).indices
            label = one["labels"][best, None].float() - self.head.background
            rows[i, : len(best)] = torch.cat([label, one["boxes"][best].float(), one["scores"][best, None].float()], 1)
        return rows

    def _detected(self) -> Found:
        with self._exactly():
            return self._detect()

    @contextlib.contextmanager
    def _exactly(self) -> Iterator[None]:
        """fp32; and of a GPU the usual kernels: torchvision's deterministic way to pool regions is a slow detour."""
        where, before = self.images.tensors.device.type, torch.are_deterministic_algorithms_enabled()
        warned = torch.is_deterministic_algorithms_warn_only_enabled()
        try:
            torch.use_deterministic_algorithms(before and where == "cpu", warn_only=warned)
            with torch.autocast(where, enabled=False):
                yield
        finally:
            torch.use_deterministic_algorithms(before, warn_only=warned)

    def _plain(self, targets: Tensor) -> Found:
        counted = (targets[..., 0] >= 0) & (targets[..., 5] == 0)
        return [
            {"boxes": rows[here, 1:5], "labels": rows[here, 0].long() + self.head.background}
            for rows, here in zip(targets, counted, strict=True)
        ]

    def _losses(self, targets: Found) -> dict[str, Tensor]:
        net = self.net
        if self.head.two_stage:
            self._training(True)
            proposals, of_rpn = net.rpn(self.images, self.maps, targets)
            _, of_boxes = net.roi_heads(self.maps, proposals, self.images.image_sizes, targets)
            return {**of_rpn, **of_boxes}
        maps, outputs, anchors = self._outputs()
        if isinstance(net, tv.FCOS):
            return net.compute_loss(targets, outputs, anchors, [x[0, 0].numel() for x in maps])  # type: ignore[no-any-return]
        if not self.head.background:
            return net.compute_loss(targets, outputs, anchors)  # type: ignore[no-any-return]
        matched = [
            net.proposal_matcher(box_iou(one["boxes"], a)) if len(one["boxes"]) else a.new_full((len(a),), -1).long()
            for one, a in zip(targets, anchors, strict=True)
        ]
        return net.compute_loss(targets, outputs, anchors, matched)  # type: ignore[no-any-return]

    def _detect(self) -> Found:
        net, sizes = self.net, self.images.image_sizes
        if self.head.two_stage:
            self._training(False)
            proposals, _ = net.rpn(self.images, self.maps)
            return net.roi_heads(self.maps, proposals, sizes)[0]  # type: ignore[no-any-return]
        maps, outputs, anchors = self._outputs()
        if self.head.background:
            return net.postprocess_detections(outputs, anchors, sizes)  # type: ignore[no-any-return]
        places = [x[0, 0].numel() for x in maps]
        each = outputs["cls_logits"].shape[1] // sum(places)
        levels = [n * each for n in places]
        split = {name: list(values.split(levels, dim=1)) for name, values in outputs.items()}
        return net.postprocess_detections(split, [list(a.split(levels)) for a in anchors], sizes)  # type: ignore[no-any-return]

    def _outputs(self) -> tuple[list[Tensor], dict[str, Tensor], list[Tensor]]:
        maps = list(self.maps.values())
        return maps, self.net.head(maps), self.net.anchor_generator(self.images, maps)

    def _training(self, on: bool) -> None:
        """These two choose by it between losses and boxes; the layers inside stay as they are."""
        self.net.rpn.training = self.net.roi_heads.training = on


class Segmenter(nn.Module):
    """A torchvision segmenter without its backbone: the head, maps to logits (B, C, h, w)."""

    kind = "segmentation"

    def __init__(self, classifier: nn.Module):
        super().__init__()
        self.classifier = classifier

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        if isinstance(self.classifier, tvs.lraspp.LRASPPHead):
            return self.classifier({"low": maps[1], "high": maps[2]})  # type: ignore[no-any-return]
        return self.classifier(maps[-1])  # type: ignore[no-any-return]

    def renew(self, n_classes: int, generator: Generator) -> None:
        """A new class layer; LR-ASPP has two, whose logits it adds."""
        head: Any = self.classifier
        if isinstance(head, tvs.lraspp.LRASPPHead):
            head.low_classifier = _like(head.low_classifier, n_classes, generator)
            head.high_classifier = _like(head.high_classifier, n_classes, generator)
        else:
            head[-1] = _like(head[-1], n_classes, generator)


def _like(layer: nn.Conv2d, outputs: int, generator: Generator, bias: float = 0.0) -> nn.Conv2d:
    """A convolution of the same form with other outputs, its weights drawn anew."""
    new = copy.deepcopy(layer)
    new.out_channels = outputs
    new.weight = nn.Parameter(torch.empty(outputs, *layer.weight.shape[1:]).normal_(0, 0.01, generator=generator))
    new.bias = nn.Parameter(torch.full((outputs,), bias))
    return new


def split_torchvision(network: Any) -> tuple[nn.Module, nn.Module] | None:
    """Backbone and head of a detector or segmenter of torchvision's, None if it is neither."""
    if isinstance(network, tv.FasterRCNN | tv.RetinaNet | tv.FCOS | tv.ssd.SSD):
        backbone = Maps(network.backbone)
        return backbone, Detector(network)
    if isinstance(network, tvs.DeepLabV3 | tvs.FCN | tvs.LRASPP):
        return Maps(network.backbone), Segmenter(network.classifier)  # without the head that only training used
    return None
