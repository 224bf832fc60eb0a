"""Image files into uint8 arrays: decoded once, in parallel, into memory or a memory-mapped cache."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from ptlib.files import write_whole

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
MOST_PIXELS = 89_478_485  # Pillow's own bound before it warns of a decompression bomb
MEMORY_LIMIT = 2 * 2**30  # bytes of pixels above which a split lives in a memory-mapped file


def decode(source: str | os.PathLike[str] | BinaryIO) -> Image.Image:
    """One image as RGB, upright.

    Grey, palette, CMYK and 16-bit pixels become 8-bit RGB; what is transparent is laid on white; EXIF rotation is
    applied. ValueError for a file that is no image of the allowed formats, is truncated, animated, has a pixel type
    without a natural 8-bit form, or claims more than Pillow's bound of pixels.
    """
    try:
        with Image.open(source, formats=FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:
                raise ValueError(f"it claims more than {MOST_PIXELS:,} pixels")
            # Cameras put a preview behind the picture (MPO); the picture is the first.
            if has_frames(image) and image.format != "MPO":
                raise ValueError("it has several frames; save the one that counts")
            image.load()
            return _rgb(ImageOps.exif_transpose(image))
    except ValueError:
        raise
    except Image.DecompressionBombError:
        raise ValueError(f"it claims more than {MOST_PIXELS:,} pixels") from None
    except UnidentifiedImageError:
        raise ValueError(f"it is no image of the formats {', '.join(FORMATS)}") from None
    except Exception as e:  # decoders fail on damaged files in as many ways as there are formats
        raise ValueError(f"it can't be read: {type(e).__name__}: {e}") from None


def has_frames(image: Image.Image) -> bool:
    """Whether there is a second picture; how many there are could take minutes to count."""
    if image.format != "TIFF":
        return bool(getattr(image, "is_animated", False))
    try:
        image.seek(1)
    except EOFError:
        return False
    return True


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I;16", "I;16B", "I;16L", "I;16N", "I"):
        # Pillow's own conversion clips 16-bit values at 255 instead of scaling them.
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"its values run from {values.min()} to {values.max()}, beyond 16 bits; rescale it")
        return Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(ground, image).convert("RGB")
    if image.mode not in ("1", "L", "P", "RGB", "CMYK", "YCbCr"):
        raise ValueError(f"its pixels are of mode {image.mode!r}; convert it to RGB")
    return image.convert("RGB")


def to_square(image: Image.Image, side: int) -> np.ndarray:
    """The middle square at `side` pixels (bicubic, antialiased): uint8 (side, side, 3)."""
    width, height = image.size
    short = min(width, height)
    left, top = (width - short) // 2, (height - short) // 2
    middle = (left, top, left + short, top + short)
    # Only the middle is resampled: a strip of 1 x 100,000 pixels must not become one of 256 x 25,600,000.
    square = image.crop(middle) if short == side else image.resize((side, side), Image.Resampling.BICUBIC, middle)
    return np.asarray(square)


def storage_side(paths: Sequence[Path], limit: int = 256) -> int:
    """The side to keep images at: the median of their shorter sides, from a sample of headers, `limit` at most."""
    sides = []
    for i in np.linspace(0, len(paths) - 1, min(len(paths), 64)).astype(int):
        try:
            with Image.open(paths[i], formats=FORMATS) as image:
                sides.append(min(image.size))
        except Exception:  # decode() will say what is wrong with it
            continue
    return min(limit, int(np.median(sides))) if sides else limit


def decode_all(
    paths: Sequence[Path], side: int, key: str, workers: int | None = None
) -> tuple[Tensor, np.ndarray, list[tuple[Path, str]]]:
    """Every file as uint8 (N, side, side, 3), the indices of those that could be read (N,), and the others' reasons.

    Above `MEMORY_LIMIT` the pixels go to a file in the cache folder named by `key`, which must change with the data,
    and are read from there, memory-mapped, the next time, if they are whole to the last bit; else decoded anew.
    """
    shape = (len(paths), side, side, 3)
    in_memory = int(np.prod(shape)) <= MEMORY_LIMIT
    if in_memory:
        pixels = np.empty(shape, dtype=np.uint8)
        kept, problems = _decode_into(pixels, paths, workers)
        return torch.from_numpy(pixels if len(kept) == len(paths) else pixels[kept]), kept, problems
    return _decode_cached(paths, shape, key, workers)


def _decode_into(
    pixels: np.ndarray, paths: Sequence[Path], workers: int | None
) -> tuple[np.ndarray, list[tuple[Path, str]]]:
    def one(i: int) -> str | None:
        try:
            pixels[i] = to_square(decode(paths[i]), pixels.shape[1])
        except ValueError as e:
            return str(e)
        return None

    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:  # Pillow decodes outside the interpreter's lock
        reasons = list(pool.map(one, range(len(paths))))
    kept = np.array([i for i, reason in enumerate(reasons) if reason is None], dtype=np.int64)
    return kept, [(paths[i], reason) for i, reason in enumerate(reasons) if reason is not None]


def _decode_cached(
    paths: Sequence[Path], shape: tuple[int, ...], key: str, workers: int | None
) -> tuple[Tensor, np.ndarray, list[tuple[Path, str]]]:
    index, data = (cache_dir() / "images" / f"{key}.{ending}" for ending in ("json", "u8"))
    held = _read_cached(index, data, shape)
    if held is None:
        data.parent.mkdir(parents=True, exist_ok=True)
        temporary = data.with_name(f".{key}.{uuid.uuid4().hex}.tmp")  # machines that share a folder share process ids
        try:
            pixels = np.memmap(temporary, dtype=np.uint8, mode="w+", shape=shape)
            kept, problems = _decode_into(pixels, paths, workers)
            for to, row in enumerate(kept):  # close the gaps of unreadable files in place
                if to != row:
                    pixels[to] = pixels[row]
            pixels.flush()
            facts = json.dumps({"kept": kept.tolist(), "problems": [(str(p), r) for p, r in problems]})
            digest = _digest(pixels, facts)
            # What is returned is this file, whatever others put in its place; what is written to it stays in memory.
            held = np.memmap(temporary, dtype=np.uint8, mode="c", shape=shape), facts
            temporary.replace(data)
        finally:
            temporary.unlink(missing_ok=True)
        write_whole(index, json.dumps({"facts": facts, "sha256": digest}).encode())
    known = json.loads(held[1])
    kept = np.array(known["kept"], dtype=np.int64)
    return torch.from_numpy(held[0][: len(kept)]), kept, [(Path(p), r) for p, r in known["problems"]]


def _read_cached(index: Path, data: Path, shape: tuple[int, ...]) -> tuple[np.ndarray, str] | None:
    """Pixels and what is known of them; None if they are not there, or not whole to the last bit."""
    try:
        held = json.loads(index.read_bytes())
        pixels = np.memmap(data, dtype=np.uint8, mode="c", shape=shape)
        return (pixels, held["facts"]) if _digest(pixels, held["facts"]) == held["sha256"] else None
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def _digest(pixels: np.ndarray, facts: str) -> str:
    """SHA-256 of the facts and of the SHA-256 of each block of 64 MiB, which are read side by side."""
    flat = pixels.reshape(-1)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        blocks = pool.map(lambda i: hashlib.sha256(flat[i : i + 2**26].data).digest(), range(0, flat.size, 2**26))
        return hashlib.sha256(facts.encode() + b"".join(blocks)).hexdigest()


def cache_dir() -> Path:
    """$PTLIB_CACHE, else the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("PTLIB_CACHE") or Path(base) / "ptlib")


def files_key(paths: Sequence[Path], root: Path, side: int) -> str:
    """A key for decoded pixels that changes when a file is added, removed, resized or touched."""
    digest = hashlib.sha256(f"ptlib-images-1 {side}".encode())
    for path in paths:
        facts = path.stat()
        digest.update(os.fsencode(path.relative_to(root)) + f" {facts.st_size} {facts.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:32]
