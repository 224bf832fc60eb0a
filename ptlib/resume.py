"""Where `finetune` stands, on disk: saved as it goes and when it is told to stop, and taken up again to the same bits.

No random state is saved: every stream is derived from (seed, stage, epoch, step). What is saved are the weights, the
optimizer's moments, the best weights so far, and the place.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from ptlib import folders, together
from ptlib.errors import InputError
from ptlib.files import sha256, write_whole
from ptlib.runtime import switches

EVERY = 60.0  # seconds between two saves
PACKAGES = ("torch", "torchvision", "timm", "transformers", "peft")

State = tuple[dict[str, Tensor], dict[str, Any]]  # tensors by name, and facts that JSON holds


class Stopped(BaseException):
    """The process was told to stop, and what it does can be left where it is."""

    def __init__(self, number: int):
        self.number = number


class Place:
    """A folder in which a training saves where it stands; with None for a folder it saves nothing, and minds nothing.

    `asked`, with versions of packages, is what its bits depend on; where a save was made with anything else, `restore`
    refuses it by name.
    """

    def __init__(self, folder: Path | None, asked: Mapping[str, Any], log: Callable[[str], None]):
        self.folder, self.log = folder, log
        told = {**asked, "packages": versions()} if folder else {}
        self.asked: dict[str, Any] = json.loads(json.dumps(told, default=str))
        self.saved, self._holds, self._told = time.monotonic(), 0, 0
        self.shared = False  # whether a state is put together by all processes, which then save at `passing` only

    def restore(self) -> State | None:
        """What was saved last and is whole, None if nothing was; InputError if another process trains there."""
        from safetensors.torch import load_file

        if self.folder is None:
            return None
        folders.lock(self.folder, f"the training in {self.folder}")
        if (found := folders.newest(self.folder)) is None:
            return None
        facts = json.loads((found / "state.json").read_bytes())
        before, here = facts.pop("asked"), facts.pop("machine")
        if others := list(differing(before, self.asked)):
            raise InputError(
                f"{found.parent} was begun otherwise: {'; '.join(others[:4])}. Give the same again to go on from "
                f"step {facts['step']}, or delete {found.parent} to begin anew"
            )
        goes_on = facts["at"][0] < len(self.asked["stages"])
        if goes_on and (others := list(differing(here, machine()))):
            warnings.warn(f"going on elsewhere, bits may differ: {'; '.join(others)}", RuntimeWarning, stacklevel=2)
        self.log(f"going on from step {facts['step']}, saved in {found.parent.name}")
        return load_file(found / "tensors.safetensors"), facts

    def save(self, state: State) -> None:
        """Write a generation; FloatingPointError if a weight is not finite, which nothing could go on from."""
        from safetensors.torch import save

        if self.folder is None:
            return
        tensors = {name: value.detach().cpu().contiguous() for name, value in state[0].items()}
        bad = [n for n, v in tensors.items() if n.startswith("model.") and v.is_floating_point()
               and not v.isfinite().all()]  # fmt: skip
        if bad:
            raise FloatingPointError(f"{bad[0].removeprefix('model.')} is not finite; the last checkpoint is kept")
        facts = {**state[1], "asked": self.asked, "machine": machine()}

        def fill(folder: Path) -> None:
            write_whole(folder / "tensors.safetensors", save(tensors))
            write_whole(folder / "state.json", json.dumps(facts, indent=1).encode())

        folders.keep(self.folder, facts["step"], fill)
        self.saved = time.monotonic()

    def leave(self) -> None:
        """Let others train there; and hear a signal that came too late to be saved for."""
        if self.folder:
            folders.unlock(self.folder)
        if self.shared and self._told:
            signal.raise_signal(self._told)

    def passing(self, state: Callable[[], State]) -> None:
        """At a place that can be gone on from: save if it is time."""
        told = self._told if self.shared else 0  # may change while the others are asked
        due = bool(self.folder) and (told > 0 or time.monotonic() - self.saved >= EVERY)
        if together.first_says(due) if self.shared else due:
            self.save(state())
        if told:
            raise Stopped(told)

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        """A context that a signal to stop waits for the end of."""
        self._holds += 1
        try:
            yield
        finally:
            self._holds -= 1
        if self._told and not self._holds and not self.shared:
            raise Stopped(self._told)

    @contextlib.contextmanager
    def watched(self, state: Callable[[], State]) -> Iterator[None]:
        """A context in which SIGTERM and SIGINT save `state` first, and then do what they do without.

        Of processes that train together the first saves; the others stay until it has left, and their messages fail.
        """
        if together.rank():
            before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGTERM, signal.SIGINT)}
            try:
                yield
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)
            return
        if self.folder is None or threading.current_thread() is not threading.main_thread():
            yield
            return

        def told(number: int, frame: FrameType | None) -> None:
            if self._told and number == signal.SIGINT:  # at once, and what was saved before is what there is
                raise KeyboardInterrupt
            if self._told:  # schedulers and torchrun both tell whole groups of processes
                return
            self._told = number
            if not self._holds and not self.shared:
                raise Stopped(number)

        before = {number: signal.signal(number, told) for number in (signal.SIGTERM, signal.SIGINT)}
        stopped = 0
        try:
            yield
        except (Stopped, RuntimeError) as e:
            # Told, another process may have left first, before this step's update, which is then still to be done.
            if not self._told or (self.shared and not isinstance(e, Stopped)):
                raise
            stopped = self._told
            if not self.shared:
                self.save(state())
            self.log(f"interrupted by {signal.Signals(stopped).name}; saved, and the same command goes on from here")
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        if stopped == signal.SIGINT:
            raise KeyboardInterrupt
        if stopped:
            os.kill(os.getpid(), stopped)
            raise SystemExit(128 + stopped)


def ended(folder: Path, n_stages: int) -> bool:
    """Whether a training of so many stages was saved there at its end."""
    found = folders.newest(folder)
    return found is not None and json.loads((found / "state.json").read_bytes())["at"][0] == n_stages


def part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those whose names begin with the prefix and a dot, without it."""
    return {name.partition(".")[2]: value for name, value in tensors.items() if name.startswith(f"{prefix}.")}


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of tensors by name: their bytes, shapes and types."""
    found = hashlib.sha256()
    for name, value in tensors.items():
        raw: Any = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        found.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        found.update(raw)
    return found.hexdigest()


@cache
def code() -> str:
    """SHA-256 of this package's own source."""
    root = Path(__file__).parent
    files = sorted(root.rglob("*.py"))
    return hashlib.sha256("".join(f"{p.relative_to(root)} {sha256(p)}\n" for p in files).encode()).hexdigest()


def versions() -> dict[str, str]:
    """Of the packages that compute."""
    return {name: importlib.metadata.version(name) for name in PACKAGES}


def machine() -> dict[str, Any]:
    """What bits depend on besides: the processor's instructions, the number of threads, switches."""
    cpu = torch.backends.cpu.get_cpu_capability()
    return {"threads": torch.get_num_threads(), "cpu_capability": cpu, "devices": together.size(), **switches()}


def differing(before: Any, now: Any, name: str = "") -> Iterator[str]:
    """Each field in which two JSON values differ, as a sentence of its name and both values."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in dict.fromkeys([*before, *now]):
            yield from differing(before.get(key), now.get(key), f"{name}.{key}" if name else str(key))
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for i, pair in enumerate(zip(before, now, strict=True)):
            yield from differing(*pair, f"{name}[{i}]")
    elif before != now:
        yield f"{name} was {_short(before)}, is {_short(now)}"


def _short(value: Any) -> str:
    return f"{value[:12]}…" if isinstance(value, str) and len(value) == 64 else json.dumps(value)
