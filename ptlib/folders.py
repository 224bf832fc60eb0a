"""Folders committed whole: hashed, flushed to disk, renamed once, checked to the last byte; and who may write there."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock, Timeout

from ptlib.errors import InputError
from ptlib.files import sha256

UNFINISHED = ".unfinished"  # ends the name of a run that is not complete
SUMS = "SHA256SUMS"  # of every other file in the folder, as `sha256sum -c SHA256SUMS` reads it
_HELD: dict[Path, FileLock] = {}  # by this process: a lock that nobody refers to is given up


def commit(final: Path, fill: Callable[[Path], None]) -> Path:
    """Put the files that `fill` writes into a folder there at once, whole and hashed, in place of what stood there.

    Killed at any moment, or on a full disk, the folder before it is still found by `settled`. For one process at a
    time: who calls it holds a lock.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    building, old = _beside(final, "new"), _beside(settled(final), "old")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir()
    try:
        fill(building)
        (building / SUMS).write_text(_sums(building))
        for path in (*building.iterdir(), building):
            _flush(path)
        if final.exists():
            shutil.rmtree(old, ignore_errors=True)
            final.rename(old)
        building.rename(final)
        _flush(final.parent)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(building, ignore_errors=True)
        settled(final)
    return final


def settled(final: Path) -> Path:
    """`final`, put back if the process that was to replace it died between taking the old away and bringing the new."""
    if not final.exists() and (old := _beside(final, "old")).exists():
        old.rename(final)
    return final


def standing(final: Path) -> Path:
    """Where a reader finds the folder, which changes nothing: `final`, or the one before it while it is replaced."""
    return next((p for p in (final, _beside(final, "old")) if p.exists()), final)


def difference(folder: Path) -> str | None:
    """The first thing in which a folder is not as it was committed, in words; None if it is whole to the last bit."""
    try:
        given = (folder / SUMS).read_bytes()
        if given == _sums(folder).encode():
            return None
        said = dict(line.split("  ", 1)[::-1] for line in given.decode().splitlines())
        for name in sorted({*said, *(p.name for p in folder.iterdir())} - {SUMS}):
            if name not in said:
                return f"{name} is not in {SUMS}"
            if not (folder / name).is_file():
                return f"{name} is missing"
            if sha256(folder / name) != said[name]:
                return f"the SHA-256 of {name} is not the one in {SUMS}"
        return f"{SUMS} is not as it was written"
    except (OSError, ValueError) as e:
        return f"{SUMS} can't be read ({type(e).__name__})"


def keep(root: Path, step: int, fill: Callable[[Path], None]) -> Path:
    """Commit a generation of something under its number, and once it is whole delete all but it and the one before."""
    new = commit(root / f"step-{step:09d}", fill)
    if problem := difference(new):
        raise OSError(f"{new} was written and is not whole: {problem}")
    for stale in (*_generations(root)[2:], *root.glob(".new-*"), *root.glob(".old-*")):  # of processes that died too
        shutil.rmtree(stale, ignore_errors=True)
    return new


def newest(root: Path) -> Path | None:
    """The newest generation that is whole, None if there is none at all; one that is not whole is warned of.

    InputError if there are some and none of them is whole: to begin anew is for the user to say.
    """
    problem = ""
    for folder in _generations(root):
        if not (why := difference(folder)):
            if problem:
                warnings.warn(
                    f"{problem}; going on from {folder.name}, the one before it", RuntimeWarning, stacklevel=2
                )
            return folder
        problem = problem or f"{folder} is not whole: {why}"
    if problem:
        raise InputError(f"{problem}; nor is the one before it. To begin anew, delete {root}")
    return None


def lock(path: Path, what: str) -> None:
    """Lock `path` for this process, until `unlock` or its death; InputError at once if another process has it."""
    file = path.parent / ".locks" / path.name
    held = _HELD.get(file) or FileLock(file, thread_local=False)
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        held.acquire(timeout=0)
    except Timeout:
        raise InputError(f"{what} is being written by another process; wait for it, or choose another name") from None
    _HELD[file] = held


def unlock(path: Path) -> None:
    """Give up a lock, however often this process took it."""
    if held := _HELD.pop(path.parent / ".locks" / path.name, None):
        held.release(force=True)


def locked(path: Path) -> bool:
    """Whether a process, this one included, holds the lock on `path`."""
    file = path.parent / ".locks" / path.name
    if file in _HELD or not file.exists():
        return file in _HELD
    probe = FileLock(file)
    try:
        probe.acquire(timeout=0)
    except Timeout:
        return True
    probe.release()
    return False


def _generations(root: Path) -> list[Path]:
    """Newest first."""
    return sorted(root.glob("step-*"), reverse=True)


def _beside(path: Path, what: str) -> Path:
    return path.with_name(f".{what}-{path.name}")


def _sums(folder: Path) -> str:
    return "".join(f"{sha256(p)}  {p.name}\n" for p in sorted(folder.iterdir()) if p.name != SUMS)


def _flush(path: Path) -> None:
    """To the disk itself, so that a power cut after the rename finds the files whole."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
