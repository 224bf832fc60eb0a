"""Predictions of a detector: boxes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ptlib.errors import InputError
from ptlib.results.examples import Examples


@dataclass(frozen=True, repr=False)
class Boxes(Examples):
    """True boxes and found ones of each image, in pixels of the image as it came: predict once, score many times.

    `targets` (N, M, 7) holds rows of class (-1 where there is none), x1, y1, x2, y2, flag (0 plain, 1 difficult, 2 a
    crowd), area; `scores` (N, K, 6) rows of class (-1 where there is none), x1, y1, x2, y2, score in 0..1.
    """

    kind: ClassVar[str] = "detection"

    def __post_init__(self) -> None:
        super().__post_init__()
        n, where = len(self.ids), f"predictions on {self.split!r}"
        for name, rows, width in (("targets", self.targets, 7), ("scores", self.scores, 6)):
            if rows.ndim != 3 or rows.shape[::2] != (n, width):
                raise InputError(f"{where}: {name} must be of shape ({n}, boxes, {width}), got {rows.shape}")
            top = len(self.class_names) - 1
            odd = (rows[..., 0] < -1) | (rows[..., 0] > top) | (rows[..., 0] % 1 != 0) | ~np.isfinite(rows).all(-1)
            reversed_ = (rows[..., 0] >= 0) & ((rows[..., 3] < rows[..., 1]) | (rows[..., 4] < rows[..., 2]))
            wrong = np.argwhere(odd | reversed_)
            if len(wrong):
                i, j = wrong[0]
                raise InputError(
                    f"{where}: row {j} of the {name} of {self.ids[i]!r} is {rows[i, j].tolist()}; it must hold a class "
                    f"in -1..{top}, x1 <= x2, y1 <= y2, all finite"
                )
