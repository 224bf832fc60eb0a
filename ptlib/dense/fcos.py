"""A detector without anchors: every point of a pyramid says which class is there and how far its box reaches.

As FCOS (Tian et al. 2019, arXiv 1904.01355) on a feature pyramid (Lin et al. 2017, arXiv 1612.03144), with what has
been found since: points are assigned by how well they already classify and locate (task-aligned, Feng et al. 2021,
arXiv 2108.07755), a class's score is the overlap to be expected (quality focal loss), and each side of a box is a
distribution over distances (both Li et al. 2020, arXiv 2006.04388).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F
from torchvision.ops import batched_nms, generalized_box_iou_loss

from ptlib.dense.pyramid import TopDown, block, draw_weights

STRIDES = (8, 16, 32)
BINS = 12  # distances 0..12 in strides, which reach boxes of up to 24 strides


class Said(NamedTuple):
    """What P points say of B images: logits (B, P, C), sides (B, P, 4, BINS + 1) as logits of distances, and of each
    point its place in pixels (P, 2) and stride (P)."""

    logits: Tensor
    sides: Tensor
    points: Tensor
    strides: Tensor

    @staticmethod
    def mean(said: Sequence[Said]) -> Said:
        """What several have said of the same places, logits averaged."""
        logits, sides = (torch.stack([getattr(s, name) for s in said]).mean(0) for name in ("logits", "sides"))
        return said[0]._replace(logits=logits, sides=sides)

    def mirrored(self, dims: Sequence[int], shape: Sequence[int]) -> Said:
        """The same said of the mirror image: of images (B, C, H, W), the last two `shape`, mirrored along `dims`."""
        rows, start = [], 0
        for stride in STRIDES:
            height, width = (n // stride for n in shape)
            n = height * width
            rows.append(torch.arange(start, start + n).view(height, width).flip([d - 2 for d in dims]).flatten())
            start += n
        order = torch.cat(rows).to(self.logits.device)
        sides = [2, 1, 0, 3] if 3 in dims else [0, 1, 2, 3]
        sides = [sides[i] for i in (0, 3, 2, 1)] if 2 in dims else sides
        return self._replace(logits=self.logits[:, order], sides=self.sides[:, order][:, :, sides])

    @property
    def boxes(self) -> Tensor:
        """x1, y1, x2, y2 in pixels, (B, P, 4)."""
        bins = torch.arange(BINS + 1, device=self.sides.device)
        reach = (self.sides.float().softmax(-1) * bins).sum(-1) * self.strides[:, None]  # bf16 would round a pixel away
        return torch.cat([self.points - reach[..., :2], self.points + reach[..., 2:]], dim=-1)

    def loss(self, targets: Tensor) -> Tensor:
        """Mean over boxes of the losses of class, overlap and distances; targets (B, M, 7) as `Split` has them."""
        logits, sides, boxes = self.logits.float(), self.sides.float(), self.boxes
        nothing = F.pad(targets.new_full((len(targets), 1, 1), -1), (0, 6))
        targets = torch.cat([targets, nothing], dim=1)  # so that there is a row to look at where no image has a box
        if targets.device.type == "cpu":  # rows that no image of the batch needs; a GPU would have to be waited for
            order = (targets[..., 0] < 0).int().argsort(dim=1, stable=True)
            targets = targets.gather(1, order[..., None].expand_as(targets))
            targets = targets[:, : 1 + int((targets[..., 0] >= 0).sum(1).max())]
        with torch.no_grad():
            owner, quality, free = assign(logits.sigmoid(), boxes, self.points, self.strides, targets)
        taken = owner >= 0
        rows = owner.clamp_min(0)
        truth = targets[..., 1:5].gather(1, rows[..., None].expand(-1, -1, 4))  # (B, P, 4)
        labels = targets[..., 0].long().clamp_min(0).gather(1, rows)
        wanted = torch.zeros_like(logits).scatter_(2, labels[..., None], (quality * taken)[..., None])
        at = taken.nonzero(as_tuple=True)  # once: a GPU is waited for
        weight = quality[at]
        total = weight.sum().clamp_min(1)
        focus = (wanted - logits.sigmoid()).abs().square() * free[..., None]
        of_class = (focus * F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")).sum()
        overlap = (generalized_box_iou_loss(boxes[at], truth[at]) * weight).sum()
        points, strides = (v.expand(len(logits), *v.shape)[at] for v in (self.points, self.strides))
        reach = torch.cat([points - truth[at][:, :2], truth[at][:, 2:] - points], 1) / strides[:, None]
        reach = reach.clamp(0, BINS - 0.01)
        left = reach.floor().long()
        likely = sides[at].log_softmax(-1)
        share = reach - left
        distances = likely.gather(2, left[..., None])[..., 0] * (1 - share) + likely.gather(2, left[..., None] + 1)[
            ..., 0] * share  # fmt: skip
        lost: Tensor = of_class + 2 * overlap - 0.25 * (distances.sum(1) * weight).sum()
        return lost / total

    def decode(self, most: int = 100, overlap: float = 0.5, candidates: int = 1000) -> Tensor:
        """The `most` likeliest boxes of each image after non-maximum suppression by class: (B, most, 6), rows of class
        (-1 where there is none), x1, y1, x2, y2, score."""
        scores, boxes = self.logits.float().sigmoid(), self.boxes
        found = torch.zeros(len(scores), most, 6, device=scores.device)
        found[..., 0] = -1
        n_classes = scores.shape[2]
        k = min(candidates, scores.shape[1] * n_classes)
        top, where = scores.flatten(1).topk(k)
        for i in range(len(scores)):
            place, label = where[i] // n_classes, where[i] % n_classes
            kept = batched_nms(boxes[i, place], top[i], label, overlap)[:most]
            found[i, : len(kept)] = torch.cat(
                [label[kept, None].float(), boxes[i, place[kept]], top[i, kept, None]], dim=1
            )
        return found


def assign(
    scores: Tensor, boxes: Tensor, points: Tensor, strides: Tensor, targets: Tensor, k: int = 5
) -> tuple[Tensor, Tensor, Tensor]:
    """Which true box each point answers for, (B, P), -1 for none; how well, (B, P) in 0..1; and where none is to be
    learnt from, 0 in (B, P): within boxes that don't count.

    A box takes the `k` points inside it of the highest score^0.5 overlap^6; its best gets its overlap as the quality.
    """
    truth, flagged = targets[..., 1:5], targets[..., 5] > 0
    there = targets[..., 0] >= 0
    centre, half = (truth[..., :2] + truth[..., 2:]) / 2, (truth[..., 2:] - truth[..., :2]) / 2
    reach = torch.maximum(half[:, :, None], strides[:, None])  # (B, M, P, 2): small boxes own the points next to them
    inside = ((points - centre[:, :, None]).abs() < reach).all(-1) & there[..., None]  # (B, M, P)
    overlaps = pairwise_iou(truth, boxes)
    likely = scores.transpose(1, 2).gather(1, targets[..., :1].long().clamp_min(0).expand(-1, -1, scores.shape[1]))
    fit = (likely + 1e-9).sqrt() * (overlaps + 1e-9) ** 6 * (inside & ~flagged[..., None])
    best = fit.topk(min(k, fit.shape[2]), dim=2)
    chosen = torch.zeros_like(fit).scatter_(2, best.indices, (best.values > 0).to(fit.dtype)) * overlaps.clamp_min(1e-6)
    claim, owner = chosen.max(1)  # a point that several boxes want goes to the one it overlaps most
    owner = owner.masked_fill(claim == 0, -1)
    mine = F.one_hot(owner + 1, fit.shape[1] + 1)[..., 1:].transpose(1, 2).to(fit.dtype)  # (B, M, P)
    fit, overlaps = fit * mine, overlaps * mine
    quality = fit * (overlaps.amax(2) / fit.amax(2).clamp_min(1e-30))[..., None]
    ignored = (inside & flagged[..., None]).any(1) & (owner < 0)
    return owner, quality.amax(1), (~ignored).to(fit.dtype)


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes (B, M, 4) and (B, P, 4): (B, M, P)."""
    low = torch.maximum(a[:, :, None, :2], b[:, None, :, :2])
    high = torch.minimum(a[:, :, None, 2:], b[:, None, :, 2:])
    common = (high - low).clamp_min(0).prod(-1)
    area_a, area_b = ((x[..., 2:] - x[..., :2]).clamp_min(0).prod(-1) for x in (a, b))
    return common / (area_a[:, :, None] + area_b[:, None] - common).clamp_min(1e-9)


