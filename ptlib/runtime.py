"""Where and how things run: device, precision, seeds, time, environment."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import importlib.metadata
import os
import platform
import time
from collections.abc import Iterator
from typing import Any

# cuBLAS reads this once, when CUDA starts; without it matrix products may differ from run to run.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import torch

from ptlib.errors import InputError

PRECISIONS = ("auto", "fp32", "bf16")


def choose_device(name: str = "auto", devices: int = 1) -> torch.device:
    """`auto` takes CUDA, then Apple's MPS, then the CPU. InputError if it is not there, for so many `devices`.

    Of processes that torchrun started on GPUs, each has one for its own.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    device, started = _named(name), int(os.environ.get("WORLD_SIZE", 1))
    if started > 1 and devices not in (1, started):
        raise InputError(f"devices is {devices}; torchrun started {started} processes, so it must be that or 1")
    if (devices > 1 or started > 1) and device.index is not None:
        raise InputError(f"device is {name!r}, which is one, for {max(devices, started)}; give {device.type!r}")
    counts = {"cuda": (torch.cuda.device_count(), "GPUs"), "mps": (1, "GPU")}
    there, what = counts.get(device.type, (os.cpu_count() or 1, "cores"))
    if started == 1 and devices > there:
        raise InputError(f"devices is {devices}; it must be 1 to {there}, the {what} there are")
    if started > 1 and device.type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    return device


def _named(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"unknown device {name!r}; use auto, cpu, cuda, cuda:0 or mps") from None
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not present.get(device.type, False):
        raise InputError(f"device {name!r} is not available here; use auto or cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"device {name!r} does not exist: there are {torch.cuda.device_count()} CUDA devices")
    return device


def choose_precision(name: str, device: torch.device, model: torch.nn.Module) -> str:
    """What `auto` stands for: bf16 where the device computes with it and the model gains from it, else fp32.

    On a CPU bf16 speeds dense convolutions and linear layers, and slows depthwise convolutions in training, so a model
    that has any of these stays fp32; so does a lone linear layer.
    """
    if name not in PRECISIONS:
        raise InputError(f"unknown precision {name!r}; use one of {', '.join(PRECISIONS)}")
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp32"
    if device.type != "cpu" or not _cpu_has_bf16():
        return "fp32"
    convolutions = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d)]
    products = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
    return "bf16" if all(m.groups == 1 for m in convolutions) and len([*convolutions, *products[1:]]) else "fp32"


def _cpu_has_bf16() -> bool:
    query = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(query and query())


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    """The context in which a model computes at this precision."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


@functools.cache
def keep_memory() -> None:
    """Let glibc keep up to 2 GiB that tensors have left, for the next ones: else it gives the memory of large ones back
    to the system and asks for it anew, page by page, at every step."""
    library: Any = ctypes.CDLL(None) if platform.system() == "Linux" else None
    if hasattr(library, "mallopt"):
        library.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
        library.mallopt(-3, 2**30)  # M_MMAP_THRESHOLD


def place(model: torch.nn.Module, device: torch.device) -> None:
    """Move a model to the device, convolutions in channels-last order: faster on CPUs and GPUs alike."""
    if device.type == "cpu":
        keep_memory()
    model.to(device=device)
    model.to(memory_format=torch.channels_last)


def to_device(x: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A small CPU tensor on the device; a GPU is not waited for, which copying from unpinned memory would do."""
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)


def derived_seed(*key: int | str) -> int:
    """A 63-bit seed that depends on all of `key`: streams are derived, never saved and restored."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def generator(*key: int | str) -> torch.Generator:
    """A CPU generator for the stream named by `key`, such as (seed, "order", epoch)."""
    return torch.Generator().manual_seed(derived_seed(*key))


@contextlib.contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """Deterministic algorithms inside where there are any; settings and global random state are restored after.

    PyTorch warns of an operation of a GPU that has no deterministic form; with one of those, bits may differ.
    """
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    debug: Any = torch.utils.deterministic
    benchmark, fill = torch.backends.cudnn.benchmark, debug.fill_uninitialized_memory
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            torch.use_deterministic_algorithms(True, warn_only=True)
            torch.backends.cudnn.benchmark = False
            # Writing NaN into every buffer before it is used finds bugs in kernels, at a tenth of the speed.
            debug.fill_uninitialized_memory = False
            yield
        finally:
            torch.use_deterministic_algorithms(before[0], warn_only=before[1])
            torch.backends.cudnn.benchmark = benchmark
            debug.fill_uninitialized_memory = fill


class Clock:
    """Adds up seconds under names: `with clock("features"): ...`, then `clock.seconds`."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def switches() -> dict[str, Any]:
    """What the bits of products and convolutions depend on besides devices and packages."""
    b: Any = torch.backends  # `allow_tf32` can't be read where some other code has set the newer `fp32_precision`
    return {
        "cublas_workspace": os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
        "tf32": b.cuda.matmul.fp32_precision == "tf32",
        "cudnn_tf32": b.cudnn.conv.fp32_precision == "tf32",
        "cudnn_benchmark": b.cudnn.benchmark,
        "cudnn": b.cudnn.version(),
        "cpu_matmul": {"none": "fp32", "ieee": "fp32"}.get(p := b.mkldnn.matmul.fp32_precision, p),
    }


def environment(device: torch.device | None = None) -> dict[str, Any]:
    """What a result may depend on besides parameters and data: versions, device, threads, switches."""
    packages = ("ptlib", "torch", "torchvision", "timm", "transformers", "tokenizers", "peft", "numpy", "scikit-learn",
                "scikit-image", "pillow")  # fmt: skip
    facts: dict[str, Any] = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        **switches(),
        "packages": {name: importlib.metadata.version(name) for name in packages},
    }
    if device is not None:
        facts["device"] = str(device)
        if device.type == "cuda":
            facts["device_name"] = torch.cuda.get_device_name(device)
    return facts
