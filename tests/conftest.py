"""A task and a network small enough to train in a fraction of a second, and the way to the real data."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ptlib.core import Checkpoint, Split, Task
from ptlib.preprocessing import Preprocessing

LONG = bool(os.environ.get("PTLIB_LONG_FAULTS"))  # whether tests that have a long form take it


class Tiny(nn.Module):
    """Two convolutions with BatchNorm, dropout, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.blocks = nn.Sequential(self.block(8, 12), self.block(12, 16))
        self.drop = nn.Dropout(0.1)
        self.fc = nn.Linear(16, 7)

    @staticmethod
    def block(inputs: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(torch.relu(self.bn(self.stem(x)))).mean((2, 3))
        return self.fc(self.drop(x))  # type: ignore[no-any-return]


def make_task(n: int = 60, classes: int = 3, side: int = 16, seed: int = 0, noise: float = 60.0) -> Task:
    """Classes told apart by their mean colour, under noise."""
    rng = np.random.default_rng(seed)
    colours = np.random.default_rng(99).uniform(60, 200, (classes, 3))

    def split(name: str, size: int) -> Split:
        labels = np.arange(size) % classes
        pixels = colours[labels][:, None, None] + rng.normal(0, noise, (size, side, side, 3))
        images = torch.from_numpy(np.clip(pixels, 0, 255).astype(np.uint8))
        return Split(name, images, torch.from_numpy(labels), [f"{name}/{i}" for i in range(size)])

    parts = split("train", n), split("val", n // 2), split("test", n // 2)
    return Task("colours", "image_classification", tuple("abcdefghij"[:classes]), *parts)


@pytest.fixture(autouse=True, scope="module")
def own_environment() -> Iterator[None]:
    """What a module does to the environment ends with it: Dask leaves OMP_NUM_THREADS=1 for all that follows."""
    before = dict(os.environ)
    yield
    for name in {*os.environ} - {*before, "PYTEST_CURRENT_TEST"}:
        del os.environ[name]
    os.environ.update({k: v for k, v in before.items() if k != "PYTEST_CURRENT_TEST"})


@pytest.fixture
def task() -> Task:
    return make_task()


@pytest.fixture
def tiny() -> Checkpoint:
    size = Preprocessing(16, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), "bilinear")
    return Checkpoint("random/tiny", "tiny", "test", size, parameters=0, flops=0, factory=Tiny)


@pytest.fixture
def with_nbval(request: pytest.FixtureRequest) -> None:
    """For a test that takes its time, as whole notebooks do: it is run where those are run anyway."""
    if not request.config.getoption("nbval", False):
        pytest.skip("whole notebooks and what takes as long are run with --nbval")


@pytest.fixture(scope="session")
def real_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of PTLIB_TEST_DATA; a test that needs it is skipped, saying so, where it is not set."""
    folder = os.environ.get("PTLIB_TEST_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("PTLIB_TEST_DATA names no folder of real data sets")
    return Path(folder)


@pytest.fixture
def feature_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where features are kept while a test runs: a folder of its own."""
    monkeypatch.setenv("PTLIB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "features"


def rehash(folder: Path) -> None:
    """Make a folder's hashes again, as one who edits it would."""
    sums = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir() if p.name != "SHA256SUMS"}
    (folder / "SHA256SUMS").write_text("".join(f"{sums[name]}  {name}\n" for name in sorted(sums)))


def silent(line: str) -> None:
    """For a log that nobody reads."""


@pytest.fixture(scope="session")
def imagenet_samples(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every tenth of the 1,000 ImageNet images, unpacked."""
    return unpack(real_data / "imagenet_samples.zip", tmp_path_factory.mktemp("imagenet"), lambda i, name: i % 10 == 0)


@pytest.fixture(scope="session")
def cifar10(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CIFAR-10 with 20 train and 50 test images a class, unpacked: cifar10/{train,test}/<class>/<n>.jpg."""

    def few(i: int, name: str) -> bool:
        return int(Path(name).stem) < (20 if "/train/" in name else 50)

    return unpack(real_data / "cifar10.zip", tmp_path_factory.mktemp("cifar"), few) / "cifar10"


def unpack(archive: Path, to: Path, wanted) -> Path:  # type: ignore[no-untyped-def]
    with zipfile.ZipFile(archive) as z:
        names = sorted(n for n in z.namelist() if n.lower().endswith((".jpg", ".jpeg")))
        z.extractall(to, [n for i, n in enumerate(names) if wanted(i, n)])
    return to