class FCOS(nn.Module):
    """The head: a pyramid over maps of strides 8, 16 and 32, two towers shared by its levels, a class layer."""

    kind = "detection"
    mirrors = True  # what it says of mirror images can be averaged

    def __init__(self, channels: Sequence[int], n_classes: int, width: int = 64, depth: int = 2):
        super().__init__()
        self.pyramid = TopDown(channels[-len(STRIDES) :], width)
        self.what = nn.Sequential(*(block(width, width) for _ in range(depth)))
        self.where = nn.Sequential(*(block(width, width) for _ in range(depth)))
        self.sides = nn.Conv2d(width, 4 * (BINS + 1), 3, padding=1)
        self.classes = nn.Conv2d(width, n_classes, 3, padding=1)

    def forward(self, maps: Sequence[Tensor]) -> Said:
        logits, sides, points, strides = [], [], [], []
        for x, stride in zip(self.pyramid(maps[-len(STRIDES) :]), STRIDES, strict=True):
            height, width = x.shape[-2:]
            logits.append(self.classes(self.what(x)).permute(0, 2, 3, 1).flatten(1, 2))
            sides.append(self.sides(self.where(x)).permute(0, 2, 3, 1).reshape(len(x), -1, 4, BINS + 1))
            row, column = ((torch.arange(n, device=x.device) + 0.5) * stride for n in (height, width))
            points.append(torch.cartesian_prod(row, column).flip(1))
            strides.append(torch.full((height * width,), float(stride), device=x.device))
        return Said(torch.cat(logits, 1), torch.cat(sides, 1), torch.cat(points), torch.cat(strides))

    def renew(self, n_classes: int, generator: Generator) -> None:
        """A new class layer, whose points say at first that there is nothing, with a probability of 0.99."""
        self.classes = nn.Conv2d(self.classes.in_channels, n_classes, 3, padding=1)
        nn.init.normal_(self.classes.weight, 0, 0.01, generator=generator)
        nn.init.constant_(self.classes.bias, -math.log(99))  # type: ignore[arg-type]


def make_fcos(channels: Sequence[int], n_classes: int, generator: Generator) -> FCOS:
    """A head for a pyramid of these channels, its weights drawn by `generator`."""
    head = FCOS(channels, n_classes)
    draw_weights(head, generator)
    nn.init.normal_(head.sides.weight, 0, 0.01, generator=generator)
    head.renew(n_classes, generator)
    return head
