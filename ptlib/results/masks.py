"""Predictions of a segmenter: label maps."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ptlib.arrays import VOID
from ptlib.errors import InputError
from ptlib.results.examples import Examples


@dataclass(frozen=True, repr=False)
class Masks(Examples):
    """The true and the predicted class of each pixel: predict once, score many times.

    `targets` and `scores` are uint8 (N, H, W); in targets 255 is void, which is not scored.
    """

    kind: ClassVar[str] = "segmentation"

    def __post_init__(self) -> None:
        super().__post_init__()
        where, top = f"predictions on {self.split!r}", len(self.class_names) - 1
        for name, maps in (("targets", self.targets), ("scores", self.scores)):
            if maps.dtype != np.uint8 or maps.ndim != 3 or maps.shape != (len(self.ids), *self.targets.shape[1:]):
                raise InputError(
                    f"{where}: {name} must be uint8 of shape ({len(self.ids)}, H, W), got {maps.dtype} of {maps.shape}"
                )
        for i, (truth, said) in enumerate(zip(self.targets, self.scores, strict=True)):
            highest = int(np.where(truth == VOID, 0, truth).max()), int(said.max())
            if max(highest) > top:
                raise InputError(
                    f"{where}: the map of {self.ids[i]!r} holds class {max(highest)}; classes lie in 0..{top}"
                )

    @staticmethod
    def _pack(values: np.ndarray) -> np.ndarray:
        """Maps are mostly flat: compressed they take a fiftieth. The shape goes before the stream."""
        stream = zlib.compress(np.ascontiguousarray(values).tobytes(), 6)
        return np.frombuffer(np.array(values.shape, "<i8").tobytes() + stream, np.uint8)

    @staticmethod
    def _unpack(values: np.ndarray, path: Any) -> np.ndarray:
        plain = values.tobytes()
        shape = np.frombuffer(plain[:24], "<i8")
        size = int(np.prod(shape.astype(object))) if len(shape) == 3 and (shape >= 0).all() else -1
        # Deflate shortens by a factor of 1,032 at most: a shape that claims more is no shape of this stream.
        if not 0 <= size <= 1032 * max(len(plain), 1):
            raise InputError(f"{path} holds no label maps: they claim a shape of {shape.tolist()}")
        stream = zlib.decompressobj()
        try:
            maps = stream.decompress(plain[24:], size + 1)
        except zlib.error as e:
            raise InputError(f"{path} holds label maps that can't be read: {e}") from None
        if len(maps) != size or not stream.eof:
            raise InputError(f"{path} holds label maps that are cut short: {len(maps)} bytes, {size} are stated")
        return np.frombuffer(maps, np.uint8).reshape(shape)
